"""The examples in containers: the docker one, and the pipeline with its environment in an image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun
from docker_helpers import BASE, Registry, a_slim, containers, engine, registry
from example_helpers import play

from buildrun.environments.images.engine import Engine

EXAMPLES = REPOSITORY / "examples"

FIXTURES = (engine, a_slim)

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture(autouse=True)
def nothing_is_left(engine: Engine, tmp_path: Path) -> Iterator[None]:
    """See to it that no container outlives its test."""
    del engine
    yield
    assert containers(tmp_path) == set()


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[Registry]:
    """Run a registry."""
    yield from registry(tmp_path / "registry")


def test_docker_example_runs_in_its_image(
    buildrun: Buildrun, tmp_path: Path, slim: str, docker_registry: Registry
) -> None:
    assert slim
    directory = Path(shutil.copytree(EXAMPLES / "docker", tmp_path / "docker"))
    outcome = buildrun("-q", directory, "--build-image", "-P", "text=docker/poem.txt")
    assert outcome.out == "24 words, 19 different ones\nCounted in a container: Linux\n"
    assert play(directory) == outcome.out
    reported = tmp_path / "report.json"
    arguments = ("run", "-q", directory, "--build-image", "-e", "report", "--report", reported)
    assert buildrun(*arguments).code == 0
    assert (directory / "report.txt").read_text().startswith("   4 the\n")
    assert buildrun(*arguments).out == ""
    states = [step["state"] for step in json.loads(reported.read_text())["steps"]]
    assert states == ["up-to-date", "up-to-date"]
    repository = f"{docker_registry.address}/team/example"
    build = ("build", directory, "--build-image", "--push", repository, "--format", "json")
    pushed = buildrun(*build)
    assert pushed.code == 0, pushed.err
    assert pushed.data["reused"] is True
    assert pushed.data["reference"].startswith(f"{repository}@sha256:")
    sent = docker_registry.asked("PATCH") + docker_registry.asked("POST")
    assert buildrun(*build).data == pushed.data
    assert docker_registry.asked("PATCH") + docker_registry.asked("POST") == sent


def test_pipeline_runs_in_containers(buildrun: Buildrun, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(EXAMPLES / "pipeline", tmp_path / "pipeline"))
    reported = tmp_path / "report.json"
    arguments = (
        "run", "-q", directory, "-b", "docker", "-c", json.dumps({"docker_base": BASE}),
        "--report", reported,
    )  # fmt: skip
    outcome = buildrun(*arguments)
    assert outcome.code == 0, outcome.err
    assert json.loads((directory / "metrics.json").read_text())["r2"] > 0.2
    train = directory / "train.py"
    train.write_text(train.read_text() + "\n# another version\n")
    assert buildrun(*arguments).code == 0
    states = [step["state"] for step in json.loads(reported.read_text())["steps"]]
    assert states == ["up-to-date", "up-to-date", "ok", "up-to-date", "ok"]
