"""`sandbox` in containers: declared files alone are there, on a real engine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from docker_helpers import BASE, containers, engine

from buildrun.environments.images.engine import Engine

assert engine  # a fixture

pytestmark = pytest.mark.usefixtures("engine")

HEAD = f"docker_env: {{image: '{BASE}'}}\nname: inside\nentry_points:\n"


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """See to it that no container outlives its test."""
    del engine
    yield
    assert containers(tmp_path) == set()


STEPS = (
    HEAD
    + """\
  make:
    sandbox: true
    inputs: [tool, src, link, dirlink/, empty]
    outputs: [out/]
    command: "find * | sort; cat link dirlink/*; mkdir out; ./tool > out/a; chmod +x out/a"
  main:
    sandbox: true
    depends_on: [make]
    inputs: [tool]
    command: "find * | sort; test -x out/a; cat out/a secret.cfg"
"""
)
DECLARED = """\
dirlink
empty
link
real
real/far
real/far/deep
real/target
second
src
src/a.py
tool
target
deep
"""


@pytest.fixture
def steps(project: Project) -> Path:
    """Return a project with links, leftovers, another step's output, and what nobody declares."""
    directory = project(STEPS, secret__cfg="secret\n", tool="#!/bin/sh\necho made\n")
    (directory / "tool").chmod(0o700)
    for path in ("src/__pycache__", "empty/__pycache__", "real/far"):
        (directory / path).mkdir(parents=True)
    for path in ("src/a.py", "src/__pycache__/a.pyc", "real/near"):
        (directory / path).write_text("x\n")
    (directory / "real/target").write_text("target\n")
    (directory / "real/far/deep").write_text("deep\n")
    (directory / "link").symlink_to("second")
    (directory / "second").symlink_to("real/target")
    (directory / "dirlink").symlink_to("real/far")
    return directory


def test_declared_files_and_outputs_of_steps_before_are_all_that_is_there(
    steps: Path, buildrun: Buildrun
) -> None:
    outcome = buildrun("-q", steps, "--build-image")
    assert outcome.code == 1
    assert outcome.out == f"{DECLARED}out\nout/a\ntool\nmade\n"
    assert "secret.cfg: No such file" in outcome.err
    assert "its sandbox holds its declared files alone" in outcome.err
    assert os.access(steps / "out/a", os.X_OK)


def test_image_without_the_code_gets_declared_files_alone(
    project: Project, buildrun: Buildrun
) -> None:
    text = "  main: {sandbox: true, inputs: [src], command: 'ls src; cat secret.cfg'}\n"
    directory = project(HEAD + text, secret__cfg="x")
    (directory / "src/__pycache__").mkdir(parents=True)
    (directory / "src/a.py").touch()
    outcome = buildrun("-q", directory)
    assert (outcome.code, outcome.out) == (1, "a.py\n")
    assert "secret.cfg: No such file" in outcome.err


def test_without_inputs_every_file_is_declared(project: Project, buildrun: Buildrun) -> None:
    directory = project(HEAD + "  main: {sandbox: true, command: 'cat data'}\n", data="data\n")
    outcome = buildrun("-q", directory, "--build-image")
    assert (outcome.code, outcome.out) == (0, "data\n"), outcome.err


def test_sandbox_is_no_part_of_the_key(project: Project, buildrun: Buildrun) -> None:
    text = HEAD + "  main: {inputs: [data], outputs: [copy], command: 'cp data copy'}\n"
    directory = project(text, data="data\n")
    assert buildrun(directory, "--build-image").code == 0
    (directory / "MLproject").write_text(text.replace("{inputs", "{sandbox: true, inputs"))
    outcome = buildrun(directory, "--build-image")
    assert "up to date" in outcome.err
    (directory / "copy").unlink()
    assert buildrun(directory, "--build-image", "--no-cache").code == 0
    assert (directory / "copy").read_text() == "data\n"


def test_any_user_may_read_what_is_declared(project: Project, buildrun: Buildrun) -> None:
    text = "  main: {sandbox: true, inputs: [src], command: 'id -u; cat src/a'}\n"
    directory = project(HEAD + text)
    (directory / "src").mkdir(mode=0o700)
    (directory / "src/a").write_text("a\n")
    (directory / "src/a").chmod(0o600)
    outcome = buildrun("-q", directory, "--build-image", "-A", "user=1234")
    assert (outcome.code, outcome.out) == (0, "1234\na\n"), outcome.err


