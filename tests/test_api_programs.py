"""Programs that run projects: how their runs end when they end."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from step_helpers import LIMIT, PAUSE, Gate, Live

START = """
import os, signal, sys, threading
import buildrun
def start(name, **more):
    return buildrun.run(sys.argv[1], parameters={"name": name}, env_manager="local", **more)
"""

# Ends only when it is told to, and then says so.
UNTIL_TOLD = "trap 'echo {name} told; exit 9' TERM INT; echo {name} > $UP; sleep 1000 & wait"


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    opened = Gate(tmp_path / "gate")
    yield opened
    opened.close()


@pytest.fixture
def paused(project: Project) -> Path:
    pause = PAUSE.format("{name}")
    return project(
        "entry_points:\n"
        f"  main:\n    parameters: {{name: string}}\n    command: '{pause}; exit 0'\n"
        f'  stays:\n    parameters: {{name: string}}\n    command: "{UNTIL_TOLD}"\n'
    )


def program(tmp_path: Path, text: str, *arguments: Path, gate: Gate) -> Live:
    script = tmp_path / "program.py"
    script.write_text(START + text)
    argv = [sys.executable, str(script), *map(str, arguments)]
    return Live(argv, tmp_path, gate.environ)


def status(buildrun: Buildrun) -> list[str]:
    return sorted(run["status"] for run in buildrun("runs", "ls", "--format", "json").data["runs"])


def test_program_waits_for_its_runs_before_it_exits(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun
) -> None:
    live = program(tmp_path, "start('a', synchronous=False); print('end')", paused, gate=gate)
    assert gate.wait() == "a"
    assert live.process.poll() is None
    gate.open()
    assert live.wait().code == 0
    assert status(buildrun) == ["ok"]


def test_runs_of_a_program_that_is_killed_are_cancelled(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun
) -> None:
    text = (
        "one, two = (start(name, entry_point='stays', synchronous=False) for name in 'ab')\n"
        "one.wait()\n"
    )
    live = program(tmp_path, text, paused, gate=gate)
    assert gate.wait_for(2) == {"a", "b"}
    live.send(signal.SIGKILL)
    outcome = live.wait()  # its streams are closed when the last of its runs has ended
    assert outcome.code == -signal.SIGKILL
    assert sorted(outcome.out.split("\n")) == ["", "a told", "b told"]
    assert status(buildrun) == ["cancelled", "cancelled"]


def test_synchronous_run_of_a_program_that_is_killed_is_cancelled(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun
) -> None:
    live = program(tmp_path, "start('a', entry_point='stays')", paused, gate=gate)
    assert gate.wait() == "a"
    live.send(signal.SIGTERM)
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (-signal.SIGTERM, "a told\n")
    assert status(buildrun) == ["cancelled"]


@pytest.mark.parametrize("waits", ["one.wait()", "pass"])
def test_interrupted_program_ends_its_runs(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun, waits: str
) -> None:
    text = f"one = start('a', entry_point='stays', synchronous=False)\n{waits}\n"
    live = program(tmp_path, text, paused, gate=gate)
    assert gate.wait() == "a"
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert "a told\n" in outcome.out
    assert status(buildrun) == ["cancelled"]


def test_interrupted_synchronous_run_raises_keyboard_interrupt(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun
) -> None:
    text = (
        "try:\n    start('a', entry_point='stays')\n"
        "except KeyboardInterrupt:\n    print('interrupted')\n"
    )
    live = program(tmp_path, text, paused, gate=gate)
    assert gate.wait() == "a"
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "a told\ninterrupted\n")
    assert status(buildrun) == ["cancelled"]


def test_ctrl_c_at_the_terminal_reaches_command_and_program(
    paused: Path, gate: Gate, tmp_path: Path, buildrun: Buildrun
) -> None:
    script = tmp_path / "program.py"
    script.write_text(
        START + "try:\n    start('a')\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(gate.environ)
        os.execv(sys.executable, (sys.executable, script, paused))
    assert gate.wait() == "a"
    os.write(terminal, b"\x03")
    shown = b""
    try:
        while chunk := os.read(terminal, 4096):
            shown += chunk
    except OSError:
        pass  # nobody has the terminal open any more
    os.close(terminal)
    _, status_of_program = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status_of_program) == 0, shown
    assert shown.endswith(b"interrupted\r\n")
    assert status(buildrun) == ["cancelled"]


def test_run_that_alone_was_interrupted_raises_keyboard_interrupt(
    project: Project, gate: Gate, tmp_path: Path
) -> None:
    directory = project(
        "entry_points: {main: {parameters: {name: string}, command: 'kill -INT $PPID; wait; "
        "sleep 1000'}}\n"
    )
    text = "try:\n    start('a')\nexcept KeyboardInterrupt:\n    print('interrupted')\n"
    assert program(tmp_path, text, directory, gate=gate).wait().out == "interrupted\n"


@pytest.mark.parametrize(
    "before",
    [
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    ],
)
def test_what_the_program_does_with_signals_does_not_keep_runs_from_being_cancelled(
    paused: Path, gate: Gate, tmp_path: Path, before: str
) -> None:
    text = (
        f"{before}\n"
        "one = start('a', entry_point='stays', synchronous=False)\n"
        "two = start('b', synchronous=False)\n"
        "sys.stdin.readline()\n"
        "one.cancel()\n"
        "open(os.environ['GO'], 'w').write('\\n')\n"
        "print(two.wait(), one.get_status(), two.get_status())\n"
    )
    script = tmp_path / "program.py"
    script.write_text(START + text)
    process = subprocess.Popen(
        (sys.executable, script, paused),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **gate.environ},
    )
    assert gate.wait_for(2) == {"a", "b"}
    out, _ = process.communicate(b"\n", timeout=LIMIT)
    assert out == b"a told\nTrue KILLED FINISHED\n"


def test_failure_ends_a_program_that_does_not_expect_it(
    project: Project, gate: Gate, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {parameters: {name: string}, command: exit 4}}\n")
    outcome = program(tmp_path, "start('a'); print('after')", directory, gate=gate).wait()
    assert (outcome.code, outcome.out) == (1, "")
    assert "ExecutionException: Run (ID '" in outcome.err


def test_forked_program_does_not_wait_for_runs_that_are_not_its_own(
    paused: Path, gate: Gate, tmp_path: Path
) -> None:
    text = (
        "one = start('a', synchronous=False)\n"
        "if os.fork() == 0:\n    sys.exit(5)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)\n"
        "open(os.environ['GO'], 'w').write('\\n')\n"
        "sys.exit(0 if one.wait() else 1)\n"
    )
    live = program(tmp_path, text, paused, gate=gate)
    assert gate.wait() == "a"
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "5\n")
