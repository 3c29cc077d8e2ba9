"""Virtual environments, made by uv."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun import digest
from buildrun.environments import lockfile, requirements, site_packages
from buildrun.environments.contract import Identity, Request
from buildrun.environments.lockfile import Lock
from buildrun.environments.platforms import here
from buildrun.environments.requirements import Line, logical_lines, name_of
from buildrun.environments.site_packages import names_in
from buildrun.environments.wanted import UV_LOCK, Wanted, find_interpreter, read
from buildrun.errors import EnvironmentFailure
from buildrun.memo import Reader
from buildrun.project.python_version import fits
from buildrun.project.spec import PythonEnv

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.interpreters import Interpreter
    from buildrun.environments.uv import Tool, ToolFailure

NAME = "virtualenv"

witnesses = site_packages.witnesses
damage = site_packages.damage


def identify(request: Request, reader: Reader) -> Identity:
    """Return what the virtualenv is made of; raises EnvironmentFailure."""
    wanted = read(request, reader)
    interpreter = find_interpreter(wanted.declared, request, reader)
    parts: dict[str, Any] = {
        "manager": NAME,
        "python": interpreter.version,
        "platform": here(),
        "brought": _brought(interpreter),
    }
    lock, state, stale = usable_lock(wanted, reader), "unlocked", []
    if lock is not None:
        stale = lockfile.changes(lock, wanted.inputs, here(), _minor(interpreter.version))
        state = "stale" if stale else "locked"
    if lock is None and not any(wanted.lines.values()) and UV_LOCK not in wanted.inputs:
        state = "locked"  # nothing is installed, so there is nothing to pin
    if request.locked and state != "locked":
        raise not_locked(wanted.declared, stale)
    if lock is not None and state == "locked":
        parts["packages"] = [list(package) for package in lock.platforms[here()]]
        if by_path := requirements.given_by_path(wanted.inputs):
            parts["local"] = by_path
    else:
        parts.update(wanted.inputs, indexes=list(wanted.indexes))
    key = digest.key("environment", parts)
    return Identity(NAME, key, parts, state, stale, wanted.warnings)


def build(identity: Identity, prefix: str, request: Request, console: Console, lock: int) -> None:
    """Make the virtualenv and install what it is made of; raises EnvironmentFailure."""
    from buildrun.environments import local_packages, private_files, uv

    reader = Reader(request.environ)
    wanted = read(request, reader)
    known, root = json.dumps(identity.parts), request.project.root
    interpreter = find_interpreter(wanted.declared, request, reader)
    tool = uv.Tool(request, wanted.settings, console, lock)
    target = ("--python", os.path.join(prefix, "bin", "python"))
    try:
        tool.run("venv", "--no-project", "--quiet", "--python", interpreter.path, prefix)
        with local_packages.copies(root, request.project, known) as copies:
            lines = _stages(identity, wanted, tool, root)
            stages = {stage: copies.place(found) for stage, found in lines.items()}
            asked = {name_of(line.text) for found in lines.values() for line in found}

            def put(*more: str) -> None:
                _install(tool, (*target, *more), stages, _bundled(interpreter), asked)

            private_files.install(prefix, site_packages.recorded, tool, console, put)
    except uv.ToolFailure as failure:
        raise _explain(failure, identity, wanted, request) from None


def lock(
    request: Request, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with version and hashes; raises EnvironmentFailure."""
    from buildrun.environments import local_packages, uv, uv_lock

    reader = Reader(request.environ)
    wanted = read(request, reader)
    version = find_interpreter(wanted.declared, request, reader).version
    tool = uv.Tool(request, wanted.settings, console, -1)
    default = wanted.declared.path or request.project.root
    known, root = json.dumps(wanted.inputs), request.project.root
    with local_packages.copies(root, request.project, known) as copies:
        packages = {
            name: uv_lock.resolve(tool.pip, wanted.lines, copies, default, name, version, previous)
            for name in platforms
        }
    return Lock(NAME, wanted.inputs, _minor(version), packages)


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what the ``activate`` script of a virtualenv sets for a command."""
    search = environ.get("PATH", os.defpath)
    return {
        "VIRTUAL_ENV": prefix,
        "PATH": os.path.join(prefix, "bin") + os.pathsep + search,
        "PYTHONHOME": None,
    }


def usable_lock(wanted: Wanted, reader: Reader) -> Lock | None:
    """Return the lock of a virtualenv, fresh or stale; raises EnvironmentFailure."""
    if UV_LOCK in wanted.inputs:
        return None
    lock = lockfile.load(wanted.declared.path, reader)
    return lock if lock is not None and lock.manager == NAME else None


def not_locked(declared: PythonEnv, stale: Sequence[str]) -> EnvironmentFailure:
    """Return the error for an environment without a fresh lock where only that will do."""
    fact = f"the lock is stale: {'; '.join(stale)}" if stale else "the environment is not locked"
    place = lockfile.path_for(declared.path) if declared.path else None
    return EnvironmentFailure(fact, place=place, hint="run `buildrun lock` and commit its file")


def _explain(
    failure: ToolFailure, identity: Identity, wanted: Wanted, request: Request
) -> EnvironmentFailure:
    from buildrun.environments.uv_failure import explain

    known = [line for lines in wanted.lines.values() for line in lines]
    default = request.project.file or request.project.root
    if identity.lock == "locked":
        known, default = [], lockfile.path_for(wanted.declared.path or "")
    error = explain(failure, "the environment could not be built", known, default)
    if request.offline:
        error.hint = "what is not in uv's cache must be fetched once: run without `--offline`"
    return error


def _stages(
    identity: Identity, wanted: Wanted, tool: Tool, root: str
) -> Mapping[str, Sequence[Line]]:
    """Return the requirements of each installation."""
    from buildrun.environments import uv_lock

    if UV_LOCK in wanted.inputs:
        return {"run": logical_lines(uv_lock.export(tool.run), os.path.join(root, UV_LOCK))}
    if identity.lock == "locked":
        place = lockfile.path_for(wanted.declared.path or root)
        found = uv_lock.lines(identity.parts.get("packages", ()))
        asked = [line for lines in wanted.lines.values() for line in lines]
        places = requirements.sources(asked)
        return {stage: [*places, *logical_lines(texts, place)] for stage, texts in found.items()}
    return wanted.lines


def _install(
    tool: Tool,
    target: Sequence[str],
    stages: Mapping[str, Sequence[str]],
    bundled: Mapping[str, str],
    asked: Collection[str],
) -> None:
    """Install the stages in MLflow's order, over what `python -m venv` brings.

    bundled: lines for that, by names. asked: the names that the requirements hold. Raises
    ToolFailure.
    """
    from buildrun.environments.uv import ToolFailure

    groups = [list(stages[stage]) for stage in ("build", "run") if stages.get(stage)]
    wheels = list(bundled.values())
    # At once where they do not meet, since each call of uv takes its time.
    apart = not groups or not bundled.keys().isdisjoint(asked)
    first, *rest = [wheels, *groups] if apart else [[*groups[0], *wheels], *groups[1:]]
    try:
        for lines in (first, *rest):
            if lines:
                tool.pip("install", *target, "-r", "-", text="\n".join(lines) + "\n")
    except ToolFailure as failure:
        if apart or not wheels or not re.search(r"No solution|conflicting", failure.output):
            raise
        _install(tool, target, stages, bundled, bundled)  # packages may want others than those


def _bundled(python: Interpreter) -> dict[str, str]:
    """Return what `python -m venv` brings: pip, and before Python 3.12 setuptools."""
    import hashlib

    library = os.path.join(os.path.dirname(os.path.dirname(python.path)), "lib")
    own = os.path.join(library, os.path.basename(python.path), "ensurepip", "_bundled")
    found: dict[str, str] = {}
    for directory in (own, "/usr/share/python-wheels"):
        for file in names_in(directory):
            name = file.partition("-")[0]
            if name in _brought(python) and file.endswith(".whl") and name not in found:
                path = os.path.join(directory, file)
                with open(path, "rb") as wheel:
                    found[name] = f"{path} --hash=sha256:{hashlib.sha256(wheel.read()).hexdigest()}"
    return found


def _brought(python: Interpreter) -> list[str]:
    return ["pip", "setuptools"] if fits(python.version, "<3.12") else ["pip"]


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
