"""What is suggested for `inputs` and `outputs`, from records of what commands did with files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from buildrun.planning.suggest import Suggestion, suggest
from buildrun.project.read import read_project
from buildrun.sandbox.accesses import Accesses
from buildrun.store.memo import DependencyTracker
from buildrun.workspace.tree import look

PROJECT = """\
name: x
entry_points:
  clean:
    outputs: [data/clean.csv, tidy/]
    command: a
  middle:
    depends_on: [clean]
    outputs: [middle.txt]
    command: a
  main:
    depends_on: [middle]
    outputs: [main.txt, old/]
    command: a
  alone:
    outputs: [alone.txt]
    command: a
"""

Suggest = Callable[..., Suggestion]


@pytest.fixture(name="told")
def a_suggestion(tmp_path: Path) -> Suggest:
    """Return a function that plays a command, and returns what is suggested for it."""
    root = tmp_path / "project"
    root.mkdir()
    (root / "MLproject").write_text(PROJECT)

    def tell(
        files: Iterable[str],
        *,
        read: Iterable[str] = (),
        links: Iterable[str] = (),
        made: Iterable[str] = (),
        listed: Iterable[str] = (),
        point: str = "alone",
        paths: Iterable[str] = (),
        unseen: str = "",
        removed: Iterable[str] = (),
        prepare: Callable[[Path], object] = lambda _: None,
    ) -> Suggestion:
        make(root, files)
        prepare(root)
        before = look(str(root))
        make(root, made)
        places = tuple(os.path.join(root, path) for path in (*made, *removed))
        accesses = Accesses(
            (
                *(os.path.realpath(root / path) for path in read),
                *(str(root / path) for path in links),
            ),
            places,
            tuple(os.path.normpath(root / path) for path in listed),
            unseen=unseen,
        )
        spec = read_project(str(root), DependencyTracker({})).spec
        assert spec is not None
        entry_point = spec.entry_point(point)
        assert entry_point is not None
        after = look(str(root))
        return suggest(
            accesses, before, after, spec, entry_point, [str(root / path) for path in paths]
        )

    return tell


def make(root: Path, paths: Iterable[str]) -> None:
    for path in paths:
        place = root / path
        if path.endswith("/"):
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x")


CSV = ("raw/a.csv", "raw/b.csv", "raw/c.csv")


@pytest.mark.parametrize(
    ("files", "read", "listed", "inputs"),
    [
        (("a.py", "b.txt"), ("a.py",), (), ("a.py",)),
        (("a.py", "b.py", "c.py"), ("a.py", "b.py", "c.py"), (), ("*.py",)),
        (("a.py", "b.py"), ("a.py", "b.py"), (), ("a.py", "b.py")),
        (CSV, CSV, (), ("raw/**",)),
        (("raw/a.csv",), ("raw/a.csv",), (), ("raw/a.csv",)),
        ((*CSV, "raw/note.md"), CSV, (), ("raw/*.csv",)),
        ((*CSV, "raw/d.csv"), CSV, (), CSV),
        ((*CSV, "raw/x.csv/deep"), CSV, (), CSV),
        ((*CSV, "raw/in/d.txt"), (*CSV, "raw/in/d.txt"), (), ("raw/**",)),
        ((*CSV, "raw/in/d.txt", "raw/in/e"), CSV, (), ("raw/*.csv",)),
        ((*CSV, "raw/note.md"), ("raw/a.csv",), ("raw",), ("raw/**",)),
        ((*CSV, "raw/__pycache__/x.pyc"), CSV, (), ("raw/**",)),
        (("lib/a.py", "lib/b.py"), ("lib/a.py", "lib/__pycache__/b.cpython-311.pyc"), (),
         ("lib/**",)),
        (("a.py",), ("a.py", "__pycache__/a.cpython-312.opt-1.pyc"), (), ("a.py",)),
        (("we[ird]*.txt",), ("we[ird]*.txt",), (), ("we\\[ird]\\*.txt",)),
        (("a*/b", "a*/c"), ("a*/b", "a*/c"), (), ("a\\*/**",)),
        (("a", "b", "c"), ("a", "b", "c"), (), ("a", "b", "c")),
        (("a.py", ".venv/pyvenv.cfg", ".venv/lib/x.py"),
         ("a.py", ".venv/pyvenv.cfg", ".venv/lib/x.py"), (".venv",), ("a.py",)),
        ((), ("/etc/passwd",), (), ()),
    ],
)  # fmt: skip
def test_inputs_are_the_fewest_patterns_that_are_honest(
    told: Suggest,
    files: tuple[str, ...],
    read: tuple[str, ...],
    listed: tuple[str, ...],
    inputs: tuple[str, ...],
) -> None:
    assert told(files, read=read, listed=listed).inputs == inputs


@pytest.mark.parametrize(
    ("files", "made", "outputs"),
    [
        ((), ("out.txt",), ("out.txt",)),
        ((), ("out/a", "out/deep/b"), ("out/",)),
        (("out/there",), ("out/a", "out/deep/b"), ("out/a", "out/deep/")),
        (("out.txt",), ("out.txt",), ("out.txt",)),  # from before, made anew
        ((), ("out/",), ("out/",)),
        ((), ("out/a", "out/__pycache__/a.pyc", "mlruns/0/x"), ("out/",)),
    ],
)
def test_outputs_are_what_the_command_left(
    told: Suggest, files: tuple[str, ...], made: tuple[str, ...], outputs: tuple[str, ...]
) -> None:
    assert told(files, made=made).outputs == ("alone.txt", *outputs)


def test_what_was_removed_again_is_nothing(told: Suggest) -> None:
    found = told(("a.py",), read=("a.py",), removed=("tmp.txt",))
    assert (found.inputs, found.outputs) == (("a.py",), ("alone.txt",))


def test_declared_outputs_stay_as_they_cover_what_is_made(told: Suggest) -> None:
    found = told(("old/before",), made=("old/new", "main.txt", "more.txt"), point="main")
    assert found.outputs == ("main.txt", "old/", "more.txt")


def test_an_own_output_of_an_earlier_run_is_no_input(told: Suggest) -> None:
    assert told(("a.py", "old/x"), read=("a.py", "old/x"), point="main").inputs == ("a.py",)


def test_what_is_changed_in_place_is_neither(told: Suggest) -> None:
    found = told(("a.py", "state"), read=("a.py", "state"), made=("state",))
    assert (found.inputs, found.outputs) == (("a.py",), ("alone.txt",))
    assert "`state` was read and then changed in place" in found.notes[0]


def test_what_another_entry_point_makes_is_a_dependency(told: Suggest) -> None:
    files = ("a.py", "data/clean.csv", "data/raw.csv")
    found = told(files, read=files)
    assert found.inputs == ("a.py", "data/raw.csv")
    assert found.notes == (
        "the command read `data/clean.csv`, which `clean` makes: add `clean` to `depends_on`",
    )


def test_what_a_step_further_before_makes_is_named(told: Suggest) -> None:
    files = ("a.py", "data/clean.csv", "middle.txt", "tidy/x")
    found = told(files, read=files, point="main")
    assert found.inputs == ("a.py", "data/clean.csv", "tidy/")
    assert found.notes == ()


def test_no_pattern_takes_in_what_an_entry_point_makes_that_is_not_needed(told: Suggest) -> None:
    files = tuple(path.replace("raw", "data") for path in CSV)
    assert told(files, read=files).inputs == files
    assert told(files, read=files, point="main").inputs == ("data/**",)


def test_an_output_of_another_entry_point_is_told(told: Suggest) -> None:
    found = told(("a.py",), read=("a.py",), made=("tidy/x", "tidy/y"))
    assert found.outputs == ("alone.txt",)
    assert "`tidy/x`, an output of `clean`" in found.notes[0]


def test_a_new_directory_with_the_work_of_others_is_no_output(told: Suggest) -> None:
    assert "data/mine" in told((), made=("data/mine",)).outputs


def test_a_listed_root_is_told(told: Suggest) -> None:
    found = told(("a.py", "b.py"), read=("a.py",), listed=(".",))
    assert found.inputs == ("a.py",)
    assert "the command lists `.`" in found.notes[0]


def test_a_path_parameter_is_no_input(told: Suggest) -> None:
    found = told((*CSV, "raw/d.csv", "a.py"), read=(*CSV, "a.py"), paths=("raw",))
    assert found.inputs == ("a.py",)
    assert "part of the key as a `path` parameter" in found.notes[0]


def test_links_are_named_as_they_are_in_the_project(told: Suggest, tmp_path: Path) -> None:
    make(tmp_path, ("far/a.csv", "far/b.csv", "one.txt"))

    def prepare(root: Path) -> None:
        (root / "near").symlink_to(tmp_path / "far")
        (root / "one").symlink_to(tmp_path / "one.txt")
        (root / "also.py").symlink_to("a.py")
        (root / "circle").symlink_to(root)
        (root / "latest").symlink_to("v1")

    links = ("also.py", "circle", "near", "latest", "one")
    read = ("a.py", "v1/x", tmp_path / "far/a.csv", tmp_path / "one.txt")
    found = told(("a.py", "v1/x", "v1/y"), read=read, links=links, prepare=prepare)
    assert found.inputs == ("a.py", "also.py", "circle", "latest", "one", "near/a.csv", "v1/x")


def test_what_is_not_seen_is_told(told: Suggest) -> None:
    found = told(("a.py",), read=("a.py",), unseen="a reason")
    assert found.notes == ("not all was seen: a reason",)
    assert not found.whole


def test_a_command_without_files_is_told(told: Suggest, tmp_path: Path) -> None:
    (tmp_path / "project/MLproject").write_text("entry_points: {alone: {command: a}}\n")
    found = told((), read=("MLproject",))
    assert (found.inputs, found.outputs) == ((), ())
    assert ["`inputs` may not be empty" in found.notes[0], len(found.notes)] == [True, 2]


def test_version_control_is_told(told: Suggest) -> None:
    found = told(("a.py", ".git/HEAD"), read=("a.py", ".git/HEAD"))
    assert (found.inputs, len(found.notes)) == (("a.py",), 1)
    assert "read what is in `.git`" in found.notes[0]


def test_a_file_that_was_there_before_is_told(told: Suggest) -> None:
    assert "`log` was there before" in told(("a", "log"), read=("a",), made=("log",)).notes[0]


def test_a_name_that_is_no_text_is_told(told: Suggest) -> None:
    name = os.fsdecode(b"caf\xe9.txt")
    found = told((name, "a.py"), read=(name, "a.py"))
    assert found.inputs == ("a.py",)
    assert "cannot be named" in found.notes[0]
