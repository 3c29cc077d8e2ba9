"""`buildrun inputs`: the input files of a step, and what a watched run finds."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Buildrun, Project

PROJECT = """\
# Of the project.
name: found
entry_points:
  clean:
    inputs: [raw.txt]
    outputs: [clean.txt]
    command: "cp raw.txt clean.txt; echo cleaned"
  main:  # the last
    depends_on: [clean]
    outputs: [out.txt]
    # All that it does.
    command: "cat clean.txt a.txt data/*.csv > out.txt; echo told"
"""


@pytest.fixture(name="root")
def a_project(project: Project) -> Path:
    root = project(PROJECT, raw__txt="raw", a__txt="a", b__txt="b")
    (root / "data").mkdir()
    for name in ("x.csv", "y.csv", "z.csv", "note.md"):
        (root / "data" / name).write_text(name)
    return root


def test_inputs_are_listed_and_nothing_runs(root: Path, buildrun: Buildrun) -> None:
    listed = buildrun("inputs", root, "-e", "clean")
    assert (listed.code, listed.out, listed.err) == (0, "raw.txt\n", "")
    listed = buildrun("inputs", root, "--format", "json")
    assert listed.data == {
        "version": 1,
        "entry_point": "main",
        "inputs": ["a.txt", "b.txt", "data/note.md", "data/x.csv", "data/y.csv", "data/z.csv",
                   "raw.txt"],
    }  # fmt: skip
    assert not (root / "clean.txt").exists()


def test_an_input_that_is_not_there_is_told(root: Path, buildrun: Buildrun) -> None:
    (root / "raw.txt").unlink()
    listed = buildrun("inputs", root, "-e", "clean")
    assert (listed.code, listed.out) == (1, "")
    assert "[unmatched-input]" in listed.err


def test_write_goes_with_suggest(root: Path, buildrun: Buildrun) -> None:
    refused = buildrun("inputs", root, "--write")
    assert refused.code == 2
    assert "`--write` goes with `--suggest`" in refused.err
