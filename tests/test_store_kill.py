"""A process that stores or restores is killed at every step: nothing is half there, or lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from store_helpers import (  # noqa: F401
    DECLARED,
    a_home,
    in_child,
    killed_at_each_step,
    leftovers,
    look,
    outputs_of,
    renew,
    store_outputs,
    write_outputs,
)

from buildrun.store.action_cache import load
from buildrun.store.home import Home
from buildrun.store.manifest import Manifest
from buildrun.workspace.outputs import displace, recover
from buildrun.workspace.restore import restore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "train.py").write_text("pass\n")
    return directory


def stored(home: Home, root: Path, text: str) -> Manifest:
    renew(root, text)
    manifest = store_outputs(home, root)
    renew(root, None)
    return manifest


@pytest.mark.parametrize("before", ["old", None])
def test_killed_restore_leaves_each_output_wholly_old_or_wholly_new(
    home: Home, root: Path, before: str | None
) -> None:
    manifest = stored(home, root, "new")
    restore(home, str(root), manifest)
    new = outputs_of(root)
    renew(root, before)
    old = outputs_of(root)
    seen = set()
    for _ in killed_at_each_step(lambda: restore(home, str(root), manifest)):
        recover(str(root))
        found = outputs_of(root)
        for path in DECLARED:
            assert found[path] in (old[path], new[path])
        seen.add(tuple(found[path] == new[path] for path in DECLARED))
        assert leftovers(root) == []
        assert (root / "train.py").read_text() == "pass\n"
        renew(root, before)
    # It was killed before, between and after the swaps.
    assert seen == {(False, False), (True, False), (True, True)}
    assert outputs_of(root) == new
    assert leftovers(root) == []


def test_killed_save_leaves_the_earlier_result_or_stores_the_new_one(
    home: Home, root: Path, tmp_path: Path
) -> None:
    renew(root, "old")
    old = outputs_of(root)
    earlier = store_outputs(home, root)
    renew(root, "new")
    new = outputs_of(root)
    other = tmp_path / "elsewhere"
    for _ in killed_at_each_step(lambda: store_outputs(home, root)):
        manifest = load(home, earlier.key)
        assert manifest == earlier
        other.mkdir()
        restore(home, str(other), manifest)
        assert outputs_of(other) == old
        shutil.rmtree(other)
    manifest = load(home, earlier.key)
    assert manifest is not None
    restore(home, str(root), manifest)
    assert outputs_of(root) == new


def test_killed_save_of_a_first_result_stores_nothing(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    for _ in killed_at_each_step(lambda: store_outputs(home, root)):
        assert not list(Path(home.results).rglob("[0-9a-f]" * 64))
        shutil.rmtree(home.root, ignore_errors=True)
    assert list(Path(home.results).rglob("[0-9a-f]" * 64))


def test_killed_save_leaves_what_the_next_one_completes(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    wanted = outputs_of(root)
    for _ in killed_at_each_step(lambda: store_outputs(home, root)):
        pass  # each begins with what the one before has left
    manifest = store_outputs(home, root)
    renew(root, None)
    restore(home, str(root), manifest)
    assert outputs_of(root) == wanted


def test_killed_run_gets_its_old_outputs_back(root: Path) -> None:
    renew(root, "old")
    old = outputs_of(root)

    def fail() -> None:
        aside = displace(str(root), DECLARED)
        assert outputs_of(root) == dict.fromkeys(DECLARED)
        aside.put_back()

    for _ in killed_at_each_step(fail):
        recover(str(root))
        assert outputs_of(root) == old
        assert leftovers(root) == []
    assert outputs_of(root) == old
    assert leftovers(root) == []


def test_killed_command_keeps_what_it_has_written(root: Path) -> None:
    renew(root, "old")
    old = outputs_of(root)

    def work() -> None:
        aside = displace(str(root), DECLARED)
        (root / "metrics").mkdir()
        (root / "metrics" / "half").touch()
        aside.discard()

    for _ in killed_at_each_step(work):
        written = look(root / "metrics") == {"half": (b"", False)}
        recover(str(root))
        found = outputs_of(root)
        if written:
            assert found["metrics/"] == {"half": (b"", False)}
        else:
            assert found["metrics/"] in (old["metrics/"], {})
        assert found["deep/model.pkl"] in (old["deep/model.pkl"], None)
        assert leftovers(root) == []
        renew(root, "old")


def test_recovery_that_is_killed_is_taken_up_by_the_next(root: Path) -> None:
    renew(root, "old")
    old = outputs_of(root)
    for _ in killed_at_each_step(lambda: recover(str(root))):
        recover(str(root))
        assert outputs_of(root) == old
        assert leftovers(root) == []
        code = in_child(lambda: displace(str(root), DECLARED))  # and ends without a word
        assert code == 0
        assert outputs_of(root) == dict.fromkeys(DECLARED)
    assert outputs_of(root) == old


def test_staging_of_a_running_process_is_left_alone(root: Path) -> None:
    renew(root, "old")
    old = outputs_of(root)
    aside = displace(str(root), DECLARED)
    assert in_child(lambda: recover(str(root))) == 0
    recover(str(root))
    assert outputs_of(root) == dict.fromkeys(DECLARED)
    aside.put_back()
    assert outputs_of(root) == old
    assert leftovers(root) == []
