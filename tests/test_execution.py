"""What holds for every command on this machine, alone with our streams or captured by a loop."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from executor_helpers import (  # noqa: F401
    CTRL_C,
    CTRL_Z,
    IMPATIENT,
    NEVER,
    PATIENT,
    SHELL,
    Gate,
    OpenScreen,
    Place,
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
    listen,
    python,
    supervise,
    wait_until,
)

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, Result
from buildrun.executors.local import execute
from buildrun.executors.signals import CAUGHT
from buildrun.executors.termination import GracePeriods, Termination

# Commands that start elsewhere than here are forked.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture(params=[False, True], ids=["alone", "captured"])
def captured(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Ended(NamedTuple):
    """How a command ended, and what it has written."""

    result: Result
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(captured: bool, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a job in this process, and raises what it raises."""

    def call(job: Job, grace: GracePeriods = IMPATIENT) -> Ended:
        if not captured:
            return Ended(execute(job, grace=grace)._replace(usage=None), *capfd.readouterr())
        (ended,) = supervise(job, grace=grace)
        if ended.error is not None:
            raise ended.error
        assert ended.result is not None
        return Ended(ended.result, ended.written[1].decode(), ended.written[2].decode())

    return call


# What a command gets, and how it ends


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 3", 3),
        ("no-such-program 2>/dev/null", 127),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
        # a closed pipe ends a writer silently
        ("yes | head -1 >/dev/null", 0),
        ("set -o pipefail; yes | head -1 >/dev/null", 141),
    ],
)
def test_exit_code_is_the_commands(command: str, code: int, directory: str, run: Run) -> None:
    assert run(job(command, directory)) == (Result(code), "", "")


@pytest.mark.parametrize("name", ["INT", "TERM"])
def test_signal_from_elsewhere_without_terminal_is_no_interruption(
    name: str, place: Place, process: StartProcess
) -> None:
    place.prepare(f"kill -{name} $$")
    code = 128 + signal.Signals[f"SIG{name}"]
    assert process().wait() == code
    assert place.result == Result(code)


def test_environment_is_exactly_the_jobs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "1")
    environ = {"PATH": os.environ["PATH"], "THEIRS": "two words"}
    shown = run(job("env")._replace(environ=environ)).out
    names = {line.partition("=")[0] for line in shown.splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == set(environ)


def test_command_writes_to_two_streams_in_its_own_directory(
    directory: str, tmp_path: Path, run: Run
) -> None:
    ended = run(job("echo out; echo err >&2; pwd -P", directory))
    assert ended == (Result(0), f"out\n{(tmp_path / directory).resolve()}\n", "err\n")
    assert Path.cwd() == tmp_path


def test_descriptors_of_ours_are_not_inherited(
    directory: str, place: Place, process: StartProcess
) -> None:
    look = "import os; print([n for n in range(100) if os.path.exists(f'/dev/fd/{n}')])"
    place.prepare(python(look), directory=directory)
    assert process().rest() == "[0, 1, 2]\n"


def test_command_gets_default_signals(directory: str, place: Place, process: StartProcess) -> None:
    # bash lists what it found ignored
    look = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    place.prepare(f"trap; {python(look)}", directory=directory)
    assert process().rest() == "0\n"


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_signal_ignored_by_our_caller_stays_ignored(
    number: int, place: Place, process: StartProcess, gate: Gate
) -> None:
    look = f"import signal; print(signal.getsignal({number}) is signal.SIG_IGN)"
    place.prepare(f"({python(look)}); {Gate.WAIT}; exit 3")
    running = process(ignoring=[number])
    assert running.line() == "True"
    running.signal(number)
    gate.open()
    assert running.wait() == 3
    assert place.result == Result(3)


def test_blocked_or_ignored_sigchld_does_not_keep_us_waiting(
    place: Place, process: StartProcess
) -> None:
    place.prepare("exit 3")
    assert process(blocking=[signal.SIGCHLD]).wait() == 3
    # not through `run`: its shell would put the default back
    assert process(*place.argv, ignoring=[signal.SIGCHLD]).wait() == 3


@pytest.mark.parametrize("command", ["sleep 1000 & echo $!", "sleep 1000 >&- 2>&- & echo $!"])
def test_background_process_outlives_a_normal_end(command: str, run: Run) -> None:
    ended = run(job(command))
    assert ended.result == Result(0)
    os.kill(int(ended.out), signal.SIGKILL)  # raises where it has ended


# What cannot be started


def test_missing_bash_is_an_error_with_a_hint(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="`bash` is not on") as caught:
        run(job("true", PATH=str(tmp_path)))
    assert caught.value.hint


def test_missing_working_directory_is_an_error(run: Run, tmp_path: Path) -> None:
    before = children()
    with pytest.raises(ExecutionError, match="the working directory does not exist") as caught:
        run(job("true", tmp_path / "missing"))
    assert caught.value.place == str(tmp_path / "missing")
    assert children() == before


def test_file_as_working_directory_is_an_error(run: Run) -> None:
    with pytest.raises(ExecutionError, match="cannot be entered: not a directory"):
        run(job("true", __file__))


@pytest.mark.parametrize(
    ("command", "message"),
    [("true " + "x" * 10_000_000, "longer than the system allows"), ("true \0", "null byte")],
    ids=["long", "null"],
)
def test_command_that_the_system_does_not_take_is_an_error(
    command: str, message: str, directory: str, run: Run
) -> None:
    with pytest.raises(ExecutionError, match=message):
        run(job(command, directory))


# What is left as it was


def test_all_is_as_it_was_before(run: Run, tmp_path: Path) -> None:
    def state() -> object:
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        handlers = [signal.getsignal(number) for number in CAUGHT]
        return handlers, mask, wakeup, sorted(os.listdir("/dev/fd")), children()

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ours = signal.set_wakeup_fd(writer)
    try:
        before = state()
        run(job("true"))
        run(job("sleep 1000", timeout=0.1))
        with pytest.raises(ExecutionError):
            run(job("true", tmp_path / "missing"))
        assert state() == before
    finally:
        signal.set_wakeup_fd(ours)
        os.close(reader)
        os.close(writer)


# Interruption without a terminal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_to_us_ends_all_commands(
    number: int, captured: bool, place: Place, process: StartProcess
) -> None:
    commands = [f"ulimit -c 0; : {n}; {idle()}" for n in range(3 if captured else 1)]
    place.prepare(*commands)
    running = process()
    groups = {running.group() for _ in commands}
    assert len(groups) == len(commands)
    running.signal(number)
    assert running.wait() == 128 + number
    assert place.results == (number, [Result(128 + number, number)] * len(commands))
    assert all(group_has_ended(group) for group in groups)


