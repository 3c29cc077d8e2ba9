"""`buildrun ls`: entry points with their parameters, for people and for programs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun, Project

MLPROJECT = """\
name: odd
python_env: python_env.yaml
entry_points:
  prepare:
    inputs: [prepare.py, "raw/*.csv"]
    outputs: [data/]
    command: python prepare.py
  main:
    parameters:
      alpha: {type: float, default: 0.1}
      text: path
      api_key: {default: hunter2}
    depends_on: [prepare]
    command: |
      echo {alpha} {text}
      echo {api_key}
"""


@pytest.fixture
def odd(project: Project) -> Path:
    directory = project(MLPROJECT, python_env__yaml="dependencies: []\n", prepare__py="")
    (directory / "raw").mkdir()
    (directory / "raw/1.csv").write_text("")
    return directory


def test_json_tells_all_that_is_declared(odd: Path, buildrun: Buildrun) -> None:
    outcome = buildrun("ls", odd, "--format", "json")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.data == {
        "version": 1,
        "project": {"name": "odd", "root": str(odd)},
        "environment": {"manager": "virtualenv", "file": "python_env.yaml", "image": None},
        "entry_points": [
            {
                "name": "prepare",
                "parameters": [],
                "depends_on": [],
                "inputs": ["prepare.py", "raw/*.csv"],
                "outputs": ["data/"],
                "command": "python prepare.py",
            },
            {
                "name": "main",
                "parameters": [
                    {"name": "alpha", "type": "float", "default": "0.1", "secret": False},
                    {"name": "text", "type": "path", "secret": False},
                    {"name": "api_key", "type": "string", "default": "***", "secret": True},
                ],
                "depends_on": ["prepare"],
                "inputs": None,
                "outputs": [],
                "command": "echo {alpha} {text}\necho {api_key}\n",
            },
        ],
    }


def test_text_is_aligned(odd: Path, buildrun: Buildrun) -> None:
    assert buildrun("ls", cwd=odd).printed() == (
        f"odd ({odd})\n"
        "environment: virtualenv, python_env.yaml\n"
        "\n"
        "prepare\n"
        "    reads       prepare.py, raw/*.csv\n"
        "    makes       data/\n"
        "    runs        python prepare.py\n"
        "\n"
        "main\n"
        "    -P alpha    float, default: 0.1\n"
        "    -P text     path, required\n"
        "    -P api_key  string, default: ***\n"
        "    depends on  prepare\n"
        "    runs        echo {alpha} {text}\n"
        "                echo {api_key}\n"
    )


def test_narrow_terminal_breaks_between_words_only(project: Project, buildrun: Buildrun) -> None:
    long, name = "a/rather/long/path/of/an/input-file.csv", "a-parameter-with-quite-a-long-name"
    directory = project(
        f"entry_points: {{main: {{parameters: {{{name}: float}}, inputs: [{long}, b.csv],"
        f" outputs: [c], command: 'true {{{name}}}'}}}}\n"
    )
    outcome = buildrun("ls", directory, environ={"COLUMNS": "40"})
    lines = outcome.printed().splitlines()
    assert f"    -P {name}" in lines
    assert any(line.split() == [f"{long},"] for line in lines)
    assert all(len(line) <= 40 for line in lines[1:] if long not in line and name not in line)


def test_project_without_mlproject_lists_its_scripts(buildrun: Buildrun) -> None:
    outcome = buildrun(
        "ls", REPOSITORY / "examples/no_mlproject", "--format=json", environ={"SHELL": "/bin/sh"}
    )
    points = {point["name"]: point["command"] for point in outcome.data["entry_points"]}
    assert points == {
        "count_words.py": "python count_words.py",
        "list_files.sh": "/bin/sh list_files.sh",
    }


def test_nothing_to_run_is_told(project: Project, buildrun: Buildrun) -> None:
    assert "no entry points; declare them" in buildrun("ls", project(None)).printed()


def test_image_stands_in_place_of_a_file(project: Project, buildrun: Buildrun) -> None:
    directory = project("name: x\ndocker_env: {image: 'python:3.12'}\n")
    environment = buildrun("ls", directory, "--format=json").data["environment"]
    assert environment == {"manager": "docker", "file": None, "image": "python:3.12"}
    assert "environment: docker, python:3.12\n" in buildrun("ls", directory).out


def test_version_of_a_git_project(odd: Path, buildrun: Buildrun) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(("git", *identity, *arguments), cwd=odd, check=True, capture_output=True)

    git("init", "-b", "main")
    git("add", ".")
    git("commit", "-m", "one")
    git("tag", "first")
    (odd / "MLproject").write_text("entry_points: {later: {command: 'true'}}\n")
    git("commit", "-a", "-m", "two")
    data = buildrun("ls", odd, "-v", "first", "--format=json").data
    assert [point["name"] for point in data["entry_points"]] == ["prepare", "main"]
    assert data["project"]["root"].startswith(str(odd))


def test_errors_of_an_entry_point_do_not_hide_the_others(
    project: Project, buildrun: Buildrun
) -> None:
    outcome = buildrun(
        "ls", project("entry_points: {a: {command: 'x {b}'}, c: {command: 'true'}}\n")
    )
    assert outcome.code == 0
    assert "\nc\n    runs  true\n" in outcome.out
    assert "warning: there are errors in entry points\n" in outcome.err


def test_hostile_names_are_shown_harmless(project: Project, buildrun: Buildrun) -> None:
    outcome = buildrun(
        "ls", project('entry_points: {"a\\e[31m": {command: "echo \\e[0m https://u:pw@h/"}}\n')
    )
    assert "\x1b" not in outcome.out
    assert "pw@" not in outcome.out


def test_missing_project_is_refused(buildrun: Buildrun) -> None:
    buildrun("ls", "nowhere").refused("there is no project at `nowhere`")


@pytest.mark.parametrize("verb", ["run", "ls", "plan"])
def test_findings_are_told_on_lines_of_their_own(
    project: Project, buildrun: Buildrun, verb: str
) -> None:
    injected = "\x1b]0;pwn\x07\n::error::injected"
    key = json.dumps(f"a{injected}")
    directory = project(
        f"{key}: 1\n"
        f"entry_points: {{main: {{parameters: {{{key}: strin}}, command: 'true'}}}}\n"
        "python_env: none.yaml\n",
        name=f"p{injected}",
    )
    for broken in (False, True):
        if broken:
            (directory / "MLproject").write_text(f"entry_points: {{main: {{{key}: 1, b: 2}}}}\n")
        outcome = buildrun(verb, directory)
        assert "injected" in outcome.err
        assert "\x1b" not in outcome.err
        assert not [line for line in outcome.err.splitlines() if line.startswith("::")]
