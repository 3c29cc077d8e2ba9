"""The contract of environment managers, and their registry."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from buildrun.errors import EnvironmentFailure, UsageError
from buildrun.project import codec
from buildrun.project.model import CondaEnv, DockerEnv, EnvironmentSpec, ProjectSpec
from buildrun.store.memo import DependencyTracker, Memo, memoize

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.lockfile import Lock


class EnvironmentRequest(NamedTuple):
    """What an environment is wanted for.

    manager: as the user or the project names it, such as ``uv``.
    environ: the caller's variables. memo: where what was found out is remembered.
    offline: nothing may be fetched. locked: only a fresh lock will do.
    """

    project: ProjectSpec
    manager: str
    environ: Mapping[str, str]
    memo: Memo
    offline: bool = False
    locked: bool = False


class Identity(NamedTuple):
    """What decides an environment's content.

    key: the digest of ``parts``. parts: JSON values, free of credentials, absolute paths of
        the project and clocks.
    lock: ``locked``, ``stale`` or ``unlocked``; stale: what changed since the lock was made.
    warnings: what the user should know each time the environment is built.
    """

    manager: str
    key: str
    parts: Mapping[str, Any]
    lock: str = "unlocked"
    stale: Sequence[str] = ()
    warnings: Sequence[str] = ()


class EnvironmentManager(Protocol):
    """One way to make environments; implemented by modules."""

    NAME: str

    # Says what the environment is made of; reads files through the reader only, fetches nothing.
    # Raises EnvironmentFailure.
    def identify(self, request: EnvironmentRequest, reader: DependencyTracker) -> Identity: ...

    # Fills the empty directory `prefix`; `lock` is a descriptor that child processes inherit, so
    # that the lock outlives a killed buildrun. Raises EnvironmentFailure with the tool's reason.
    def build(
        self,
        identity: Identity,
        prefix: str,
        request: EnvironmentRequest,
        console: Console,
        lock: int,
    ) -> None: ...

    # Returns what a warm run looks for: the names in each directory of the prefix that matters,
    # and the path of the base interpreter outside of it ("" where there is none).
    def sentinels(self, prefix: str) -> tuple[Mapping[str, Sequence[str]], str]: ...

    # Looks at every file that was installed; returns what is missing or has another size.
    def modified_files(self, prefix: str) -> Sequence[str]: ...

    # Resolves the environment for each platform (such as `linux-x86_64`), keeping what `previous`
    # has where it still fits; raises EnvironmentFailure with the resolver's reason.
    def lock(
        self,
        request: EnvironmentRequest,
        platforms: Sequence[str],
        previous: Lock | None,
        console: Console,
    ) -> Lock: ...

    # Returns the variables that activation sets or removes.
    def activate(self, prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]: ...


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


def load(name: str) -> EnvironmentManager:
    """Return the module of a manager."""
    return cast("EnvironmentManager", import_module(f"buildrun.environments.{MANAGERS[name]}"))


def identify(manager: EnvironmentManager, request: EnvironmentRequest) -> Identity:
    """Return the identity of the environment; raises EnvironmentFailure."""

    def compute(reader: DependencyTracker) -> dict[str, Any]:
        return manager.identify(request, reader)._asdict()

    value = memoize(
        request.memo,
        f"environment {request.manager} {request.locked} {request.project.root}",
        request.environ,
        compute,
        subject=[codec.encode_environment(request.project.environment), sys.version],
    )
    return Identity(**value)


# Our names, and what uv and conda call them; a Linux lock holds for glibc 2.28 and newer.
UV_PLATFORMS = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "darwin-arm64": "aarch64-apple-darwin",
    "darwin-x86_64": "x86_64-apple-darwin",
}
CONDA_PLATFORMS = {
    "linux-x86_64": "linux-64",
    "linux-aarch64": "linux-aarch64",
    "darwin-arm64": "osx-arm64",
    "darwin-x86_64": "osx-64",
}


def here() -> str:
    """Return this machine's platform, such as ``linux-x86_64``."""
    return f"{sys.platform}-{os.uname().machine}"


def require_platform(platform: str) -> str:
    """Return the platform; raises UsageError where it is not one that can be locked for."""
    if platform not in UV_PLATFORMS:
        raise UsageError(
            f"unknown platform `{platform}`", hint=f"choose of {', '.join(UV_PLATFORMS)}"
        )
    return platform
