"""Conda environments, made by rattler, or by a conda that MLflow's variables name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.environments.contract import Identity, Request
from buildrun.environments.site_packages import names_in
from buildrun.errors import EnvironmentFailure
from buildrun.project.spec import CondaEnv

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.lockfile import Lock, Package
    from buildrun.memo import Reader

NAME = "conda"


def identify(request: Request, reader: Reader) -> Identity:
    """Return what the conda environment is made of; raises EnvironmentFailure."""
    from buildrun import digest
    from buildrun.environments import conda_lock, requirements, virtual_packages

    declared = _declared(request)
    subdir = virtual_packages.platform(reader)
    packages, state, stale = conda_lock.usable(request, declared, subdir, reader)
    parts: dict[str, Any] = {
        "manager": NAME,
        "platform": subdir,
        "variables": dict(declared.variables),
    }
    if packages is not None:
        parts["packages"] = [list(package) for package in packages]
        if by_path := requirements.given_by_path(
            conda_lock.inputs(request.project, declared, reader)
        ):
            parts["local"] = by_path
    else:
        parts |= _unlocked_parts(request, declared, reader)
    return Identity(NAME, digest.key("environment", parts), parts, state, stale)


def build(identity: Identity, prefix: str, request: Request, console: Console, lock: int) -> None:
    """Install what is locked, or solve, install and run the pip section.

    Raises EnvironmentFailure.
    """
    from buildrun.environments import (
        conda_activation,
        conda_executable,
        conda_files,
        conda_pip,
        private_files,
    )
    from buildrun.environments.lockfile import Package
    from buildrun.memo import Reader

    declared = _declared(request)
    executable = conda_executable.find(Reader(request.environ))
    packages = None
    if identity.lock == "locked":
        packages = [Package(*fields) for fields in identity.parts["packages"]]
    if executable is None or packages is not None:
        install(identity, prefix, request, packages, console, lock)
        conda_pip.install(prefix, request, declared, identity, packages, console, lock)
    else:
        conda_executable.create(executable, declared, prefix, request, console, lock)
        if damaged := private_files.settle(prefix, conda_files.recorded(prefix)):
            names = ", ".join(f"`{name}`" for name in damaged)
            console.warn(
                f"files of {names} differ from what the packages record of them",
                "if nothing else explains it, run `conda clean --packages` and build again",
            )
    conda_activation.record(prefix, dict(declared.variables), request.environ)


def install(
    identity: Identity,
    prefix: str,
    request: Request,
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
    from buildrun.environments import conda_lock, conda_order, rattler_call, virtual_packages
    from buildrun.memo import Reader

    declared, reader = _declared(request), Reader(request.environ)
    used = conda_order.sources(declared, reader)
    records = [] if packages is None else conda_lock.records(packages, used.channels)
    order = conda_order.make(
        request, declared, used, reader,
        action="install" if packages is None else "install-records",
        prefix=prefix,
        platform=identity.parts["platform"],
        virtual_packages=virtual_packages.detect(reader),
        records=records,
        live=console.live,
        place=place,
    )  # fmt: skip
    rattler_call.perform(order, declared, used.settings, request, console, lock)


def lock(
    request: Request, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with its address and hashes; raises EnvironmentFailure."""
    from buildrun.environments import conda_lock

    return conda_lock.make(request, _declared(request), platforms, previous, console)


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in the directories that count, and the interpreter, which is the prefix's.

    The interpreter is watched like a base interpreter, since most of what runs needs it.
    """
    folders = ["", "bin", "lib", "conda-meta", os.path.join("etc", "conda", "activate.d")]
    folders += [os.path.join("lib", name, "site-packages") for name in _pythons(prefix)]
    listed = {folder: names_in(os.path.join(prefix, folder)) for folder in folders}
    python = os.path.join(prefix, "bin", "python")
    there = os.path.exists(python)
    return (
        {folder: names for folder, names in listed.items() if names},
        os.path.realpath(python) if there else "",
    )


def damage(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or have another size than was recorded."""
    from buildrun.environments import conda_files, site_packages

    owned = conda_files.owned(prefix)
    found = conda_files.damaged(prefix)
    for path in site_packages.damage(prefix):
        for name in _pythons(prefix):
            if os.path.normpath(os.path.join("lib", name, "site-packages", path)) not in owned:
                found.append(path)
    return found


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what ``conda activate`` would set, with what the packages' scripts do."""
    from buildrun.environments.conda_activation import Variables

    return Variables(prefix, environ)


def _declared(request: Request) -> CondaEnv:
    environment = request.project.environment
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure(
            "the project declares no conda environment", hint="use `--env-manager virtualenv`"
        )
    return environment


def _unlocked_parts(request: Request, declared: CondaEnv, reader: Reader) -> dict[str, Any]:
    from buildrun.environments import conda_executable, conda_lock, conda_order, virtual_packages

    executable = conda_executable.find(reader)
    used = conda_order.sources(declared, reader)
    parts = {
        **conda_lock.inputs(request.project, declared, reader),
        "solver": os.path.basename(executable.path) if executable else "rattler",
        "virtual_packages": list(virtual_packages.detect(reader)),
        "channels": [channel.label for channel in used.channels],
        "priority": used.settings.priority,
    }
    if declared.pip:
        from buildrun.environments import conda_pip

        parts["indexes"] = conda_pip.indexes(declared, reader)
    return parts


def _pythons(prefix: str) -> list[str]:
    return [name for name in names_in(os.path.join(prefix, "lib")) if name.startswith("python3.")]
