"""Images with a project's environment: a base, and above it one layer, keyed apart from code."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from buildrun.console import Console
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.images import build_conda, build_pip, derive
from buildrun.environments.images.build_container import BuildContainer
from buildrun.environments.images.build_pip import PREFIX
from buildrun.environments.images.config import ConfigChange
from buildrun.environments.images.derive import ImageRecipe
from buildrun.environments.images.engine import Image
from buildrun.errors import UsageError
from buildrun.project.model import CondaEnv, PythonEnv
from buildrun.store import digest
from buildrun.store.home import Home
from buildrun.store.memo import DependencyTracker
from buildrun.workspace.archive import Layer

# How environments are made; another number makes all of them anew.
_FORMAT = "1"

_PYTHON = re.compile(r"(?:[^:]+::)?python\s*((?:[=<>!~ ].*)?)$")


def base_name(request: EnvironmentRequest, config: Mapping[str, Any]) -> str:
    """Return the image to start from: `docker_base` of the backend config, else one for the Python.

    Raises UsageError for what is not a text.
    """
    chosen = config.get("docker_base")
    if chosen is None:
        return build_pip.default_base(_python(request))
    if not isinstance(chosen, str) or not chosen:
        raise UsageError(
            "`docker_base` in the backend config is not the name of an image",
            hint='such as {"docker_base": "python:3.12-slim"}',
        )
    return chosen


def identify(
    request: EnvironmentRequest, base: Image, reader: DependencyTracker
) -> Identity | None:
    """Return what the environment is made of beside its base; None for the base's own.

    reader: is told all that is looked at. Raises EnvironmentFailure.
    """
    if request.manager in ("local", "system"):
        return None
    if request.manager == "conda":
        return build_conda.identify(request, base, reader)
    return build_pip.identify(request, base, reader)


def recipe(
    home: Home,
    base: Image,
    name: str,
    request: EnvironmentRequest,
    identity: Identity,
    console: Console,
) -> ImageRecipe:
    """Return how the base with the environment in `PREFIX` is made; name: the base's, for people.

    Making it raises BuildrunError.
    """
    parts = {"format": _FORMAT, "base": base.id, "at": PREFIX, "environment": identity.key}
    key = digest.key("environment image", parts)

    @contextmanager
    def make() -> Iterator[tuple[Layer, ConfigChange]]:
        for warning in identity.warnings:
            console.warn(warning)
        text = f"making the {identity.manager} environment in a container of {name}"
        console.note(console.style(text, "dim"))
        environ = {"PATH": f"{PREFIX}/bin:{base.search_path}"}
        # Of this process alone; those of others that were killed go when the same is made again.
        directory = f"{derive.path(home, key)}.{os.urandom(8).hex()}.prefix"
        with BuildContainer(base, home, request.environ) as site:
            try:
                if identity.manager == "conda":
                    layer, variables = build_conda.make(
                        site, base, name, directory, identity, request, console
                    )
                else:
                    layer = build_pip.make(site, name, identity, request, console)
                    variables = {"VIRTUAL_ENV": PREFIX}
                history = f"the {identity.manager} environment in {PREFIX}"
                yield layer, ConfigChange(environ={**environ, **variables}, history=history)
            finally:
                shutil.rmtree(directory, ignore_errors=True)

    # Several projects may share it.
    return ImageRecipe(key, "environment", make)


def _python(request: EnvironmentRequest) -> str | None:
    environment = request.project.environment
    if isinstance(environment, PythonEnv):
        return environment.python
    if not isinstance(environment, CondaEnv):
        return None
    found = (_PYTHON.match(text) for text in environment.dependencies)
    return next((match.group(1) for match in found if match), None)
