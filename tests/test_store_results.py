"""Results go into the store and come out as they were, whatever they are called."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from store_helpers import (  # noqa: F401
    DECLARED,
    a_home,
    a_manifest,
    a_root,
    in_background,
    in_child,
    leftovers,
    look,
    manifest_of,
    outputs_of,
    renew,
    store_outputs,
    take,
    write_outputs,
)
from workspace_helpers import deep

from buildrun.errors import StoreError
from buildrun.store import cas
from buildrun.store.action_cache import load, path_of, save
from buildrun.store.action_cache import outputs_of as listed
from buildrun.store.cas import MissingBlob
from buildrun.store.home import STAGING, Home
from buildrun.store.manifest import Manifest, decode, encode
from buildrun.workspace import outputs
from buildrun.workspace.outputs import displace
from buildrun.workspace.restore import restore


def contents(home: Home) -> list[Path]:
    return sorted(path for path in Path(home.blobs).rglob("*") if path.is_file())


def content_of(home: Home, size: int) -> Path:
    """Return the only content of a size, made writable."""
    (blob,) = [path for path in contents(home) if path.stat().st_size == size]
    blob.chmod(0o644)
    return blob


def test_restored_outputs_are_those_that_were_stored(
    home: Home, root: Path, manifest: Manifest
) -> None:
    wanted = outputs_of(root)
    renew(root, "other")
    (root / "metrics" / "stale").touch()
    found = load(home, manifest.key)
    assert found == manifest
    assert restore(home, str(root), found).outputs == DECLARED
    assert outputs_of(root) == wanted
    assert take(root).digest == manifest.outputs
    assert leftovers(root) == []


def test_large_files_are_stored_and_restored(home: Home, root: Path) -> None:
    data = os.urandom((3 << 20) + 17)
    (root / "model").write_bytes(data)
    manifest = store_outputs(home, root, ("model",))
    (root / "model").unlink()
    restore(home, str(root), manifest)
    assert (root / "model").read_bytes() == data


def test_outputs_that_match_stay_untouched(home: Home, root: Path, manifest: Manifest) -> None:
    before = (root / "metrics").stat()
    (root / "deep" / "model.pkl").unlink()
    assert restore(home, str(root), manifest, matching=["metrics/"]).outputs == ("deep/model.pkl",)
    after = (root / "metrics").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (root / "deep" / "model.pkl").read_text() == "model new"


def test_restored_files_are_the_users_to_change(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    (root / "metrics" / "by day" / "new.csv").chmod(0o444)
    (root / "metrics" / "plot").chmod(0o6755)
    (root / "metrics" / "by day").chmod(0o555)
    manifest = store_outputs(home, root)
    restore(home, str(root), manifest)
    mask = os.umask(0)
    os.umask(mask)
    modes = {
        name: stat.S_IMODE((root / "metrics" / name).stat().st_mode)
        for name in ("by day/new.csv", "plot", "by day")
    }
    assert modes == {
        "by day/new.csv": 0o666 & ~mask,
        "plot": 0o777 & ~mask,
        "by day": 0o777 & ~mask,
    }
    (root / "deep" / "model.pkl").write_text("changed by hand")
    renew(root, None)
    restore(home, str(root), manifest)
    assert (root / "deep" / "model.pkl").read_text() == "model new"


def test_contents_that_are_there_are_not_stored_again(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    store_outputs(home, root)
    before = {path: path.stat().st_ino for path in contents(home)}
    store_outputs(home, root, parts={"command": "another"})
    assert {path: path.stat().st_ino for path in contents(home)} == before


def test_reuse_of_an_old_content_keeps_it_from_collection(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    store_outputs(home, root)
    for path in contents(home):
        os.utime(path, (1, 1))
    store_outputs(home, root)
    assert all(path.stat().st_mtime > 1 for path in contents(home))


def test_use_is_recorded_in_the_manifests_time(home: Home, manifest: Manifest) -> None:
    path = path_of(home, manifest.key)
    os.utime(path, (1, 1))
    load(home, manifest.key)
    assert os.stat(path).st_mtime > 1


@pytest.mark.parametrize("damage", [b"MODEL new", b"model", b"", b"model new and more"])
def test_damaged_content_is_a_miss_and_touches_nothing(
    home: Home, root: Path, manifest: Manifest, damage: bytes
) -> None:
    blob = content_of(home, len(b"model new"))
    blob.write_bytes(damage)
    renew(root, "old")
    old = outputs_of(root)
    with pytest.raises(MissingBlob):
        restore(home, str(root), manifest)
    assert outputs_of(root) == old
    assert leftovers(root) == []
    assert not blob.exists()
    renew(root, "new")
    store_outputs(home, root)
    restore(home, str(root), manifest)
    assert (root / "deep" / "model.pkl").read_text() == "model new"


@pytest.mark.parametrize("size", [0, 1 << 20, (3 << 20) - 1, 3 << 20, (3 << 20) + 1])
def test_damaged_large_file_is_a_miss(home: Home, root: Path, size: int) -> None:
    (root / "model").write_bytes(bytes(3 << 20))
    manifest = store_outputs(home, root, ("model",))
    with open(content_of(home, 3 << 20), "r+b") as file:
        file.truncate(size)
        file.write(b"1" if size == 3 << 20 else b"")
    (root / "model").write_text("old")
    with pytest.raises(MissingBlob):
        restore(home, str(root), manifest)
    assert (root / "model").read_text() == "old"


def test_missing_content_is_a_miss(home: Home, root: Path, manifest: Manifest) -> None:
    for blob in contents(home):
        blob.unlink()
    with pytest.raises(MissingBlob):
        restore(home, str(root), manifest)
    assert (root / "deep" / "model.pkl").read_text() == "model new"


@pytest.mark.parametrize("size", [0, 10, 200])
def test_truncated_manifest_is_a_miss(home: Home, root: Path, size: int) -> None:
    write_outputs(root, "new")
    key = store_outputs(home, root).key
    path = Path(path_of(home, key))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:size])
    assert load(home, key) is None


def test_manifest_of_another_key_is_a_miss(home: Home, root: Path, manifest: Manifest) -> None:
    other = store_outputs(home, root, parts={"command": "another"})
    shutil.copyfile(path_of(home, manifest.key), path_of(home, other.key) + ".new")
    os.replace(path_of(home, other.key) + ".new", path_of(home, other.key))
    assert load(home, other.key) is None


def test_what_is_no_digest_leads_nowhere(home: Home) -> None:
    for text in (
        "",
        "blake3:",
        "blake3:../../../../etc/passwd",
        "md5:" + "0" * 32,
        "sha256:" + "0" * 64,
        "blake3:" + "0" * 32,
    ):
        with pytest.raises(ValueError, match="not a digest"):
            load(home, text)
        with pytest.raises(ValueError, match="not a digest"):
            cas.read(home, text)


def edit(model: Path) -> None:
    model.write_text("model NEW")


def make_pipe(model: Path) -> None:
    model.unlink()
    os.mkfifo(model)  # it is not waited for


def make_link(model: Path) -> None:
    secret = model.parents[2] / "secret"  # of the same content
    model.replace(secret)
    model.symlink_to(secret)


@pytest.mark.parametrize("change", [edit, make_pipe, make_link])
def test_what_is_not_what_was_taken_is_not_stored(
    home: Home, root: Path, change: Callable[[Path], None]
) -> None:
    write_outputs(root, "new")
    taken = take(root)
    taken.entries()
    change(root / "deep" / "model.pkl")
    (root / "log").touch()
    with pytest.raises(StoreError, match=r"model\.pkl: (it changed while it was|cannot be) stored"):
        save(home, str(root), manifest_of(taken), taken, None, str(root / "log"))
    assert not list(Path(home.root).rglob("*.tmp"))
    assert load(home, manifest_of(taken).key) is None


def test_outputs_with_a_problem_are_not_stored(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    (root / "metrics" / "out").symlink_to("/etc")
    with pytest.raises(StoreError, match="cannot be stored"):
        store_outputs(home, root)


def test_parent_that_leads_out_of_the_project_is_refused(
    home: Home, root: Path, manifest: Manifest, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "model.pkl").write_text("somebody's")
    shutil.rmtree(root / "deep")
    (root / "deep").symlink_to(outside)
    before = look(root / "metrics")
    with pytest.raises(StoreError, match="leads out of the project"):
        restore(home, str(root), manifest)
    with pytest.raises(StoreError, match="leads out of the project"):
        displace(str(root), ["deep/model.pkl"])
    assert look(outside) == {"model.pkl": (b"somebody's", False)}
    assert look(root / "metrics") == before
    assert leftovers(root) == []


def test_parent_that_is_a_link_inside_the_project_is_followed(
    home: Home, root: Path, manifest: Manifest
) -> None:
    (root / "deep").rename(root / "real")
    (root / "real" / "model.pkl").unlink()
    (root / "deep").symlink_to("real")
    restore(home, str(root), manifest)
    assert (root / "real" / "model.pkl").read_text() == "model new"
    assert (root / "deep").is_symlink()


def test_output_that_is_a_link_out_of_the_project_is_replaced_not_followed(
    home: Home, root: Path, manifest: Manifest, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(root / "metrics")
    (root / "metrics").symlink_to(outside)
    restore(home, str(root), manifest)
    assert look(outside) == {}
    assert not (root / "metrics").is_symlink()


def test_file_in_the_place_of_a_parent_stops_the_restore(
    home: Home, root: Path, manifest: Manifest
) -> None:
    renew(root, None)
    (root / "deep").write_text("a file")
    with pytest.raises(StoreError, match="cannot be restored"):
        restore(home, str(root), manifest)
    assert (root / "deep").read_text() == "a file"
    assert look(root / "metrics") is None
    assert leftovers(root) == []


def test_read_only_outputs_are_replaced(home: Home, root: Path, manifest: Manifest) -> None:
    new = outputs_of(root)
    renew(root, "old")
    old = outputs_of(root)
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink() and path != root / "deep":
            path.chmod(0o555 if path.is_dir() else 0o444)
    root.chmod(0o777)
    (root / "deep").chmod(0o777)
    for path in (root, *root.parents):
        if path.owner() == Path.home().owner():
            os.chmod(path, path.stat().st_mode | 0o055)

    def as_nobody() -> None:
        Path(home.root).chmod(0o755)
        if os.geteuid() == 0:
            kept = Path(home.root)
            for path in (*root.rglob("*"), root, *kept.rglob("*"), kept):
                os.lchown(path, 65534, 65534)
            os.setgid(65534)
            os.setuid(65534)
        aside = displace(str(root), DECLARED)
        assert outputs_of(root) == dict.fromkeys(DECLARED)
        aside.put_back()
        assert {name: strip(value) for name, value in outputs_of(root).items()} == {
            name: strip(value) for name, value in old.items()
        }
        assert stat.S_IMODE((root / "metrics").stat().st_mode) == 0o555
        restore(home, str(root), manifest)

    assert in_child(as_nobody) == 0
    assert outputs_of(root) == new
    assert leftovers(root) == []


def strip(value: object) -> object:
    """Leave the executable bit out, which was taken away."""
    if isinstance(value, dict):
        return {name: strip(inner) for name, inner in value.items()}
    return value[0] if isinstance(value, tuple) and isinstance(value[0], bytes) else value


def test_deeply_nested_old_outputs_are_deleted(home: Home, root: Path, manifest: Manifest) -> None:
    with deep(root / "metrics", 1200):
        restore(home, str(root), manifest)
        assert leftovers(root) == []
        assert not (root / "metrics" / "a").exists()


def test_same_content_under_two_names_is_restored_twice(home: Home, root: Path) -> None:
    for name in ("one", "two"):
        (root / name).write_text("same")
    manifest = store_outputs(home, root, ("one", "two"))
    (root / "one").unlink()
    (root / "two").unlink()
    restore(home, str(root), manifest)
    assert (root / "one").read_text() == (root / "two").read_text() == "same"
    (root / "one").write_text("changed")
    assert (root / "two").read_text() == "same"
    restore(home, str(root), manifest)
    assert (root / "one").read_text() == "same"


def test_processes_store_and_restore_the_same_result_at_once(
    home: Home, root: Path, tmp_path: Path
) -> None:
    write_outputs(root, "new")
    wanted = outputs_of(root)
    ready, go = os.pipe()

    def work(own: Path) -> None:
        write_outputs(own, "new")
        os.read(ready, 1)  # until all have been started
        for _ in range(10):
            manifest = store_outputs(home, own)
            renew(own, None)
            restore(home, str(own), manifest)
            assert outputs_of(own) == wanted

    children = [in_background(work, tmp_path / f"project {number}") for number in range(4)]
    os.write(go, b"1" * 4)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    os.close(ready)
    os.close(go)
    assert not list(Path(home.root).rglob("*.tmp"))


def test_manifest_survives_writing_and_reading(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    manifest = store_outputs(home, root, parts={"name": "é\udcff\n", "list": [1, None, 2.5]})
    assert decode(encode(manifest)) == manifest
    entries = listed(home, manifest)
    assert entries is not None
    assert entries == take(root).entries()


def test_aside_without_outputs_leaves_no_trace(root: Path) -> None:
    aside = displace(str(root), DECLARED)
    assert aside.descriptor == -1
    assert list(root.iterdir()) == []
    aside.put_back()
    aside.discard()


def test_outputs_can_be_put_back_one_by_one(root: Path) -> None:
    renew(root, "old")
    old = outputs_of(root)
    aside = displace(str(root), DECLARED)
    aside.put_back(["metrics/"])
    assert look(root / "metrics") == old["metrics/"]
    assert look(root / "deep" / "model.pkl") is None
    aside.discard()
    aside.discard()
    assert look(root / "deep" / "model.pkl") is None
    assert leftovers(root) == []


def test_staging_that_came_with_a_project_moves_nothing_from_elsewhere(
    root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "0").write_text("somebody's")
    for number, (old, path) in enumerate(
        ((outside, "taken"), (None, "../escaped"), (None, "/tmp/escaped"))
    ):
        fake = root / f"{STAGING}{number}"
        fake.mkdir()
        if old is not None:
            (fake / "old").symlink_to(old)
        else:
            (fake / "old").mkdir()
            (fake / "old" / "0").write_text("text")
        (fake / "journal").write_text(f'[0, "{path}", null, null]\n')
    outputs.recover(str(root))
    assert look(outside) == {"0": (b"somebody's", False)}
    assert not (root / "taken").exists()
    assert not (tmp_path / "escaped").exists()
    assert not Path("/tmp/escaped").exists()
