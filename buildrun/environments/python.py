"""Python interpreters on this machine, chosen by version."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from buildrun.environments import uv
from buildrun.environments.failures import ToolFailure, locate
from buildrun.errors import EnvironmentFailure
from buildrun.project.rules.environments import fits, parse_version
from buildrun.store.memo import memoize

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest
    from buildrun.project.model import PythonEnv
    from buildrun.store.memo import DependencyTracker, Memo

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
    request: str | None, reader: DependencyTracker, memory: Memo, environ: Mapping[str, str]
) -> Interpreter | None:
    """Return the newest interpreter that fits, or None.

    request: ``3``, ``3.11``, ``3.11.7``, ``3.11.*`` or a range such as ``>=3.10,<3.13``; None is
        the very version that runs buildrun, as in MLflow.
    A choice is kept while its program is unchanged, even when a newer Python is installed later.
    """
    here = running()
    if request is None or request.strip() == here.version:
        found: Interpreter | None = here
    else:
        value = memoize(memory, f"python {request}", environ, lambda inner: _newest(request, inner))
        found = Interpreter(*value) if value else None
    if found is not None:
        reader.executable(found.path)
    return found


def _newest(request: str, reader: DependencyTracker) -> Interpreter | None:
    fitting = [item for item in _candidates(reader) if fits(item.version, request)]
    if not fitting:
        reader.untrackable = True
        return None
    best = max(fitting, key=lambda item: parse_version(item.version))
    reader.executable(best.path)
    return best


def installed(reader: DependencyTracker) -> list[Interpreter]:
    """Return the interpreters of pyenv, of uv and on PATH, and the running one."""
    found = {interpreter.path: interpreter for interpreter in _candidates(reader)}
    return list(found.values())


def _candidates(reader: DependencyTracker) -> Iterator[Interpreter]:
    yield running()
    home = reader.home()
    pyenv = reader.variable("PYENV_ROOT") or os.path.join(home, ".pyenv")
    yield from _versioned(os.path.join(pyenv, "versions"))
    data = reader.variable("XDG_DATA_HOME") or os.path.join(home, ".local", "share")
    uv = reader.variable("UV_PYTHON_INSTALL_DIR") or os.path.join(data, "uv", "python")
    yield from _versioned(uv)
    yield from _on_path(reader.variable("PATH") or os.defpath)


def _versioned(directory: str) -> Iterator[Interpreter]:
    for name in _names(directory):
        match = _DIRECTORY.match(name)
        if match:
            path = os.path.join(directory, name, "bin", "python3")
            if os.access(path, os.X_OK):
                yield Interpreter(os.path.realpath(path), match.group(1))


def _on_path(search: str) -> Iterator[Interpreter]:
    programs: dict[str, None] = {}
    for directory in search.split(os.pathsep):
        if not directory or "shims" in directory.split(os.sep):
            continue  # pyenv's shims are scripts that answer for another version
        for name in filter(_PROGRAM.match, _names(directory)):
            path = os.path.realpath(os.path.join(directory, name))
            if os.access(path, os.X_OK):
                programs[path] = None
    yield from _ask(list(programs))


def _ask(paths: Sequence[str]) -> Iterator[Interpreter]:
    """Ask programs for their versions, all at once; those that do not answer are left out."""
    import subprocess

    asked = []
    for path in paths:
        try:
            command = (path, "-I", "-S", "-c", _ASK)
            null = subprocess.DEVNULL
            asked.append(
                (path, subprocess.Popen(command, stdin=null, stdout=subprocess.PIPE, stderr=null))
            )
        except OSError:
            continue
    for path, process in asked:
        try:
            answer = process.communicate(timeout=_ANSWER)[0].decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            continue
        if process.returncode == 0 and answer:
            yield Interpreter(path, answer)


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


class PythonMissing(EnvironmentFailure):
    """No interpreter here fits; the network may have one."""

    def __init__(
        self, declared: PythonEnv, installed: Sequence[str], request: EnvironmentRequest
    ) -> None:
        """Say what was asked for and what is there."""
        there = sorted(set(installed), key=lambda text: [int(part) for part in text.split(".")])
        super().__init__(
            f"Python {declared.python} is not on this machine, which has {', '.join(there)}",
            place=locate(declared.path, declared.python or ""),
            hint=f"install it (`uv python install {declared.python}` or `pyenv install`), "
            "or ask for one that is there",
        )
        self._wanted = declared.python or ""
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
