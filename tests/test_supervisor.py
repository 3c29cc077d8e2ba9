"""Several captured commands at once, with real processes and real terminals."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from executor_helpers import (  # noqa: F401
    CTRL_C,
    CTRL_Z,
    IMPATIENT,
    IN_BOTH_WAYS,
    PATIENT,
    ROOT,
    SHELL,
    Place,
    Process,
    Screen,
    a_place,
    a_process,
    a_screen,
    children,
    group_has_ended,
    group_in,
    idle,
    listen,
    python,
    wait_until,
)
from processes import state_of

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, Result
from buildrun.executors.signals import CAUGHT
from buildrun.executors.supervisor import OutputSink, Supervisor
from buildrun.executors.termination import GracePeriods

# Commands that start elsewhere than here are forked.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


class Run:
    """A command in a thread of its own, and what has come of it so far."""

    def __init__(
        self,
        supervisor: Supervisor,
        job: Job,
        sink: OutputSink | None = None,
        grace: GracePeriods = IMPATIENT,
    ) -> None:
        self.result: Result | None = None
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
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()
        return self

    def _take(self, stream: int, chunk: bytes) -> None:
        self.written[stream] += chunk
        if self._sink is not None:
            self._sink(stream, chunk)

    def _to_end(self, job: Job, grace: GracePeriods) -> None:
        try:
            self.result = self._supervisor.run(job, self._take, grace=grace)
        except BaseException as error:
            self.error = error
        self._supervisor.post(lambda: None)


class Enough(Exception):
    """Raised by a sink that has seen what it wanted."""


def job(command: str, cwd: Path | str = ".", timeout: float | None = None, **environ: str) -> Job:
    return Job(command, os.path.abspath(cwd), dict(os.environ) | environ, timeout)


def supervise(*jobs: Job, sink: OutputSink | None = None) -> list[Run]:
    """Run all of them at once, to their end."""
    with Supervisor() as supervisor:
        runs = [Run(supervisor, one, sink) for one in jobs]
        assert supervisor.loop(lambda: all(run.ended for run in runs)) is None
    return [run.join() for run in runs]


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


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    made = Gate(tmp_path)
    yield made
    made.close()


# What a command gets, and how it ends


@IN_BOTH_WAYS
@pytest.mark.parametrize(
    ("command", "code"),
    [("true", 0), ("exit 3", 3), ("kill -KILL $$", 137), ("kill -INT $$", 130)],
)
def test_exit_code_is_the_commands(
    command: str, code: int, directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    (run,) = supervise(job(command, directory))
    assert run.result == Result(code)


@IN_BOTH_WAYS
def test_streams_are_told_apart(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    (run,) = supervise(job("echo out; echo err >&2; pwd -P", directory))
    assert run.written[1].decode() == f"out\n{(tmp_path / directory).resolve()}\n"
    assert run.written[2] == b"err\n"


def test_stdin_is_empty(tmp_path: Path) -> None:
    (run,) = supervise(job("cat; readlink /proc/self/fd/0 || echo /dev/null", tmp_path))
    assert run.written[1] == b"/dev/null\n"


@IN_BOTH_WAYS
def test_descriptors_of_ours_are_not_inherited(
    directory: str, place: Place, process: Callable[..., Process]
) -> None:
    look = "import os; print([n for n in range(100) if os.path.exists(f'/dev/fd/{n}')])"
    place.prepare_several(python(look), directory=directory)
    assert process().rest() == "[0, 1, 2]\n"


@IN_BOTH_WAYS
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_of_ours_are_no_harm(
    closed: str, directory: str, place: Place, process: Callable[..., Process]
) -> None:
    place.prepare_several("cat && echo out && echo err >&2", directory=directory)
    assert process("bash", "-c", f"./run {closed}").wait() == 0
    assert place.results == (None, [Result(0)])
    assert sorted((place.path / "output").read_text().split()) == ["err", "out"]


@IN_BOTH_WAYS
def test_command_gets_default_signals(
    directory: str, place: Place, process: Callable[..., Process]
) -> None:
    # bash lists what it found ignored
    look = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    place.prepare_several(f"trap; {python(look)}", directory=directory)
    assert process().rest() == "0\n"


@IN_BOTH_WAYS
def test_command_has_no_terminal(
    directory: str, place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare_several("(: </dev/tty) 2>/dev/null || echo none", directory=directory)
    shown = screen()
    shown.until("none")
    assert shown.wait() == 0


def test_all_that_was_written_arrives_in_order(tmp_path: Path) -> None:
    (run,) = supervise(job("seq 200000", tmp_path))
    assert run.written[1].decode().split() == [str(n) for n in range(1, 200001)]


def test_chunks_of_two_streams_arrive_in_the_order_of_writing(tmp_path: Path, gate: Gate) -> None:
    written = []

    def sink(stream: int, chunk: bytes) -> None:
        written.append((stream, chunk))
        gate.open()

    turns = "".join(f"echo {n} >&{1 + n % 2}; {Gate.WAIT}; " for n in range(20))
    supervise(job(turns, tmp_path), sink=sink)
    assert written == [(1 + n % 2, f"{n}\n".encode()) for n in range(20)]


def test_output_through_another_process_is_not_lost(tmp_path: Path) -> None:
    (run,) = supervise(job("exec > >(cat); echo through", tmp_path))
    assert run.written[1] == b"through\n"


def test_background_process_that_keeps_the_output_open_does_not_keep_us(tmp_path: Path) -> None:
    (run,) = supervise(job("sleep 1000 & echo $!", tmp_path))
    assert run.result == Result(0)
    os.kill(int(run.written[1]), signal.SIGKILL)  # raises where it has ended


def test_background_process_that_goes_on_writing_does_not_keep_us(tmp_path: Path) -> None:
    (run,) = supervise(job("echo $$; yes & exit 3", tmp_path))
    assert run.result == Result(3)
    group = int(run.written[1].partition(b"\n")[0])
    # nobody reads what it writes any more
    wait_until(lambda: group_has_ended(group))


def test_streams_that_are_closed_early_do_not_end_the_command(tmp_path: Path, gate: Gate) -> None:
    command = f"echo on; exec >&- 2>&-; {Gate.WAIT}; exit 3"
    (run,) = supervise(job(command, tmp_path), sink=lambda *_: gate.open())
    assert run.result == Result(3)
    assert run.written[1] == b"on\n"


# Side by side


def test_commands_run_at_the_same_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "one")
    os.mkfifo(tmp_path / "two")
    first, second = supervise(
        job("echo hello >one; read -r line <two; echo $line", tmp_path),
        job("read -r line <one; echo $line back >two; echo $line", tmp_path),
    )
    assert first.written[1] == b"hello back\n"
    assert second.written[1] == b"hello\n"


@pytest.mark.parametrize("count", [50, 200])
def test_many_run_at_once(
    count: int, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = children()
    monkeypatch.chdir(tmp_path)
    ready = []

    def sink(stream: int, chunk: bytes) -> None:
        if chunk == b"ready\n":
            ready.append(stream)
        if len(ready) == count and chunk == b"ready\n":
            gate.open(count)

    jobs = [job(f"echo ready; {Gate.WAIT}; exit {n % 256}", tmp_path) for n in range(count)]
    runs = supervise(*jobs, sink=sink)
    assert [run.result for run in runs] == [Result(n % 256) for n in range(count)]
    assert children() == others


def test_one_that_never_stops_writing_does_not_starve_another(tmp_path: Path) -> None:
    sizes = []
    with Supervisor() as supervisor:

        def flood(_: int, chunk: bytes) -> None:
            sizes.append(len(chunk))
            if len(sizes) == 10:
                others.append(Run(supervisor, job("echo hello", tmp_path)))
            if others and others[0].ended:
                raise Enough

        others: list[Run] = []
        flooding = Run(supervisor, job("yes", tmp_path), flood)
        supervisor.loop(lambda: flooding.ended)
    assert isinstance(flooding.join().error, Enough)
    assert others[0].join().written[1] == b"hello\n"
    assert max(sizes) <= 65536


def test_both_streams_of_a_command_have_their_turns(tmp_path: Path) -> None:
    sizes = {1: 0, 2: 0}

    def sink(stream: int, chunk: bytes) -> None:
        sizes[stream] += len(chunk)
        if min(sizes.values()) > 1_000_000:
            raise Enough

    (run,) = supervise(job("yes & yes >&2 & wait", tmp_path), sink=sink)
    assert isinstance(run.error, Enough)


def test_output_is_not_kept(place: Place) -> None:
    # what a process needs at most is only known for a whole process
    program = (
        "import os, resource, threading\n"
        "from buildrun.executors.base import Job\n"
        "from buildrun.executors.supervisor import Supervisor\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "size = 0\n"
        "def sink(stream, chunk):\n"
        "    global size\n"
        "    size += len(chunk)\n"
        "ended = []\n"
        "def work():\n"
        "    job = Job('head -c 200000000 /dev/zero', '.', dict(os.environ))\n"
        "    ended.append(supervisor.run(job, sink).exit_code)\n"
        "    supervisor.post(lambda: None)\n"
        "with Supervisor() as supervisor:\n"
        "    before = peak()\n"
        "    threading.Thread(target=work).start()\n"
        "    supervisor.loop(lambda: bool(ended))\n"
        # kilobytes, on macOS bytes
        "print(ended, size, (peak() - before) // (1 if sys.platform == 'linux' else 1024) < 20_000)"
    )
    done = subprocess.run(
        (sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program}"),
        cwd=place.path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[0] 200000000 True\n"


def test_children_of_others_are_left_to_them(tmp_path: Path) -> None:
    codes: list[int] = []

    def other() -> None:
        for _ in range(10):
            codes.append(subprocess.run(("bash", "-c", "exit 7"), check=False).returncode)
        supervisor.post(lambda: None)

    with Supervisor() as supervisor:
        thread = threading.Thread(target=other)
        runs = [Run(supervisor, job("exit 3", tmp_path)) for _ in range(10)]
        thread.start()
        supervisor.loop(lambda: all(run.ended for run in runs) and len(codes) == 10)
    thread.join(timeout=60)
    assert codes == [7] * 10
    assert [run.join().result for run in runs] == [Result(3)] * 10


def test_code_that_others_have_taken_is_an_error(tmp_path: Path) -> None:
    def steal(_: int, chunk: bytes) -> None:
        os.kill(int(chunk), signal.SIGKILL)
        os.waitpid(int(chunk), 0)

    (run,) = supervise(job("echo $$; exec sleep 1000", tmp_path), sink=steal)
    assert isinstance(run.error, ExecutionError)
    assert "exit code is lost" in str(run.error)


# What cannot be started


def test_missing_bash_is_an_error_with_a_hint(tmp_path: Path) -> None:
    failed, other = supervise(job("true", tmp_path, PATH=str(tmp_path)), job("exit 3", tmp_path))
    assert isinstance(failed.error, ExecutionError)
    assert failed.error.hint
    assert other.result == Result(3)


def test_missing_working_directory_is_an_error(tmp_path: Path) -> None:
    (run,) = supervise(job("true", tmp_path / "missing"))
    assert isinstance(run.error, ExecutionError)
    assert run.error.place == str(tmp_path / "missing")


@IN_BOTH_WAYS
def test_too_long_command_is_an_error(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    (run,) = supervise(job("true " + "x" * 10_000_000, directory))
    assert isinstance(run.error, ExecutionError)
    assert "longer than the system allows" in run.error.message


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Allow a few more descriptors than are open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in itertools.count(24):
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
        if can_open(24):
            break
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def can_open(count: int) -> bool:
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return True


@IN_BOTH_WAYS
@pytest.mark.usefixtures("few_descriptors")
def test_lack_of_descriptors_is_an_error_with_a_hint(
    directory: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path if directory == "." else "/")
    with Supervisor() as supervisor:
        runs = [Run(supervisor, job(f"echo on; {Gate.WAIT}", tmp_path)) for _ in range(20)]

        def done() -> bool:
            if all(run.error or run.written[1] for run in runs):
                gate.open(20)
            return all(run.ended for run in runs)

        supervisor.loop(done)
        after = Run(supervisor, job("exit 3", tmp_path))
        supervisor.loop(lambda: after.ended)
    assert after.join().result == Result(3)
    errors = [run.join().error for run in runs if run.error]
    assert 0 < len(errors) < 20
    for error in errors:
        assert isinstance(error, ExecutionError)
        assert "too many open files" in error.message
        assert "`ulimit -n`" in str(error.hint)


# Timeouts


@IN_BOTH_WAYS
def test_timeout_ends_all_that_the_command_started(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    (run,) = supervise(job("echo $$; (sleep 1000 & sleep 1000) & sleep 1000", directory, 1))
    assert run.result == Result(124, None, True)
    assert group_has_ended(int(run.written[1]))


def test_timeout_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    command = "trap '' TERM; echo $$; while :; do sleep 1000; done"
    (run,) = supervise(job(command, tmp_path, 1))
    assert run.result == Result(124, None, True)
    assert group_has_ended(int(run.written[1]))


def test_command_may_use_its_grace_after_a_timeout(tmp_path: Path) -> None:
    command = "trap 'echo asked; exit 5' TERM; sleep 1000 & wait"
    with Supervisor() as supervisor:
        run = Run(supervisor, job(command, tmp_path, 1), grace=PATIENT)
        supervisor.loop(lambda: run.ended)
    assert run.join().result == Result(124, None, True)
    assert run.written[1] == b"asked\n"


@pytest.mark.parametrize("timeout", [60.0, 1e12])
def test_command_that_ends_in_time_keeps_its_code(timeout: float, tmp_path: Path) -> None:
    (run,) = supervise(job("exit 3", tmp_path, timeout))
    assert run.result == Result(3)


def test_timeout_of_one_is_not_that_of_others(tmp_path: Path, gate: Gate) -> None:
    with Supervisor() as supervisor:
        late = Run(supervisor, job("exec sleep 1000", tmp_path, 0.1))
        other = Run(supervisor, job(f"{Gate.WAIT}; exit 3", tmp_path))

        def done() -> bool:
            if late.ended:
                gate.open()
            return late.ended and other.ended

        supervisor.loop(done)
    assert late.join().result == Result(124, None, True)
    assert other.join().result == Result(3)


def test_interruption_after_a_timeout_is_told_too(tmp_path: Path) -> None:
    command = "trap 'echo asked' TERM; while :; do sleep 1000 & wait; done"
    with Supervisor() as supervisor:
        run = Run(
            supervisor,
            job(command, tmp_path, 0.5),
            lambda *_: supervisor.post(lambda: os.kill(os.getpid(), signal.SIGINT)),
            grace=PATIENT,
        )
        interrupts: list[int] = []

        def done() -> bool:
            # the second one hurries
            if supervisor.interrupted and not interrupts:
                interrupts.append(supervisor.interrupted)
                os.kill(os.getpid(), signal.SIGINT)
            return run.ended

        assert supervisor.loop(done) == signal.SIGINT
    assert run.join().result == Result(124, signal.SIGINT, True)


# What a sink raises


def test_error_of_a_sink_ends_its_command(tmp_path: Path) -> None:
    def sink(_: int, chunk: bytes) -> None:
        raise Enough(chunk)

    (run,) = supervise(job("echo $$; (sleep 1000 & sleep 1000)", tmp_path), sink=sink)
    assert isinstance(run.error, Enough)
    assert run.error.args == (run.written[1],)
    assert group_has_ended(int(run.written[1]))


def test_error_of_a_sink_is_no_harm_to_others(tmp_path: Path, gate: Gate) -> None:
    def sink(_: int, chunk: bytes) -> None:
        raise Enough(chunk)

    with Supervisor() as supervisor:
        failing = Run(supervisor, job("echo on; sleep 1000", tmp_path), sink)
        other = Run(supervisor, job(f"{Gate.WAIT}; echo fine", tmp_path))

        def done() -> bool:
            if failing.ended:
                gate.open()
            return failing.ended and other.ended

        supervisor.loop(done)
    assert isinstance(failing.join().error, Enough)
    assert other.join().written[1] == b"fine\n"


def test_error_of_a_sink_after_the_end_is_raised(tmp_path: Path) -> None:
    def sink(_: int, chunk: bytes) -> None:
        if chunk == b"last\n":
            raise Enough

    (run,) = supervise(job("exec > >(cat); echo last", tmp_path), sink=sink)
    assert isinstance(run.error, Enough)


# Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_to_us_ends_all_commands(
    number: int, place: Place, process: Callable[..., Process]
) -> None:
    commands = [f"ulimit -c 0; : {n}; {idle()}" for n in range(3)]
    place.prepare_several(*commands)
    running = process()
    groups = {group_in(running.line()) for _ in commands}
    assert len(groups) == 3
    running.signal(number)
    assert running.wait() == 128 + number
    assert place.results == (number, [Result(128 + number, number)] * 3)
    assert all(group_has_ended(group) for group in groups)


def test_sigterm_to_us_ends_grandchildren(place: Place, process: Callable[..., Process]) -> None:
    place.prepare_several(f"({idle()} & {idle()}) & {idle()} & wait")
    running = process()
    (group,) = {group_in(running.line()) for _ in range(3)}
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.results == (signal.SIGTERM, [Result(143, signal.SIGTERM)])
    assert group_has_ended(group)


def test_what_ignores_everything_is_killed(place: Place, process: Callable[..., Process]) -> None:
    place.prepare_several(
        "trap '' INT TERM HUP QUIT; echo $$; while :; do sleep 1000; done", grace=IMPATIENT
    )
    running = process()
    group = int(running.line())
    running.signal(signal.SIGINT)
    running.wait()
    assert place.results == (signal.SIGINT, [Result(137, signal.SIGINT)])
    assert group_has_ended(group)


def test_background_job_that_ignores_everything_is_killed(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare_several(
        "bash -c 'trap \"\" INT TERM HUP; echo ready; sleep 1000' & echo $$; wait",
        grace=IMPATIENT,
    )
    running = process()
    lines = {running.line(), running.line()} - {"ready"}
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.results[1][0].interrupted == signal.SIGTERM
    assert group_has_ended(int(lines.pop()))


def test_each_further_signal_brings_the_next_step(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare_several(listen(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    running = process()
    for word in ("ready", "SIGINT", "SIGTERM"):
        assert word in running.line()
        running.signal(signal.SIGINT)
    assert running.wait() == 130
    assert place.results == (signal.SIGINT, [Result(137, signal.SIGINT)])


def test_end_of_all_and_a_signal_may_come_together(tmp_path: Path, gate: Gate) -> None:
    # bash has what runs in the background ignore Ctrl-C
    command = f"(echo alone; {Gate.WAIT}) & echo $$; exec sleep 1000"
    lines: list[bytes] = []
    with Supervisor() as supervisor:

        def sink(_: int, chunk: bytes) -> None:
            lines.extend(chunk.split())
            if len(lines) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        def done() -> bool:
            if supervisor.interrupted and len(lines) == 2:
                (group,) = (int(line) for line in lines if line != b"alone")
                if not state_of(group):
                    lines.clear()
                    os.kill(os.getpid(), signal.SIGINT)
                    gate.open()
                    wait_until(lambda: group_has_ended(group))
            return run.ended

        run = Run(supervisor, job(command, tmp_path), sink, grace=PATIENT)
        assert supervisor.loop(done) == signal.SIGINT
    assert run.join().result == Result(130, signal.SIGINT)


def test_output_after_the_signal_is_not_lost(place: Place, process: Callable[..., Process]) -> None:
    place.prepare_several(
        python(
            "import signal, sys\n"
            "def end(*_):\n"
            "    sys.stdout.write('x' * 1_000_000 + '\\n')\n"
            "    sys.exit(4)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "print('ready', flush=True)\n"
            "signal.pause()"
        )
    )
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    assert running.line() == "x" * 1_000_000
    running.wait()
    assert place.results == (signal.SIGTERM, [Result(4, signal.SIGTERM)])


def test_signal_ignored_by_our_caller_stays_ignored(
    place: Place, process: Callable[..., Process], gate: Gate
) -> None:
    place.prepare_several(f"echo ready; {Gate.WAIT}; exit 3")
    running = process(ignoring=[signal.SIGHUP])
    assert running.line() == "ready"
    running.signal(signal.SIGHUP)
    gate.open()
    running.wait()
    assert place.results == (None, [Result(3)])


def test_stopped_command_can_be_ended(place: Place, process: Callable[..., Process]) -> None:
    place.prepare_several("echo $$; kill -STOP $$")
    running = process()
    group = int(running.line())
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.results == (signal.SIGTERM, [Result(143, signal.SIGTERM)])
    assert group_has_ended(group)


def test_nothing_is_started_after_a_signal(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.post(lambda: os.kill(os.getpid(), signal.SIGTERM))
        supervisor.loop(lambda: supervisor.interrupted is not None)
        run = Run(supervisor, job("touch made", tmp_path)).join()
    assert run.result == Result(143, signal.SIGTERM)
    assert not (tmp_path / "made").exists()


def test_what_was_to_be_started_as_the_signal_came_is_not(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        os.kill(os.getpid(), signal.SIGINT)
        run = Run(supervisor, job("touch made", tmp_path))
        assert supervisor.loop(lambda: run.ended) == signal.SIGINT
        assert supervisor.interrupted == signal.SIGINT
    assert run.join().result == Result(130, signal.SIGINT)
    assert not (tmp_path / "made").exists()


def test_command_that_has_ended_before_the_signal_keeps_its_result(tmp_path: Path) -> None:
    # a process that keeps the output open, so that only its end tells of the command's
    command = "sleep 1000 & echo $$"

    def sink(_: int, chunk: bytes) -> None:
        # nothing is served meanwhile
        wait_until(lambda: is_zombie(int(chunk)))
        os.kill(os.getpid(), signal.SIGINT)

    with Supervisor() as supervisor:
        run = Run(supervisor, job(command, tmp_path), sink)
        assert supervisor.loop(lambda: run.ended) == signal.SIGINT
    assert run.join().result == Result(0)
    os.killpg(int(run.written[1]), signal.SIGKILL)


def test_posted_results_are_served_after_a_signal(tmp_path: Path) -> None:
    recorded = []
    with Supervisor() as supervisor:
        supervisor.post(lambda: os.kill(os.getpid(), signal.SIGINT))
        run = Run(supervisor, job("sleep 1000", tmp_path))
        thread = threading.Thread(
            target=lambda: supervisor.post(lambda: recorded.append(run.result)) if run.join() else 0
        )
        thread.start()
        supervisor.loop(lambda: bool(recorded))
    thread.join(timeout=60)
    assert recorded == [Result(130, signal.SIGINT)]


def take_and_leave() -> None:
    with Supervisor() as supervisor:
        supervisor.loop(lambda: True)
        signal.raise_signal(signal.SIGINT)


def test_signal_after_the_last_look_is_our_callers() -> None:
    with pytest.raises(KeyboardInterrupt):
        take_and_leave()


def test_late_signal_leaves_nothing_blocked_where_another_thread_could_take_it() -> None:
    # which of the threads would be first is the kernel's to choose
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    try:
        for _ in range(300):
            with pytest.raises(KeyboardInterrupt):
                take_and_leave()
            assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    finally:
        over.set()
        thread.join(timeout=60)


# On a terminal


def test_ctrl_c_ends_all_commands(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare_several(idle(), f": again; {idle()}")
    shown = screen()
    groups = []
    for _ in range(2):
        shown.until("group=")
        groups.append(int(shown.until(".")))
    shown.type(CTRL_C)
    assert shown.wait() == 130
    assert place.results == (signal.SIGINT, [Result(130, signal.SIGINT)] * 2)
    assert all(group_has_ended(group) for group in groups)


def test_ctrl_z_stops_all_commands_and_fg_continues_them(
    place: Place, screen: Callable[..., Screen], gate: Gate
) -> None:
    commands = [f"echo group=$$.; {Gate.WAIT}; exit {code}" for code in (3, 4)]
    place.prepare_several(*commands)
    shown = screen(*SHELL)
    shown.type("./run\n")
    groups = []
    for _ in commands:
        shown.until("group=")
        groups.append(int(shown.until(".")))
    shown.type(CTRL_Z)
    shown.until("Stopped")
    wait_until(lambda: all(is_stopped(group) for group in groups))
    shown.type("echo shell-$((1 + 1))\n")
    shown.until("shell-2")
    gate.open(2)
    shown.type("fg; echo code=$?.\n")
    shown.until("code=0.")
    assert place.results == (None, [Result(3), Result(4)])


def test_timeout_does_not_run_while_stopped(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare_several("echo group=$$.; exec sleep 1000", timeout=2)
    shown = screen(*SHELL)
    shown.type("./run\n")
    shown.until("group=")
    group = int(shown.until("."))
    shown.type(CTRL_Z)
    shown.until("Stopped")
    # longer than the timeout; nothing else tells of time that has passed
    shown.type("sleep 2; fg\n")
    wait_until(lambda: not is_stopped(group))
    assert not group_has_ended(group)
    shown.type(CTRL_C)
    wait_until((place.path / "result").exists)
    assert place.results == (signal.SIGINT, [Result(130, signal.SIGINT)])


def is_stopped(pid: int) -> bool:
    return state_of(pid).startswith("T")


def is_zombie(pid: int) -> bool:
    return state_of(pid).startswith("Z")


def test_continuing_us_continues_the_commands(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare_several(listen(signal.SIGCONT))
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGSTOP)
    running.signal(signal.SIGCONT)
    assert running.line() == "SIGCONT"


def test_ctrl_z_that_nobody_could_undo_does_not_stop(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare_several(listen(signal.SIGCONT))
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGTSTP)
    assert running.line() == "SIGCONT"
    running.wait()
    assert place.results == (None, [Result(7)])


# The loop


def test_posted_calls_are_made_in_order_in_the_loops_thread() -> None:
    calls: list[tuple[int, int, int]] = []
    ours = threading.get_ident()
    with Supervisor() as supervisor:

        def note(thread: int, n: int) -> None:
            calls.append((thread, n, threading.get_ident()))

        def post(thread: int) -> None:
            for n in range(1000):
                supervisor.post(partial(note, thread, n))

        threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        supervisor.loop(lambda: len(calls) == 4000)
        for thread in threads:
            thread.join(timeout=60)
    assert {thread for _, _, thread in calls} == {ours}
    for number in range(4):
        assert [n for thread, n, _ in calls if thread == number] == list(range(1000))


def test_posted_call_may_post_and_start_others(tmp_path: Path) -> None:
    runs: list[Run] = []
    with Supervisor() as supervisor:
        supervisor.post(
            lambda: supervisor.post(lambda: runs.append(Run(supervisor, job("exit 3", tmp_path))))
        )
        supervisor.loop(lambda: bool(runs) and runs[0].ended)
    assert runs[0].join().result == Result(3)


def test_ticks_go_on_without_events() -> None:
    ticks: list[int] = []
    with Supervisor() as supervisor:
        supervisor.tick(0.001, lambda: ticks.append(threading.get_ident()))
        supervisor.loop(lambda: len(ticks) == 5)
    assert ticks == [threading.get_ident()] * 5


def test_idle_loop_does_not_wake_up(tmp_path: Path) -> None:
    asked = []
    with Supervisor() as supervisor:
        run = Run(supervisor, job("sleep 0.5", tmp_path))

        def done() -> bool:
            asked.append(1)
            return run.ended

        supervisor.loop(done)
    assert run.join().result == Result(0)
    # started, closed both streams, ended, told
    assert len(asked) < 20


def test_done_at_once_returns_at_once() -> None:
    with Supervisor() as supervisor:
        assert supervisor.loop(lambda: True) is None


def test_loop_waits_for_commands_even_where_it_is_done(tmp_path: Path, gate: Gate) -> None:
    with Supervisor() as supervisor:
        run = Run(
            supervisor, job(f"echo on; {Gate.WAIT}; exit 3", tmp_path), lambda *_: gate.open()
        )
        supervisor.loop(lambda: bool(run.written[1]))
    assert run.join().result == Result(3)


def test_loop_can_be_entered_again(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        first = Run(supervisor, job("exit 3", tmp_path))
        supervisor.loop(lambda: first.ended)
        second = Run(supervisor, job("exit 4", tmp_path))
        supervisor.loop(lambda: second.ended)
    assert first.join().result == Result(3)
    assert second.join().result == Result(4)


def test_loops_thread_cannot_wait_for_a_command(tmp_path: Path) -> None:
    with Supervisor() as supervisor, pytest.raises(RuntimeError, match="cannot wait"):
        supervisor.run(job("true", tmp_path), lambda *_: None)


def test_other_threads_cannot_supervise() -> None:
    errors: list[BaseException | None] = []

    def enter() -> None:
        with pytest.raises(RuntimeError, match="main thread") as caught, Supervisor():
            pass
        errors.append(caught.value)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join(timeout=60)
    assert len(errors) == 1


# The exit


def test_exit_ends_what_still_runs(tmp_path: Path) -> None:
    def leave() -> None:
        raise Enough

    with Supervisor() as supervisor:
        run = Run(
            supervisor, job("echo $$; exec sleep 1000", tmp_path), lambda *_: supervisor.post(leave)
        )
        with pytest.raises(Enough):
            supervisor.loop(lambda: False)
        assert not run.ended
    assert run.join().result == Result(143, signal.SIGTERM)
    assert group_has_ended(int(run.written[1]))


def test_exit_lets_those_return_that_were_not_served(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        runs = [Run(supervisor, job("touch made", tmp_path)) for _ in range(3)]
    assert [run.join().result for run in runs] == [Result(143, signal.SIGTERM)] * 3
    assert supervisor.interrupted is None
    assert not (tmp_path / "made").exists()


def test_nothing_is_started_after_the_exit(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        pass
    called: list[int] = []
    supervisor.post(lambda: called.append(1))
    result = supervisor.run(job("touch made", tmp_path), lambda *_: None)
    assert result == Result(143, signal.SIGTERM)
    assert not (tmp_path / "made").exists()
    assert not called


def test_handler_of_our_caller_that_raises_loses_no_command(tmp_path: Path, gate: Gate) -> None:
    def ring(*_: object) -> None:
        raise Enough

    command = f"echo $$; {Gate.WAIT}; kill -USR1 $PPID; exec sleep 1000"
    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with Supervisor() as supervisor:
            # not within the sink, where it would count as the sink's own
            run = Run(supervisor, job(command, tmp_path), lambda *_: supervisor.post(gate.open))
            with pytest.raises(Enough):
                supervisor.loop(lambda: False)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert run.join().result == Result(143, signal.SIGTERM)
    assert group_has_ended(int(run.written[1]))


def test_all_is_as_it_was_before(tmp_path: Path) -> None:
    others = children()

    def state() -> object:
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        handlers = [signal.getsignal(number) for number in CAUGHT]
        return handlers, mask, wakeup, sorted(os.listdir("/dev/fd"))

    before = state()
    left, *_ = supervise(
        job("echo $$; sleep 1000 &", tmp_path),
        job("true", tmp_path / "missing"),
        job("sleep 1000", tmp_path, 0.1),
    )
    assert state() == before
    os.killpg(int(left.written[1]), signal.SIGKILL)
    assert children() == others


def test_commands_end_when_we_are_killed(place: Place, process: Callable[..., Process]) -> None:
    place.prepare_several(f"({idle()}) & wait", f"trap '' TERM; {idle()}")
    running = process()
    groups = [group_in(running.line()) for _ in range(2)]
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    for group in groups:
        wait_until(partial(group_has_ended, group))
