"""Calls of uv, and its failures explained."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun.environments import uv_arguments
from buildrun.environments.requirements import name_of
from buildrun.errors import EnvironmentFailure
from buildrun.store import home

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest
    from buildrun.environments.pip_config import Settings
    from buildrun.environments.requirements import Line

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\n]*\r(?!\n)")
_KEPT_BYTES = 1 << 16

# Variables of an active environment, which must not steer uv away from the one being built.
_DROPPED = ("VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT", "UV_PYTHON")


class ToolFailure(Exception):
    """A program ended with an error.

    output: the end of what it said. shown: the user has seen it on the terminal.
    """

    def __init__(self, output: str, *, shown: bool = False) -> None:
        """Keep the program's words."""
        super().__init__(output)
        self.output = output
        self.shown = shown


def program(environ: Mapping[str, str]) -> str:
    """Return the path of uv: the one installed with buildrun, else the one on PATH.

    Raises EnvironmentFailure.
    """
    beside = os.path.join(os.path.dirname(sys.executable), "uv")
    if os.path.isfile(beside):
        return beside
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, OSError):
        found = shutil.which("uv", path=environ.get("PATH"))
    if found is None:
        raise EnvironmentFailure(
            "the uv program is not installed, and it builds the environments",
            hint="pip install uv, or run in your own environment with `--env-manager local`",
        )
    return found


