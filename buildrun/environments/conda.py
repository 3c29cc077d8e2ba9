"""Conda environments, made by rattler, or by the conda that MLflow's variables name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.environments import (
    base,
    conda_activate,
    conda_lock,
    failures,
    installed_files,
    lockfile,
    rattler,
    uv,
    virtual_packages,
)
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.conda_lock import declared_by
from buildrun.environments.lockfile import Lock, Package
from buildrun.environments.virtualenv import names_in
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker

NAME = conda_lock.NAME

activate = conda_activate.activate


def identify(request: EnvironmentRequest, reader: DependencyTracker) -> Identity:
    """Return what the conda environment is made of; raises EnvironmentFailure."""
    declared = declared_by(request)
    inputs = conda_lock.inputs(request, reader)
    subdir = virtual_packages.platform(reader)
    platform = next(
        (name for name, conda in base.CONDA_PLATFORMS.items() if conda == subdir), subdir
    )
    lock = lockfile.load(declared.path, reader, NAME)
    state, stale = lockfile.check(lock, inputs, platform, "", declared.path, locked=request.locked)
    parts: dict[str, Any] = {
        "manager": NAME,
        "platform": subdir,
        "variables": dict(declared.variables),
    }
    if lock is not None and state == "locked":
        parts |= lockfile.key_parts(lock, platform, inputs)
    else:
        parts |= {**inputs, **_solved_with(declared, reader)}
    return Identity(NAME, digest.key("environment", parts), parts, state, stale)


def _solved_with(declared: CondaEnv, reader: DependencyTracker) -> dict[str, Any]:
    """Return what a solve depends on beside what is declared."""
    executable = find(reader)
    used = rattler.sources(declared, reader)
    indexes = {"indexes": conda_lock.indexes(declared, reader)} if declared.pip else {}
    return {
        "solver": os.path.basename(executable.path) if executable else "rattler",
        "virtual_packages": list(virtual_packages.detect(reader)),
        "channels": [channel.label for channel in used.channels],
        "priority": used.settings.priority,
        **indexes,
    }


def build(
    identity: Identity, prefix: str, request: EnvironmentRequest, console: Console, lock: int
) -> None:
    """Install what is locked, or solve, install and run the pip section.

    Raises EnvironmentFailure.
    """
    declared = declared_by(request)
    executable = find(DependencyTracker(request.environ))
    packages = locked_packages(identity)
    if executable is None or packages is not None:
        install(identity, prefix, request, packages, console, lock)
        conda_lock.install_pip(prefix, request, identity, packages, console, lock)
    else:
        create(executable, declared, prefix, request, console, lock)
        if damaged := installed_files.detach_from_cache(prefix, installed_files.of_conda(prefix)):
            names = ", ".join(f"`{name}`" for name in damaged)
            console.warn(
                f"files of {names} differ from what the packages record of them",
                "if nothing else explains it, run `conda clean --packages` and build again",
            )
    conda_activate.record(prefix, dict(declared.variables), request.environ)


def locked_packages(identity: Identity) -> list[Package] | None:
    """Return the packages of the lock, None where none is used."""
    packages = identity.parts.get("packages")
    return None if packages is None else [Package(*fields) for fields in packages]


def install(
    identity: Identity,
    prefix: str,
    request: EnvironmentRequest,
    packages: Sequence[Package] | None,
    console: Console,
    lock: int,
    *,
    place: str | None = None,
) -> None:
    """Install the conda packages, those of a lock or what is solved; raises EnvironmentFailure.

    place: where the prefix will be used, if elsewhere, as in an image; no script of a package is
    run then.
    """
    declared, reader = declared_by(request), DependencyTracker(request.environ)
    used = rattler.sources(declared, reader)
    rattler.call(
        request, declared, used, console, lock,
        action="install" if packages is None else "install-records",
        prefix=prefix,
        platform=identity.parts["platform"],
        virtual_packages=virtual_packages.detect(reader),
        records=conda_lock.records(packages or (), used.channels),
        place=place,
    )  # fmt: skip


def lock(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with its address and hashes; raises EnvironmentFailure."""
    return conda_lock.make(request, platforms, previous, console)


def sentinels(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in the directories that count, and the interpreter, which is the prefix's.

    The interpreter is watched like a base interpreter, since most of what runs needs it.
    """
    folders = ["", "bin", "lib", "conda-meta", os.path.join("etc", "conda", "activate.d")]
    folders.append(installed_files.site_packages(prefix))
    listed = {folder: names_in(os.path.join(prefix, folder)) for folder in folders}
    python = os.path.join(prefix, "bin", "python")
    there = os.path.exists(python)
    return (
        {folder: names for folder, names in listed.items() if names},
        os.path.realpath(python) if there else "",
    )


def modified_files(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or are not what their packages record."""
    of_conda = list(installed_files.of_conda(prefix))
    owned = {file.path for file in of_conda}
    of_pip = [file for file in installed_files.of_pip(prefix) if file.path not in owned]
    return installed_files.modified(prefix, [*of_conda, *of_pip])


class Executable(NamedTuple):
    """The program that makes environments, and the variable that named it."""

    path: str
    variable: str


def find(reader: DependencyTracker) -> Executable | None:
    """Return the program that MLFLOW_CONDA_HOME, CONDA_EXE or MLFLOW_CONDA_CREATE_ENV_CMD name.

    MLFLOW_CONDA_CREATE_ENV_CMD is another program of the same installation, such as ``mamba``, or
    one on PATH where neither of the others is set. None where no variable says anything.
    """
    chosen = reader.variable("MLFLOW_CONDA_CREATE_ENV_CMD")
    name = chosen or "conda"
    if home := reader.variable("MLFLOW_CONDA_HOME"):
        return Executable(os.path.join(home, "bin", name), "MLFLOW_CONDA_HOME")
    if conda := reader.variable("CONDA_EXE"):
        path = os.path.join(os.path.dirname(conda), name) if chosen else conda
        return Executable(path, "CONDA_EXE")
    if chosen is None:
        return None
    found = shutil.which(chosen, path=reader.variable("PATH"))
    return Executable(found or chosen, "MLFLOW_CONDA_CREATE_ENV_CMD")


def create(
    executable: Executable,
    declared: CondaEnv,
    prefix: str,
    request: EnvironmentRequest,
    console: Console,
    lock: int,
) -> None:
    """Let the program make the environment at ``prefix``; raises EnvironmentFailure."""
    if not os.access(executable.path, os.X_OK):
        raise EnvironmentFailure(
            f"there is no program `{executable.path}`, which {executable.variable} asks for",
            hint=f"correct or unset {executable.variable}; without it buildrun needs no conda",
        )
    unasked = {"CONDA_ALWAYS_YES": "true", "MAMBA_ALWAYS_YES": "true"}
    if request.offline:
        unasked |= {"CONDA_OFFLINE": "true", "MAMBA_OFFLINE": "true"}
    try:
        uv.call(
            (executable.path, "env", "create", "-p", prefix, "--file", declared.path),
            cwd=os.path.dirname(declared.path),
            environ=uv.environment(request.environ, unasked),
            console=console,
            lock=lock,
        )
    except failures.ToolFailure as failure:
        who = os.path.basename(executable.path)
        raise failures.of_conda("", failure.output, declared, who) from None
