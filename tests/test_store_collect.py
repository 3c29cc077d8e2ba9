"""What goes out of the store, what stays, and what is found to be damaged."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from types import FrameType

import pytest
from store_helpers import (  # noqa: F401
    a_home,
    a_root,
    killed_at_each_step,
    outputs_of,
    renew,
    store_outputs,
    write_outputs,
)

from buildrun.store import cas, fsck, gc
from buildrun.store.action_cache import load, path_of
from buildrun.store.home import Home
from buildrun.store.manifest import Manifest
from buildrun.workspace.restore import restore

NOW = 2_000_000_000.0


def stored(home: Home, root: Path, text: str, used: float) -> Manifest:
    """Store a result of its own with an output of its own and one that all have."""
    (root / "own").write_text(text * 1000)
    (root / "shared").write_text("s" * 50_000)
    manifest = store_outputs(home, root, ("own", "shared"), parts={"name": text})
    os.utime(path_of(home, manifest.key), (used, used))
    return manifest


def remove(items: list[gc.CacheEntry]) -> None:
    for item in items:
        assert gc.remove(item)


def age(home: Home) -> None:
    """Make all contents old enough to be collected."""
    for path in Path(home.blobs).rglob("*"):
        os.utime(path, (1, 1))


def content_of(home: Home, text: bytes) -> Path:
    (found,) = [
        path for path in Path(home.blobs).rglob("*") if path.is_file() and path.read_bytes() == text
    ]
    return found


def test_survey_tells_what_results_are_of(home: Home, root: Path) -> None:
    old = stored(home, root, "a", NOW)
    new = stored(home, root, "b", NOW + 1)
    first, second = gc.list_entries(home)
    assert (first.key, second.key) == (new.key, old.key)
    assert [first.row[name] for name in ("project", "step", "entry_point")] == [
        "project", "train", "train",
    ]  # fmt: skip
    assert (first.used, first.row["created"]) == (NOW + 1, new.created)
    assert first.bytes > 51_000
    assert second.bytes > 51_000
    # What both name is kept as long as the newer one is.
    assert first.cost > 50_000 > second.cost > 1000


def test_newest_results_are_kept_within_a_size(home: Home, root: Path) -> None:
    keys = [stored(home, root, text, NOW + number).key for number, text in enumerate("abc")]
    kept = gc.list_entries(home)
    size = kept[0].cost + kept[1].cost
    chosen = gc.select_expired(kept, now=NOW, max_age=None, max_size=size)
    assert [item.key for item in chosen] == keys[:1]
    chosen = gc.select_expired(kept, now=NOW, max_age=None, max_size=0)
    assert {item.key for item in chosen} == set(keys)


def test_contents_of_removed_results_go_and_shared_ones_stay(home: Home, root: Path) -> None:
    stored(home, root, "a", NOW)
    new = stored(home, root, "b", NOW + 1)
    age(home)
    own = content_of(home, b"a" * 1000)
    (item,) = [item for item in gc.list_entries(home) if item.key != new.key]
    remove([item])
    assert own.exists()
    assert gc.collect_garbage(home) > 0
    assert not own.exists()
    assert load(home, item.key) is None
    renew(root, None)
    restore(home, str(root), new)
    assert (root / "own").read_text() == "b" * 1000
    assert len((root / "shared").read_text()) == 50_000


def test_young_contents_are_spared_for_a_save_on_its_way(home: Home, root: Path) -> None:
    stored(home, root, "a", NOW)
    remove(gc.list_entries(home))
    assert gc.collect_garbage(home) == 0
    assert content_of(home, b"a" * 1000).exists()
    age(home)
    gc.collect_garbage(home)
    assert not [path for path in Path(home.blobs).rglob("*") if path.is_file()]


def test_listings_that_explain_the_last_run_of_a_step_stay(home: Home, root: Path) -> None:
    manifest = stored(home, root, "a", NOW)
    projects = Path(home.memo) / "projects"
    projects.mkdir(parents=True)
    (projects / "name.steps").write_text(f'[1, "train", "{manifest.outputs}"]\n')
    age(home)
    remove(gc.list_entries(home))
    gc.collect_garbage(home)
    assert cas.has(home, manifest.outputs)
    assert not cas.has(home, manifest.log)


def test_what_killed_saves_left_is_removed_when_it_is_old(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    for _ in killed_at_each_step(lambda: store_outputs(home, root)):
        shutil.rmtree(home.results, ignore_errors=True)
    assert list(Path(home.blobs).rglob("*.tmp"))
    gc.collect_garbage(home)
    assert list(Path(home.blobs).rglob("*.tmp"))
    age(home)
    gc.collect_garbage(home)
    assert not list(Path(home.blobs).rglob("*.tmp"))


def test_damaged_manifest_is_of_no_use(home: Home, root: Path) -> None:
    manifest = stored(home, root, "a", NOW)
    path = Path(path_of(home, manifest.key))
    path.chmod(0o644)
    path.write_bytes(b"{")
    (item,) = gc.list_entries(home)
    assert not item.complete
    assert gc.select_expired([item], now=NOW, max_age=None, max_size=None) == [item]
    remove([item])
    assert gc.list_entries(home) == []


def test_collection_that_is_killed_loses_no_result_it_kept(home: Home, root: Path) -> None:
    new = stored(home, root, "b", NOW + 1)
    wanted = (root / "own").read_text()

    def work() -> None:
        kept = gc.list_entries(home)
        remove([item for item in kept if item.key != new.key])
        gc.collect_garbage(home)

    stored(home, root, "a", NOW)
    age(home)
    for _ in killed_at_each_step(work):
        (root / "own").unlink()
        restore(home, str(root), new)
        assert (root / "own").read_text() == wanted
        stored(home, root, "a", NOW)
        age(home)


@pytest.mark.parametrize("damage", [b"b" * 1000, b"a", None])
def test_verify_names_what_is_damaged_and_removes_it(
    home: Home, root: Path, damage: bytes | None
) -> None:
    manifest = stored(home, root, "a", NOW)
    other = stored(home, root, "c", NOW)
    blob = content_of(home, b"a" * 1000)
    if damage is None:
        blob.unlink()
    else:
        blob.chmod(0o644)
        blob.write_bytes(damage)
    findings = fsck.verify(home)
    assert ("`own` of step `train` of project `project` is lost") in [
        reason for name, reason in findings if name == manifest.key
    ]
    assert len(findings) == (1 if damage is None else 2)
    assert not blob.exists()
    assert load(home, manifest.key) is None
    assert load(home, other.key) == other
    assert fsck.verify(home) == []


def test_verify_finds_a_damaged_manifest(home: Home, root: Path) -> None:
    manifest = stored(home, root, "a", NOW)
    path = Path(path_of(home, manifest.key))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-5])
    (finding,) = fsck.verify(home)
    assert finding[0] == manifest.key
    assert not path.exists()


def test_verify_finds_a_pipe_among_the_contents(home: Home, root: Path) -> None:
    stored(home, root, "a", NOW)
    blob = content_of(home, b"a" * 1000)
    blob.unlink()
    os.mkfifo(blob)
    assert len(fsck.verify(home)) == 2


def test_result_that_loses_contents_while_it_is_saved_is_a_miss(home: Home, root: Path) -> None:
    write_outputs(root, "new")
    wanted = outputs_of(root)
    manifest = store_outputs(home, root)
    gc.collect_garbage(home, everything=True)
    assert load(home, manifest.key) == manifest
    Path(path_of(home, manifest.key)).unlink()
    gc.collect_garbage(home, everything=True)
    manifest = store_outputs(home, root)
    renew(root, None)
    restore(home, str(root), manifest)
    assert outputs_of(root) == wanted


def test_result_that_is_made_again_meanwhile_is_not_damaged(home: Home, root: Path) -> None:
    stored(home, root, "a", NOW)
    own = content_of(home, b"a" * 1000)
    own.unlink()  # by a collection, after which the step has run again

    def meanwhile(frame: FrameType, event: str, function: object) -> None:
        del frame
        if event == "c_call" and function is os.lstat and not own.exists():
            stored(home, root, "a", NOW + 1)

    sys.setprofile(meanwhile)
    try:
        findings = fsck.verify(home)
    finally:
        sys.setprofile(None)
    assert findings == []
    assert own.exists()
    assert len(gc.list_entries(home)) == 1


def test_content_that_is_made_whole_meanwhile_is_not_damaged(home: Home, root: Path) -> None:
    stored(home, root, "a", NOW)
    own = content_of(home, b"a" * 1000)
    whole = own.with_name("whole")
    own.rename(whole)
    own.write_bytes(b"b" * 1000)
    damaged = own.stat()

    def meanwhile(frame: FrameType, event: str, function: object) -> None:
        if event != "c_return" or function is not os.readv or not whole.exists():
            return
        if os.path.samestat(os.fstat(frame.f_locals["source"]), damaged):
            whole.replace(own)  # while the damaged one is read

    sys.setprofile(meanwhile)
    try:
        findings = fsck.verify(home)
    finally:
        sys.setprofile(None)
    assert not whole.exists()
    assert findings == []
    assert own.read_bytes() == b"a" * 1000
