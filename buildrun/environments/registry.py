"""The environment managers: one line for each."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from buildrun.errors import EnvironmentFailure
from buildrun.project.spec import CondaEnv, DockerEnv, EnvironmentSpec

if TYPE_CHECKING:
    from buildrun.environments.manager import Manager

# What `--env-manager` takes, and the module that does it.
MANAGERS = {
    "local": "system",
    "system": "system",
    "virtualenv": "virtualenv",
    "uv": "virtualenv",
    "conda": "conda",
}


def choose(environment: EnvironmentSpec, requested: str | None) -> str:
    """Return the name of the manager for a project, by MLflow's rules.

    requested: what `--env-manager` says; a docker project does not heed it.
    Raises EnvironmentFailure for a python_env project that is to use conda.
    """
    if isinstance(environment, DockerEnv):
        return "docker"
    if requested is None:
        return "conda" if isinstance(environment, CondaEnv) else "virtualenv"
    if requested == "conda" and not isinstance(environment, CondaEnv):
        raise EnvironmentFailure(
            "a python_env project cannot be executed using conda",
            place=environment.path,
            hint="set `--env-manager` to `virtualenv` or `local`",
        )
    return requested


def load(name: str) -> Manager:
    """Return the module of a manager."""
    return cast("Manager", import_module(f"buildrun.environments.{MANAGERS[name]}"))