def test_path_parameter_is_there(project: Project, buildrun: Buildrun) -> None:
    text = HEAD + (
        "  main:\n    sandbox: true\n    inputs: [tool]\n    parameters: {data: path}\n"
        "    command: 'cat {data}; ls'\n"
    )
    directory = project(text, data="data\n", other="x", tool="x")
    words = ("-q", directory, "--build-image", "-P", f"data={directory / 'data'}")
    outcome = buildrun(*words)
    assert (outcome.code, outcome.out) == (0, "data\ntool\n"), outcome.err


@pytest.mark.parametrize("arguments", [(), ("-A", "network=none")])
def test_network_can_be_taken_away(
    project: Project, buildrun: Buildrun, arguments: tuple[str, ...]
) -> None:
    text = "  main: {sandbox: {network: false}, command: 'ls /sys/class/net'}\n"
    outcome = buildrun("-q", project(HEAD + text), *arguments)
    assert (outcome.code, outcome.out) == (0, "lo\n"), outcome.err


@pytest.mark.parametrize("name", ["network", "net"])
def test_network_that_is_asked_for_and_forbidden_is_told(
    project: Project, buildrun: Buildrun, name: str
) -> None:
    text = "  main: {sandbox: {network: false}, command: 'echo ran'}\n"
    outcome = buildrun(project(HEAD + text), "-A", f"{name}=host")
    assert (outcome.code, outcome.out) == (2, "")
    assert "`-A network=host` gives a network to the step `main`" in outcome.err


@pytest.mark.parametrize(
    ("volume", "argument", "mounted"),
    [
        (".:/here", "", "."),
        ("./data:/data", "", "data"),
        ("", "v={}:/here", "."),
        ("", "mount=type=bind,src={}/data,dst=/here", "data"),
        ("/etc:/theirs", "", None),
    ],
)
def test_mounted_project_is_told(
    project: Project, buildrun: Buildrun, volume: str, argument: str, mounted: str | None
) -> None:
    head = HEAD.replace("'}", f"', volumes: ['{volume}']}}") if volume else HEAD
    text = "  main: {sandbox: true, inputs: [tool], command: 'echo ran'}\n"
    directory = project(head + text, tool="x")
    (directory / "data").mkdir()
    words = ("-A", argument.format(directory)) if argument else ()
    outcome = buildrun(directory, *words)
    assert (outcome.code, outcome.out) == (0, "ran\n"), outcome.err
    said = f"`{(directory / (mounted or '.')).resolve()}` is mounted: `sandbox` keeps no file there"
    assert (said in outcome.err) == (mounted is not None)


@pytest.mark.parametrize(
    ("entry", "arguments", "assurance"),
    [
        ("sandbox: true, inputs: [data]", (), "sandboxed"),
        ("sandbox: true, inputs: [data]", ("-A", "v={}:/here"), "declared"),
        ("sandbox: true", (), "declared"),
        ("inputs: [data]", (), "declared"),
    ],
)
def test_result_tells_whether_only_declared_files_were_there(
    project: Project, buildrun: Buildrun, tmp_path: Path, entry: str, arguments: tuple[str, ...],
    assurance: str,
) -> None:  # fmt: skip
    text = f"  main: {{{entry}, outputs: [copy], command: 'cp data copy'}}\n"
    directory = project(HEAD + text, data="data\n")
    words = [word.format(directory) for word in arguments]
    report = tmp_path / "report.json"
    outcome = buildrun(directory, "--build-image", *words, "--report", report)
    assert outcome.code == 0, outcome.err
    assert json.loads(report.read_text())["steps"][0]["assurance"] == assurance


@pytest.mark.parametrize(("more", "count"), [("", 1), ("sandbox: true, ", 0)])
def test_commands_in_containers_are_not_watched(
    project: Project, buildrun: Buildrun, more: str, count: int
) -> None:
    entry = f"{{{more}check_inputs: true, inputs: [tool], command: 'true'"
    text = f"  main: {entry}, depends_on: [other]}}\n  other: {entry}}}\n"
    outcome = buildrun(project(HEAD + text, tool="x"))
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("commands in containers are not watched") == count
