"""Virtual environments, made by uv."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments.contract import Identity, Request
from buildrun.environments.platforms import here
from buildrun.errors import EnvironmentFailure
from buildrun.project.spec import CondaEnv, PythonEnv

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.lockfile import Lock
    from buildrun.environments.pip_settings import Settings
    from buildrun.environments.requirements import Line
    from buildrun.memo import Reader

NAME = "virtualenv"

# uv's variables that decide what is installed.
_UV_CHOICES = (
    "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL", "UV_FIND_LINKS",
    "UV_NO_INDEX", "UV_INDEX_STRATEGY", "UV_PRERELEASE", "UV_RESOLUTION", "UV_EXCLUDE_NEWER",
    "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "UV_NO_BINARY", "UV_NO_BUILD",
    "UV_CONFIG_FILE", "UV_TORCH_BACKEND",
)  # fmt: skip

# What `--env-manager uv` takes instead of the declared dependencies, as MLflow does.
_UV_LOCK = "uv.lock"


class Wanted(NamedTuple):
    """An environment with everything its files name.

    stages: requirement lines of each installation, in MLflow's order.
    lines: the same with the files they name followed, for digests and places.
    inputs: what was declared, the same on every machine; indexes: where packages come from here.
    """

    declared: PythonEnv
    stages: Mapping[str, tuple[str, ...]]
    lines: Mapping[str, tuple[Line, ...]]
    inputs: Mapping[str, Any]
    indexes: tuple[str, ...]
    settings: Settings
    warnings: tuple[str, ...]


def identify(request: Request, reader: Reader) -> Identity:
    """Return what the virtualenv is made of; raises EnvironmentFailure."""
    from buildrun import digest
    from buildrun.environments import lockfile

    wanted = _read(request, reader)
    interpreter = _interpreter(wanted.declared, request, reader)
    parts: dict[str, Any] = {
        "manager": NAME,
        "python": interpreter.version,
        "platform": here(),
    }
    lock, state, stale = _usable_lock(wanted, reader), "unlocked", []
    if lock is not None:
        stale = lockfile.changes(lock, wanted.inputs, here(), _minor(interpreter.version))
        state = "stale" if stale else "locked"
    if request.locked and state != "locked":
        raise _not_locked(wanted.declared, stale)
    if lock is not None and state == "locked":
        parts["packages"] = [list(package) for package in lock.platforms[here()]]
    else:
        parts.update(wanted.inputs, indexes=list(wanted.indexes))
    key = digest.key("environment", parts)
    return Identity(NAME, key, parts, state, stale, wanted.warnings)


def build(identity: Identity, prefix: str, request: Request, console: Console, lock: int) -> None:
    """Make the virtualenv and install what it is made of; raises EnvironmentFailure."""
    from buildrun.environments import uv, uv_failure
    from buildrun.memo import Reader

    reader = Reader(request.environ)
    wanted = _read(request, reader)
    interpreter = _interpreter(wanted.declared, request, reader)
    tool = _Uv(request, wanted.settings, console, lock)
    target = ("--python", os.path.join(prefix, "bin", "python"))
    try:
        tool.run("venv", "--no-project", "--quiet", "--python", interpreter.path, prefix)
        for lines in _stages(identity, wanted, interpreter.path, tool):
            tool.pip("install", *target, "-r", "-", text="\n".join(lines) + "\n")
    except uv.ToolFailure as failure:
        known = [line for lines in wanted.lines.values() for line in lines]
        default = request.project.file or request.project.root
        what = "the environment could not be built"
        error = uv_failure.explain(failure.output, what, known, default)
        if request.offline:
            error.hint = "what is not in uv's cache must be fetched once: run without `--offline`"
        raise error from None


def lock(
    request: Request, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Return every package with version and hashes; raises EnvironmentFailure."""
    from buildrun.environments import uv_lock
    from buildrun.environments.lockfile import Lock
    from buildrun.memo import Reader

    reader = Reader(request.environ)
    wanted = _read(request, reader)
    version = _interpreter(wanted.declared, request, reader).version
    tool = _Uv(request, wanted.settings, console, -1)
    default = wanted.declared.path or request.project.root
    packages = {
        name: uv_lock.resolve(
            tool.pip, wanted.stages, wanted.lines, default, name, version, previous
        )
        for name in platforms
    }
    return Lock(NAME, wanted.inputs, _minor(version), packages)


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in ``bin`` and ``site-packages``, and the base interpreter."""
    site = _site_packages(prefix)
    listed = {directory: _names(os.path.join(prefix, directory)) for directory in ("bin", site, "")}
    return listed, os.path.realpath(os.path.join(prefix, "bin", "python"))


def damage(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or have another size than their RECORD says."""
    import csv

    site = os.path.join(prefix, _site_packages(prefix))
    found: list[str] = []
    for name in _names(site):
        record = os.path.join(site, name, "RECORD")
        if name.endswith(".dist-info") and os.path.isfile(record):
            with open(record, encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
            found += [row[0] for row in rows if _differs(site, row)]
    return found


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:
    """Return what the ``activate`` script of a virtualenv sets for a command."""
    search = environ.get("PATH", os.defpath)
    return {
        "VIRTUAL_ENV": prefix,
        "PATH": os.path.join(prefix, "bin") + os.pathsep + search,
        "PYTHONHOME": None,
    }


class _Uv:
    """uv with the caller's settings, in the project's root."""

    def __init__(self, request: Request, settings: Settings, console: Console, lock: int) -> None:
        from buildrun.environments import uv

        self._program = uv.program(request.environ)
        self._environ = uv.environment(request.environ, dict(settings.variables))
        self._settings, self._request = settings, request
        self._console, self._lock = console, lock

    def run(self, *arguments: str, text: str = "") -> str:
        """Return what it wrote; raises ToolFailure."""
        from buildrun.environments import uv

        quiet = () if self._console.live else ("--no-progress",)
        offline = ("--offline",) if self._request.offline else ()
        return uv.call(
            (self._program, *arguments, *quiet, *offline),
            cwd=self._request.project.root,
            environ=self._environ,
            console=self._console,
            lock=self._lock,
            text=text,
        )

    def pip(self, verb: str, *arguments: str, text: str = "") -> str:
        """Call one of the ``uv pip`` verbs with pip's settings."""
        return self.run("pip", verb, *self._settings.arguments, *arguments, text=text)


def _read(request: Request, reader: Reader) -> Wanted:
    from buildrun.environments import pip_settings, requirements

    declared, warnings = _declared(request)
    root, origin = request.project.root, declared.path or request.project.root
    stages = {"build": declared.build_dependencies, "run": declared.dependencies}
    lines = {
        stage: requirements.follow(texts, origin, root, reader) for stage, texts in stages.items()
    }
    settings = pip_settings.read(reader)
    indexes = (*settings.indexes, *_uv_settings(root, reader))
    inputs: dict[str, Any] = {"requested": declared.python}
    if request.manager == "uv" and reader.exists(os.path.join(root, _UV_LOCK)):
        inputs["uv.lock"] = _contents(root, (_UV_LOCK, "pyproject.toml"), reader)
        stages, lines = {}, {}
    for stage, found in lines.items():
        inputs[stage] = [requirements.describe(line, root, reader) for line in found]
    return Wanted(declared, stages, lines, inputs, indexes, settings, warnings)


def _declared(request: Request) -> tuple[PythonEnv, tuple[str, ...]]:
    environment = request.project.environment
    if isinstance(environment, PythonEnv):
        return environment, ()
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure("a docker project has no virtualenv")
    from buildrun.project.conda_python import as_python_env

    declared, dropped = as_python_env(environment)
    if not dropped:
        return declared, ()
    names = ", ".join(f"`{name}`" for name in dropped)
    return declared, (f"conda dependencies that a virtualenv leaves out: {names}",)


def _interpreter(declared: PythonEnv, request: Request, reader: Reader) -> Any:
    from buildrun.environments import interpreters

    found = interpreters.find(declared.python, reader, request.memory, request.environ)
    if found is not None:
        return found
    from buildrun.environments.python_missing import PythonMissing

    there = [item.version for item in interpreters.installed(reader)]
    raise PythonMissing(declared, there, request)


def _usable_lock(wanted: Wanted, reader: Reader) -> Lock | None:
    from buildrun.environments import lockfile

    if "uv.lock" in wanted.inputs:
        return None
    lock = lockfile.load(wanted.declared.path, reader)
    return lock if lock is not None and lock.manager == NAME else None


def _not_locked(declared: PythonEnv, stale: Sequence[str]) -> EnvironmentFailure:
    from buildrun.environments import lockfile

    fact = f"the lock is stale: {'; '.join(stale)}" if stale else "the environment is not locked"
    place = lockfile.path_for(declared.path) if declared.path else None
    return EnvironmentFailure(fact, place=place, hint="run `buildrun lock` and commit its file")


def _stages(identity: Identity, wanted: Wanted, python: str, tool: _Uv) -> list[list[str]]:
    """Return the requirement lines of each installation."""
    from buildrun.environments import uv_lock

    if _UV_LOCK in wanted.inputs:
        stages = {"run": uv_lock.export(tool.run)}
    elif identity.lock == "locked":
        stages = uv_lock.lines(identity.parts["packages"])
    else:
        stages = {stage: list(lines) for stage, lines in wanted.stages.items()}
    first = stages.setdefault("build", [])
    if not any(re.match(r"pip\b", line) for line in first) and (wheel := _bundled_pip(python)):
        first.append(wheel)  # as `python -m venv` does
    return [lines for lines in (first, stages.get("run", [])) if lines]


def _bundled_pip(python: str) -> str | None:
    library = os.path.join(os.path.dirname(os.path.dirname(python)), "lib")
    directories = [os.path.join(library, os.path.basename(python), "ensurepip", "_bundled")]
    directories.append("/usr/share/python-wheels")
    for directory in directories:
        for name in _names(directory):
            if re.match(r"pip-[^-]+-py.*\.whl$", name):
                return os.path.join(directory, name)
    return None


def _uv_settings(root: str, reader: Reader) -> list[str]:
    from buildrun.environments.requirements import without_credentials

    found = []
    for name in _UV_CHOICES:
        if value := reader.variable(name):
            found.append(f"{name}={without_credentials(value)}")
    config = reader.variable("XDG_CONFIG_HOME") or os.path.join(reader.home(), ".config")
    for directory in ("/etc/uv", os.path.join(config, "uv"), root):
        found += _contents(directory, ("uv.toml",), reader)
    if b"[tool.uv" in _bytes(os.path.join(root, "pyproject.toml"), reader):
        found += _contents(root, ("pyproject.toml",), reader)
    return found


def _contents(directory: str, names: Sequence[str], reader: Reader) -> list[str]:
    from buildrun import digest

    texts = [(name, _bytes(os.path.join(directory, name), reader)) for name in names]
    return [f"{name} {digest.content(text)}" for name, text in texts if text]


def _bytes(path: str, reader: Reader) -> bytes:
    try:
        return reader.read(path)
    except OSError:
        return b""


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _site_packages(prefix: str) -> str:
    library = os.path.join(prefix, "lib")
    versions = [name for name in _names(library) if name.startswith("python")]
    return os.path.join("lib", versions[0], "site-packages") if versions else "lib"


def _names(directory: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(directory) if name != "__pycache__")
    except OSError:
        return []


def _differs(site: str, row: Sequence[str]) -> bool:
    if row[0].endswith(".pyc"):
        return False
    try:
        status = os.stat(os.path.join(site, row[0]))
    except OSError:
        return True
    # Scripts are written anew for the prefix, so only what lies in site-packages keeps its size.
    sized = len(row) > 2 and row[2].isdigit() and not row[0].startswith("..")
    return sized and status.st_size != int(row[2])
