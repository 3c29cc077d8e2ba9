"""Pulling from and pushing to a real registry."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker_helpers import Registry, an_engine, docker, imported, registry  # noqa: F401
from test_images import derived, the

from buildrun.environments.images.engine import Engine
from buildrun.errors import EnvironmentFailure


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Registry]:
    yield from registry(tmp_path / "registry")


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Registry]:
    yield from registry(tmp_path / "registry", password=True)


def silent(text: str) -> None:
    del text


def configured(directory: Path, settings: object) -> dict[str, str]:
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(settings))
    return {**os.environ, "DOCKER_CONFIG": str(directory)}


@pytest.fixture
def made(engine: Engine, tmp_path: Path, store: Path) -> Iterator[str]:
    """Return an image that buildrun derived; its names are removed after the test."""
    name = f"buildrun-test-push:{os.getpid()}"
    imported(name, str(tmp_path))
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("a\n")
    found = derived(engine, name, tmp_path / "code", store).id
    yield found
    for each in (found, name):
        docker("rmi", "--force", each, check=False)


def test_image_is_pushed_by_digest_and_pulled(engine: Engine, made: str, there: Registry) -> None:
    said: list[str] = []
    name = engine.push(made, f"{there.address}/team/project", said.append)
    repository, _, digest = name.partition("@")
    assert repository == f"{there.address}/team/project"
    assert digest.startswith("sha256:")
    docker("rmi", "--force", made)
    assert engine.image(made) is None
    assert engine.obtain(name, said.append).id == made
    assert the(engine, name).digests == (name,)
    docker("rmi", name)


def test_nothing_is_sent_that_is_there(engine: Engine, made: str, there: Registry) -> None:
    first = engine.push(made, f"{there.address}/project", silent)
    sent = [there.asked(method) for method in ("PUT", "POST", "PATCH")]
    assert all(sent)
    assert engine.push(made, f"{there.address}/project", silent) == first
    assert [there.asked(method) for method in ("PUT", "POST", "PATCH")] == sent


def test_tag_that_moved_in_the_registry_is_set_again(
    engine: Engine, made: str, there: Registry, tmp_path: Path
) -> None:
    name = f"{there.address}/project:chosen"
    first = engine.push(made, name, silent)
    other = imported(name, f"other {tmp_path}")
    docker("push", name)
    assert engine.push(made, name, silent) == first
    docker("rmi", "--force", name, other)
    assert engine.obtain(name, silent).id == made


def test_credentials_of_the_user_are_used(
    engine: Engine, made: str, guarded: Registry, tmp_path: Path
) -> None:
    name = f"{guarded.address}/private"
    nobody = Engine(configured(tmp_path / "nobody", {}))
    with pytest.raises(EnvironmentFailure, match="docker cannot push") as caught:
        nobody.push(made, name, silent)
    assert "docker login" in (caught.value.hint or "")
    login = base64.b64encode(b"someone:secret").decode()
    known = configured(tmp_path / "known", {"auths": {guarded.address: {"auth": login}}})
    pushed = Engine(known).push(made, name, silent)
    docker("rmi", "--force", made)
    with pytest.raises(EnvironmentFailure, match="docker cannot pull"):
        nobody.obtain(pushed, silent)
    assert Engine(known).obtain(pushed, silent).id == made
    assert engine.image(pushed) is not None


def test_credentials_come_from_helpers(
    made: str, guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    helper = programs / "docker-credential-made"
    helper.write_text('#!/bin/sh\necho \'{"Username": "someone", "Secret": "secret"}\'\n')
    helper.chmod(helper.stat().st_mode | stat.S_IXUSR)
    environ = configured(tmp_path / "known", {"credHelpers": {guarded.address: "made"}})
    monkeypatch.setenv("PATH", f"{programs}:{environ['PATH']}")
    assert Engine(environ).push(made, f"{guarded.address}/private", silent)


def test_refusals_are_told_without_the_password(
    made: str, guarded: Registry, tmp_path: Path
) -> None:
    login = base64.b64encode(b"someone:wrong-password").decode()
    wrong = configured(tmp_path / "wrong", {"auths": {guarded.address: {"auth": login}}})
    with pytest.raises(EnvironmentFailure) as caught:
        Engine(wrong).push(made, f"{guarded.address}/private", silent)
    assert "wrong-password" not in str(caught.value)


def test_what_the_registry_does_not_have_is_told(engine: Engine, there: Registry) -> None:
    with pytest.raises(EnvironmentFailure, match="docker cannot pull") as caught:
        engine.obtain(f"{there.address}/nothing:1", silent)
    assert caught.value.hint is not None
    with pytest.raises(EnvironmentFailure, match="docker cannot pull"):
        engine.obtain(f"{there.address}/nothing@sha256:{'0' * 64}", silent)
    with pytest.raises(EnvironmentFailure, match="has no image"):
        engine.push("sha256:" + "0" * 64, f"{there.address}/nothing", silent)
