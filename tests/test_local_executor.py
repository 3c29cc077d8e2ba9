"""The local executor, with real processes and real terminals."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from executor_helpers import (  # noqa: F401
    CTRL_C,
    CTRL_Z,
    IMPATIENT,
    IN_BOTH_WAYS,
    NEVER,
    PATIENT,
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
    stubborn,
    wait_until,
)

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, Result
from buildrun.executors.local import execute
from buildrun.executors.signals import CAUGHT, Signals
from buildrun.executors.termination import GracePeriods, Termination


def job(command: str, cwd: Path, **environ: str) -> Job:
    return Job(command, str(cwd), dict(os.environ) | environ)


# What the command gets, and how it ends


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("true", 0),
        ("exit 3", 3),
        ("no-such-program 2>/dev/null", 127),
        ("kill -KILL $$", 137),
        ("kill -USR1 $$", 128 + signal.SIGUSR1),
    ],
)
def test_exit_code_is_the_commands(command: str, code: int, tmp_path: Path) -> None:
    assert execute(job(command, tmp_path)) == Result(code)


def test_signal_from_elsewhere_without_terminal_is_no_interruption(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare("kill -TERM $$")
    assert process().wait() == 143
    assert place.result == Result(143)


def test_environment_is_exactly_the_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OURS", "1")
    environ = {"PATH": os.environ["PATH"], "THEIRS": "two words"}
    execute(Job("env", str(tmp_path), environ))
    names = {line.partition("=")[0] for line in capfd.readouterr().out.splitlines()}
    assert names - {"PWD", "OLDPWD", "SHLVL", "_"} == set(environ)


def test_working_directory_is_the_jobs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = Path.cwd()
    execute(job("pwd -P", tmp_path))
    assert capfd.readouterr().out.strip() == str(tmp_path.resolve())
    assert Path.cwd() == before


def test_command_reads_our_stdin(place: Place, process: Callable[..., Process]) -> None:
    place.prepare("read -r line; echo got $line")
    running = process()
    running.type("hello\n")
    assert running.line() == "got hello"


def test_closed_stdin_stays_closed(place: Place, process: Callable[..., Process]) -> None:
    place.prepare("cat 2>/dev/null || echo closed")
    assert process("bash", "-c", "./run <&-").rest() == "closed\n"


@IN_BOTH_WAYS
def test_descriptors_of_ours_are_not_inherited(
    directory: str, place: Place, process: Callable[..., Process]
) -> None:
    look = "import os; print([n for n in range(100) if os.path.exists(f'/dev/fd/{n}')])"
    place.prepare(python(look), directory=directory)
    assert process().rest() == "[0, 1, 2]\n"


def test_descriptors_of_our_caller_are_inherited(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare("read -r line <&5; echo got $line")
    assert process("bash", "-c", "./run 5< <(echo hello)").rest() == "got hello\n"


@IN_BOTH_WAYS
@pytest.mark.parametrize(
    ("command", "code"), [("yes | head -1", 0), ("set -o pipefail; yes | head -1", 141)]
)
def test_closed_pipe_ends_a_writer_silently(
    command: str, code: int, directory: str, place: Place, process: Callable[..., Process]
) -> None:
    place.prepare(command, directory=directory)
    running = process()
    assert running.rest() == "y\n"
    assert running.wait() == code


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_signal_ignored_by_our_caller_stays_ignored(
    number: int, place: Place, process: Callable[..., Process]
) -> None:
    look = f"import signal; print(signal.getsignal({number}) is signal.SIG_IGN)"
    place.prepare(f"({python(look)}); read -r line; echo got $line")
    running = process(ignoring=[number])
    assert running.line() == "True"
    running.signal(number)
    running.type("hello\n")
    assert running.rest() == "got hello\n"
    assert place.result == Result(0)


@IN_BOTH_WAYS
def test_command_gets_default_signals(
    directory: str, place: Place, process: Callable[..., Process]
) -> None:
    # bash lists what it found ignored
    look = "import signal; print(len(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    place.prepare(f"trap; {python(look)}", directory=directory)
    assert process().rest() == "0\n"


def test_blocked_sigchld_does_not_keep_us_waiting(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare("exit 3")
    assert process(blocking=[signal.SIGCHLD]).wait() == 3


def test_ignored_sigchld_does_not_lose_the_code(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare("exit 3")
    # not through `run`: its shell would put the default back
    assert process(*place.argv, ignoring=[signal.SIGCHLD]).wait() == 3


# What cannot be started


def test_missing_bash_is_an_error_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="`bash` is not on") as caught:
        execute(job("true", tmp_path, PATH=str(tmp_path)))
    assert caught.value.hint


def test_missing_working_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExecutionError, match="the working directory does not exist") as caught:
        execute(job("true", tmp_path / "missing"))
    assert caught.value.place == str(tmp_path / "missing")


def test_file_as_working_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ExecutionError, match="cannot be entered: not a directory"):
        execute(job("true", tmp_path / "file"))


@IN_BOTH_WAYS
def test_too_long_command_is_an_error(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExecutionError, match="longer than the system allows"):
        execute(job("true " + "x" * 10_000_000, tmp_path / directory))


@IN_BOTH_WAYS
def test_null_byte_is_an_error(
    directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExecutionError, match="null byte"):
        execute(job("true \0", tmp_path / directory))


def test_failed_start_leaves_no_child(tmp_path: Path) -> None:
    before = children()
    with pytest.raises(ExecutionError):
        execute(job("true", tmp_path / "missing"))
    assert children() == before


# What is left as it was


def test_handlers_and_mask_are_restored(tmp_path: Path) -> None:
    def state() -> object:
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        return [signal.getsignal(number) for number in CAUGHT], mask, wakeup

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ours = signal.set_wakeup_fd(writer)
    try:
        before = state()
        execute(job("true", tmp_path))
        assert state() == before
        with pytest.raises(ExecutionError):
            execute(job("true", tmp_path / "missing"))
        assert state() == before
    finally:
        signal.set_wakeup_fd(ours)
        os.close(reader)
        os.close(writer)


def test_background_process_outlives_a_normal_end(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert execute(job("sleep 1000 >/dev/null 2>&1 & echo $!", tmp_path)) == Result(0)
    pid = int(capfd.readouterr().out)
    os.kill(pid, signal.SIGKILL)  # raises where it has ended


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_thread_can_execute(tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(execute(job("exit 3", tmp_path))))
    thread.start()
    thread.join()
    assert results == [Result(3)]


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_signals_taken_by_other_threads_arrive(tmp_path: Path) -> None:
    interrupt = python(
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "time.sleep(1000)"
    )
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        result = execute(job(interrupt, tmp_path))
    finally:
        end.set()
        thread.join()
    assert result == Result(130, signal.SIGINT)


def test_exception_of_a_callers_handler_ends_the_command(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with pytest.raises(Alarm):
            execute(job("echo $$; kill -USR1 $PPID; exec sleep 1000", tmp_path))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert group_has_ended(int(capfd.readouterr().out))


def test_signal_before_the_command_runs_is_kept_for_it() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        signals.release()
        assert signal.SIGINT in signals.read()


def test_signal_after_the_last_look_is_our_callers() -> None:
    def take_and_leave() -> None:
        with Signals() as signals:
            signals.release()
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        take_and_leave()


# Interruption without a terminal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_to_us_ends_the_command(
    number: int, place: Place, process: Callable[..., Process]
) -> None:
    place.prepare(f"ulimit -c 0; {idle()}")
    running = process()
    group = group_in(running.line())
    running.signal(number)
    assert running.wait() == 128 + number
    assert place.result == Result(128 + number, number)
    assert group_has_ended(group)


def test_sigterm_to_us_ends_grandchildren(place: Place, process: Callable[..., Process]) -> None:
    place.prepare(f"({idle()} & {idle()}) & {idle()} & wait")
    running = process()
    (group,) = {group_in(running.line()) for _ in range(3)}
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.result == Result(143, signal.SIGTERM)
    assert group_has_ended(group)


def test_command_may_end_in_its_own_way(place: Place, process: Callable[..., Process]) -> None:
    place.prepare(listen(signal.SIGTERM))
    running = process()
    running.line()
    running.signal(signal.SIGTERM)
    assert running.line() == "SIGTERM"
    running.wait()
    assert place.result == Result(7, signal.SIGTERM)


def test_stopped_command_can_be_ended(place: Place, process: Callable[..., Process]) -> None:
    place.prepare("echo $$; kill -STOP $$")
    running = process()
    group = int(running.line())
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.result == Result(143, signal.SIGTERM)
    assert group_has_ended(group)


def test_command_that_ignores_everything_is_killed(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare(
        "trap '' INT TERM HUP QUIT; echo $$; while :; do sleep 1000; done", grace=IMPATIENT
    )
    running = process()
    group = int(running.line())
    running.signal(signal.SIGINT)
    running.wait()
    assert place.result == Result(137, signal.SIGINT)
    assert group_has_ended(group)


def test_background_job_that_ignores_everything_is_killed(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare(
        "bash -c 'trap \"\" INT TERM HUP; echo ready; sleep 1000' & echo $$; wait",
        grace=IMPATIENT,
    )
    running = process()
    lines = {running.line(), running.line()} - {"ready"}
    running.signal(signal.SIGTERM)
    running.wait()
    assert place.result.interrupted == signal.SIGTERM
    assert group_has_ended(int(lines.pop()))


def test_zombies_of_others_do_not_keep_us_waiting(
    place: Place, process: Callable[..., Process]
) -> None:
    # the parent of the group's last member leaves the group and never waits for it
    leave = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    time.sleep(1000)\n"
        "os.setsid()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()"
    )
    place.prepare(f"({python(leave)}); true")
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGTERM)
    assert running.wait() == 143
    assert place.result == Result(143, signal.SIGTERM)


def test_continuing_us_continues_the_command(place: Place, process: Callable[..., Process]) -> None:
    place.prepare(listen(signal.SIGCONT))
    running = process()
    assert running.line() == "ready"
    running.signal(signal.SIGSTOP)
    running.signal(signal.SIGCONT)
    assert running.line() == "SIGCONT"


def test_each_further_signal_brings_the_next_step(
    place: Place, process: Callable[..., Process]
) -> None:
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
    ending.ask(signal.SIGINT)
    ending.ask(signal.SIGINT)
    assert (ending.seconds() or 0) > 1000
    assert child.wait() == -signal.SIGINT


def test_processes_of_our_own_group_survive(place: Place, process: Callable[..., Process]) -> None:
    place.prepare(f"echo $PPID; {idle()}")
    running = process("bash", "-c", "(./run; echo ended) & cat; wait")
    runner = int(running.line())
    assert group_in(running.line()) != os.getpgid(runner)
    os.kill(runner, signal.SIGTERM)
    assert running.line() == "ended"
    running.type("alive\n")
    assert running.line() == "alive"
    assert place.result == Result(143, signal.SIGTERM)


# Timeouts


@IN_BOTH_WAYS
def test_timeout_ends_all_that_the_command_started(
    directory: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    late = job("echo $$; (sleep 1000 & sleep 1000) & sleep 1000", tmp_path / directory)
    assert execute(late._replace(timeout=1)) == Result(124, None, True)
    assert group_has_ended(int(capfd.readouterr().out))


def test_timeout_kills_what_ignores_sigterm(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    late = job("trap '' TERM; echo $$; while :; do sleep 1000; done", tmp_path)
    assert execute(late._replace(timeout=1), grace=IMPATIENT) == Result(124, None, True)
    assert group_has_ended(int(capfd.readouterr().out))


def test_command_may_use_its_grace_after_a_timeout(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    late = job("trap 'echo asked; exit 5' TERM; sleep 1000 & wait", tmp_path)
    assert execute(late._replace(timeout=1), grace=PATIENT) == Result(124, None, True)
    assert capfd.readouterr().out == "asked\n"


@pytest.mark.parametrize("timeout", [60.0, 1e12])
def test_command_that_ends_in_time_keeps_its_code(timeout: float, tmp_path: Path) -> None:
    assert execute(job("exit 3", tmp_path)._replace(timeout=timeout)) == Result(3)


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
@pytest.mark.parametrize(
    ("command", "timeout", "result"),
    [("exec sleep 1000", 0.1, Result(124, None, True)), ("exit 3", 60.0, Result(3))],
)
def test_timeout_holds_in_a_thread(
    command: str, timeout: float, result: Result, tmp_path: Path
) -> None:
    results = []
    late = job(command, tmp_path)._replace(timeout=timeout)
    thread = threading.Thread(target=lambda: results.append(execute(late)))
    thread.start()
    thread.join()
    assert results == [result]


def test_ctrl_c_after_a_timeout_is_an_interruption(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("trap 'echo asked' TERM; while :; do read -r -t 1000; done", timeout=1)
    shown = screen()
    shown.until("asked")
    shown.type(CTRL_C)
    assert shown.wait() == 124
    assert place.result == Result(124, signal.SIGINT, True)


# On a terminal

TERMINAL_LOOK = (
    "import os; "
    "print(*[os.isatty(n) and os.tcgetpgrp(n) == os.getpgrp() for n in range(3)], sep='-')"
)


def test_command_has_the_terminal_from_its_start(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(python(TERMINAL_LOOK))
    screen().until("True-True-True")


def test_terminal_is_ours_again_afterwards(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare("read -r line; echo got $line")
    shown = screen("bash", "-c", "./run; read -r line; echo then $line")
    shown.type("one\n")
    shown.until("got one")
    shown.type("two\n")
    shown.until("then two")
    assert shown.wait() == 0


def test_terminal_is_ours_again_after_a_failed_start(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("true " + "x" * 1_000_000)
    # the script itself would be too long to be passed on
    shown = screen("bash", "-c", "./run 2>/dev/null; read -r line; echo then $line")
    shown.type("two\n")
    shown.until("then two")


def test_ctrl_c_ends_all_that_the_command_started(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(
        f"{stubborn()} & read -r _ <started; ({idle()}); true",
        grace=PATIENT._replace(rest=0),
    )
    place.fifo("started")
    shown = screen()
    shown.until("stubborn")
    (place.path / "started").write_text("\n")
    shown.until("group=")
    group = int(shown.until("."))
    shown.type(CTRL_C)
    assert shown.wait() == 130
    assert place.result == Result(130, signal.SIGINT)
    assert group_has_ended(group)


def test_killed_command_takes_what_it_started_with_it(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(f"{stubborn()} & read -r _ <started; echo group=$$.; kill -TERM $$")
    place.fifo("started")
    shown = screen()
    shown.until("stubborn")
    (place.path / "started").write_text("\n")
    shown.until("group=")
    group = int(shown.until("."))
    assert shown.wait() == 143
    assert place.result == Result(143, signal.SIGTERM)
    assert group_has_ended(group)


def test_second_ctrl_c_does_not_wait_for_the_rest(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(f"{stubborn()} & read -r _ <started; {idle()}")
    place.fifo("started")
    shown = screen()
    shown.until("stubborn")
    (place.path / "started").write_text("\n")
    shown.until("group=")
    group = int(shown.until("."))
    shown.type(CTRL_C)
    # only then does the key reach us
    wait_until(lambda: os.tcgetpgrp(shown.master) == shown.pid)
    shown.type(CTRL_C)
    assert shown.wait() == 130
    assert place.result == Result(130, signal.SIGINT)
    assert group_has_ended(group)


def test_command_that_handles_ctrl_c_goes_on(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare(listen(signal.SIGINT, signal.SIGINT))
    shown = screen()
    shown.until("ready")
    shown.type(CTRL_C)
    shown.until("SIGINT")
    shown.type(CTRL_C)
    assert shown.wait() == 7
    assert place.result == Result(7)


def test_command_in_a_pipeline_gets_the_terminal_when_it_asks(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("echo out; read -r line </dev/tty; echo got $line")
    shown = screen("bash", "-c", "./run | tee log; echo code=${PIPESTATUS[0]}.")
    shown.until("out")
    shown.type("hello\n")
    shown.until("got hello")
    shown.until("code=0.")
    assert (place.path / "log").read_text() == "out\ngot hello\n"


def test_ctrl_c_in_a_pipeline_ends_the_command(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare(idle())
    shown = screen("bash", "-c", "./run | cat")
    shown.until("group=")
    group = int(shown.until("."))
    shown.type(CTRL_C)
    shown.wait()
    wait_until((place.path / "result").exists)
    assert place.result == Result(130, signal.SIGINT)
    assert group_has_ended(group)


def test_change_of_the_windows_size_reaches_a_command_in_a_pipeline(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(listen(signal.SIGWINCH))
    shown = screen("bash", "-c", "./run | cat")
    shown.until("ready")
    fcntl.ioctl(shown.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown.until("SIGWINCH")


def test_ctrl_z_and_fg(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare("echo ready; read -r line; echo got $line; exit 5")
    shown = screen(*SHELL)
    shown.type("./run\n")
    shown.until("ready")
    shown.type(CTRL_Z)
    shown.until("Stopped")
    shown.type("echo shell-$((1 + 1))\n")
    shown.until("shell-2")
    shown.type("fg\n")
    shown.type("hello\n")
    shown.until("got hello")
    shown.type("echo code=$?.\n")
    shown.until("code=5.")


def test_command_has_the_terminal_again_after_fg(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(
        python(
            "import signal\n"
            "signal.signal(signal.SIGCONT, lambda *_: None)\n"
            "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCONT])\n"
            "print('ready', flush=True)\n"
            "signal.sigwait([signal.SIGCONT])\n"
            f"{TERMINAL_LOOK}"
        )
    )
    shown = screen(*SHELL)
    shown.type("./run\n")
    shown.until("ready")
    shown.type(CTRL_Z)
    shown.until("Stopped")
    shown.type("fg\n")
    shown.until("True-True-True")


def test_ctrl_z_and_fg_in_a_pipeline(place: Place, screen: Callable[..., Screen]) -> None:
    place.prepare("echo ready; read -r line </dev/tty; echo got $line")
    shown = screen(*SHELL)
    for _ in range(3):
        shown.type("./run | cat\n")
        shown.until("ready")
        shown.type(CTRL_Z)
        shown.until("Stopped")
        shown.type("fg\n")
        shown.type("hello\n")
        shown.until("got hello")


def test_ctrl_z_stops_the_script_that_called_us(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("echo ready; read -r line; echo got $line")
    place.script("script", "./run; echo script goes on\n")
    shown = screen(*SHELL)
    shown.type("./script\n")
    shown.until("ready")
    shown.type(CTRL_Z)
    shown.until("Stopped")
    shown.type("fg\n")
    shown.type("hello\n")
    shown.until("got hello")
    shown.until("script goes on")


def test_bg_lets_the_command_run_until_it_asks_for_the_terminal(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("echo ready; read -r _ <go; read -r line; echo got $line")
    place.fifo("go")
    shown = screen(*SHELL)
    shown.type("./run\n")
    shown.until("ready")
    shown.type(CTRL_Z)
    shown.until("Stopped")
    shown.type("bg\n")
    shown.until("&")
    (place.path / "go").write_text("\n")
    stopped = ""
    while "Stopped" not in stopped:
        shown.type("jobs; echo listed-$((1 + 1))\n")
        stopped = shown.until("listed-2")
    shown.type("fg\n")
    shown.type("hello\n")
    shown.until("got hello")


def test_started_in_the_background_it_gets_the_terminal_after_fg(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("read -r _ <go; read -r line; echo got $line")
    place.fifo("go")
    shown = screen(*SHELL)
    shown.type("./run &\n")
    shown.type("fg\n")
    (place.path / "go").write_text("\n")
    shown.type("hello\n")
    shown.until("got hello")


def test_ctrl_z_has_no_effect_where_nobody_could_continue_us(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(listen(signal.SIGCONT))
    shown = screen()
    shown.until("ready")
    shown.type(CTRL_Z)
    shown.until("SIGCONT")
    assert shown.wait() == 7


def test_asking_for_a_terminal_that_nobody_can_give_ends_the_command(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("read -r _ <go; read -r line </dev/tty")
    place.fifo("go")
    shown = screen(*SHELL)
    # its shell has ended, so it is nobody's job
    shown.type("sh -c './run &'\n")
    shown.type("echo shell-$((1 + 1))\n")
    shown.until("shell-2")
    (place.path / "go").write_text("\n")
    wait_until((place.path / "result").exists)
    assert place.result == Result(129, signal.SIGHUP)


@pytest.mark.parametrize("argv", [("./run",), SHELL, ("bash", "-c", "./run; true")])
def test_hang_up_leaves_nothing_behind(
    argv: tuple[str, ...], place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare(
        "exec 3>held; (trap '' HUP; echo deaf; sleep 1000) & sleep 1000 & sleep 1000",
        grace=IMPATIENT,
    )
    place.fifo("held")
    shown = screen(*argv)
    if argv == SHELL:
        shown.type("./run\n")
    reader = os.open(place.path / "held", os.O_RDONLY)
    shown.until("deaf")
    shown.hang_up()
    # the last process that has it open has ended
    with open(reader, "rb") as held:
        assert held.read() == b""
    wait_until((place.path / "result").exists)
    assert place.result.interrupted == signal.SIGHUP


def test_killed_command_does_not_leave_its_terminal_modes(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("stty -echo raw; kill -KILL $$")
    shown = screen("bash", "-c", "./run; stty -a; echo end")
    assert " echo " in shown.until("end")


def test_terminal_modes_that_a_command_sets_are_kept(
    place: Place, screen: Callable[..., Screen]
) -> None:
    place.prepare("stty -echo")
    shown = screen("bash", "-c", "./run; stty -a; echo end")
    assert " -echo " in shown.until("end")


# What outlives us


@pytest.mark.parametrize("command", ["{}", "({}) & wait", "trap '' TERM; ({}) & wait"])
def test_command_ends_when_we_are_killed(
    place: Place, process: Callable[..., Process], command: str
) -> None:
    place.prepare(command.format(idle()))
    running = process()
    group = group_in(running.line())
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    wait_until(lambda: group_has_ended(group))


def test_what_a_command_has_left_running_outlives_us(
    place: Place, process: Callable[..., Process]
) -> None:
    place.prepare("sleep 1000 > /dev/null 2>&1 & echo $! $$")
    running = process()
    pid, group = map(int, running.line().split())
    assert running.wait() == 0
    os.kill(pid, 0)  # raises where it has ended
    os.killpg(group, signal.SIGKILL)
