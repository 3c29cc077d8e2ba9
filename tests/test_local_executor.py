"""A command with our own streams: on a terminal, under job control, in a thread."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import threading

import pytest
from executor_helpers import (  # noqa: F401
    BUSY,
    CTRL_C,
    CTRL_Z,
    IMPATIENT,
    NEVER,
    PATIENT,
    ROOT,
    SHELL,
    Gate,
    OpenScreen,
    Place,
    Screen,
    StartProcess,
    a_gate,
    a_place,
    a_process,
    a_screen,
    group_has_ended,
    idle,
    job,
    listen,
    python,
    wait_until,
)

from buildrun.executors.base import Result
from buildrun.executors.local import execute
from buildrun.executors.signals import Signals

# Commands that start elsewhere than here are forked.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def captured() -> bool:
    return False


# Streams, threads and handlers


def test_command_reads_our_stdin(place: Place, process: StartProcess) -> None:
    place.prepare("read -r line; echo got $line")
    running = process()
    running.type("hello\n")
    assert running.line() == "got hello"


def test_closed_stdin_stays_closed(place: Place, process: StartProcess) -> None:
    place.prepare("cat 2>/dev/null || echo closed")
    assert process("bash", "-c", "./run <&-").rest() == "closed\n"


def test_descriptors_of_our_caller_are_inherited(place: Place, process: StartProcess) -> None:
    place.prepare("read -r line <&5; echo got $line")
    assert process("bash", "-c", "./run 5< <(echo hello)").rest() == "got hello\n"


@pytest.mark.parametrize(
    ("command", "timeout", "result"),
    [
        ("exit 3", None, Result(3)),
        ("exit 3", 60.0, Result(3)),
        ("exec sleep 1000", 0.1, Result(124, None, True)),
    ],
)
def test_another_thread_can_execute(command: str, timeout: float | None, result: Result) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(execute(job(command, timeout=timeout))))
    thread.start()
    thread.join()
    assert [each._replace(usage=None) for each in results] == [result]


def test_usage_is_that_of_all_processes_of_the_command() -> None:
    usage = execute(job(BUSY)).usage
    assert usage is not None
    assert usage.cpu_seconds >= 0.3
    assert usage.peak_memory >= 200_000_000


def test_signals_taken_by_other_threads_arrive() -> None:
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
        result = execute(job(interrupt))._replace(usage=None)
    finally:
        end.set()
        thread.join()
    assert result == Result(130, signal.SIGINT)


@pytest.mark.parametrize("cwd", [".", "/"])
def test_exception_of_a_callers_handler_ends_the_command(cwd: str, place: Place) -> None:
    # in a process of its own: here another thread could take the signal while ours blocks it
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from buildrun.executors.base import Job
from buildrun.executors.local import execute
def ring(*_):
    raise KeyError
signal.signal(signal.SIGUSR1, ring)
command = "echo $$; kill -USR1 $PPID; exec sleep 1000"
try:
    execute(Job(command, os.path.abspath({cwd!r}), dict(os.environ)))
except KeyError:
    print("raised")
"""
    done = subprocess.run(
        (sys.executable, "-c", program),
        cwd=place.path, stdout=subprocess.PIPE, text=True, timeout=60, check=True,
    )  # fmt: skip
    group, raised = done.stdout.split()
    assert raised == "raised"
    assert group_has_ended(int(group))


def test_signal_before_the_command_runs_is_kept_for_it() -> None:
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        signals.unblock()
        assert signal.SIGINT in signals.read()


def test_zombies_of_others_do_not_keep_us_waiting(place: Place, process: StartProcess) -> None:
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


# On a terminal

TERMINAL_LOOK = (
    "import os; "
    "print(*[os.isatty(n) and os.tcgetpgrp(n) == os.getpgrp() for n in range(3)], sep='-')"
)


