"""Python interpreters on this machine, chosen by version."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from buildrun.console import Console
from buildrun.environments import uv
from buildrun.environments.base import EnvironmentRequest
from buildrun.environments.failures import ToolFailure, locate
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import PythonEnv
from buildrun.project.rules.environments import fits, parse_version
from buildrun.store import files
from buildrun.store.memo import DependencyTracker, memoize

_DIRECTORY = re.compile(r"^(?:cpython-)?([0-9]+\.[0-9]+\.[0-9]+)(?:-|$)")
_PROGRAM = re.compile(r"^python(?:3(?:\.[0-9]+)?)?$")
_ASK = (
    "import sys; sys.implementation.name == 'cpython' and sys.version_info[3] == 'final' "
    "and print('%d.%d.%d' % sys.version_info[:3])"
)
_ANSWER = 20.0  # seconds that a program may take to tell its version


class Interpreter(NamedTuple):
    """A CPython: the path of its program and its full version, such as ``3.11.7``."""

    path: str
    version: str


def running() -> Interpreter:
    """Return the interpreter that runs buildrun, outside of its virtualenv."""
    path = getattr(sys, "_base_executable", None) or sys.executable
    return Interpreter(os.path.realpath(path), ".".join(str(part) for part in sys.version_info[:3]))


def find(
    declared: PythonEnv, request: EnvironmentRequest, reader: DependencyTracker
) -> Interpreter:
    """Return the newest interpreter that fits; raises PythonMissing.

    Without a version it is the one that runs buildrun, as in MLflow. A choice is kept while its
    program is unchanged, even when a newer Python is installed later.
    """
    wanted, found = declared.python, running()
    if wanted is not None and wanted.strip() != found.version:

        def newest(inner: DependencyTracker) -> Interpreter | None:
            fitting = [item for item in _candidates(inner) if fits(item.version, wanted)]
            if not fitting:
                inner.untrackable = True
                return None
            best = max(fitting, key=lambda item: parse_version(item.version))
            inner.executable(best.path)
            return best

        value = memoize(request.memo, f"python {wanted}", request.environ, newest)
        if not value:
            installed = {item.version for item in _candidates(reader)}
            raise PythonMissing(wanted, declared.path, installed, request)
        found = Interpreter(*value)
    reader.executable(found.path)
    return found


def _candidates(reader: DependencyTracker) -> Iterator[Interpreter]:
    """Yield the running interpreter, then those of pyenv, of uv and on PATH."""
    yield running()
    home = reader.home()
    pyenv = reader.variable("PYENV_ROOT") or os.path.join(home, ".pyenv")
    data = reader.variable("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    uv_python = reader.variable("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
    for directory in (os.path.join(pyenv, "versions"), uv_python):
        for name in files.names_in(directory):
            match = _DIRECTORY.match(name)
            path = os.path.join(directory, name, "bin", "python3")
            if match and os.access(path, os.X_OK):
                yield Interpreter(os.path.realpath(path), match.group(1))
    for path in _on_path(reader.variable("PATH") or os.defpath):
        if version := _version_of(path):
            yield Interpreter(path, version)


def _on_path(search: str) -> list[str]:
    programs: dict[str, None] = {}
    for directory in search.split(os.pathsep):
        if not directory or "shims" in directory.split(os.sep):
            continue  # pyenv's shims are scripts that answer for another version
        for name in filter(_PROGRAM.match, files.names_in(directory)):
            path = os.path.realpath(os.path.join(directory, name))
            if os.access(path, os.X_OK):
                programs[path] = None
    return list(programs)


def _version_of(path: str) -> str:
    """Return the version of a program that is a CPython, "" for any other."""
    try:
        done = subprocess.run(
            (path, "-I", "-S", "-c", _ASK),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""


class PythonMissing(EnvironmentFailure):
    """No interpreter here fits; the network may have one."""

    def __init__(
        self, wanted: str, path: str | None, installed: set[str], request: EnvironmentRequest
    ) -> None:
        """Say what was asked for and what is there."""
        there = sorted(installed, key=parse_version)
        super().__init__(
            f"Python {wanted} is not on this machine, which has {', '.join(there)}",
            place=locate(path, wanted),
            hint=f"install it (`uv python install {wanted}` or `pyenv install`), "
            "or ask for one that is there",
        )
        self._wanted = wanted
        self._request = request

    def obtain(self, console: Console) -> None:
        """Have uv download it, unless uv's own settings forbid; raises the error itself."""
        environ = self._request.environ
        if environ.get("UV_PYTHON_DOWNLOADS") == "never":
            raise self
        console.note(f"{self.message}; asking uv to download it")
        try:
            uv.call(
                (uv.program(environ), "python", "install", self._wanted),
                cwd=self._request.project.root,
                environ=uv.environment(environ, {}),
                console=console,
            )
        except ToolFailure as failure:
            console.warn(f"uv could not: {failure.output.splitlines()[-1].strip()}")
            raise self from None
