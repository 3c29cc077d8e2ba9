"""Virtual environments, made by uv."""

from __future__ import annotations

import json
import os
import re
from base64 import urlsafe_b64decode
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments import (
    failures,
    local_packages,
    lockfile,
    pip_config,
    private_files,
    python,
    requirements,
)
from buildrun.environments.base import EnvironmentRequest, Identity, here
from buildrun.environments.failures import ToolFailure
from buildrun.environments.lockfile import Lock
from buildrun.environments.pip_config import Settings
from buildrun.environments.prefix import MARKER
from buildrun.environments.private_files import Recorded
from buildrun.environments.requirements import Line, logical_lines, name_of
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv, PythonEnv
from buildrun.project.rules.environments import fits
from buildrun.store import digest, files
from buildrun.store.memo import DependencyTracker

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest
    from buildrun.environments.python import Interpreter
    from buildrun.environments.uv import Tool
    from buildrun.store.memo import DependencyTracker

# What `--env-manager uv` takes instead of the declared dependencies, as MLflow does.
UV_LOCK = "uv.lock"

_BY_PATH = re.compile(r'^source = \{ (editable|directory|path) = "([^"]+)" \}', re.MULTILINE)


class VirtualenvSpec(NamedTuple):
    """An environment with everything its files name.

    lines: requirements of each installation, in MLflow's order, with the files that they name
        followed; of a `uv.lock` only the packages given by path.
    inputs: what was declared, the same on every machine; indexes: where packages come from here.
    """

    declared: PythonEnv
    lines: Mapping[str, tuple[Line, ...]]
    inputs: Mapping[str, Any]
    indexes: tuple[str, ...]
    settings: Settings
    warnings: tuple[str, ...]


def read(request: EnvironmentRequest, reader: DependencyTracker) -> VirtualenvSpec:
    """Return it all; raises EnvironmentFailure for files that cannot be followed."""
    declared, warnings = _declared(request)
    root, origin = request.project.root, declared.path or request.project.root
    stages = {"build": declared.build_dependencies, "run": declared.dependencies}
    lines = {
        stage: requirements.follow(texts, origin, root, reader) for stage, texts in stages.items()
    }
    settings = pip_config.read(reader)
    indexes = (*settings.indexes, *pip_config.choices(root, reader))
    inputs: dict[str, Any] = {"requested": declared.python}
    if request.manager == "uv" and reader.exists(os.path.join(root, UV_LOCK)):
        inputs["uv.lock"] = pip_config.contents(root, (UV_LOCK, "pyproject.toml"), reader)
        lines = {"packages of uv.lock": _given_by_path(root, reader)}
    outputs = requirements.outputs_of(request.project)
    for stage, found in lines.items():
        inputs[stage] = [local_packages.describe(line, root, reader, outputs) for line in found]
    return VirtualenvSpec(declared, lines, inputs, indexes, settings, warnings)


def find_interpreter(
    declared: PythonEnv, request: EnvironmentRequest, reader: DependencyTracker
) -> Interpreter:
    """Return the Python to build with; raises PythonMissing."""
    found = python.find(declared.python, reader, request.memo, request.environ)
    if found is not None:
        return found
    from buildrun.environments.python import PythonMissing

    there = [item.version for item in python.installed(reader)]
    raise PythonMissing(declared, there, request)


def _given_by_path(root: str, reader: DependencyTracker) -> tuple[Line, ...]:
    """Return the packages that a `uv.lock` has by their directories, less the project itself."""
    place = os.path.join(root, UV_LOCK)
    found = _BY_PATH.findall(reader.read(place).decode(errors="replace"))
    texts = [f"{'-e ' if kind == 'editable' else ''}./{path}" for kind, path in found]
    return tuple(Line(text, place, 0) for text in texts if not text.endswith("./."))


def _declared(request: EnvironmentRequest) -> tuple[PythonEnv, tuple[str, ...]]:
    environment = request.project.environment
    if isinstance(environment, PythonEnv):
        return environment, ()
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure("a docker project has no virtualenv")
    from buildrun.project.rules.environments import as_python_env

    declared, dropped = as_python_env(environment)
    if not dropped:
        return declared, ()
    names = ", ".join(f"`{name}`" for name in dropped)
    return declared, (f"conda dependencies that a virtualenv leaves out: {names}",)