def test_command_has_the_terminal_from_its_start(place: Place, screen: OpenScreen) -> None:
    place.prepare(python(TERMINAL_LOOK))
    screen().until("True-True-True")


def test_terminal_is_ours_again_afterwards(place: Place, screen: OpenScreen) -> None:
    place.prepare("read -r line; echo got $line")
    shown = screen("bash", "-c", "./run; read -r line; echo then $line")
    shown.talk("one\n", "got one", "two\n", "then two")
    assert shown.wait() == 0


def test_terminal_is_ours_again_after_a_failed_start(place: Place, screen: OpenScreen) -> None:
    place.prepare("true " + "x" * 1_000_000)
    # the script itself would be too long to be passed on
    shown = screen("bash", "-c", "./run 2>/dev/null; read -r line; echo then $line")
    shown.talk("two\n", "then two")


@pytest.mark.parametrize(
    ("command", "rest", "ctrl_c", "number"),
    [
        (f"({idle()}); true", 0.0, 1, signal.SIGINT),
        # the second one does not wait for the rest
        (idle(), NEVER, 2, signal.SIGINT),
        ("echo group=$$.; kill -TERM $$", NEVER, 0, signal.SIGTERM),
    ],
    ids=["ctrl-c", "twice", "killed"],
)
def test_command_on_a_terminal_takes_what_it_started_with_it(
    command: str, rest: float, ctrl_c: int, number: int,
    place: Place, screen: OpenScreen, gate: Gate,
) -> None:  # fmt: skip
    place.prepare(f"{idle('IGN')} & {Gate.WAIT}; {command}", grace=PATIENT._replace(rest=rest))
    shown = screen()
    shown.group()
    gate.open()
    group = shown.group()
    if ctrl_c:
        shown.type(CTRL_C)
    if ctrl_c == 2:
        # only then does the key reach us
        wait_until(lambda: os.tcgetpgrp(shown.master) == shown.pid)
        shown.type(CTRL_C)
    assert shown.wait() == 128 + number
    assert place.result == Result(128 + number, number)
    assert group_has_ended(group)


def test_command_that_handles_ctrl_c_goes_on(place: Place, screen: OpenScreen) -> None:
    place.prepare(listen(signal.SIGINT, signal.SIGINT))
    shown = screen()
    shown.until("ready")
    shown.talk(CTRL_C, "SIGINT", CTRL_C)
    assert shown.wait() == 7
    assert place.result == Result(7)


def test_command_in_a_pipeline_gets_the_terminal_when_it_asks(
    place: Place, screen: OpenScreen
) -> None:
    place.prepare("echo out; read -r line </dev/tty; echo got $line")
    shown = screen("bash", "-c", "./run | tee log; echo code=${PIPESTATUS[0]}.")
    shown.until("out")
    shown.type("hello\n")
    shown.until("got hello")
    shown.until("code=0.")
    assert (place.path / "log").read_text() == "out\ngot hello\n"


def test_ctrl_c_in_a_pipeline_ends_the_command(place: Place, screen: OpenScreen) -> None:
    place.prepare(idle())
    shown = screen("bash", "-c", "./run | cat")
    group = shown.group()
    shown.type(CTRL_C)
    shown.wait()
    wait_until((place.path / "result").exists)
    assert place.result == Result(130, signal.SIGINT)
    assert group_has_ended(group)


