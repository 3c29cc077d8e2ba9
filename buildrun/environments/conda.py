"""Conda environments, made by rattler, or by the conda that MLflow's variables name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments import private_files, virtualenv
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.private_files import Recorded
from buildrun.environments.virtualenv import names_in
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv
from buildrun.store import files

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest
    from buildrun.environments.lockfile import Lock, Package
    from buildrun.project.model import CondaEnv
    from buildrun.store.memo import DependencyTracker

NAME = "conda"


def identify(request: EnvironmentRequest, reader: DependencyTracker) -> Identity:
    """Return what the conda environment is made of; raises EnvironmentFailure."""
    from buildrun.environments import conda_lock, requirements, virtual_packages
    from buildrun.store import digest

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


def build(
    identity: Identity, prefix: str, request: EnvironmentRequest, console: Console, lock: int
) -> None:
    """Install what is locked, or solve, install and run the pip section.

    Raises EnvironmentFailure.
    """
    from buildrun.environments import conda_activate, private_files
    from buildrun.environments import conda_lock as conda_pip
    from buildrun.environments.lockfile import Package
    from buildrun.store.memo import DependencyTracker

    declared = _declared(request)
    executable = find(DependencyTracker(request.environ))
    packages = None
    if identity.lock == "locked":
        packages = [Package(*fields) for fields in identity.parts["packages"]]
    if executable is None or packages is not None:
        install(identity, prefix, request, packages, console, lock)
        conda_pip.install(prefix, request, declared, identity, packages, console, lock)
    else:
        create(executable, declared, prefix, request, console, lock)
        if damaged := private_files.settle(prefix, recorded(prefix)):
            names = ", ".join(f"`{name}`" for name in damaged)
            console.warn(
                f"files of {names} differ from what the packages record of them",
                "if nothing else explains it, run `conda clean --packages` and build again",
            )
    conda_activate.record(prefix, dict(declared.variables), request.environ)


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
    from buildrun.environments import conda_lock, rattler, virtual_packages
    from buildrun.store.memo import DependencyTracker

    declared, reader = _declared(request), DependencyTracker(request.environ)
    used = rattler.sources(declared, reader)
    records = [] if packages is None else conda_lock.records(packages, used.channels)
    order = rattler.solve_request(
        request, declared, used, reader,
        action="install" if packages is None else "install-records",
        prefix=prefix,
        platform=identity.parts["platform"],
        virtual_packages=virtual_packages.detect(reader),
        records=records,
        live=console.live,
        place=place,
    )  # fmt: skip
    rattler.call(order, declared, used.settings, request, console, lock)


def lock(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with its address and hashes; raises EnvironmentFailure."""
    from buildrun.environments import conda_lock

    return conda_lock.make(request, _declared(request), platforms, previous, console)


def sentinels(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
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


def modified_files(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or have another size than was recorded."""
    from buildrun.environments import virtualenv

    owned = owned_files(prefix)
    found = damaged(prefix)
    for path in virtualenv.modified_files(prefix):
        for name in _pythons(prefix):
            if os.path.normpath(os.path.join("lib", name, "site-packages", path)) not in owned:
                found.append(path)
    return found


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what ``conda activate`` would set, with what the packages' scripts do."""
    from buildrun.environments.conda_activate import Variables

    return Variables(prefix, environ)


def _declared(request: EnvironmentRequest) -> CondaEnv:
    environment = request.project.environment
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure(
            "the project declares no conda environment", hint="use `--env-manager virtualenv`"
        )
    return environment


def _unlocked_parts(
    request: EnvironmentRequest, declared: CondaEnv, reader: DependencyTracker
) -> dict[str, Any]:
    from buildrun.environments import conda_lock, rattler, virtual_packages

    executable = find(reader)
    used = rattler.sources(declared, reader)
    parts = {
        **conda_lock.inputs(request.project, declared, reader),
        "solver": os.path.basename(executable.path) if executable else "rattler",
        "virtual_packages": list(virtual_packages.detect(reader)),
        "channels": [channel.label for channel in used.channels],
        "priority": used.settings.priority,
    }
    if declared.pip:
        from buildrun.environments import conda_lock as conda_pip

        parts["indexes"] = conda_pip.indexes(declared, reader)
    return parts


def _pythons(prefix: str) -> list[str]:
    return [name for name in names_in(os.path.join(prefix, "lib")) if name.startswith("python3.")]


_RECORDS = "conda-meta"


def damaged(prefix: str) -> list[str]:
    """Return the files of conda packages that are missing or are not what is recorded.

    Files that were touched since the environment was ready are read, of others the size counts.
    """
    found = [path for _, record in _records(prefix) for path in _damaged(prefix, record)]
    ready = virtualenv.since(prefix)
    for path, known in recorded(prefix).items():
        name = os.path.relpath(path, prefix)
        if name not in found and os.lstat(path).st_ctime >= ready:
            made = private_files.sha256(path)
            if all(made != each.sha256 for each in known):
                found.append(name)
    return found


def damaged_packages(prefix: str) -> list[str]:
    """Return the packages with such files, as ``name-version-build``."""
    return [name for name, record in _records(prefix) if _damaged(prefix, record)]


def recorded(prefix: str) -> dict[str, list[Recorded]]:
    """Return what packages record of their files, by path; not where the prefix was put in."""
    found: dict[str, list[Recorded]] = {}
    for name, record in _records(prefix):
        for entry in _paths(record):
            digest = entry.get("sha256_in_prefix") or (
                "" if entry.get("prefix_placeholder") else entry.get("sha256")
            )
            if digest and entry.get("path_type") == "hardlink" and not _changes(entry["_path"]):
                path = os.path.normpath(os.path.join(prefix, entry["_path"]))
                found.setdefault(path, []).append(Recorded(name, digest))
    return found


def owned_files(prefix: str) -> set[str]:
    """Return the paths that conda packages installed, relative to the prefix."""
    return {entry["_path"] for _, record in _records(prefix) for entry in _paths(record)}


def _records(prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    folder = os.path.join(prefix, _RECORDS)
    for name in sorted(_names(folder)):
        if name.endswith(".json"):
            try:
                yield name.removesuffix(".json"), json.loads(files.read(os.path.join(folder, name)))
            except (OSError, ValueError):
                unreadable = {"_path": f"{_RECORDS}/{name}", "path_type": "hardlink"}
                yield name, {"paths_data": {"paths": [{**unreadable, "size_in_bytes": -1}]}}


def _paths(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    paths: Sequence[Mapping[str, Any]] = (record.get("paths_data") or {}).get("paths") or ()
    return paths


def _damaged(prefix: str, record: Mapping[str, Any]) -> list[str]:
    return [entry["_path"] for entry in _paths(record) if _differs(prefix, entry)]


def _differs(prefix: str, entry: Mapping[str, Any]) -> bool:
    path: str = entry["_path"]
    if _changes(path):
        return False
    try:
        status = os.lstat(os.path.join(prefix, path))
    except OSError:
        return True
    if entry.get("path_type") != "hardlink" or entry.get("file_mode") == "text":
        return False  # a link, or text in which the prefix was put, which changed its size
    expected = entry.get("size_in_bytes")
    return expected is not None and status.st_size != expected


def _changes(path: str) -> bool:
    return path.endswith(".pyc")  # Python writes it anew as it likes


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


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
    from buildrun.environments import failures, uv

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
