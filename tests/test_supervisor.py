"""Several captured commands at once: their output, the loop that serves them, its exit."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from executor_helpers import (  # noqa: F401
    BUSY,
    CTRL_C,
    CTRL_Z,
    PATIENT,
    ROOT,
    SHELL,
    Gate,
    OpenScreen,
    Place,
    Run,
    StartProcess,
    a_directory,
    a_gate,
    a_place,
    a_process,
    a_screen,
    children,
    group_has_ended,
    idle,
    is_stopped,
    job,
    python,
    supervise,
    wait_until,
)
from processes import state_of

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, Result
from buildrun.executors.supervisor import Supervisor

# Commands that start elsewhere than here are forked.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def captured() -> bool:
    return True


class Enough(Exception):
    """Raised by a sink that has seen what it wanted."""


# What a command gets, and how it ends


@pytest.mark.parametrize(
    ("command", "written"),
    [
        # its standard input is empty
        ("cat; readlink /proc/self/fd/0 || echo /dev/null", "/dev/null\n"),
        ("seq 200000", "".join(f"{n}\n" for n in range(1, 200001))),
        ("exec > >(cat); echo through", "through\n"),
    ],
    ids=["stdin", "long", "through"],
)
def test_all_that_is_written_arrives(command: str, written: str) -> None:
    (run,) = supervise(job(command))
    assert run.written[1].decode() == written


def test_usage_is_that_of_all_processes_of_the_command() -> None:
    for run in supervise(job(BUSY), job(f"{BUSY}; exit 3")):
        assert run.usage is not None
        assert run.usage.cpu_seconds >= 0.3
        assert run.usage.peak_memory >= 200_000_000


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_of_ours_are_no_harm(
    closed: str, directory: str, place: Place, process: StartProcess
) -> None:
    place.prepare("cat && echo out && echo err >&2", directory=directory)
    assert process("bash", "-c", f"./run {closed}").wait() == 0
    assert place.result == Result(0)
    assert sorted((place.path / "output").read_text().split()) == ["err", "out"]


def test_command_has_no_terminal(directory: str, place: Place, screen: OpenScreen) -> None:
    place.prepare("(: </dev/tty) 2>/dev/null || echo none", directory=directory)
    shown = screen()
    shown.until("none")
    assert shown.wait() == 0


def test_chunks_of_two_streams_arrive_in_the_order_of_writing(tmp_path: Path, gate: Gate) -> None:
    written = []

    def sink(stream: int, chunk: bytes) -> None:
        written.append((stream, chunk))
        gate.open()

    turns = "".join(f"echo {n} >&{1 + n % 2}; {Gate.WAIT}; " for n in range(20))
    supervise(job(turns, tmp_path), sink=sink)
    assert written == [(1 + n % 2, f"{n}\n".encode()) for n in range(20)]


def test_background_process_that_goes_on_writing_does_not_keep_us() -> None:
    (run,) = supervise(job("echo $$; yes & exit 3"))
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


def test_one_that_never_stops_writing_does_not_starve_another() -> None:
    sizes = []
    with Supervisor() as supervisor:

        def flood(_: int, chunk: bytes) -> None:
            sizes.append(len(chunk))
            if len(sizes) == 10:
                others.append(Run(supervisor, job("echo hello")))
            if others and others[0].ended:
                raise Enough

        others: list[Run] = []
        flooding = Run(supervisor, job("yes"), flood)
        supervisor.loop(lambda: flooding.ended)
    assert isinstance(flooding.join().error, Enough)
    assert others[0].join().written[1] == b"hello\n"
    assert max(sizes) <= 65536


def test_both_streams_of_a_command_have_their_turns() -> None:
    sizes = {1: 0, 2: 0}

    def sink(stream: int, chunk: bytes) -> None:
        sizes[stream] += len(chunk)
        if min(sizes.values()) > 1_000_000:
            raise Enough

    (run,) = supervise(job("yes & yes >&2 & wait"), sink=sink)
    assert isinstance(run.error, Enough)


def test_output_is_not_kept(tmp_path: Path) -> None:
    # what a process needs at most is only known for a whole process
    program = f"""
import os, resource, sys, threading
sys.path.insert(0, {str(ROOT)!r})
from buildrun.executors.base import Job
from buildrun.executors.supervisor import Supervisor
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sizes, ended = [], []
def work():
    job = Job("head -c 200000000 /dev/zero", ".", dict(os.environ))
    ended.append(supervisor.run(job, lambda _, chunk: sizes.append(len(chunk))).exit_code)
    supervisor.post(lambda: None)