def sentinels(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in ``bin`` and ``site-packages``, and the base interpreter."""
    site = _site_packages(prefix)
    listed = {
        directory: names_in(os.path.join(prefix, directory)) for directory in ("bin", site, "")
    }
    return listed, os.path.realpath(os.path.join(prefix, "bin", "python"))


def modified_files(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or are not what their RECORD says.

    Files that were touched since the environment was ready are read, of others the size counts.
    """
    ready = since(prefix)
    site = os.path.join(prefix, _site_packages(prefix))
    return [row[0] for _, row in _rows(site) if _differs(site, row, ready)]


def since(prefix: str) -> float:
    """Return when a prefix was ready; seconds since the epoch."""
    try:
        return os.stat(os.path.join(prefix, MARKER)).st_mtime
    except OSError:
        return 0.0


def recorded(prefix: str) -> dict[str, list[Recorded]]:
    """Return what the packages that uv installed record of their files, less programs.

    Those are written anew for the prefix.
    """
    site, programs = os.path.join(prefix, _site_packages(prefix)), os.path.join(prefix, "bin", "")
    found: dict[str, list[Recorded]] = {}
    for name, row in _rows(site, installer="uv"):
        digest = _sha256(row)
        path = os.path.normpath(os.path.join(site, row[0]))
        inside = path.startswith(prefix + os.sep) and not path.startswith(programs)
        if digest and inside and not path.endswith(".pyc"):
            found.setdefault(path, []).append(Recorded(name, digest))
    return found


def names_in(directory: str) -> list[str]:
    """Return what a directory holds, without bytecode; nothing where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(directory) if name != "__pycache__")
    except OSError:
        return []


def _rows(site: str, installer: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the rows of every RECORD, each with the name of its package."""
    import csv

    for name in names_in(site):
        folder = os.path.join(site, name)
        if not name.endswith(".dist-info") or not _text(
            os.path.join(folder, "INSTALLER")
        ).startswith(installer):
            continue
        for row in csv.reader(_text(os.path.join(folder, "RECORD")).splitlines()):
            if row:
                yield name.partition("-")[0], row


def _text(path: str) -> str:
    try:
        return files.read(path).decode(errors="replace")
    except OSError:
        return ""


def _sha256(row: Sequence[str]) -> str:
    """Return the SHA-256 in a row of a RECORD, hexadecimal, or nothing."""
    algorithm, _, text = row[1].partition("=") if len(row) > 1 else ("", "", "")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex() if algorithm == "sha256" else ""


def _site_packages(prefix: str) -> str:
    library = os.path.join(prefix, "lib")
    versions = [name for name in names_in(library) if name.startswith("python")]
    return os.path.join("lib", versions[0], "site-packages") if versions else "lib"


def _differs(site: str, row: Sequence[str], ready: float) -> bool:
    if row[0].endswith(".pyc"):
        return False
    path = os.path.join(site, row[0])
    try:
        status = os.stat(path)
    except OSError:
        return True
    # Scripts are written anew for the prefix, so only what lies in site-packages is compared.
    if row[0].startswith(".."):
        return False
    if len(row) > 2 and row[2].isdigit() and status.st_size != int(row[2]):
        return True
    digest = _sha256(row)
    return bool(digest) and status.st_ctime >= ready and private_files.sha256(path) != digest


NAME = "virtualenv"

witnesses = sentinels
damage = modified_files


def identify(request: EnvironmentRequest, reader: DependencyTracker) -> Identity:
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


def build(
    identity: Identity, prefix: str, request: EnvironmentRequest, console: Console, lock: int
) -> None:
    """Make the virtualenv and install what it is made of; raises EnvironmentFailure."""
    from buildrun.environments import local_packages, private_files, uv

    reader = DependencyTracker(request.environ)
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

            private_files.install(prefix, recorded, tool, console, put)
    except ToolFailure as failure:
        raise _explain(failure, identity, wanted, request) from None


def lock(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with version and hashes; raises EnvironmentFailure."""
    from buildrun.environments import local_packages, uv, uv_lock

    reader = DependencyTracker(request.environ)
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


def usable_lock(wanted: VirtualenvSpec, reader: DependencyTracker) -> Lock | None:
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
    failure: ToolFailure, identity: Identity, wanted: VirtualenvSpec, request: EnvironmentRequest
) -> EnvironmentFailure:
    known = [line for lines in wanted.lines.values() for line in lines]
    default = request.project.file or request.project.root
    if identity.lock == "locked":
        known, default = [], lockfile.path_for(wanted.declared.path or "")
    error = failures.of_uv(failure, "the environment could not be built", known, default)
    if request.offline:
        error.hint = "what is not in uv's cache must be fetched once: run without `--offline`"
    return error


def _stages(
    identity: Identity, wanted: VirtualenvSpec, tool: Tool, root: str
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
