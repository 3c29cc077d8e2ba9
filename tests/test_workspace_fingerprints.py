"""Fingerprints: an edit is always noticed, and what is known is not read again."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from workspace_helpers import deep, fresh, paths_of, write

from buildrun.store import digest, stat_signature
from buildrun.store.listing import Entry, encode
from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.select import FileSet

# What is called with the path of each file or directory before it is opened; audit hooks cannot be
# removed, so one stays and does what the running test wants.
_WATCHERS: list[Callable[[str], None]] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _WATCHERS and isinstance(arguments[0], (str, bytes)):
        _WATCHERS[-1](os.fsdecode(arguments[0]))


sys.addaudithook(_audit)


@contextlib.contextmanager
def opening(watcher: Callable[[str], None]) -> Iterator[None]:
    own = threading.get_ident()
    busy = False

    def call(path: str) -> None:
        nonlocal busy
        if not busy and threading.get_ident() == own:
            busy = True
            try:
                watcher(path)
            finally:
                busy = False

    _WATCHERS.append(call)
    try:
        yield
    finally:
        _WATCHERS.remove(call)


def opened(call: Callable[[], object], root: Path) -> list[str]:
    """Return the files beneath the root that a call opens."""
    found: list[str] = []
    with opening(found.append):
        call()
    below = [os.path.relpath(path, root) for path in found if path.startswith(f"{root}/")]
    return [path for path in below if not (root / path).is_dir()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def index(tmp_path: Path) -> Path:
    return tmp_path / "state" / "index"


def age(*paths: Path) -> None:
    """Wait until the files are older than the step of the clock, which is their youth."""
    for path in paths:
        seen = stat_signature.of(path.lstat())
        while stat_signature.is_racy(seen, time.time_ns()):
            pass


def digest_of(root: Path, *patterns: str) -> str:
    taken = fresh(root).inputs(patterns or None, ())
    assert not taken.problems
    return taken.digest


def test_the_digest_is_that_of_the_listing(root: Path) -> None:
    write(root, a="1", b__c="22")
    (root / "b" / "c").chmod(0o755)
    (root / "link").symlink_to("a")
    taken = fresh(root).inputs(None, ())
    expected = (
        Entry("a", "file", digest.content(b"1"), 1),
        Entry("b/c", "executable", digest.content(b"22"), 2),
        Entry("link", "symlink", "a", 0),
    )
    assert taken.entries() == expected
    assert taken.digest == digest.content(encode(expected))


def test_the_digest_of_a_tree_never_changes_between_versions(root: Path) -> None:
    write(root, a="1", b__c="22")
    assert (
        digest_of(root) == "blake3:d1ce10cd092b824fb8dc2cc24fe4de5f0999f747dae890af7ab528e21034f93a"
    )


def known(root: Path, index: Path, *paths: str) -> FileSet:
    """Take the default inputs and save what is known, with files old enough to be trusted."""
    age(*(root / path for path in paths))
    prints = fresh(root, index)
    taken = prints.inputs(None, ())
    prints.save()
    return taken


def test_what_is_known_is_not_read_again(root: Path, index: Path) -> None:
    write(root, a="1", b="2", c="3")
    before = known(root, index, "a", "b", "c")
    later = fresh(root, index)
    assert opened(lambda: later.inputs(None, ()), root) == []
    assert later.inputs(None, ()).digest == before.digest
    assert opened(lambda: later.inputs(None, ()).entries(), root) == []
    assert later.inputs(None, ()).entries() == before.entries()
    write(root, b="4")
    assert opened(lambda: fresh(root, index).inputs(None, ()), root) == ["b"]
    assert opened(lambda: fresh(root, index).inputs(("a", "c"), ()), root) == []


def test_a_touched_file_is_read_and_its_digest_stays(root: Path, index: Path) -> None:
    write(root, a="1")
    before = known(root, index, "a")
    os.utime(root / "a", (1, 1))
    later = fresh(root, index)
    assert opened(lambda: later.inputs(None, ()), root) == ["a"]
    assert later.inputs(None, ()).digest == before.digest


def test_a_file_from_the_future_is_never_trusted(root: Path, index: Path) -> None:
    write(root, a="1")
    os.utime(root / "a", (2**33, 2**33))
    known(root, index)
    assert opened(lambda: fresh(root, index).inputs(None, ()), root) == ["a"]


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("mtime", "ctime", "began", "young"),
    [
        (100, 100, 100, True),
        (100, 100, 100 + 10_000_000, True),
        (100, 100, 101 + 20_000_000, False),
        (100 + 20_000_000, 100, 101 + 20_000_000, True),
        (100, 100 + 20_000_000, 101 + 20_000_000, True),
        (7 * SECOND, 7 * SECOND, 8 * SECOND, True),
        (7 * SECOND, 7 * SECOND, 9 * SECOND + 1, False),
        (7 * SECOND, 7 * SECOND + 1, 8 * SECOND, False),
        (9 * SECOND, 7 * SECOND, 8 * SECOND, True),
    ],
)
def test_a_file_is_young_for_a_step_of_its_clock(
    mtime: int, ctime: int, began: int, *, young: bool
) -> None:
    packed = stat_signature.pack((mtime, ctime, 1, 2, 3, 0o100644))
    assert stat_signature.is_racy(packed, began) is young


def test_times_beyond_all_bounds_are_taken() -> None:
    far = (2**80, -(2**80), 1, 2, 3, 0o100644)
    assert stat_signature.is_racy(stat_signature.pack(far), 2**62)


def test_index_of_another_version_is_an_empty_one(root: Path, index: Path) -> None:
    write(root, a="1")
    age(root / "a")
    known(root, index, "a")
    index.write_bytes(index.read_bytes().replace(b"buildrun index 2", b"buildrun index 1"))
    assert opened(lambda: fresh(root, index).inputs(None, ()), root) == ["a"]


def test_a_damaged_index_is_an_empty_one(root: Path, index: Path) -> None:
    write(root, a="1", b="2")
    before = known(root, index, "a", "b")
    whole = index.read_bytes()
    damages = [whole[:size] for size in range(0, len(whole), 7)]
    damages += [
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(0, len(whole), 3)
    ]
    damages += [whole + b"x", b"\0" * len(whole), whole.replace(b"index 1", b"index 2")]
    for damaged in damages:
        index.write_bytes(damaged)
        taken = fresh(root, index).inputs(None, ())
        assert taken.digest == before.digest
        assert taken.entries() == before.entries()


def test_of_two_that_save_the_last_one_wins_and_both_go_on(root: Path, index: Path) -> None:
    write(root, a="1", b="2")
    age(root / "a", root / "b")
    first, second = fresh(root, index), fresh(root, index)
    first.inputs(("a",), ())
    second.inputs(("b",), ())
    first.save()
    second.save()
    assert opened(lambda: fresh(root, index).inputs(("b",), ()), root) == []
    assert opened(lambda: fresh(root, index).inputs(("a",), ()), root) == ["a"]
    assert [path.name for path in index.parent.iterdir()] == ["index"]


def test_what_is_unchanged_is_not_saved_again(root: Path, index: Path) -> None:
    write(root, a="1")
    known(root, index, "a")
    saved = index.stat().st_ino
    known(root, index, "a")
    assert index.stat().st_ino == saved


def test_a_disk_that_takes_no_index_costs_speed_only(root: Path, tmp_path: Path) -> None:
    write(root, a="1")
    (tmp_path / "file").touch()
    prints = fresh(root, tmp_path / "file" / "index")
    digest = prints.inputs(None, ()).digest
    prints.save()
    assert digest == digest_of(root)
    refusing = Fingerprints(str(root), str(tmp_path / "unwritten"), write=False)
    refusing.inputs(None, ())
    refusing.save()
    assert not (tmp_path / "unwritten").exists()


def test_files_that_are_gone_leave_the_index(root: Path, index: Path) -> None:
    for number in range(1500):
        (root / f"old{number}").touch()
    known(root, index, *(f"old{number}" for number in range(1490, 1500)))
    for number in range(1500):
        (root / f"old{number}").rename(root / f"new{number}")
    known(root, index, *(f"new{number}" for number in range(1490, 1500)))
    for number in range(1500):
        (root / f"new{number}").rename(root / f"last{number}")
    known(root, index, *(f"last{number}" for number in range(1490, 1500)))
    content = index.read_bytes()
    assert b"last7\0" in content
    assert b"old7\0" not in content


def test_outputs_do_not_count_as_inputs(root: Path) -> None:
    write(root, a="1", out__x="2", out__y__z="3", outer="4", model="5")
    taken = fresh(root).inputs(None, ("out/", "model"))
    assert paths_of(taken) == ["a", "outer"]
    assert paths_of(fresh(root).inputs(None, ("out/y", "out", "a"))) == ["model", "outer"]
    assert paths_of(fresh(root).inputs(("*",), ("out",))) == ["a", "model", "outer"]


def test_a_pattern_that_matches_nothing_is_named(root: Path) -> None:
    write(root, a="1", out__x="2")
    taken = fresh(root).inputs(("a", "b*", "c/d", "out/*", "../x"), ("out/",))
    assert taken.unmatched == ("b*", "c/d", "../x")
    assert paths_of(taken) == ["a"]
    assert not taken.problems


# What changes under our eyes.


def replace(path: Path) -> None:
    path.with_name("new").write_text("3")
    path.with_name("new").rename(path)


def make_pipe(path: Path) -> None:
    os.mkfifo(path)  # it is not waited for


def make_link(path: Path) -> None:
    path.symlink_to("b")  # it is not followed


@pytest.mark.parametrize(
    ("make", "listed", "problems"),
    [
        (lambda _: None, ["b"], ()),
        (replace, ["b"], ("`a` changes or vanishes while it is read",)),
        (make_pipe, ["b"], ()),
        (make_link, ["a", "b"], ()),
    ],
)
def test_what_takes_the_place_of_a_file_meanwhile(
    root: Path, make: Callable[[Path], None], listed: list[str], problems: tuple[str, ...]
) -> None:
    write(root, a="1", b="2")

    def swap(path: str) -> None:
        if path.endswith("/a") and (root / "a").is_file() and not (root / "a").is_symlink():
            (root / "a").unlink()
            make(root / "a")

    with opening(swap):
        taken = fresh(root).inputs(None, ())
    assert (paths_of(taken), taken.problems) == (listed, problems)
    assert {entry.kind for entry in taken.entries()} <= {"file", "symlink"}
    assert problems or taken.digest == digest_of(root)


def test_a_file_that_changes_once_while_it_is_read_is_read_again(root: Path) -> None:
    write(root, a="1")
    edits = iter(["22"])

    def edit(path: str) -> None:
        if path.endswith("/a") and (text := next(edits, "")):
            write(root, a=text)

    with opening(edit):
        taken = fresh(root).inputs(None, ())
    assert not taken.problems
    assert taken.digest == digest_of(root)
    assert taken.entries()[0].size == 2


def test_a_directory_that_vanishes_meanwhile_is_not_listed(root: Path) -> None:
    write(root, a="1", d__b="2", e__c="3")

    def vanish(path: str) -> None:
        if path.rstrip("/").endswith("/d"):
            (root / "d" / "b").unlink()
            (root / "d").rmdir()
            (root / "d").symlink_to("e")

    with opening(vanish):
        taken = fresh(root).inputs(None, ())
    assert paths_of(taken) == ["a", "e/c"]


# What is no file.


def test_what_is_no_file_is_passed_over_or_a_problem_and_never_opened(root: Path) -> None:
    write(root, d__a="1")
    os.mkfifo(root / "d" / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        own = os.open(root / "d", os.O_RDONLY)
        try:
            listener.bind(f"/proc/self/fd/{own}/socket" if sys.platform == "linux" else "s")
        finally:
            os.close(own)
        assert not digest_of(root).endswith(":")
        problems = tuple(
            f"`d/{name}` is neither a file nor a directory"
            for name in (("pipe", "socket") if sys.platform == "linux" else ("pipe",))
        )
        prints = fresh(root)
        assert opened(lambda: prints.inputs(("d",), ()), root) == ["d/a"]
        assert prints.inputs(("d",), ()).problems == problems
        assert prints.outputs(("d/",)).problems == problems
        assert prints.inputs(("d/pipe",), ()).problems == problems[:1]
        assert prints.outputs(("d/pipe",)).problems == problems[:1]
    (root / "through").symlink_to("d/pipe")
    assert "through" in str(fresh(root).inputs(("through",), ()).problems)


@contextlib.contextmanager
def without_privileges(directory: Path) -> Iterator[None]:
    """Go on as a user whom permissions bind."""
    if os.geteuid() != 0:
        yield
        return
    for path in (directory, *directory.rglob("*")):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_what_may_not_be_read_is_a_problem() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write(root, a="1", b="2", d__c="3", e__f="4")
        (root / "a").chmod(0)
        (root / "d").chmod(0)
        with without_privileges(root):
            for patterns in (None, ("*",)):
                taken = fresh(root).inputs(patterns, ())
                assert taken.problems == (
                    "`d` cannot be read: Permission denied",
                    "`a` cannot be read: Permission denied",
                )
                assert paths_of(taken) == ["b", "e/f"]
            assert not fresh(root).inputs(None, ("a", "d/")).problems
            hidden = fresh(root).inputs(("**/c", "d/c"), ())
            assert set(hidden.problems) == {
                f"`{path}` cannot be read: Permission denied" for path in ("d", "d/c")
            }
            assert not hidden.unmatched
            assert fresh(root).outputs(("d/",)).problems == taken.problems[:1]
            with pytest.raises(PermissionError):
                fresh(root).content(str(root / "a"))
            with pytest.raises(OSError, match="Permission denied"):
                fresh(root).content(str(root))
        (root / "d").chmod(0o700)


def test_a_tree_may_be_deep(root: Path) -> None:
    with deep(root, 1200) as path:
        assert paths_of(fresh(root).inputs(None, ())) == [path]
        assert paths_of(fresh(root).inputs(("**/file",), ())) == [path]
        assert len(fresh(root).outputs(("a",)).entries()) == 1201


# Links.


@pytest.mark.parametrize("pattern", [None, "*", "**/l*"])
def test_a_link_that_leads_out_counts_by_what_is_there(
    root: Path, tmp_path: Path, pattern: str | None
) -> None:
    write(tmp_path, file="1", tree__a="1")
    write(root, ignored__a="1")
    (root / ".gitignore").write_text("ignored\n")
    for name, target in (("l1", "../file"), ("l2", "../tree"), ("l3", "ignored/a")):
        (root / name).symlink_to(target)
    digests = set()
    for _ in range(2):
        for path in (tmp_path / "file", tmp_path / "tree" / "a", root / "ignored" / "a"):
            digests.add(fresh(root).inputs((pattern,) if pattern else None, ()).digest)
            path.write_text(path.read_text() + "1")
    assert len(digests) == 6


def test_a_link_within_what_is_selected_counts_as_a_link(root: Path) -> None:
    write(root, d__a="1", b="2")
    (root / "to file").symlink_to("d/a")
    (root / "to directory").symlink_to("d")
    (root / "to all").symlink_to(".")
    for patterns in (None, (".",)):
        taken = fresh(root).inputs(patterns, ())
        assert paths_of(taken) == ["b", "d/a", "to all", "to directory", "to file"]


def test_what_a_link_leads_to_counts_whatever_lies_in_outputs(root: Path, tmp_path: Path) -> None:
    write(tmp_path, tree__a="1")
    write(root, a_d__x="1")
    (root / "a_d" / "link").symlink_to(tmp_path / "tree")
    (root / "z_d").symlink_to(tmp_path / "tree")
    assert paths_of(fresh(root).inputs(("*_d",), ("a_d/",))) == ["z_d", "z_d/a"]
    assert paths_of(fresh(root).inputs(("**/a",), ("a_d/",))) == ["z_d", "z_d/a"]


def test_a_link_into_outputs_counts_as_a_link(root: Path) -> None:
    write(root, out__a="1", near__b="2")
    (root / ".gitignore").write_text("near\n")
    (root / "file").symlink_to("out/a")
    (root / "all").symlink_to("out")
    (root / "near it").symlink_to("near")
    (root / "near" / "up").symlink_to("../out")
    for patterns in (None, ("file", "all", "near it")):
        taken = fresh(root).inputs(patterns, ("out/",))
        assert {"out/a", "file/", "all/a", "near it/up/a"}.isdisjoint(paths_of(taken))
        assert {"file", "all", "near it", "near it/b", "near it/up"} <= set(paths_of(taken))


def test_links_to_leftovers_and_environments_are_no_default_inputs(root: Path) -> None:
    write(root, mlruns__a="1", venv__pyvenv__cfg="")
    (root / "venv" / "pyvenv.cfg").touch()
    (root / "latest").symlink_to("mlruns")
    (root / "python").symlink_to("venv")
    assert paths_of(fresh(root).inputs(None, ())) == ["latest", "python"]
    assert "latest/a" in paths_of(fresh(root).inputs(("latest",), ()))


def test_a_link_to_the_whole_disk_is_a_problem(root: Path) -> None:
    (root / "all").symlink_to("/")
    for patterns in (None, ("*",), ("**/passwd",)):
        (problem,) = fresh(root).inputs(patterns, ()).problems
        assert "`all`" in problem
        assert "the whole disk" in problem


def test_a_link_to_more_than_can_be_meant_is_a_problem_by_default(
    root: Path, tmp_path: Path
) -> None:
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 11 << 30)
    (root / "link").symlink_to(tmp_path / "huge")
    taken = fresh(root).inputs(None, ())
    assert taken.problems == ("`link` is a link to more than 100000 files or 10 GiB",)
    assert paths_of(taken) == ["link"]


def test_a_link_to_what_is_above_the_project_leaves_the_project_out(root: Path) -> None:
    write(root, a="1", out__b="2")
    write(root.parent, beside="1")
    (root / "up").symlink_to("..")
    for patterns in (None, ("*",)):
        taken = fresh(root).inputs(patterns, ("out",))
        assert paths_of(taken) == ["a", "up", "up/beside"]


def test_an_empty_directory_counts_where_it_is_named(root: Path) -> None:
    write(root, d__a="1", d__out__x="1")
    (root / "d" / "empty").mkdir()
    for patterns in (("d",), ("d/",), ("**",)):
        taken = fresh(root).inputs(patterns, ("d/out/x",))
        assert paths_of(taken) == ["d/a", "d/empty"]
    (root / "d" / "out" / "x").unlink()  # what is left of an output's place is nothing
    assert fresh(root).inputs(("d",), ("d/out/x",)).digest == taken.digest
    assert paths_of(fresh(root).inputs(None, ("d/out/x",))) == ["d/a"]


def test_what_a_link_of_a_pattern_leads_to_counts(root: Path, tmp_path: Path) -> None:
    write(tmp_path, outside="1", tree__a="1", tree__d__b="2")
    (root / "file").symlink_to("../outside")
    (root / "data").symlink_to(tmp_path / "tree")
    (tmp_path / "tree" / "inner").symlink_to("d")
    taken = fresh(root).inputs(("*",), ())
    assert paths_of(taken) == ["data", "data/a", "data/d/b", "data/inner", "file", "file/"]
    before = digest_of(root, "*")
    write(tmp_path, outside="3")
    edited = digest_of(root, "*")
    write(tmp_path, tree__d__b="4")
    assert len({before, edited, digest_of(root, "*")}) == 3
    assert fresh(root).changed(taken) == ("data/d/b", "file")


def test_links_in_a_circle_end(root: Path) -> None:
    write(root, d__a="1")
    (root / "d" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "x").symlink_to("y")
    (root / "y").symlink_to("x")
    (root / "nowhere").symlink_to("absent")
    taken = fresh(root).inputs(("*",), ())
    assert {"d/a", "d/up", "self", "x", "y", "nowhere", "d/up/d/a"} <= set(paths_of(taken))
    assert not taken.problems


# Outputs.


def test_outputs_are_whole_trees(root: Path) -> None:
    write(root, out__a="1", out__d__b="2", model="4", other="5")
    (root / ".gitignore").write_text("*\n")
    (root / "out" / "empty").mkdir()
    (root / "out" / "__pycache__").mkdir()
    (root / "out" / "__pycache__" / "x").touch()
    (root / "out" / "link").symlink_to("d/b")
    (root / "out" / "nowhere").symlink_to("absent")
    taken = fresh(root).outputs(("out/", "model"))
    assert not taken.problems
    assert not taken.unmatched
    assert [(entry.path, entry.kind) for entry in taken.entries()] == [
        ("model", "file"),
        ("out", "directory"),
        ("out/__pycache__", "directory"),
        ("out/__pycache__/x", "file"),
        ("out/a", "file"),
        ("out/d", "directory"),
        ("out/d/b", "file"),
        ("out/empty", "directory"),
        ("out/link", "symlink"),
        ("out/nowhere", "symlink"),
    ]


def test_an_output_that_is_not_there_is_named(root: Path) -> None:
    write(root, a="1")
    taken = fresh(root).outputs(("a", "b", "a/c", "d/"))
    assert taken.unmatched == ("b", "a/c", "d/")
    assert not taken.problems


def test_a_file_is_no_output_directory(root: Path) -> None:
    write(root, a="1")
    taken = fresh(root).outputs(("a/",))
    assert taken.unmatched == ("a/",)
    assert taken.problems == ("`a` is not a directory, but it is declared as `a/`",)


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../../outside", "../..", "loop/../../../x", "/"]
)
def test_a_link_that_leaves_the_project_is_a_problem(root: Path, target: str) -> None:
    write(root, out__a="1")
    (root / "out" / "link").symlink_to(target)
    problem = "`out/link` is a link that leaves the project"
    assert fresh(root).outputs(("out/",)).problems == (problem,)
    assert fresh(root).outputs(("out/link",)).problems == (problem,)


def test_a_link_that_leaves_through_another_link_is_a_problem(root: Path) -> None:
    write(root, out__a="1")
    (root / "here").symlink_to(".")
    (root / "out" / "link").symlink_to("../here/../x")
    assert fresh(root).outputs(("out/",)).problems == (
        "`out/link` is a link that leaves the project",
    )


def test_a_link_within_the_outputs_is_no_problem(root: Path) -> None:
    write(root, out__a="1", data="2")
    (root / "out" / "link").symlink_to("../data")
    (root / "out" / "a link").symlink_to("a")
    (root / "out" / "dots").symlink_to("..a")
    (root / "out" / "nowhere").symlink_to("../nowhere")
    assert not fresh(root).outputs(("out/", "data")).problems
    assert paths_of(fresh(root).outputs(("out/", "data"))) == [
        "data", "out", "out/a", "out/a link", "out/dots", "out/link", "out/nowhere",
    ]  # fmt: skip


def test_a_link_to_what_is_no_output_is_a_problem_and_its_target_counts(root: Path) -> None:
    write(root, out__a="1", data="2", more__b="3")
    (root / "out" / "file").symlink_to("../data")
    (root / "out" / "tree").symlink_to("../more")
    taken = fresh(root).outputs(("out/",))
    assert taken.problems == (
        "`out/file` is a link to what is no output of the step",
        "`out/tree` is a link to what is no output of the step",
    )
    digests = {taken.digest}
    for path in ("data", "more/b"):
        (root / path).write_text("4")
        digests.add(fresh(root).outputs(("out/",)).digest)
    assert len(digests) == 3


def test_an_output_behind_a_link_that_leaves_the_project_is_a_problem(
    root: Path, tmp_path: Path
) -> None:
    write(tmp_path, elsewhere__a="1")
    write(root, inside__a="1")
    (root / "data").symlink_to("../elsewhere")
    (root / "ours").symlink_to("inside")
    assert fresh(root).outputs(("data/a",)).problems == (
        "`data/a` lies behind a link that leaves the project",
    )
    assert paths_of(fresh(root).outputs(("ours/a",))) == ["ours/a"]


# After a command.


def test_what_changed_is_named(root: Path) -> None:
    write(root, edited="1", kept="2", removed="3", rewritten="4", d__x="5", mode="6")
    (root / "link").symlink_to("kept")
    prints = fresh(root)
    taken = prints.inputs(None, ())
    assert prints.changed(taken) == ()
    write(root, edited="9", rewritten="4", added="1", d__y="1")
    (root / "removed").unlink()
    (root / "mode").chmod(0o755)
    (root / "link").unlink()
    (root / "link").symlink_to("edited")
    assert prints.changed(taken) == (
        "added", "d/y", "edited", "link", "mode", "removed", "rewritten",
    )  # fmt: skip


def test_what_only_bears_new_marks_has_not_changed(root: Path) -> None:
    write(root, a="1", b="2")
    (root / "link").symlink_to("a")
    prints = fresh(root)
    taken = prints.inputs(None, ())
    (root / "a").chmod(0o600)
    os.link(root / "b", root.parent / "another name of b")
    (root / "link").unlink()
    (root / "link").symlink_to("a")
    assert prints.changed(taken) == ()


def test_a_change_shows_with_and_without_what_is_known(root: Path, index: Path) -> None:
    write(root, a="1")
    known(root, index, "a")
    prints = fresh(root, index)
    taken = prints.inputs(None, ())
    write(root, a="2")
    assert prints.changed(taken) == ("a",)
    (root / "a").unlink()
    os.mkfifo(root / "a")
    assert prints.changed(taken) == ("a",)


def test_outputs_and_ignored_files_are_no_changes_of_inputs(root: Path) -> None:
    write(root, a="1")
    (root / ".gitignore").write_text("*.log\n")
    prints = fresh(root)
    taken = prints.inputs(None, ("out/",))
    write(root, out__x="1", b="2")
    (root / "run.log").touch()
    (root / "a.pyc").touch()
    assert prints.changed(taken) == ("b",)


# Values of parameters.


def test_the_digest_of_a_path_is_that_of_what_it_holds(root: Path, tmp_path: Path) -> None:
    write(tmp_path, data__a="1", data__d__b="2", file="3", same__a="1", same__d__b="2")
    (tmp_path / "link").symlink_to("file")
    prints = fresh(root)
    assert prints.content(str(tmp_path / "file")) == digest.content(b"3")
    assert prints.content(str(tmp_path / "link")) == digest.content(b"3")
    assert prints.content(str(tmp_path / "data")) == prints.content(str(tmp_path / "same"))
    before = prints.content(str(tmp_path / "data"))
    write(tmp_path, data__d__b="4")
    prints.forget()
    assert prints.content(str(tmp_path / "data")) != before


def test_a_path_that_is_known_is_not_read_again(root: Path, index: Path, tmp_path: Path) -> None:
    write(tmp_path, data__a="1", file="3")
    age(tmp_path / "data" / "a", tmp_path / "file")

    def both(prints: Fingerprints) -> list[str]:
        return opened(
            lambda: [prints.content(str(tmp_path / name)) for name in ("data", "file")], tmp_path
        )

    first = fresh(root, index)
    assert both(first) == ["data/a", "file"]
    first.save()
    assert both(fresh(root, index)) == []


def test_a_path_without_content_is_an_error(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(FileNotFoundError):
        fresh(root).content(str(root / "absent"))
    with pytest.raises(OSError, match="neither a file nor a directory"):
        fresh(root).content(str(root / "pipe"))
    with pytest.raises(OSError, match="neither a file nor a directory"):
        fresh(root).content("/dev/null")
    with pytest.raises(OSError, match="pipe"):
        fresh(root).content(str(root))


def test_large_files_are_read_side_by_side(root: Path) -> None:
    sizes = (1, 9 << 20, 10 << 20, (8 << 20) + 1)
    for number, size in enumerate(sizes):
        (root / f"{number}").write_bytes(bytes([number]) * size)
    entries = fresh(root).inputs(None, ()).entries()
    expected = [digest.content(bytes([number]) * size) for number, size in enumerate(sizes)]
    assert [entry.content for entry in entries] == expected


def test_many_threads_may_ask_at_once(root: Path, index: Path) -> None:
    for number in range(50):
        write(root, **{f"file{number}": str(number)})
    prints = fresh(root, index)
    found: list[str] = []

    def ask() -> None:
        for _ in range(20):
            prints.forget()
            found.append(prints.inputs(None, ()).digest)
            prints.save()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert set(found) == {digest_of(root)}