with Supervisor() as supervisor:
    before = peak()
    threading.Thread(target=work).start()
    supervisor.loop(lambda: bool(ended))
# kilobytes, on macOS bytes
print(ended, sum(sizes), (peak() - before) // (1 if sys.platform == "linux" else 1024) < 20_000)
"""
    done = subprocess.run(
        (sys.executable, "-c", program),
        cwd=tmp_path, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "[0] 200000000 True\n"


def test_children_of_others_are_left_to_them() -> None:
    codes: list[int] = []

    def other() -> None:
        for _ in range(10):
            codes.append(subprocess.run(("bash", "-c", "exit 7"), check=False).returncode)
        supervisor.post(lambda: None)

    with Supervisor() as supervisor:
        thread = threading.Thread(target=other)
        runs = [Run(supervisor, job("exit 3")) for _ in range(10)]
        thread.start()
        supervisor.loop(lambda: all(run.ended for run in runs) and len(codes) == 10)
    thread.join(timeout=60)
    assert codes == [7] * 10
    assert [run.join().result for run in runs] == [Result(3)] * 10


def test_code_that_others_have_taken_is_an_error() -> None:
    def steal(_: int, chunk: bytes) -> None:
        os.kill(int(chunk), signal.SIGKILL)
        os.waitpid(int(chunk), 0)

    (run,) = supervise(job("echo $$; exec sleep 1000"), sink=steal)
    assert isinstance(run.error, ExecutionError)
    assert "exit code is lost" in str(run.error)


# What cannot be started


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


@pytest.mark.usefixtures("few_descriptors")
def test_lack_of_descriptors_is_an_error_with_a_hint(
    directory: str, tmp_path: Path, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory)
    with Supervisor() as supervisor:
        runs = [Run(supervisor, job(f"echo on; {Gate.WAIT}", tmp_path)) for _ in range(20)]

        def done() -> bool:
            if all(run.error or run.written[1] for run in runs):
                gate.open(20)
            return all(run.ended for run in runs)

        supervisor.loop(done)
        after = Run(supervisor, job("exit 3"))
        supervisor.loop(lambda: after.ended)
    assert after.join().result == Result(3)
    errors = [run.join().error for run in runs if run.error]
    assert 0 < len(errors) < 20
    for error in errors:
        assert isinstance(error, ExecutionError)
        assert "too many open files" in error.message
        assert "`ulimit -n`" in str(error.hint)


# What a sink raises


def test_error_of_a_sink_ends_its_command() -> None:
    def sink(_: int, chunk: bytes) -> None:
        raise Enough(chunk)

    (run,) = supervise(job("echo $$; (sleep 1000 & sleep 1000)"), sink=sink)
    assert isinstance(run.error, Enough)
    assert run.error.args == (run.written[1],)
    assert group_has_ended(int(run.written[1]))


@pytest.mark.parametrize(
    "failing",
    [
        job("echo fail; sleep 1000"),
        job("exec sleep 1000", timeout=0.1),
        job("true", PATH="/nowhere"),
        job("kill -KILL $$"),
    ],
    ids=["sink", "timeout", "start", "kill"],
)
def test_failure_of_one_is_no_harm_to_others(failing: Job, tmp_path: Path, gate: Gate) -> None:
    def sink(_: int, chunk: bytes) -> None:
        if chunk == b"fail\n":
            raise Enough

    with Supervisor() as supervisor:
        failed = Run(supervisor, failing, sink)
        other = Run(supervisor, job(f"{Gate.WAIT}; echo fine", tmp_path), sink)

        def done() -> bool:
            if failed.ended:
                gate.open()
            return failed.ended and other.ended

        supervisor.loop(done)
    assert failed.join().error or failed.result != Result(0)
    assert other.join().written[1] == b"fine\n"


def test_error_of_a_sink_after_the_end_is_raised() -> None:
    def sink(_: int, chunk: bytes) -> None:
        if chunk == b"last\n":
            raise Enough

    (run,) = supervise(job("exec > >(cat); echo last"), sink=sink)
    assert isinstance(run.error, Enough)


# Interruption


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


def test_output_after_the_signal_is_not_lost(place: Place, process: StartProcess) -> None:
    place.prepare(
        python(
            "import os, signal, sys\n"
            "def end(*_):\n"
            "    os.write(1, b'x' * 1_000_000 + b'\\n')\n"
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
    assert running.wait() == 4
    assert place.result == Result(4, signal.SIGTERM)


@pytest.mark.parametrize("late", [False, True])
def test_nothing_is_started_after_a_signal(late: bool, tmp_path: Path) -> None:
    touch = job("touch made", tmp_path)
    with Supervisor() as supervisor:
        os.kill(os.getpid(), signal.SIGINT)
        runs = [] if late else [Run(supervisor, touch)]
        assert supervisor.loop(lambda: supervisor.interrupted is not None) == signal.SIGINT
        runs += [Run(supervisor, touch)]
    assert {run.join().result for run in runs} == {Result(130, signal.SIGINT)}
    assert not (tmp_path / "made").exists()


def test_command_that_has_ended_before_the_signal_keeps_its_result(tmp_path: Path) -> None:
    # a process that keeps the output open, so that only its end tells of the command's
    command = "sleep 1000 & echo $$"

    def sink(_: int, chunk: bytes) -> None:
        # nothing is served meanwhile
        wait_until(lambda: state_of(int(chunk)).startswith("Z"))
        os.kill(os.getpid(), signal.SIGINT)

    with Supervisor() as supervisor:
        run = Run(supervisor, job(command, tmp_path), sink)
        assert supervisor.loop(lambda: run.ended) == signal.SIGINT
    assert run.join().result == Result(0)
    os.killpg(int(run.written[1]), signal.SIGKILL)


def test_posted_results_are_served_after_a_signal() -> None:
    recorded = []
    with Supervisor() as supervisor:
        supervisor.post(lambda: os.kill(os.getpid(), signal.SIGINT))
        run = Run(supervisor, job("sleep 1000"))
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


def test_ctrl_c_ends_all_commands(place: Place, screen: OpenScreen) -> None:
    place.prepare(idle(), f": again; {idle()}")
    shown = screen()
    groups = [shown.group() for _ in range(2)]
    shown.type(CTRL_C)
    assert shown.wait() == 130
    assert place.results == (signal.SIGINT, [Result(130, signal.SIGINT)] * 2)
    assert all(group_has_ended(group) for group in groups)


def test_ctrl_z_stops_all_commands_and_fg_continues_them(
    place: Place, screen: OpenScreen, gate: Gate
) -> None:
    commands = [f"echo group=$$.; {Gate.WAIT}; exit {code}" for code in (3, 4)]
    place.prepare(*commands)
    shown = screen(*SHELL)
    shown.type("./run\n")
    groups = [shown.group() for _ in commands]
    shown.talk(CTRL_Z, "Stopped")
    wait_until(lambda: all(is_stopped(group) for group in groups))
    shown.talk("echo shell-$((1 + 1))\n", "shell-2")
    gate.open(2)
    shown.talk("fg; echo code=$?.\n", "code=3.")
    assert place.results == (None, [Result(3), Result(4)])


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


def test_posted_call_may_post_and_start_others() -> None:
    runs: list[Run] = []
    with Supervisor() as supervisor:
        supervisor.post(
            lambda: supervisor.post(lambda: runs.append(Run(supervisor, job("exit 3"))))
        )
        supervisor.loop(lambda: bool(runs) and runs[0].ended)
    assert runs[0].join().result == Result(3)


def test_ticks_go_on_without_events() -> None:
    ticks: list[int] = []
    with Supervisor() as supervisor:
        supervisor.tick(0.001, lambda: ticks.append(threading.get_ident()))
        supervisor.loop(lambda: len(ticks) == 5)
    assert ticks == [threading.get_ident()] * 5


def test_idle_loop_does_not_wake_up() -> None:
    asked = []
    with Supervisor() as supervisor:
        run = Run(supervisor, job("sleep 0.5"))

        def done() -> bool:
            asked.append(1)
            return run.ended

        supervisor.loop(done)
    assert run.join().result == Result(0)
    # started, closed both streams, ended, told
    assert len(asked) < 20


def test_loop_waits_for_commands_even_where_it_is_done(tmp_path: Path, gate: Gate) -> None:
    with Supervisor() as supervisor:
        run = Run(
            supervisor, job(f"echo on; {Gate.WAIT}; exit 3", tmp_path), lambda *_: gate.open()
        )
        supervisor.loop(lambda: bool(run.written[1]))
    assert run.join().result == Result(3)


def test_loops_thread_cannot_wait_for_a_command() -> None:
    with Supervisor() as supervisor, pytest.raises(RuntimeError, match="cannot wait"):
        supervisor.run(job("true"), lambda *_: None)


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


def test_exit_ends_what_still_runs() -> None:
    def leave() -> None:
        raise Enough

    with Supervisor() as supervisor:
        run = Run(supervisor, job("echo $$; exec sleep 1000"), lambda *_: supervisor.post(leave))
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
