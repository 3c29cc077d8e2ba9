"""Runs commands alone or captured, in this process or in one of its own, also on a terminal."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest
from processes import kill_session, processes, state_of

from buildrun.executors.base import Job, OutputSink, Result, Usage
from buildrun.executors.supervisor import Supervisor
from buildrun.executors.termination import GracePeriods

ROOT = Path(__file__).parent.parent

# Only reached by a test that fails.
LIMIT = 60.0

# Nothing is sped up or left to time unless a test says so.
NEVER = 1e6
PATIENT = GracePeriods(interrupt=NEVER, end=NEVER, rest=NEVER, echo=0)
IMPATIENT = GracePeriods(interrupt=0, end=0, rest=0, echo=0)

CTRL_C = "\x03"
CTRL_Z = "\x1a"

# A shell without the user's own settings, and without a line editor that redraws.
SHELL = ("bash", "--norc", "--noprofile", "--noediting", "-i")

# Leaves [the signal that ended the loop, the result of each command], and exits as the first one.
_DRIVER = """
import json, os, sys, threading, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
from buildrun.executors.termination import GracePeriods
from buildrun.executors.base import Job
from buildrun.executors.local import execute
from buildrun.executors.supervisor import Supervisor
captured, commands, cwd, grace, timeout = json.loads(sys.argv[2])
grace = GracePeriods(*grace)
jobs = [Job(command, cwd, dict(os.environ), timeout) for command in commands]
results = {}
output = open("output", "wb", buffering=0)
def show(stream, chunk):
    output.write(chunk)
    # A signal may cut a long write short.
    while chunk and sys.stdout is not None:
        chunk = chunk[os.write(1, chunk):]
def work(number):
    results[number] = supervisor.run(jobs[number], show, grace=grace)
    supervisor.post(lambda: None)
if captured:
    with Supervisor() as supervisor:
        for number in range(len(jobs)):
            threading.Thread(target=work, args=(number,)).start()
        interrupted = supervisor.loop(lambda: len(results) == len(jobs))
else:
    results[0] = execute(jobs[0], grace=grace)
    interrupted = results[0].interrupted
with open("result.part", "w") as file:
    json.dump([interrupted, [results[number] for number in range(len(jobs))]], file)
os.replace("result.part", "result")
sys.exit(results[0].exit_code)
"""


class Place:
    """A directory with a program `run` in it that executes one command, or several captured."""

    def __init__(self, path: Path, *, captured: bool) -> None:
        self.path = path
        self.argv: list[str] = []
        self._captured = captured

    def prepare(
        self,
        *commands: str,
        grace: GracePeriods = PATIENT,
        directory: str = os.curdir,
        timeout: float | None = None,
    ) -> None:
        cwd = self.path / directory
        cwd.mkdir(exist_ok=True)
        arguments = json.dumps([self._captured, commands, str(cwd), list(grace), timeout])
        self.argv = [sys.executable, "-c", _DRIVER, str(ROOT), arguments]
        self.script("run", f"exec {shlex.join(self.argv)}\n")

    def script(self, name: str, text: str) -> None:
        path = self.path / name
        path.write_text(f"#!/bin/sh\n{text}")
        path.chmod(0o755)

    @property
    def result(self) -> Result:
        """How the command ended; by the signal that ended the loop, if by one."""
        interrupted, (result,) = self.results
        assert result.interrupted == interrupted
        return result

    @property
    def results(self) -> tuple[int | None, list[Result]]:
        """The signal that ended the loop, and how each command ended, less what it has used."""
        number, results = json.loads((self.path / "result").read_text())
        return number, [Result(*result)._replace(usage=None) for result in results]


class _Shown:
    """What a process shows on a descriptor of ours."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = b""

    def until(self, marker: str) -> str:
        """Return what is shown up to the marker, and remove it."""
        end = marker.encode()
        while end not in self._shown:
            assert self._more(), f"ended without {marker!r}: {self._shown!r}"
        before, _, self._shown = self._shown.partition(end)
        return before.decode(errors="replace")

    def line(self) -> str:
        return self.until("\n")

    def group(self) -> int:
        """Return the group that `idle` prints."""
        self.until("group=")
        return int(self.until("."))

    def rest(self) -> str:
        """Return all further output, once nobody can write any more."""
        while self._more():
            pass
        return self._shown.decode()

    def _more(self) -> bool:
        ready = select.select([self._descriptor], [], [], LIMIT)[0]
        assert ready, f"nothing more after {self._shown!r}"
        try:
            data = os.read(self._descriptor, 4096)
        except OSError:  # EIO is Linux's end of a terminal
            data = b""
        self._shown += data
        return bool(data)


class Screen(_Shown):
    """A process on a terminal of its own, and what a user sees and types there."""

    def __init__(self, place: Place, argv: Sequence[str]) -> None:
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
        super().__init__(self.master)
        self._ended = False

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def talk(self, *texts: str) -> None:
        """Type the first text, wait for the second one to be shown, and so on."""
        for number, text in enumerate(texts):
            self.until(text) if number % 2 else self.type(text)

    def wait(self) -> int:
        """Return the exit code, once all is shown and the terminal is closed."""
        self.rest()
        return self._code()

    def hang_up(self) -> None:
        os.close(self.master)
        self.master = -1

    def close(self) -> None:
        _kill_session(self.pid)
        if not self._ended:
            os.kill(self.pid, signal.SIGKILL)
            self._code()
        if self.master >= 0:
            self.hang_up()

    def _code(self) -> int:
        self._ended = True
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Process(_Shown):
    """A process without a terminal, in a session of its own."""

    def __init__(
        self, place: Place, argv: Sequence[str], ignoring: Sequence[int], blocking: Sequence[int]
    ) -> None:
        def prepare() -> None:
            for number in ignoring:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_BLOCK, blocking)

        self._popen = subprocess.Popen(
            argv,
            cwd=place.path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509 - no threads here
        )
        super().__init__(_given(self._popen.stdout).fileno())

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)

    def type(self, text: str) -> None:
        stdin = _given(self._popen.stdin)
        stdin.write(text.encode())
        stdin.flush()

    def wait(self) -> int:
        return self._popen.wait(timeout=LIMIT)

    def close(self) -> None:
        _kill_session(self._popen.pid)
        if self._popen.poll() is None:
            self._popen.kill()
        self._popen.wait()
        for stream in (self._popen.stdin, self._popen.stdout):
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