def test_sigterm_to_us_ends_grandchildren(place: Place, process: StartProcess) -> None:
    place.prepare(f"({idle()} & {idle()}) & {idle()} & wait")
    running = process()
    (group,) = {running.group() for _ in range(3)}
    running.signal(signal.SIGTERM)
    assert running.wait() == 143
    assert place.result == Result(143, signal.SIGTERM)
    assert group_has_ended(group)


def test_command_may_end_in_its_own_way(place: Place, process: StartProcess) -> None:
    place.prepare(listen(signal.SIGTERM))
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    assert running.line() == "SIGTERM"
    assert running.wait() == 7
    assert place.result == Result(7, signal.SIGTERM)


def test_stopped_command_can_be_ended(place: Place, process: StartProcess) -> None:
    place.prepare("echo $$; kill -STOP $$")
    running = process()
    group = int(running.line())
    running.signal(signal.SIGTERM)
    assert running.wait() == 143
    assert place.result == Result(143, signal.SIGTERM)
    assert group_has_ended(group)


@pytest.mark.parametrize("command", ["{}", "({}) & wait"])
def test_what_ignores_everything_is_killed(
    command: str, place: Place, process: StartProcess
) -> None:
    deaf = "trap '' INT TERM HUP QUIT; echo group=$$.; while :; do sleep 1000; done"
    place.prepare(command.format(deaf), grace=IMPATIENT)
    running = process()
    group = running.group()
    running.signal(signal.SIGINT)
    # A shell that is slow to end by SIGINT gets SIGTERM, then SIGKILL.
    assert running.wait() in (130, 137, 143)
    assert place.result.interrupted == signal.SIGINT
    assert group_has_ended(group)


def test_continuing_us_continues_the_command(place: Place, process: StartProcess) -> None:
    place.prepare(listen(signal.SIGCONT))
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGSTOP)
    running.signal(signal.SIGCONT)
    assert running.line() == "SIGCONT"


