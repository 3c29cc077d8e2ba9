"""Tracked runs of docker projects: what the container sees, and what the server is told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import mlflow_install
import pytest
from conftest import Buildrun, Project
from docker_helpers import BASE, docker, engine
from tracking_stub import RUN_ID, Answer, Call, Play, playing, run_of, said

assert engine  # a fixture

pytestmark = pytest.mark.usefixtures("engine")

HEAD = "docker_env: {image: '" + BASE + "'}\nname: inside\nentry_points:\n"
SEEN = "echo $MLFLOW_RUN_ID $MLFLOW_EXPERIMENT_ID $MLFLOW_TRACKING_URI"


@pytest.fixture
def server() -> Iterator[Play]:
    with playing() as play:
        yield play


def tags(server: Play) -> dict[str, str]:
    return {
        tag["key"]: tag["value"] for call in server.calls for tag in call.values.get("tags", ())
    }


def test_container_sees_the_run_and_its_image_is_told_cold_and_warm(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    directory = project(HEAD + "  main: {command: '" + SEEN + "'}\n")
    for _ in range(2):
        server.calls.clear()
        outcome = buildrun("-q", directory, environ={"MLFLOW_TRACKING_URI": server.uri})
        assert outcome.out == f"{RUN_ID} 0 {server.uri}\n"
        found = tags(server)
        assert found["mlflow.docker.image.uri"] == BASE
        assert found["mlflow.docker.image.id"] == docker("inspect", "-f", "{{.Id}}", BASE)
        assert (found["mlflow.project.backend"], found["mlflow.project.env"]) == ("local", "docker")
        assert server.status == "FINISHED"


def test_image_is_told_when_the_steps_are_up_to_date(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    directory = project(HEAD + "  main: {inputs: [MLproject], outputs: [x], command: 'touch x'}\n")
    for _ in range(3):
        server.calls.clear()
        outcome = buildrun(directory, environ={"MLFLOW_TRACKING_URI": server.uri})
        assert outcome.code == 0, outcome.err
        assert tags(server)["mlflow.docker.image.uri"] == BASE
    assert "1 up to date" in outcome.err


def test_each_step_sees_a_run_of_its_own(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    made = 0

    def create(_: Call) -> Answer:
        nonlocal made
        made += 1
        return said(run_of("RUNNING", run_id=f"{made:032}"))

    server.answers["runs/create"] = create
    directory = project(
        HEAD + "  first: {outputs: [first.txt], command: 'echo $MLFLOW_RUN_ID > first.txt'}\n"
        "  main: {depends_on: [first], outputs: [main.txt], "
        "command: 'echo $MLFLOW_RUN_ID > main.txt'}\n"
    )
    outcome = buildrun(
        "-q", directory, "--build-image", environ={"MLFLOW_TRACKING_URI": server.uri}
    )
    assert outcome.code == 0, outcome.err
    assert (directory / "main.txt").read_text() == f"{1:032}\n"
    assert (directory / "first.txt").read_text() == f"{2:032}\n"


def test_image_that_cannot_be_had_fails_the_run(
    project: Project, buildrun: Buildrun, server: Play
) -> None:
    directory = project(
        "docker_env: {image: 'localhost:1/nowhere:absent'}\nname: inside\n"
        "entry_points: {main: {command: 'true'}}\n"
    )
    assert buildrun("-q", directory, environ={"MLFLOW_TRACKING_URI": server.uri}).code == 1
    assert server.status == "FAILED"


def test_database_and_artifacts_of_this_machine_are_mounted(
    project: Project, buildrun: Buildrun
) -> None:
    query = (
        'import os, sqlite3; place = os.environ[\\"MLFLOW_TRACKING_URI\\"][10:]; '
        "print(place, *sqlite3.connect(place).execute("
        '\\"select status, artifact_uri from runs where run_uuid = ?\\", '
        '(os.environ[\\"MLFLOW_RUN_ID\\"],)).fetchone()); '
    )
    directory = project(
        HEAD + "  main:\n    command: \"python3 -c '" + query + "' && mount | grep -c artifacts\"\n"
    )
    path = f"{mlflow_install.prefix() / 'bin'}{os.pathsep}{os.environ['PATH']}"
    environ = {"MLFLOW_TRACKING_URI": "sqlite:///runs.db", "PATH": path}
    outcome = buildrun("-q", directory, environ=environ)
    assert outcome.code == 0, outcome.err
    place, status, artifacts, mounts = outcome.out.split()
    assert (place, status, mounts) == ("/mlflow/tmp/mlruns", "RUNNING", "1")
    assert Path(artifacts.removeprefix("file://")).is_dir()
