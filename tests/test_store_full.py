"""Disks that are full, and directories that cannot be renamed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_helpers import (  # noqa: F401
    DECLARED,
    a_root,
    in_child,
    killed_at_each_step,
    leftovers,
    look,
    outputs_of,
    renew,
    store_outputs,
    write_outputs,
)

from buildrun.errors import StoreError
from buildrun.store.action_cache import load
from buildrun.store.home import Home
from buildrun.store.manifest import Manifest
from buildrun.workspace.outputs import displace, recover
from buildrun.workspace.restore import restore


class Mounts:
    """File systems in memory, as long as the test goes on."""

    def __init__(self) -> None:
        self._places: list[Path] = []

    def __call__(self, place: Path, size: str) -> None:
        place.mkdir(parents=True, exist_ok=True)
        argv = ("mount", "-t", "tmpfs", "-o", f"size={size}", "buildrun-test", place)
        done = subprocess.run(argv, capture_output=True, timeout=60, check=False)
        if done.returncode:
            pytest.skip("nothing can be mounted here")
        self._places.append(place)

    def close(self) -> None:
        for place in reversed(self._places):
            subprocess.run(("umount", "--lazy", place), timeout=60, check=True)


@pytest.fixture
def mount() -> Iterator[Mounts]:
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root may mount")
    mounts = Mounts()
    yield mounts
    mounts.close()


def test_full_store_keeps_nothing_and_says_how_to_make_room(
    root: Path, tmp_path: Path, mount: Mounts
) -> None:
    mount(tmp_path / "full", "256k")
    home = Home(str(tmp_path / "full" / "store"))
    write_outputs(root, "small")
    earlier = store_outputs(home, root)
    with open(root / "deep" / "model.pkl", "wb") as model:
        model.write(os.urandom(1 << 20))
    with pytest.raises(StoreError, match="full") as caught:
        store_outputs(home, root)
    assert "buildrun cache gc" in (caught.value.hint or "")
    assert not list(Path(home.root).rglob("*.tmp"))
    assert load(home, earlier.key) == earlier
    renew(root, None)
    restore(home, str(root), earlier)
    assert (root / "deep" / "model.pkl").read_text() == "model small"


def test_full_project_keeps_its_old_outputs(tmp_path: Path, mount: Mounts) -> None:
    made, full = tmp_path / "made", tmp_path / "full"
    made.mkdir()
    write_outputs(made, "new")
    (made / "metrics" / "large").write_bytes(os.urandom(1 << 20))
    home = Home(str(tmp_path / "store"))
    manifest = store_outputs(home, made)
    mount(full, "512k")
    write_outputs(full, "old")
    old = outputs_of(full)
    with pytest.raises(StoreError, match="No space left"):
        restore(home, str(full), manifest)
    assert outputs_of(full) == old
    assert leftovers(full) == []


def test_limit_on_file_sizes_leaves_nothing_half_written(root: Path, tmp_path: Path) -> None:
    home = Home(str(tmp_path / "store"))
    (root / "model").write_bytes(os.urandom(1 << 20))

    def work() -> None:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
        with pytest.raises(StoreError, match="full"):
            store_outputs(home, root, ("model",))

    assert in_child(work) == 0
    assert not list(Path(home.root).rglob("*.tmp"))


@pytest.fixture
def stored(root: Path, tmp_path: Path) -> tuple[Home, Manifest]:
    home = Home(str(tmp_path / "store"))
    write_outputs(root, "new")
    manifest = store_outputs(home, root)
    renew(root, None)
    return home, manifest


def refill(root: Path, text: str) -> None:
    """Make the outputs anew where something is mounted on their directories."""
    for name in ("deep", "metrics"):
        for child in (root / name).iterdir() if (root / name).exists() else ():
            if child.is_dir() and not child.is_symlink():
                shutil.rmtree(child)
            else:
                child.unlink()
    write_outputs(root, text)


def test_output_that_something_is_mounted_on_is_replaced(
    root: Path, stored: tuple[Home, Manifest], mount: Mounts
) -> None:
    home, manifest = stored
    mount(root / "metrics", "4m")
    refill(root, "old")
    restore(home, str(root), manifest)
    assert os.path.ismount(root / "metrics")
    assert (root / "metrics" / "by day" / "new.csv").read_text() == "new"
    assert not (root / "metrics" / "by day" / "old.csv").exists()
    assert os.access(root / "metrics" / "plot", os.X_OK)
    assert leftovers(root) == []


def test_killed_restore_of_a_mounted_output_can_be_recovered(
    root: Path, stored: tuple[Home, Manifest], mount: Mounts
) -> None:
    home, manifest = stored
    mount(root / "metrics", "4m")
    refill(root, "old")
    old = outputs_of(root)
    new = None
    for _ in killed_at_each_step(lambda: restore(home, str(root), manifest)):
        recover(str(root))
        found = outputs_of(root)
        if found["metrics/"] != old["metrics/"]:
            new = found["metrics/"]
            assert (root / "metrics" / "by day" / "new.csv").read_text() == "new"
        assert leftovers(root) == []
        refill(root, "old")
    assert outputs_of(root)["metrics/"] == new


def test_mounted_output_comes_back_after_a_kill(root: Path, mount: Mounts) -> None:
    mount(root / "metrics", "4m")
    refill(root, "old")
    old = outputs_of(root)

    def fail() -> None:
        aside = displace(str(root), DECLARED)
        assert look(root / "metrics") == {}
        aside.put_back()

    for _ in killed_at_each_step(fail):
        for _ in killed_at_each_step(lambda: recover(str(root))):
            break  # the recovery is killed at its first step, the next one goes through
        recover(str(root))
        assert outputs_of(root) == old
        assert leftovers(root) == []
    assert outputs_of(root) == old


def test_output_below_another_mount_of_the_same_disk_is_replaced(
    root: Path, stored: tuple[Home, Manifest], mount: Mounts
) -> None:
    home, manifest = stored
    mount(root / "deep", "4m")
    refill(root, "old")
    aside = displace(str(root), DECLARED)
    assert outputs_of(root) == dict.fromkeys(DECLARED)
    aside.put_back()
    assert (root / "deep" / "model.pkl").read_text() == "model old"
    restore(home, str(root), manifest)
    assert (root / "deep" / "model.pkl").read_text() == "model new"
    assert leftovers(root) == []
