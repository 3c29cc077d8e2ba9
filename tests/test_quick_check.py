"""A run in which nothing changed, time after time, and the run after a change."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project

STEPS = """\
name: glance
entry_points:
  first:
    inputs: [raw.txt, "data/*.csv", folder]
    outputs: [out/first.txt, many/]
    command: "mkdir -p out many; cat raw.txt data/*.csv > out/first.txt; cp folder/* many"
  main:
    parameters: {word: {type: string, default: x}}
    depends_on: [first]
    inputs: [out/first.txt, own.txt]
    outputs: [out/main.txt]
    command: "cat out/first.txt own.txt > out/main.txt; echo {word} >> out/main.txt"
"""

Run = Callable[..., str]

_ALL = "2 steps: 2 up to date"


@pytest.fixture
def run(buildrun: Buildrun) -> Run:
    """Return a function that runs a project and gives the line on how its steps went."""

    def call(directory: Path, *arguments: str, **more: Any) -> str:
        outcome = buildrun("run", directory, "--env-manager=local", *arguments, **more)
        assert outcome.code == 0, outcome.err
        return outcome.err.splitlines()[-1].partition(" in ")[0]

    return call


@pytest.fixture
def settled(project: Project, run: Run) -> Path:
    """Return a project whose steps were found up to date more than once."""
    directory = project(STEPS)
    for name, text in (
        ("raw.txt", "raw\n"),
        ("own.txt", "own\n"),
        ("data/a.csv", "1\n"),
        ("folder/f.txt", "f\n"),
    ):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(text)
    assert run(directory) == "2 steps: 2 ran"
    for _ in range(2):
        assert run(directory) == _ALL
    return directory


def _edit_in_secret(path: Path) -> None:
    """Change a file's content, but neither its size nor its time."""
    status = path.stat()
    path.write_text(path.read_text().swapcase())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "text", "line", "made", "content"),
    [
        ("raw.txt", "RAW\n", "2 ran", "out/first.txt", "RAW\n1\n"),
        ("own.txt", "OWN\n", "1 ran, 1 up to date", "out/main.txt", "raw\n1\nOWN\nx\n"),
        ("folder/f.txt", "F\n", "2 ran", "many/f.txt", "F\n"),
        ("folder/g.txt", "g\n", "2 ran", "many/g.txt", "g\n"),
        # a pattern matches it
        ("data/b.csv", "2\n", "2 ran", "out/main.txt", "raw\n1\n2\nown\nx\n"),
        # outputs
        (
            "out/main.txt",
            None,
            "1 from the cache, 1 up to date",
            "out/main.txt",
            "raw\n1\nown\nx\n",
        ),
        ("many/stale", "", "1 from the cache, 1 up to date", "many/stale", None),
    ],
)
def test_change_of_a_file_is_seen(
    name: str, text: str | None, line: str, made: str, content: str | None, settled: Path, run: Run
) -> None:
    file = settled / name
    if text is None:
        file.unlink()
    elif file.exists():
        _edit_in_secret(file)
        assert file.read_text() == text
    else:
        file.write_text(text)
    assert run(settled) == f"2 steps: {line}"
    assert ((settled / made).read_text() if (settled / made).exists() else None) == content


def test_input_that_is_gone_is_seen(settled: Path, buildrun: Buildrun) -> None:
    (settled / "own.txt").unlink()
    buildrun("run", settled, "--env-manager=local").refused("own.txt")


@pytest.mark.parametrize("name", ["out/first.txt", "out/main.txt", "many/f.txt"])
def test_edit_of_an_output_is_put_right(settled: Path, run: Run, name: str) -> None:
    before = (settled / name).read_text()
    _edit_in_secret(settled / name)
    assert "1 from the cache" in run(settled)
    assert (settled / name).read_text() == before
    assert run(settled) == _ALL


def test_output_that_became_a_link_out_of_the_project_is_left_to_the_command(
    settled: Path, run: Run, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere.txt"
    (settled / "out/main.txt").rename(elsewhere)
    (settled / "out/main.txt").symlink_to(elsewhere)
    assert run(settled) == "2 steps: 1 ran, 1 up to date"
    assert (settled / "out/main.txt").is_symlink()


def test_other_value_of_a_parameter_and_back(settled: Path, run: Run) -> None:
    assert run(settled, "-P", "word=y") == "2 steps: 1 ran, 1 up to date"
    assert run(settled, "-P", "word=y") == _ALL
    assert run(settled) == "2 steps: 1 from the cache, 1 up to date"
    assert (settled / "out/main.txt").read_text().endswith("x\n")
    assert run(settled) == _ALL


def test_other_value_of_a_variable_in_the_key_and_back(settled: Path, run: Run) -> None:
    file = settled / "MLproject"
    text = file.read_text().replace("{word}", "{word} $WORD")
    file.write_text(text.replace("    inputs: [out/", "    key_env: [WORD]\n    inputs: [out/"))
    assert run(settled) == "2 steps: 1 ran, 1 up to date"
    for _ in range(2):
        assert run(settled) == _ALL
    assert run(settled, environ={"WORD": ""}) == "2 steps: 1 ran, 1 up to date"
    assert run(settled, environ={"WORD": "y"}) == "2 steps: 1 ran, 1 up to date"
    for _ in range(2):
        assert run(settled, environ={"WORD": "y", "OTHER": "z"}) == _ALL
    assert run(settled) == "2 steps: 1 from the cache, 1 up to date"
    assert run(settled) == _ALL


def test_other_salt_and_an_edit_of_the_project_file_are_seen(settled: Path, run: Run) -> None:
    assert run(settled, environ={"BUILDRUN_SALT": "new"}) == "2 steps: 2 ran"
    file = settled / "MLproject"
    file.write_text(file.read_text().replace("echo {word}", "echo new {word}"))
    assert run(settled) == "2 steps: 1 ran, 1 up to date"


def test_any_file_counts_for_a_step_without_declared_inputs(project: Project, run: Run) -> None:
    directory = project(
        "name: whole\nentry_points:\n  main:\n    outputs: [out.txt]\n"
        '    command: "cat *.in > out.txt"\n'
    )
    (directory / "a.in").write_text("a\n")
    assert run(directory) == "1 step: 1 ran"
    for _ in range(2):
        assert run(directory) == "1 step: 1 up to date"
    _edit_in_secret(directory / "a.in")
    assert run(directory) == "1 step: 1 ran"
    (directory / "b.in").write_text("b\n")
    assert run(directory) == "1 step: 1 ran"
    assert (directory / "out.txt").read_text() == "A\nb\n"
