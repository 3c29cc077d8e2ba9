"""Runs of steps that stop where a test wants them to, so that nothing has to be timed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from conftest import Outcome

from buildrun import cli

LOCAL = "--env-manager=local"

# Only reached by a test that fails.
LIMIT = 60.0

# A command that says its name, and goes on when it is let.
PAUSE = "echo {} > $UP; read _ < $GO"


class Gate:
    """Two pipes: commands write a line to $UP when they are there, and read one from $GO."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.environ = {"UP": str(directory / "up"), "GO": str(directory / "go")}
        for path in self.environ.values():
            os.mkfifo(path)
        # Open for both, so that no end of a pipe ever waits for the other.
        self._up, self._go = (os.open(path, os.O_RDWR) for path in self.environ.values())
        self._read = b""

    def wait(self) -> str:
        """Return the next line that a command writes."""
        while b"\n" not in self._read:
            ready, _, _ = select.select([self._up], [], [], LIMIT)
            assert ready, "no command has come here"
            self._read += os.read(self._up, 4096)
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def wait_for(self, count: int) -> set[str]:
        return {self.wait() for _ in range(count)}

    def open(self, count: int = 1) -> None:
        """Let as many commands go on."""
        os.write(self._go, b"\n" * count)

    def close(self) -> None:
        os.close(self._up)
        os.close(self._go)


class Live:
    """A process of buildrun that runs while the test does something else."""

    def __init__(self, argv: Sequence[str], cwd: Path, environ: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            argv,
            cwd=cwd,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._err = b""

    def said(self, text: str) -> None:
        """Return when it has written the text to standard error."""
        assert self.process.stderr is not None
        while text.encode() not in self._err:
            ready, _, _ = select.select([self.process.stderr], [], [], LIMIT)
            chunk = os.read(self.process.stderr.fileno(), 65536) if ready else b""
            assert chunk, f"`{text}` was not said: {self._err!r}"
            self._err += chunk

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=LIMIT)

    def wait(self) -> Outcome:
        out, err = self.process.communicate(timeout=LIMIT)
        return Outcome(
            self.process.returncode,
            out.decode(errors="surrogateescape"),
            (self._err + err).decode(errors="surrogateescape"),
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=LIMIT)


def argv(*arguments: str | os.PathLike[str]) -> list[str]:
    return [sys.executable, "-m", "buildrun", *(os.fspath(each) for each in arguments)]


def hooked(code: str, *arguments: str | os.PathLike[str]) -> list[str]:
    """Return the command line of a buildrun that calls ``at(event, args)`` of the code.

    The code sees `os`, `signal` and `sys`; `at` is called before every event that CPython tells
    of, such as the opening of a file, but not for what it does itself.
    """
    return [sys.executable, "-c", _HOOKED + code + _ENTRY, *(os.fspath(each) for each in arguments)]


_HOOKED = """
import os, signal, sys, threading
inside = threading.local()
def hook(event, args):
    if armed and not getattr(inside, "hook", False) and not event.startswith("sys."):
        inside.hook = True
        try:
            at(event, args)
        finally:
            inside.hook = False
armed = False
"""

_ENTRY = """
sys.addaudithook(hook)
from buildrun import cli
armed = True
cli.entry()
"""


def states(report: Path) -> dict[str, str]:
    return {step["id"]: step["state"] for step in json.loads(report.read_text())["steps"]}


def read(path: Path) -> str:
    return path.read_text(errors="surrogateescape")


# What a child would import anew each time.
_LOADED = (
    "commands.run", "environments.planned", "environments.system", "executors.supervisor",
    "project.read", "runner", "step_runner", "workspace.outputs", "workspace.restore",
)  # fmt: skip


def forked(
    *arguments: str | os.PathLike[str],
    directory: Path,
    at: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Run the command line in a child of this process, which has loaded what it needs already.

    at: is called before every event that changes a file system, or starts a command.
    directory: where the output is kept for a moment.
    """
    for name in _LOADED:
        import_module(f"buildrun.{name}")
    paths = [directory / "stdout", directory / "stderr"]
    pid = os.fork()
    if pid == 0:
        try:
            _become(paths, [os.fspath(each) for each in arguments], at)
        finally:
            os._exit(99)
    _, status = os.waitpid(pid, 0)
    out, err = (path.read_text(errors="surrogateescape") for path in paths)
    return Outcome(os.waitstatus_to_exitcode(status), out, err)


def _become(
    paths: Sequence[Path], arguments: list[str], at: Callable[[str, Any], None] | None
) -> None:
    streams = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for path in paths]
    for number, descriptor in enumerate([os.open(os.devnull, os.O_RDONLY), *streams]):
        os.dup2(descriptor, number)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["buildrun", *arguments]
    if at is not None:
        sys.addaudithook(lambda event, args: at(event, args) if _changes(event, args) else None)
    cli.entry()


def _changes(event: str, args: Any) -> bool:
    if event == "open":
        return bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and args[0] != os.devnull
    return event in _CHANGES


_CHANGES = frozenset(
    {
        "os.chmod", "os.link", "os.mkdir", "os.posix_spawn", "os.fork", "os.remove", "os.rename",
        "os.rmdir", "os.symlink", "os.truncate", "os.utime", "fcntl.flock",
    }
)  # fmt: skip
