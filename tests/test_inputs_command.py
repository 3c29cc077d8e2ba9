"""`buildrun inputs`: the input files of a step, and what a watched run finds."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from needs import missing
from step_helpers import LOCAL

from buildrun.sandbox import tracer

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
    # All that it does.
    command: "echo told; cat clean.txt a.txt data/x.csv data/y.csv data/z.csv > out.txt"
"""

SUGGEST = (LOCAL, "--suggest")


@pytest.fixture(name="root")
def a_project(project: Project) -> Path:
    return filled(project(PROJECT, raw__txt="raw", a__txt="a", b__txt="b"))


def filled(root: Path) -> Path:
    (root / "data").mkdir()
    for name in ("x.csv", "y.csv", "z.csv", "note.md"):
        (root / "data" / name).write_text(name)
    return root


@pytest.fixture(scope="module")
def watching() -> None:
    """Skip where no command can be watched."""
    if why := tracer.unavailable():
        missing(why)


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


@pytest.mark.usefixtures("watching")
def test_a_run_tells_what_the_step_reads_and_makes(root: Path, buildrun: Buildrun) -> None:
    found = buildrun("inputs", root, *SUGGEST)
    assert found.code == 0, found.err
    assert found.out == "inputs: [a.txt, data/*.csv]\noutputs: [out.txt]\n"
    assert "cleaned\n" in found.err
    assert "told\n" in found.err
    assert (root / "MLproject").read_text() == PROJECT


@pytest.mark.usefixtures("watching")
def test_json_is_all_that_standard_output_holds(root: Path, buildrun: Buildrun) -> None:
    (root / "out.txt").touch()
    found = buildrun("inputs", root, *SUGGEST, "--format", "json")
    assert found.code == 0, found.err
    data = found.data
    (note,) = data.pop("notes")
    assert "`out.txt` was there before" in note
    assert data == {
        "version": 1,
        "entry_point": "main",
        "inputs": ["a.txt", "data/*.csv"],
        "outputs": ["out.txt"],
    }


@pytest.mark.usefixtures("watching")
def test_write_changes_the_two_keys_and_what_was_written_holds(
    root: Path, buildrun: Buildrun
) -> None:
    written = buildrun("inputs", root, *SUGGEST, "--write")
    assert written.code == 0, written.err
    added = "    inputs: [a.txt, data/*.csv]\n    outputs: [out.txt]\n"
    above = "    # All that it does.\n"
    assert (root / "MLproject").read_text() == PROJECT.replace(above, added + above)
    assert "".join(f"+{line}\n" for line in added.splitlines()) in written.err
    again = buildrun("inputs", root, *SUGGEST, "--write")
    assert again.out == written.out
    assert "nothing to be changed" in again.err
    ran = buildrun("run", root, LOCAL)
    assert "2 up to date" in ran.err
    (root / "data/w.csv").write_text("w")
    assert "`data/w.csv` is new" in buildrun("plan", root, LOCAL).out


@pytest.mark.usefixtures("watching")
def test_a_step_that_is_up_to_date_runs_all_the_same(root: Path, buildrun: Buildrun) -> None:
    buildrun("run", root, LOCAL, "-e", "clean")
    found = buildrun("inputs", root, "-e", "clean", *SUGGEST)
    assert found.out == "inputs: [raw.txt]\noutputs: [clean.txt]\n"
    assert "cleaned\n" in found.err
    found = buildrun("inputs", root, *SUGGEST)
    assert "cleaned\n" not in found.err


@pytest.mark.usefixtures("watching")
def test_a_python_program_with_modules_and_a_new_directory(
    project: Project, buildrun: Buildrun
) -> None:
    root = project(
        "entry_points:\n  main:\n    command: python train.py\n",
        train__py="import os, lib.used\nfor name in os.listdir('data'): open(f'data/{name}')\n"
        "os.makedirs('out/deep')\nopen('out/deep/model', 'w').write('m')\n"
        "open('tmp', 'w').close(); os.remove('tmp')\n",
    )
    (filled(root) / "lib").mkdir()
    for name in ("__init__", "used", "unused"):
        (root / f"lib/{name}.py").touch()
    for _ in range(2):  # the second time from __pycache__
        found = buildrun("inputs", root, *SUGGEST, environ={"PYTHONDONTWRITEBYTECODE": ""})
        assert found.out == (
            "inputs: [train.py, data/**, lib/__init__.py, lib/used.py]\noutputs: [out/]\n"
        ), found.err
        os.remove(root / "out/deep/model")
        os.removedirs(root / "out/deep")


@pytest.mark.usefixtures("watching")
def test_a_missing_dependency_is_told(root: Path, buildrun: Buildrun) -> None:
    text = PROJECT.replace("    depends_on: [clean]\n", "")
    (root / "MLproject").write_text(text)
    (root / "clean.txt").touch()
    found = buildrun("inputs", root, *SUGGEST)
    assert found.out == "inputs: [a.txt, data/*.csv]\noutputs: [out.txt]\n"
    assert "add `clean` to `depends_on`" in found.err