def environment(environ: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's variables as uv should see them."""
    kept = {name: value for name, value in environ.items() if name not in _DROPPED}
    if home.of_user(environ) is None:  # uv would put its cache into the project
        kept = {"UV_CACHE_DIR": os.path.join(home.locate(environ).root, "uv"), **kept}
    return {**kept, **extra}


def call(
    arguments: Sequence[str],
    *,
    cwd: str,
    environ: Mapping[str, str],
    console: Console,
    lock: int = -1,
    text: str = "",
) -> str:
    """Run a program to its end and return what it said.

    On a terminal its progress is seen as well, elsewhere only its failure. text: its standard
    input. lock: a descriptor that it inherits, so that the lock is held until
    it ends even if buildrun is killed.
    Raises ToolFailure.
    """
    show, sink, watch = _open_channel(console)
    try:
        process = subprocess.Popen(
            arguments,
            cwd=cwd,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            pass_fds=(lock,) if lock >= 0 else (),
        )
    finally:
        os.close(sink)
    try:
        _feed(process, text)
        output = _collect(watch, console if show else None)
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        os.close(watch)
    said = _ESCAPES.sub("", output.decode(errors="replace")).strip()
    if code != 0:
        raise ToolFailure(said, shown=show)
    return said


class Tool:
    """uv with the caller's settings, in the project's root or another directory."""

    def __init__(
        self,
        request: EnvironmentRequest,
        settings: Settings,
        console: Console,
        lock: int,
        cwd: str | None = None,
    ) -> None:
        """Find the program; raises EnvironmentFailure where there is none."""
        self._program = program(request.environ)
        self._environ = environment(request.environ, dict(settings.variables))
        self._settings, self._request = settings, request
        self._console, self._lock = console, lock
        self._cwd = cwd or request.project.root

    def run(self, *arguments: str, text: str = "") -> str:
        """Return what it wrote; raises ToolFailure."""
        quiet = () if self._console.live else ("--no-progress",)
        offline = ("--offline",) if self._request.offline else ()
        return call(
            (self._program, *arguments, *quiet, *offline),
            cwd=self._cwd,
            environ=self._environ,
            console=self._console,
            lock=self._lock,
            text=text,
        )

    def pip(self, verb: str, *arguments: str, text: str = "") -> str:
        """Call one of the ``uv pip`` verbs with pip's settings; text: lines of requirements."""
        words, lines = uv_arguments.translate(text.splitlines(), self._environ)
        given = list(self._settings.arguments)
        if "--require-hashes" in words or self._environ.get("UV_REQUIRE_HASHES"):
            # Everything is pinned then; uv would want that of bounds as well, and pip does not.
            given = [word for word in given if not word.startswith("--constraint=")]
            lines = [line for line in lines if not line.startswith("--constraint ")]
        if verb == "compile":  # which always makes hashes
            words = [word for word in words if word != "--require-hashes"]
        text = "".join(f"{line}\n" for line in lines)
        return self.run("pip", verb, *given, *words, *arguments, text=text)


def _open_channel(console: Console) -> tuple[bool, int, int]:
    """Return whether to show, the end to write to and the end to read from."""
    if not console.live:
        reading, writing = os.pipe()
        return False, writing, reading
    import fcntl
    import pty
    import termios

    reading, writing = pty.openpty()
    try:
        window = fcntl.ioctl(console.stream.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        fcntl.ioctl(writing, termios.TIOCSWINSZ, window)
    except (OSError, ValueError):
        pass
    return True, writing, reading


def _feed(process: subprocess.Popen[bytes], text: str) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(text.encode())
        process.stdin.close()
    except BrokenPipeError:
        pass  # it ended before reading; its exit code says why


def _collect(watch: int, console: Console | None) -> bytes:
    kept = b""
    while True:
        try:
            chunk = os.read(watch, 1 << 14)
        except OSError:
            break  # a pseudo-terminal whose other end is closed
        if not chunk:
            break
        kept = (kept + chunk)[-_KEPT_BYTES:]
        if console is not None:
            console.raw(chunk)
    return kept


_REMEDIES = (
    ("no space left", "free space on the store's disk, or set BUILDRUN_HOME to another one"),
    ("failed to initialize cache", "set UV_CACHE_DIR to a directory that can be written"),
    ("read-only file system", "set BUILDRUN_HOME to a directory that can be written"),
    ("permission denied", "set BUILDRUN_HOME to a directory that you may write to"),
    ("not found in the package registry", "check the name's spelling and the package index"),
    ("hash mismatch", "the file is not the one that was locked; do not install it blindly"),
    ("certificate", "name your certificate authority in PIP_CERT or SSL_CERT_FILE"),
    ("no solution found", "loosen or correct the versions that it names"),
    ("not compatible", "choose a version that has a wheel for this platform"),
    ("dns error", "check the network and the index's address"),
    ("error sending request", "check the network and the index's address"),
    ("failed to fetch", "check the network and the index's address"),
    ("network connectivity is disabled", "run once without `--offline`"),
    ("failed to build", "install what the build names, or choose a version with a wheel"),
    ("failed to parse", "correct the requirement"),
)
_CHATTER = ("Using ", "Creating ", "Activate ", "warning:", "Resolved ", "Prepared ")


def explain(
    failure: ToolFailure, what: str, lines: Sequence[Line], default: str
) -> EnvironmentFailure:
    """Return the error to raise.

    failure: uv's; what the user has seen of it is not said again.
    what: the fact, such as "the environment could not be built".
    lines: the requirements, one of which may be to blame. default: the place if none is.
    """
    said = [line.rstrip() for line in failure.output.splitlines() if line.strip()]
    reason = [f"  {line}" for line in said if not line.startswith(_CHATTER)]
    message = what if failure.shown else "\n".join([f"{what}; uv says:", *reason[-12:]])
    return EnvironmentFailure(
        message,
        place=_blame(failure.output, lines) or default,
        hint=_remedy(failure.output),
    )


def locate(path: str | None, text: str) -> str | None:
    """Return the place in a file where a text stands, else the file."""
    try:
        with open(path or "", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if text and text in line:
                    return f"{path}:{number}:{line.index(text) + 1}"
    except (OSError, UnicodeDecodeError):
        pass
    return path


def _blame(output: str, lines: Sequence[Line]) -> str | None:
    said = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.sub(r"[_.]+", "-", output.lower())))
    for line in lines:
        if line.text in output or name_of(line.text) in said:
            return f"{line.path}:{line.number}" if line.number else locate(line.path, line.text)
    return None


def _remedy(output: str) -> str:
    said = output.lower()
    for sign, remedy in _REMEDIES:
        if sign in said:
            return remedy
    return "correct the requirements, or run in your own environment with `--env-manager local`"
