"""Runs of steps that stop where a test wants them to, so that nothing has to be timed."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import command_line
import pytest
from conftest import Outcome

LOCAL = "--env-manager=local"

# Only reached by a test that fails.
LIMIT = 60.0

TWO = """\
name: two
entry_points:
  first:
    inputs: [in.txt]
    outputs: [first.txt, tree/]
    command: "mkdir -p tree/deep; cat in.txt > first.txt; cp in.txt tree/deep/a; echo told"
  main:
    depends_on: [first]
    inputs: [first.txt]
    outputs: [main.txt]
    command: "cat first.txt tree/deep/a > main.txt"
"""

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


@pytest.fixture(name="gate")
def a_gate(tmp_path: Path) -> Iterator[Gate]:
    """Return what holds commands up."""
    made = Gate(tmp_path / "gate")
    yield made
    made.close()


class Ran(Outcome):
    """How a run ended; report: what it wrote of itself, {} where it could not."""

    report: Any = None

    @classmethod
    def of(cls, outcome: Outcome, report: Path) -> Ran:
        """Read the report, and remove it."""
        ran = cls(*outcome)
        ran.report = json.loads(report.read_text()) if report.exists() else {}
        report.unlink(missing_ok=True)
        return ran

    @property
    def states(self) -> dict[str, str]:
        """Return the state of each step."""
        assert self.code == self.report["exit_code"], self.err
        return {step["id"]: step["state"] for step in self.report["steps"]}


Run = Callable[..., Ran]


@pytest.fixture(name="run")
def a_run(tmp_path: Path) -> Run:
    """Return a function that runs a project to its end; at: see ``command_line.call``."""

    def call(
        directory: Path,
        *arguments: str | Path,
        environ: Mapping[str, str] | None = None,
        at: Callable[[str, Any], None] | None = None,
    ) -> Ran:
        report = tmp_path / "report.json"
        words: tuple[str | Path, ...] = ("run", directory, LOCAL, "--report", report, *arguments)
        variables = {**os.environ, **(environ or {})}
        return Ran.of(command_line.call(words, tmp_path, variables, at=at), report)

    return call


class Live:
    """A process of buildrun that runs while the test does something else."""

    def __init__(
        self, argv: Sequence[str], cwd: Path, environ: Mapping[str, str], report: Path | None = None
    ) -> None:
        self._report = report or cwd / "no-report"
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

    def wait(self) -> Ran:
        out, err = self.process.communicate(timeout=LIMIT)
        texts = [text.decode(errors="surrogateescape") for text in (out, self._err + err)]
        return Ran.of(Outcome(self.process.returncode, *texts), self._report)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.communicate(timeout=LIMIT)


Start = Callable[..., Live]


@pytest.fixture(name="start")
def a_start(tmp_path: Path, gate: Gate) -> Iterator[Start]:
    """Return a function that starts a run, with the gate's pipes in its environment.

    code: defines ``at(event, args)``, called before every event that CPython tells of, such as
    the opening of a file, but not for what it does itself; it sees `os`, `signal` and `sys`.
    """
    started: list[Live] = []

    def call(
        directory: Path, *arguments: str | Path, code: str | None = None, **environ: str
    ) -> Live:
        report = tmp_path / f"report{len(started)}.json"
        words = [str(each) for each in ("run", directory, LOCAL, "--report", report, *arguments)]
        program = ["-m", "buildrun"] if code is None else ["-c", _HOOKED + code + _ENTRY]
        argv = [sys.executable, *program, *words]
        started.append(Live(argv, tmp_path, {**gate.environ, **environ}, report))
        return started[-1]

    yield call
    for live in started:
        live.close()


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
