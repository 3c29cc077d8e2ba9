"""Images with a project's environment: a base, and above it one layer, keyed apart from code."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun.environments.images import build_pip, derive
from buildrun.environments.images import derive as records
from buildrun.environments.images.build_container import BuildContainer, search_path
from buildrun.environments.images.build_pip import PREFIX
from buildrun.environments.images.config import ConfigChange
from buildrun.environments.images.derive import DerivedImage, ImageRecipe, layer_image
from buildrun.errors import UsageError
from buildrun.project.model import CondaEnv, PythonEnv
from buildrun.store import digest

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest, Identity
    from buildrun.environments.images.engine import Engine, Image
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
        from buildrun.environments.images import build_conda

        return build_conda.identify(request, base, reader)
    return build_pip.identify(request, base, reader)


def find(engine: Engine, home: Home, base: Image, identity: Identity) -> DerivedImage | None:
    """Return the image where it is there; nothing is made."""
    return derive.find(engine, home, _recipe(base, identity), base)


def key(base: Image, identity: Identity) -> str:
    """Return the key of the image, whether it is there or not."""
    return _recipe(base, identity).key


def environment_image(
    engine: Engine,
    home: Home,
    base: Image,
    name: str,
    request: EnvironmentRequest,
    identity: Identity,
    console: Console,
    *,
    refresh: bool,
) -> DerivedImage:
    """Return the base with the environment in `PREFIX`, made if it is not there.

    name: the base's, for people. refresh: it is made anew. Raises BuildrunError.
    """

    def before() -> None:
        for warning in identity.warnings:
            console.warn(warning)
        text = f"making the {identity.manager} environment in a container of {name}"
        console.note(console.style(text, "dim"))

    recipe = _recipe(base, identity)
    # Of this process alone; those of others that were killed go when the same is made again.
    directory = f"{records.path(home, recipe.key)}.{os.urandom(8).hex()}.prefix"
    environ = dict(recipe.change.environ)

    def make() -> Layer:
        if identity.manager != "conda":
            return build_pip.make(site, name, identity, request, console)
        from buildrun.environments.images import build_conda

        return build_conda.make(site, base, name, directory, identity, request, console, environ)

    # What a conda environment's activation sets is known when the environment is made.
    change = recipe.change._replace(environ=environ)
    with BuildContainer(base, home, request.environ) as site:
        try:
            recipe = recipe._replace(change=change, layer=make, before=before)
            return layer_image(engine, home, base, recipe, refresh=refresh, console=console)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _recipe(base: Image, identity: Identity) -> ImageRecipe:
    parts = {"format": _FORMAT, "base": base.id, "at": PREFIX, "environment": identity.key}
    environ = {"PATH": f"{PREFIX}/bin:{search_path(base)}"}
    if identity.manager != "conda":
        environ["VIRTUAL_ENV"] = PREFIX
    return ImageRecipe(
        key=digest.key("environment image", parts),
        # Several projects may share it.
        project="environment",
        change=ConfigChange(
            environ=environ, told=f"the {identity.manager} environment in {PREFIX}"
        ),
        layer=_unmade,
    )


def _unmade() -> Layer:
    raise AssertionError("only looked for")


def _python(request: EnvironmentRequest) -> str | None:
    environment = request.project.environment
    if isinstance(environment, PythonEnv):
        return environment.python
    if isinstance(environment, CondaEnv):
        found = [
            match.group(1) for text in environment.dependencies if (match := _PYTHON.match(text))
        ]
        return found[0] if found else None
    return None