def test_each_further_signal_brings_the_next_step(place: Place, process: StartProcess) -> None:
    place.prepare(listen(signal.SIGINT, signal.SIGTERM, signal.SIGUSR1))
    running = process()
    for word in ("ready", "SIGINT", "SIGTERM"):
        assert word in running.line()
        running.signal(signal.SIGINT)
    assert running.wait() == 137
    assert place.result == Result(137, signal.SIGINT)


def test_echo_of_a_signal_brings_no_step() -> None:
    child = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    ending = Termination(child.pid, GracePeriods(interrupt=NEVER, end=0, echo=NEVER))
    ending.request(signal.SIGINT)
    ending.request(signal.SIGINT)
    assert (ending.seconds() or 0) > 1000
    assert child.wait() == -signal.SIGINT


def test_processes_of_our_own_group_survive(place: Place, process: StartProcess) -> None:
    place.prepare(f"echo $PPID; {idle()}")
    running = process("bash", "-c", "(./run; echo ended) & cat; wait")
    runner = int(running.line())
    assert running.group() != os.getpgid(runner)
    os.kill(runner, signal.SIGTERM)
    running.until("ended\n")
    running.type("alive\n")
    assert running.line() == "alive"
    assert place.result == Result(143, signal.SIGTERM)


# Timeouts


def test_timeout_ends_all_that_the_command_started(directory: str, run: Run) -> None:
    late = run(job("echo $$; (sleep 1000 & sleep 1000) & sleep 1000", directory, 1))
    assert late.result == Result(124, None, True)
    assert group_has_ended(int(late.out))


def test_timeout_kills_what_ignores_sigterm(run: Run) -> None:
    late = run(job("trap '' TERM; echo $$; while :; do sleep 1000; done", timeout=1))
    assert late.result == Result(124, None, True)
    assert group_has_ended(int(late.out))


def test_command_may_use_its_grace_after_a_timeout(run: Run) -> None:
    late = run(job("trap 'echo asked; exit 5' TERM; sleep 1000 & wait", timeout=1), PATIENT)
    assert late == (Result(124, None, True), "asked\n", "")


@pytest.mark.parametrize("timeout", [60.0, 1e12])
def test_command_that_ends_in_time_keeps_its_code(timeout: float, run: Run) -> None:
    assert run(job("exit 3", timeout=timeout)).result == Result(3)


def test_interruption_after_a_timeout_is_told_too(place: Place, process: StartProcess) -> None:
    waiting = "trap 'echo asked' TERM; while :; do sleep 1000 & wait; done"
    place.prepare(f"echo group=$$.; {waiting}", timeout=1)
    running = process()
    group = running.group()
    running.until("asked")
    running.signal(signal.SIGINT)
    os.killpg(group, signal.SIGKILL)
    assert running.wait() == 124
    assert place.result == Result(124, signal.SIGINT, True)


def test_timeout_does_not_run_while_stopped(place: Place, screen: OpenScreen) -> None:
    place.prepare("echo group=$$.; exec sleep 1000", timeout=3)
    shown = screen(*SHELL)
    shown.type("./run\n")
    group = shown.group()
    shown.talk(CTRL_Z, "Stopped")
    wait_until(lambda: is_stopped(group))
    # longer than the timeout; nothing else tells of time that has passed
    shown.type("sleep 3; fg\n")
    wait_until(lambda: not is_stopped(group))
    assert not group_has_ended(group)
    shown.type(CTRL_C)
    wait_until((place.path / "result").exists)
    assert place.result == Result(130, signal.SIGINT)


def test_ctrl_z_has_no_effect_where_nobody_could_continue_us(
    place: Place, screen: OpenScreen
) -> None:
    place.prepare(listen(signal.SIGCONT))
    shown = screen()
    shown.until("ready")
    shown.talk(CTRL_Z, "SIGCONT")
    assert shown.wait() == 7


# What outlives us


@pytest.mark.parametrize("command", ["{}", "({}) & wait", "trap '' TERM; ({}) & wait"])
def test_command_ends_when_we_are_killed(place: Place, process: StartProcess, command: str) -> None:
    place.prepare(command.format(idle()))
    running = process()
    group = running.group()
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    wait_until(lambda: group_has_ended(group))


def test_what_a_command_has_left_running_outlives_us(place: Place, process: StartProcess) -> None:
    place.prepare("sleep 1000 > /dev/null 2>&1 & echo $! $$")
    running = process()
    pid, group = map(int, running.line().split())
    assert running.wait() == 0
    os.kill(pid, 0)  # raises where it has ended
    os.killpg(group, signal.SIGKILL)
