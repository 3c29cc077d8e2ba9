"""Docker projects through the Python API."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Project
from docker_helpers import BASE, Registry, an_engine, docker, imported, registry  # noqa: F401

import buildrun as br


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Registry]:
    yield from registry(tmp_path / "registry", password=True)


@pytest.mark.usefixtures("engine")
def test_list_repeats_an_argument(project: Project) -> None:
    directory = project(
        f"name: twice\ndocker_env: {{image: '{BASE}'}}\n"
        "entry_points: {main: {command: 'test $A$B = 12'}}\n"
    )
    run = br.run(directory, docker_args={"e": ["A=1", "B=2"], "t": [False, None]})
    assert run.exit_code == 0


@pytest.mark.usefixtures("engine")
def test_credentials_that_are_given_open_a_registry(
    guarded: Registry, project: Project, tmp_path: Path
) -> None:
    image = f"{guarded.address}/team/image:1"
    imported(image, str(tmp_path))
    login = {"auths": {guarded.address: {"auth": base64.b64encode(b"someone:secret").decode()}}}
    (tmp_path / "login").mkdir()
    (tmp_path / "login" / "config.json").write_text(json.dumps(login))
    docker("--config", tmp_path / "login", "push", "--quiet", image)
    docker("rmi", "--force", image)
    directory = project(
        f"name: guarded\ndocker_env: {{image: '{image}'}}\n"
        "entry_points: {main: {command: 'true'}}\n"
    )
    (tmp_path / "empty").mkdir()
    environ = {**os.environ, "DOCKER_CONFIG": str(tmp_path / "empty")}
    # Without a shell the image cannot run the command; what matters is whether it was pulled.
    with pytest.raises(br.ExecutionException):
        br.run(directory, environ=environ)
    assert not docker("images", "-q", image)
    auth = {"username": "someone", "password": "secret", "registry": guarded.address}
    try:
        with pytest.raises(br.ExecutionException):
            br.run(directory, environ=environ, docker_auth=auth)
        assert docker("images", "-q", image)
    finally:
        docker("rmi", "--force", image, check=False)
