"""Runs the local executor and the supervisor in processes and on terminals of their own."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from processes import kill_session, processes

from buildrun.executors.base import Result
from buildrun.executors.termination import GracePeriods

ROOT = Path(__file__).parent.parent

# Only reached by a test that fails.
LIMIT = 60.0

# Nothing is sped up or left to time unless a test says so.
NEVER = 1e6
PATIENT = GracePeriods(interrupt=NEVER, end=NEVER, rest=NEVER, echo=0)
IMPATIENT = GracePeriods(interrupt=0, end=0, rest=0, echo=0)

# Another directory than ours takes another way to start.
IN_BOTH_WAYS = pytest.mark.parametrize("directory", [".", "other"])

CTRL_C = "\x03"
CTRL_Z = "\x1a"

# A shell without the user's own settings, and without a line editor that redraws.
SHELL = ("bash", "--norc", "--noprofile", "--noediting", "-i")

_DRIVER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
from buildrun.executors.termination import GracePeriods
from buildrun.executors.base import Job
from buildrun.executors.local import execute
command, cwd, grace, timeout = json.loads(sys.argv[2])
result = execute(Job(command, cwd, dict(os.environ), timeout), grace=GracePeriods(*grace))
with open("result.part", "w") as file:
    json.dump(result, file)
os.replace("result.part", "result")
sys.exit(result.exit_code)
"""

_SUPERVISING_DRIVER = """
import json, os, sys, threading, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from buildrun.executors.termination import GracePeriods
from buildrun.executors.base import Job
from buildrun.executors.supervisor import Supervisor
commands, cwd, grace, timeout = json.loads(sys.argv[2])
results = {}
output = open("output", "wb", buffering=0)
def show(stream, chunk):
    output.write(chunk)
    # A signal may cut a long write short.
    while chunk and sys.stdout is not None:
        chunk = chunk[os.write(1, chunk):]
def work(command):
    job = Job(command, cwd, dict(os.environ), timeout)
    results[command] = supervisor.run(job, show, grace=GracePeriods(*grace))
    supervisor.post(lambda: None)
with Supervisor() as supervisor:
    threads = [threading.Thread(target=work, args=(command,)) for command in commands]
    for thread in threads:
        thread.start()
    number = supervisor.loop(lambda: len(results) == len(threads))
with open("result.part", "w") as file:
    json.dump([number, [results[command] for command in commands]], file)
os.replace("result.part", "result")
sys.exit(128 + number if number else 0)
"""


