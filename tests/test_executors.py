"""What every executor does alike: ours, and one of another package that an entry point names."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Buildrun, Outcome, Project
from databricks_workspace import CLUSTER, VOLUME, Workspace
from docker_helpers import BASE, an_engine  # noqa: F401
from kubernetes_helpers import (  # noqa: F401
    a_place,
    an_object_store,
    an_own_registry,
    written,
)
from step_helpers import Ran

PACKAGE = Path(__file__).parent / "executor_package"

GRAPH = """\
name: graph
entry_points:
  first:
    inputs: [in.txt]
    outputs: [first.txt, tree/]
    command: "mkdir -p tree; cp in.txt first.txt; cp in.txt tree/copy; echo one; echo two >&2"
  main:
    depends_on: [first]
    inputs: [first.txt]
    outputs: [main.txt]
    command: "cat first.txt tree/copy > main.txt"
"""


class Where(NamedTuple):
    """An executor: the words that choose it, and what projects and buildrun need for it.

    log_at_end: what a command writes is not seen before it has ended.
    """

    words: tuple[str | Path, ...]
    environ: Mapping[str, str]
    head: str = ""
    log_at_end: bool = False


@pytest.fixture
def site() -> Iterator[Workspace]:
    with Workspace() as made:
        yield made
        assert made.left_running() == []


@pytest.fixture(params=["local", "shell", "docker", "kubernetes", "databricks"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """Return one executor after the other."""
    image = f"docker_env: {{image: '{BASE}'}}\n"
    if request.param == "local":
        return Where(("--env-manager=local",), {})
    if request.param == "shell":
        return Where(("--env-manager=local", "-b", "shell"), {"PYTHONPATH": str(PACKAGE)})
    if request.param == "docker":
        request.getfixturevalue("engine")
        return Where((), {}, image)
    if request.param == "databricks":
        site = request.getfixturevalue("site")
        config = tmp_path / "cluster.json"
        keys = {"existing_cluster_id": CLUSTER, "volume": VOLUME, "poll": 0.02}
        config.write_text(json.dumps(keys))
        return Where(("-b", "databricks", "-c", config), site.environ, log_at_end=True)
    place, objects = request.getfixturevalue("place"), request.getfixturevalue("objects")
    config = written(place, tmp_path)
    words = ("-b", "kubernetes", "-c", config, "--remote-cache", objects.url)
    return Where((*words, "--remote-cache-write"), {**place.environ, **objects.environ}, image)


Run = Callable[..., Ran]


@pytest.fixture
def run(where: Where, buildrun: Buildrun, tmp_path: Path) -> Run:
    """Return buildrun with the executor."""
    report = tmp_path / "report.json"
    words = (*where.words, "--report", report)

    def call(*more: str | Path, **variables: str) -> Ran:
        environ = {**where.environ, **variables}
        return Ran.of(buildrun("run", *more, *words, environ=environ), report)

    return call


def test_graph_runs_and_its_results_are_there_again(
    project: Project, where: Where, run: Run
) -> None:
    directory = project(where.head + GRAPH, in__txt="text\n")
    first = run(directory)
    assert first.states == {"first": "ok", "main": "ok"}
    assert (directory / "main.txt").read_text() == "text\ntext\n"
    assert {"one", "two"} <= set(first.out.split()) | set(first.err.split())

    assert run(directory).states == {"first": "up-to-date", "main": "up-to-date"}
    (directory / "main.txt").unlink()
    assert run(directory).states == {"first": "up-to-date", "main": "cached"}
    assert (directory / "main.txt").read_text() == "text\ntext\n"


def test_variable_of_the_key_reaches_the_command(project: Project, where: Where, run: Run) -> None:
    text = (
        "name: variable\nentry_points:\n  main:\n    inputs: [in.txt]\n    outputs: [out]\n"
        "    key_env: [API_URL]\n    command: echo ${{API_URL-none}} > out\n"
    )
    directory = project(where.head + text, in__txt="")
    for variables, state in (({}, "ok"), ({"API_URL": "a"}, "ok"), ({}, "cached")):
        assert run(directory, **variables).states == {"main": state}
        assert (directory / "out").read_text() == variables.get("API_URL", "none") + "\n"


def test_exit_code_is_the_commands_and_outputs_are_not_lost(
    project: Project, where: Where, run: Run
) -> None:
    text = GRAPH.replace("cat first.txt tree/copy > main.txt", "echo half > main.txt; exit 3")
    directory = project(where.head + text, in__txt="text\n", main__txt="old\n")
    outcome = run(directory)
    assert outcome.code == 3, outcome.err
    assert outcome.states == {"first": "ok", "main": "failed"}
    # Where it ran in this directory, what it has written stays to be looked at.
    assert (directory / "main.txt").read_text() in ("old\n", "half\n")


def test_lone_command_runs_each_time(project: Project, where: Where, run: Run) -> None:
    text = "name: alone\nentry_points:\n  main:\n    parameters: {n: float}\n"
    directory = project(f"{where.head}{text}    command: \"echo 'number {{n}}'; exit 5\"\n")
    for number in ("1", "1", "2"):
        outcome = run("-q", directory, "-P", f"n={number}")
        assert (outcome.code, outcome.out) == (5, f"number {number}\n"), outcome.err


def test_usage_is_told_where_it_is_known(
    project: Project, where: Where, run: Run, request: pytest.FixtureRequest
) -> None:
    directory = project(where.head + GRAPH, in__txt="text\n")
    executor = request.node.callspec.params["where"]
    for step in run(directory).report["steps"]:
        told = (step["cpu_seconds"], step["peak_memory"])
        if executor in ("shell", "docker"):
            assert told == (None, None)  # an engine keeps it for running containers alone
        else:
            assert told[0] >= 0
            assert told[1] > 1_000_000
        assert (step["image"] is None) == (executor in ("local", "shell", "databricks"))


def test_interrupted_run_ends_its_command(project: Project, where: Where, tmp_path: Path) -> None:
    if where.log_at_end:
        pytest.skip("nothing tells here that it has begun; tests/test_databricks.py waits for it")
    text = GRAPH.replace(
        "cat first.txt tree/copy > main.txt", "echo half > main.txt; echo up; sleep 1000"
    )
    directory = project(where.head + text, in__txt="text\n", main__txt="old\n")
    report = tmp_path / "report.json"
    argv = [sys.executable, "-m", "buildrun", "run", directory, *where.words, "--report", report]
    child = subprocess.Popen(
        argv, cwd=tmp_path, env={**os.environ, **where.environ}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert child.stdout is not None
        seen = b""
        while b"up\n" not in seen:
            assert select.select([child.stdout], [], [], 120)[0], "the command has not begun"
            chunk = os.read(child.stdout.fileno(), 65536)
            assert chunk, child.communicate()
            seen += chunk
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode == 130
    assert Ran.of(Outcome(130, str(out), str(err)), report).states == {
        "first": "ok",
        "main": "cancelled",
    }
    assert (directory / "main.txt").exists()


def test_executor_of_a_package_gets_the_backend_config(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: nice}}\n")
    words = ("-q", directory, "--env-manager=local", "-b", "shell", "-c")
    outcome = buildrun(*words, json.dumps({"niceness": 7}), environ={"PYTHONPATH": str(PACKAGE)})
    own = os.nice(0)
    assert (outcome.code, outcome.out) == (0, f"{min(own + 7, 19)}\n"), outcome.err


def test_executor_that_nobody_has_is_refused(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    buildrun(directory, "-b", "shell").refused("'shell'", "local", code=2)


def test_project_with_an_image_needs_an_executor_for_images(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("docker_env: {image: x}\nentry_points: {main: {command: 'true'}}\n")
    buildrun(directory, "-b", "shell", environ={"PYTHONPATH": str(PACKAGE)}).refused(
        "the executor `shell` runs no containers", "-b docker", code=2
    )