def test_change_of_the_windows_size_reaches_a_command_in_a_pipeline(
    place: Place, screen: OpenScreen
) -> None:
    place.prepare(listen(signal.SIGWINCH))
    shown = screen("bash", "-c", "./run | cat")
    shown.until("ready")
    fcntl.ioctl(shown.master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    shown.until("SIGWINCH")


def stopped_shell(screen: OpenScreen, command: str = "./run") -> Screen:
    """Return a shell in which the command was started, has said "ready" and is stopped."""
    shown = screen(*SHELL)
    shown.talk(f"{command}\n", "ready", CTRL_Z, "Stopped")
    return shown


def test_ctrl_z_and_fg(place: Place, screen: OpenScreen) -> None:
    place.prepare("echo ready; read -r line; echo got $line; exit 5")
    shown = stopped_shell(screen)
    shown.talk(
        "echo shell-$((1 + 1))\n",
        "shell-2",
        "fg\nhello\n",
        "got hello",
        "echo code=$?.\n",
        "code=5.",
    )


def test_command_has_the_terminal_again_after_fg(place: Place, screen: OpenScreen) -> None:
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
    shown = stopped_shell(screen)
    shown.talk("fg\n", "True-True-True")


def test_ctrl_z_and_fg_in_a_pipeline(place: Place, screen: OpenScreen) -> None:
    place.prepare("echo ready; read -r line </dev/tty; echo got $line")
    shown = screen(*SHELL)
    for _ in range(3):
        shown.talk("./run | cat\n", "ready", CTRL_Z, "Stopped", "fg\nhello\n", "got hello")


def test_ctrl_z_stops_the_script_that_called_us(place: Place, screen: OpenScreen) -> None:
    place.prepare("echo ready; read -r line; echo got $line")
    place.script("script", "./run; echo script goes on\n")
    shown = stopped_shell(screen, "./script")
    shown.type("fg\n")
    shown.type("hello\n")
    shown.until("got hello")
    shown.until("script goes on")


def test_bg_lets_the_command_run_until_it_asks_for_the_terminal(
    place: Place, screen: OpenScreen, gate: Gate
) -> None:
    place.prepare(f"echo ready; {Gate.WAIT}; read -r line; echo got $line")
    shown = stopped_shell(screen)
    shown.talk("bg\n", "&")
    gate.open()
    stopped = ""
    while "Stopped" not in stopped:
        shown.type("jobs; echo listed-$((1 + 1))\n")
        stopped = shown.until("listed-2")
    shown.talk("fg\nhello\n", "got hello")


def test_started_in_the_background_it_gets_the_terminal_after_fg(
    place: Place, screen: OpenScreen, gate: Gate
) -> None:
    place.prepare(f"{Gate.WAIT}; read -r line; echo got $line")
    shown = screen(*SHELL)
    shown.type("./run &\n")
    shown.type("fg\n")
    gate.open()
    shown.talk("hello\n", "got hello")


def test_asking_for_a_terminal_that_nobody_can_give_ends_the_command(
    place: Place, screen: OpenScreen, gate: Gate
) -> None:
    place.prepare(f"{Gate.WAIT}; read -r line </dev/tty")
    shown = screen(*SHELL)
    # its shell has ended, so it is nobody's job
    shown.talk("sh -c './run &'\necho shell-$((1 + 1))\n", "shell-2")
    gate.open()
    wait_until((place.path / "result").exists)
    assert place.result == Result(129, signal.SIGHUP)


@pytest.mark.parametrize("argv", [("./run",), SHELL, ("bash", "-c", "./run; true")])
def test_hang_up_leaves_nothing_behind(
    argv: tuple[str, ...], place: Place, screen: OpenScreen
) -> None:
    place.prepare(
        "exec 3>held; (trap '' HUP; echo deaf; sleep 1000) & sleep 1000 & sleep 1000",
        grace=IMPATIENT,
    )
    os.mkfifo(place.path / "held")
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


def test_killed_command_does_not_leave_its_terminal_modes(place: Place, screen: OpenScreen) -> None:
    place.prepare("stty -echo raw; kill -KILL $$")
    shown = screen("bash", "-c", "./run; stty -a; echo end")
    assert " echo " in shown.until("end")


def test_terminal_modes_that_a_command_sets_are_kept(place: Place, screen: OpenScreen) -> None:
    place.prepare("stty -echo")
    shown = screen("bash", "-c", "./run; stty -a; echo end")
    assert " -echo " in shown.until("end")
