"""Virtual environments, made by uv."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.environments import (
    failures,
    installed_files,
    local_packages,
    lockfile,
    pip_config,
    python,
    requirements,
    uv,
)
from buildrun.environments.base import EnvironmentRequest, Identity, here
from buildrun.environments.failures import ToolFailure
from buildrun.environments.lockfile import Lock
from buildrun.environments.pip_config import Settings
from buildrun.environments.python import Interpreter
from buildrun.environments.requirements import Line, logical_lines, name_of
from buildrun.errors import EnvironmentFailure
from buildrun.project.locate import lock_path
from buildrun.project.model import CondaEnv, EnvironmentSpec, PythonEnv
from buildrun.project.rules.environments import as_python_env, fits
from buildrun.store import digest, files
from buildrun.store.memo import DependencyTracker

NAME = "virtualenv"

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
    lines: Mapping[str, Sequence[Line]]
    inputs: Mapping[str, Any]
    indexes: Sequence[str]
    settings: Settings
    warnings: Sequence[str]

    @property
    def all_lines(self) -> list[Line]:
        """Return the requirements of all installations."""
        return [line for lines in self.lines.values() for line in lines]


def read(request: EnvironmentRequest, reader: DependencyTracker) -> VirtualenvSpec:
    """Return it all; raises EnvironmentFailure for files that cannot be followed."""
    declared, warnings = _declared(request.project.environment)
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
    for stage, found in lines.items():
        inputs[stage] = [
            local_packages.describe(line, root, reader, request.project) for line in found
        ]
    return VirtualenvSpec(declared, lines, inputs, indexes, settings, warnings)


def _given_by_path(root: str, reader: DependencyTracker) -> tuple[Line, ...]:
    """Return the packages that a `uv.lock` has by their directories, less the project itself."""
    place = os.path.join(root, UV_LOCK)
    found = _BY_PATH.findall(reader.read(place).decode(errors="replace"))
    texts = [f"{'-e ' if kind == 'editable' else ''}./{path}" for kind, path in found]
    return tuple(Line(text, place, 0) for text in texts if not text.endswith("./."))


def _declared(environment: EnvironmentSpec) -> tuple[PythonEnv, Sequence[str]]:
    """Return the declared virtualenv, and warnings of what a conda environment has besides."""
    if isinstance(environment, PythonEnv):
        return environment, ()
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure("a docker project has no virtualenv")
    declared, dropped = as_python_env(environment)
    names = ", ".join(f"`{name}`" for name in dropped)
    warning = f"conda dependencies that a virtualenv leaves out: {names}"
    return declared, (warning,) if dropped else ()


def identify(request: EnvironmentRequest, reader: DependencyTracker) -> Identity:
    """Return what the virtualenv is made of; raises EnvironmentFailure."""
    spec = read(request, reader)
    interpreter = python.find(spec.declared, request, reader)
    parts = {
        "manager": NAME,
        "python": interpreter.version,
        "platform": here(),
        "brought": _brought(interpreter),
    }
    minor = _minor(interpreter.version)
    return identity(spec, request, reader, parts, spec.inputs, minor, "environment")


def identity(
    spec: VirtualenvSpec,
    request: EnvironmentRequest,
    reader: DependencyTracker,
    parts: dict[str, Any],
    inputs: Mapping[str, Any],
    minor: str,
    kind: str,
) -> Identity:
    """Return the identity of a virtualenv with the packages of its lock, or of its requirements.

    parts: what it is made of beside them. inputs: the spec's, as they count here. minor: the
    Python that a lock has to be for, any if empty. kind: tells keys of different things apart.
    """
    lock = None if UV_LOCK in inputs else lockfile.load(spec.declared.path, reader, NAME)
    state: tuple[str, Sequence[str]] = "locked", ()
    # Where nothing is installed, there is nothing to pin.
    if lock is not None or spec.all_lines or UV_LOCK in inputs:
        python = minor or (lock.python if lock is not None else "")
        path, locked = spec.declared.path, request.locked
        state = lockfile.check(lock, spec.inputs, parts["platform"], python, path, locked=locked)
    if lock is not None and state[0] == "locked":
        parts.setdefault("python", lock.python)
        parts.update(lockfile.key_parts(lock, parts["platform"], inputs))
    else:
        parts.update(inputs, indexes=list(spec.indexes))
    return Identity(NAME, digest.key(kind, parts), parts, *state, spec.warnings)


def build(
    identity: Identity, prefix: str, request: EnvironmentRequest, console: Console, lock: int
) -> None:
    """Make the virtualenv and install what it is made of; raises EnvironmentFailure."""
    reader = DependencyTracker(request.environ)
    spec = read(request, reader)
    root = request.project.root
    interpreter = python.find(spec.declared, request, reader)
    tool = uv.Tool(request, spec.settings, console, lock)
    target = ("--python", os.path.join(prefix, "bin", "python"))
    try:
        tool.run("venv", "--no-project", "--quiet", "--python", interpreter.path, prefix)
        with local_packages.build_copies(
            root, request.project, json.dumps(identity.parts)
        ) as copies:
            lines = _stages(identity, spec, tool, root)
            stages = {stage: copies.rewrite(found) for stage, found in lines.items()}
            asked = {name_of(line.text) for found in lines.values() for line in found}

            def put(*more: str) -> None:
                _install_stages(tool, (*target, *more), stages, _bundled(interpreter), asked)

            install(prefix, tool, console, put)
    except ToolFailure as failure:
        raise _explained(failure, identity, spec, request) from None


def install(prefix: str, tool: uv.Tool, console: Console, put: Callable[..., None]) -> None:
    """Install with uv, and once more, past its cache, what is not as the packages record it.

    put: installs, with more options for uv. Raises ToolFailure and OSError.
    """
    put("--link-mode=clone")
    changed = installed_files.detach_from_cache(prefix, installed_files.of_pip(prefix, "uv"))
    if not changed:
        return
    names = ", ".join(f"`{name}`" for name in changed)
    console.warn(f"uv's cache has damaged files of {names}", "they are fetched and installed anew")
    tool.run("cache", "clean", *changed)
    put("--link-mode=clone", *(f"--reinstall-package={name}" for name in changed))
    if changed := installed_files.detach_from_cache(prefix, installed_files.of_pip(prefix, "uv")):
        names = ", ".join(f"`{name}`" for name in changed)
        console.warn(f"files of {names} differ from what the packages themselves record of them")


def lock(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with version and hashes; raises EnvironmentFailure."""
    reader = DependencyTracker(request.environ)
    spec = read(request, reader)
    version = python.find(spec.declared, request, reader).version
    tool = uv.Tool(request, spec.settings, console, -1)
    root, default = request.project.root, spec.declared.path or request.project.root
    with local_packages.build_copies(root, request.project, json.dumps(spec.inputs)) as copies:
        packages = {
            name: tool.resolve(spec.lines, copies, default, name, version, previous)
            for name in platforms
        }
    return Lock(NAME, spec.inputs, _minor(version), packages)


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what the ``activate`` script of a virtualenv sets for a command."""
    search = environ.get("PATH", os.defpath)
    return {
        "VIRTUAL_ENV": prefix,
        "PATH": os.path.join(prefix, "bin") + os.pathsep + search,
        "PYTHONHOME": None,
    }


def sentinels(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in ``bin`` and ``site-packages``, and the base interpreter."""
    folders = ("bin", installed_files.site_packages(prefix), "")
    listed = {folder: names_in(os.path.join(prefix, folder)) for folder in folders}
    return listed, os.path.realpath(os.path.join(prefix, "bin", "python"))