@pytest.mark.usefixtures("watching")
def test_a_sandbox_does_not_hide_what_is_missing(root: Path, buildrun: Buildrun) -> None:
    declared = "    sandbox: true\n    inputs: [a.txt]\n    outputs: [out.txt]\n    # All"
    (root / "MLproject").write_text(PROJECT.replace("    # All", declared))
    found = buildrun("inputs", root, *SUGGEST)
    assert found.out == "inputs: [a.txt, data/*.csv]\noutputs: [out.txt]\n", found.err


@pytest.mark.usefixtures("watching")
def test_a_fetched_project_and_one_without_a_cache_are_watched_as_well(
    root: Path, buildrun: Buildrun
) -> None:
    shutil.make_archive(str(root.parent / "project"), "zip", root)
    (root.parent / "link").symlink_to(root)
    for words in ((root.parent / "project.zip",), (root.parent / "link", "--no-cache")):
        found = buildrun("inputs", *words, *SUGGEST)
        assert found.out == "inputs: [a.txt, data/*.csv]\noutputs: [out.txt]\n", found.err
        (root / "out.txt").unlink(missing_ok=True)


@pytest.mark.usefixtures("watching")
def test_a_command_that_fails_suggests_nothing(root: Path, buildrun: Buildrun) -> None:
    (root / "a.txt").unlink()
    found = buildrun("inputs", root, *SUGGEST, "--write")
    assert (found.code, found.out) == (1, "")
    assert "nothing is suggested" in found.err
    assert (root / "MLproject").read_text() == PROJECT


@pytest.mark.usefixtures("watching")
def test_what_cannot_be_written_is_shown_to_be_pasted(root: Path, buildrun: Buildrun) -> None:
    text = PROJECT.replace("main:  #", "main: &m  #") + "  same: *m\n"
    (root / "MLproject").write_text(text)
    found = buildrun("inputs", root, *SUGGEST, "--write")
    assert (found.code, found.out) == (1, "inputs: [a.txt, data/*.csv]\noutputs: [out.txt]\n")
    assert "is not edited here" in found.err
    assert (root / "MLproject").read_text() == text


def test_nothing_is_written_where_nothing_stays(root: Path, buildrun: Buildrun) -> None:
    shutil.make_archive(str(root.parent / "project"), "zip", root)
    refused = buildrun("inputs", root.parent / "project.zip", *SUGGEST, "--write")
    assert refused.code == 2
    assert "`--write` is for a project in a directory" in refused.err
    (root / "run.py").touch()
    refused = buildrun("inputs", root, "-e", "run.py", *SUGGEST, "--write")
    assert refused.code == 2
    assert "`run.py` is no entry point of an MLproject" in refused.err


def test_a_command_that_runs_elsewhere_is_refused(project: Project, buildrun: Buildrun) -> None:
    root = project("docker_env: {image: x}\nentry_points: {main: {command: a}}\n")
    refused = buildrun("inputs", root, "--suggest")
    assert refused.code == 2
    assert "this one runs on docker" in refused.err


@pytest.mark.usefixtures("watching")
def test_a_sandbox_that_cannot_be_had_is_told_before_an_environment_is_built(
    project: Project, buildrun: Buildrun
) -> None:
    inner = project(
        "python_env: python_env.yaml\nentry_points:\n"
        "  main: {sandbox: true, inputs: [a.txt], outputs: [o], command: cp a.txt o}\n",
        a__txt="a", python_env__yaml="python: '3.99'\n",
    )  # fmt: skip
    # What is watched already cannot be watched again.
    again = f"{sys.executable} -m buildrun run {inner}"
    outer = project(
        f"entry_points: {{main: {{check_inputs: true, command: {again}}}}}\n", name="outer"
    )
    told = buildrun("run", outer, LOCAL)
    assert told.code == 1
    assert (
        "[main] it asks for a sandbox, and there is none: buildrun is watched itself"
        in told.out + told.err
    )
    assert "3.99" not in told.out + told.err


@pytest.mark.usefixtures("watching")
def test_a_listing_is_told_with_what_no_step_makes(project: Project, buildrun: Buildrun) -> None:
    root = project(
        "entry_points:\n"
        "  other: {inputs: [a.txt], outputs: [made.txt], command: cp a.txt made.txt}\n"
        "  main: {inputs: [a.txt], outputs: [o], command: ls > o}\n",
        a__txt="a", b__txt="b", made__txt="",
    )  # fmt: skip
    told = buildrun("run", root, LOCAL, "--check-inputs").err
    assert "listed the directory `.`, in which `b.txt` is no input" in told
    assert "as it is, the names there count, and not what is in them" in told
    (root / "made.txt").unlink()
    assert "main: up-to-date" in buildrun("plan", root, LOCAL).out


@pytest.mark.usefixtures("watching")
def test_a_name_with_the_signs_of_patterns_is_told_as_a_pattern_for_it_alone(
    project: Project, buildrun: Buildrun
) -> None:
    text = (
        "entry_points:\n  main:\n    inputs: [a.txt]\n    outputs: [o]\n    command: cat *x* > o\n"
    )
    root = project(text, a__txt="a")
    (root / "x[1].cfg").touch()
    told = buildrun("run", root, LOCAL, "--check-inputs")
    assert "the result is not cached: the command read `x[1].cfg`" in told.err
    assert r'add to `inputs`: `- "x\\[1].cfg"`' in told.err