class Place:
    """A directory with a program `run` in it that executes one command, or several at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.argv: list[str] = []

    def prepare(
        self,
        command: str,
        *,
        grace: GracePeriods = PATIENT,
        directory: str = os.curdir,
        timeout: float | None = None,
    ) -> None:
        self._prepare(_DRIVER, command, grace, directory, timeout)

    def prepare_several(
        self,
        *commands: str,
        grace: GracePeriods = PATIENT,
        directory: str = os.curdir,
        timeout: float | None = None,
    ) -> None:
        self._prepare(_SUPERVISING_DRIVER, commands, grace, directory, timeout)

    def _prepare(
        self,
        driver: str,
        what: str | Sequence[str],
        grace: GracePeriods,
        directory: str,
        timeout: float | None,
    ) -> None:
        cwd = self.path / directory
        cwd.mkdir(exist_ok=True)
        arguments = json.dumps([what, str(cwd), list(grace), timeout])
        self.argv = [sys.executable, "-c", driver, str(ROOT), arguments]
        self.script("run", f"exec {shlex.join(self.argv)}\n")

    def script(self, name: str, text: str) -> None:
        path = self.path / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def fifo(self, name: str) -> None:
        os.mkfifo(self.path / name)

    @property
    def result(self) -> Result:
        return Result(*json.loads((self.path / "result").read_text()))

    @property
    def results(self) -> tuple[int | None, list[Result]]:
        """What the loop of several commands has returned, and how each of them ended."""
        number, results = json.loads((self.path / "result").read_text())
        return number, [Result(*result) for result in results]


class Screen:
    """A process on a terminal of its own, and what a user sees and types there."""

    def __init__(self, place: Place, argv: Sequence[str]) -> None:
        self.shown = b""
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            try:
                for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE):
                    signal.signal(number, signal.SIG_DFL)
                os.chdir(place.path)
                environ = os.environ | {"PS1": "prompt> ", "TERM": "dumb"}
                os.execvpe(argv[0], tuple(argv), environ)
            finally:
                os._exit(127)
        self._code: int | None = None

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def until(self, marker: str) -> str:
        """Return what is shown up to the marker, and remove it."""
        end = marker.encode()
        while end not in self.shown:
            if not self._more():
                raise AssertionError(f"ended without {marker!r}: {self.shown!r}")
        before, _, self.shown = self.shown.partition(end)
        return before.decode(errors="replace")

    def wait(self) -> int:
        """Return the exit code, once all is shown and the terminal is closed."""
        while self._more():
            pass
        return self.code()

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def code(self) -> int:
        if self._code is None:
            _, status = os.waitpid(self.pid, 0)
            self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def close(self) -> None:
        _kill_session(self.pid)
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)
            self.code()
        if self.master >= 0:
            self.hang_up()

    def _more(self) -> bool:
        if not select.select([self.master], [], [], LIMIT)[0]:
            raise AssertionError(f"nothing more after {self.shown!r}")
        try:
            data = os.read(self.master, 4096)
        except OSError:  # EIO is Linux's end of a terminal
            data = b""
        self.shown += data
        return bool(data)


class Process:
    """A process without a terminal, in a session of its own."""

    def __init__(
        self,
        place: Place,
        argv: Sequence[str],
        *,
        ignoring: Sequence[int] = (),
        blocking: Sequence[int] = (),
    ) -> None:
        def prepare() -> None:
            for number in ignoring:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, blocking)

        self.popen = subprocess.Popen(
            argv,
            cwd=place.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )
        self._output = b""

    def signal(self, number: int) -> None:
        self.popen.send_signal(number)

    def type(self, text: str) -> None:
        stdin = _given(self.popen.stdin)
        stdin.write(text.encode())
        stdin.flush()

    def line(self) -> str:
        while b"\n" not in self._output:
            assert self._more(), f"ended with {self._output!r}"
        line, _, self._output = self._output.partition(b"\n")
        return line.decode()

    def rest(self) -> str:
        """Return all further output, once nobody can write any more."""
        while self._more():
            pass
        return self._output.decode()

    def _more(self) -> bool:
        stdout = _given(self.popen.stdout)
        if not select.select([stdout], [], [], LIMIT)[0]:
            raise AssertionError(f"nothing more after {self._output!r}")
        data = os.read(stdout.fileno(), 4096)
        self._output += data
        return bool(data)

    def wait(self) -> int:
        return self.popen.wait(timeout=LIMIT)

    def close(self) -> None:
        _kill_session(self.popen.pid)
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait()
        for stream in (self.popen.stdin, self.popen.stdout):
            _given(stream).close()


def _kill_session(session: int) -> None:
    """Kill what a failed test has left; captured commands have sessions of their own."""
    listed = list(processes())
    parents = {session}
    while more := {each.pid for each in listed if each.parent in parents} - parents:
        parents |= more
    for group in {each.group for each in listed if each.pid in parents - {session}}:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            pass
    kill_session(session)


def python(code: str) -> str:
    """Return the shell command that becomes a Python program."""
    return f"exec {shlex.join([sys.executable, '-c', code])}"


def idle() -> str:
    """Return a command that prints its group as "group=N." and does nothing else.

    Ready when it says so: just before a program is loaded, bash can lose a signal.
    """
    return python(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        # in one piece, as several may write at once
        "os.write(1, f'group={os.getpgrp()}.\\n'.encode())\n"
        "time.sleep(1000)"
    )


def group_in(line: str) -> int:
    """Return the group that `idle` has printed."""
    return int(line.removeprefix("group=").removesuffix("."))


def stubborn() -> str:
    """Return a command that prints "stubborn" and ignores Ctrl-C, like the jobs of a script."""
    return python(
        "import signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('stubborn', flush=True)\n"
        "time.sleep(1000)"
    )


def listen(*numbers: int) -> str:
    """Return a command that prints "ready", then the name of each signal.

    It exits with 7 after the last of them. Bash's own traps would not do: a signal that comes
    just before `read` waits until a line was read.
    """
    names = [signal.Signals(number).name for number in numbers]
    return python(
        f"import os, signal; numbers = {[int(number) for number in numbers]}\n"
        # some are dropped where they have no handler
        "for number in numbers: signal.signal(number, lambda *_: None)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, numbers)\n"
        "print('ready', flush=True)\n"
        f"for _ in {names}: print(signal.Signals(signal.sigwait(numbers)).name, flush=True)\n"
        "os._exit(7)"
    )


def group_has_ended(group: int) -> bool:
    """Return whether the group has no members but zombies, which others have to reap."""
    return not any(each.group == group and "Z" not in each.state for each in processes())


def children() -> set[int]:
    """Return our child processes, ended ones that nobody has reaped too.

    Servers that other tests have started are among them.
    """
    own = os.getpid()
    return {each.pid for each in processes() if each.parent == own}


def wait_until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds; for facts that nothing announces."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.01)


def _given(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


@pytest.fixture(name="place")
def a_place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(name="screen")
def a_screen(place: Place) -> Iterator[Callable[..., Screen]]:
    opened = []

    def open_screen(*argv: str) -> Screen:
        opened.append(Screen(place, argv or ("./run",)))
        return opened[-1]

    yield open_screen
    for one in opened:
        one.close()


@pytest.fixture(name="process")
def a_process(place: Place) -> Iterator[Callable[..., Process]]:
    started = []

    def start(*argv: str, ignoring: Sequence[int] = (), blocking: Sequence[int] = ()) -> Process:
        started.append(Process(place, argv or ("./run",), ignoring=ignoring, blocking=blocking))
        return started[-1]

    yield start
    for one in started:
        one.close()