def names_in(directory: str) -> list[str]:
    """Return what a directory holds, without bytecode; nothing where it cannot be read."""
    return [name for name in files.names_in(directory) if name != "__pycache__"]


def modified_files(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or are not what their RECORD says."""
    return installed_files.modified(prefix, installed_files.of_pip(prefix))


def _explained(
    failure: ToolFailure, identity: Identity, spec: VirtualenvSpec, request: EnvironmentRequest
) -> EnvironmentFailure:
    known, default = spec.all_lines, request.project.file or request.project.root
    if identity.lock == "locked":
        known, default = [], lock_path(spec.declared.path or "")
    error = failures.of_uv(failure, "the environment could not be built", known, default)
    if request.offline:
        error.hint = "what is not in uv's cache must be fetched once: run without `--offline`"
    return error


def _stages(
    identity: Identity, spec: VirtualenvSpec, tool: uv.Tool, root: str
) -> Mapping[str, Sequence[Line]]:
    """Return the requirements of each installation."""
    if UV_LOCK in spec.inputs:
        return {"run": logical_lines(tool.export(), os.path.join(root, UV_LOCK))}
    if identity.lock == "locked":
        place = lock_path(spec.declared.path or root)
        found = lockfile.requirement_lines(identity.parts.get("packages", ()))
        sources = requirements.sources(spec.all_lines)
        return {stage: [*sources, *logical_lines(texts, place)] for stage, texts in found.items()}
    return spec.lines


def _install_stages(
    tool: uv.Tool,
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
        _install_stages(
            tool, target, stages, bundled, bundled
        )  # packages may want others than those


def _bundled(python: Interpreter) -> dict[str, str]:
    """Return what `python -m venv` brings: pip, and before Python 3.12 setuptools."""
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
