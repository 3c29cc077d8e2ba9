"""What an engine is told of the user's credentials for a registry."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from buildrun.environments.images import engine_api

AUTH = base64.b64encode(b"someone:se:cret").decode()


@pytest.fixture(name="environ")
def an_environ(tmp_path: Path) -> dict[str, str]:
    return {"HOME": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}


def configure(environ: dict[str, str], **value: object) -> None:
    Path(environ["DOCKER_CONFIG"], "config.json").write_text(json.dumps(value))


def told(repository: str, environ: dict[str, str]) -> Any:
    """Return what the engine reads; None where it is told nothing."""
    found = engine_api.header(repository, environ)
    assert found is not None
    return json.loads(base64.urlsafe_b64decode(found)) if found else None


def test_nothing_is_told_without_a_configuration(environ: dict[str, str]) -> None:
    assert engine_api.header("registry:5000/team/project:tag", environ) == ""


@pytest.mark.parametrize(
    "key", ["registry:5000", "https://registry:5000/v2/", "http://registry:5000"]
)
def test_password_of_the_registry_is_told(environ: dict[str, str], key: str) -> None:
    configure(environ, auths={"other:5000": {"auth": "eDp5"}, key: {"auth": AUTH}})
    found = told("registry:5000/team/project", environ)
    assert (found["username"], found["password"]) == ("someone", "se:cret")
    assert told("elsewhere.example/team/project", environ) is None


@pytest.mark.parametrize("name", ["team/project", "docker.io/team/project", "python"])
def test_name_without_a_registry_is_for_the_hub(environ: dict[str, str], name: str) -> None:
    configure(environ, auths={"https://index.docker.io/v1/": {"auth": AUTH}})
    assert told(name, environ)["username"] == "someone"


def test_token_of_a_registry_is_told(environ: dict[str, str]) -> None:
    configure(environ, auths={"registry:5000": {"identitytoken": "t"}})
    assert told("registry:5000/project", environ)["identitytoken"] == "t"


@pytest.mark.parametrize("name", ["credHelpers", "credsStore"])
def test_helper_is_left_to_the_sdk(environ: dict[str, str], name: str) -> None:
    value = {"registry:5000": "own"} if name == "credHelpers" else "all"
    configure(environ, **{name: value}, auths={"registry:5000": {"auth": AUTH}})
    assert engine_api.header("registry:5000/project", environ) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": {"registry:5000": {"auth": "-"}}}'])
def test_configuration_that_makes_no_sense_is_left_to_the_sdk(
    environ: dict[str, str], text: str
) -> None:
    Path(environ["DOCKER_CONFIG"], "config.json").write_text(text)
    assert engine_api.header("registry:5000/project", environ) is None


def test_configuration_of_old_is_left_to_the_sdk(environ: dict[str, str]) -> None:
    Path(environ["HOME"], ".dockercfg").write_text("{}")
    assert engine_api.header("registry:5000/project", environ) is None