class Run:
    """A captured command in a thread of its own, and what has come of it so far."""

    def __init__(
        self,
        supervisor: Supervisor,
        job: Job,
        sink: OutputSink | None = None,
        grace: GracePeriods = IMPATIENT,
    ) -> None:
        self.result: Result | None = None
        self.usage: Usage | None = None
        self.error: BaseException | None = None
        self.written = {1: bytearray(), 2: bytearray()}
        self._sink = sink
        self._supervisor = supervisor
        self._thread = threading.Thread(target=self._to_end, args=(job, grace))
        self._thread.start()

    @property
    def ended(self) -> bool:
        return self.result is not None or self.error is not None

    def join(self) -> Run:
        self._thread.join(timeout=LIMIT)
        assert not self._thread.is_alive()
        return self

    def _take(self, stream: int, chunk: bytes) -> None:
        self.written[stream] += chunk
        if self._sink is not None:
            self._sink(stream, chunk)

    def _to_end(self, job: Job, grace: GracePeriods) -> None:
        try:
            result = self._supervisor.run(job, self._take, grace=grace)
            self.usage, self.result = result.usage, result._replace(usage=None)
        except BaseException as error:
            self.error = error
        self._supervisor.post(lambda: None)


def supervise(
    *jobs: Job, sink: OutputSink | None = None, grace: GracePeriods = IMPATIENT
) -> list[Run]:
    """Run all of them at once, to their end."""
    with Supervisor() as supervisor:
        runs = [Run(supervisor, job, sink, grace) for job in jobs]
        assert supervisor.loop(lambda: all(run.ended for run in runs)) is None
    return [run.join() for run in runs]


def job(command: str, cwd: Path | str = ".", timeout: float | None = None, **environ: str) -> Job:
    return Job(command, os.path.abspath(cwd), dict(os.environ) | environ, timeout)


class Gate:
    """A fifo on which commands wait, each for its turn, with `WAIT`."""

    WAIT = "read -r _ <gate"

    def __init__(self, directory: Path) -> None:
        os.mkfifo(directory / "gate")
        # for both, so that neither side waits for the other to open it
        self._descriptor = os.open(directory / "gate", os.O_RDWR)

    def open(self, turns: int = 1) -> None:
        os.write(self._descriptor, b"\n" * turns)

    def close(self) -> None:
        os.close(self._descriptor)


def python(code: str) -> str:
    """Return the shell command that becomes a Python program."""
    return f"exec {shlex.join([sys.executable, '-c', code])}"


# Takes 0.3 s of the processor in one process, and 200 MB of memory in another one.
_BURN = python("import time\nwhile time.process_time() < 0.3: pass")
_FILL = python("len(b'x' * 200_000_000)")
BUSY = f"({_BURN}) && ({_FILL})"


def idle(on_ctrl_c: str = "DFL") -> str:
    """Return a command that prints its group as "group=N." and does nothing else.

    Ready when it says so: just before a program is loaded, bash can lose a signal.
    on_ctrl_c: "IGN" to ignore it, like the jobs of a script.
    """
    return python(
        "import os, signal, time\n"
        f"signal.signal(signal.SIGINT, signal.SIG_{on_ctrl_c})\n"
        # in one piece, as several may write at once
        "os.write(1, f'group={os.getpgrp()}.\\n'.encode())\n"
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


def is_stopped(pid: int) -> bool:
    return state_of(pid).startswith("T")


def group_has_ended(group: int) -> bool:
    """Return whether the group has no members but zombies, which others have to reap."""
    return not any(each.group == group and "Z" not in each.state for each in processes())


def children() -> set[int]:
    """Return our child processes, ended ones and servers of other tests too."""
    return {each.pid for each in processes() if each.parent == os.getpid()}


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
def a_place(tmp_path: Path, captured: bool) -> Place:
    """Return the directory; `captured` is for the test's own module to say."""
    return Place(tmp_path, captured=captured)


@pytest.fixture(name="directory", params=[".", "other"])
def a_directory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return ours and then another directory; commands are started in different ways there."""
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    return str(request.param)


@pytest.fixture(name="gate")
def a_gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


OpenScreen = Callable[..., Screen]
StartProcess = Callable[..., Process]


@pytest.fixture(name="screen")
def a_screen(place: Place) -> Iterator[OpenScreen]:
    opened: list[Screen] = []

    def open_screen(*argv: str) -> Screen:
        opened.append(Screen(place, argv or ("./run",)))
        return opened[-1]

    yield open_screen
    for one in opened:
        one.close()


@pytest.fixture(name="process")
def a_process(place: Place) -> Iterator[StartProcess]:
    started: list[Process] = []

    def start(*argv: str, ignoring: Sequence[int] = (), blocking: Sequence[int] = ()) -> Process:
        started.append(Process(place, argv or ("./run",), ignoring, blocking))
        return started[-1]

    yield start
    for one in started:
        one.close()
