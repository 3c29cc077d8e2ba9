"""Runs commands on this machine, as ``bash -c`` would in the user's own shell.

The command is the leader of a process group of its own, so that it can be ended together with
everything it started, and without anything else that runs in ours: `make`, the other parts of a
pipeline, a CI runner. A process that leaves the group, as daemons do, is left alone; so is what
a command has left running when it ends by itself.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.executors.base import Job, Result, Usage
from buildrun.executors.process import (
    destroy,
    find_program,
    send_signal,
    shell_code,
    spawn,
    usage_of,
)
from buildrun.executors.signals import ENDING, Signals
from buildrun.executors.tee import logged
from buildrun.executors.terminal import Terminal
from buildrun.executors.termination import GRACE, GracePeriods, Termination, Watchdog

if TYPE_CHECKING:
    from buildrun.executors.base import ExecutorContext, OutputSink, ProcessRunner, Task

# Seconds between looks at a command that nothing tells us of: in another thread than the main one.
_PAUSE = 0.05

# Seconds that another thread may need to note our being continued.
_CONTINUE_NOTICE = 0.5


class LocalExecutor:
    """Runs commands on this machine: several through the runner, a lone one directly."""

    USES_IMAGE = False
    HAS_TERMINAL = True
    repository = None

    @classmethod
    def open(cls, context: ExecutorContext) -> LocalExecutor:
        """Return the executor; there is nothing to connect to."""
        del context
        return cls()

    def check(self, tasks: Sequence[Task]) -> None:
        """Accept every step."""

    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result:
        """Run the job, see ``Executor``."""
        if runner is None or sink is None:
            return execute(job)
        return runner.run(job, sink)

    def close(self, *, interrupted: bool) -> None:
        """Do nothing: each command has ended with its run."""


def execute(job: Job, *, grace: GracePeriods = GRACE) -> Result:
    """Run the command to its end with our stdin, stdout, stderr and terminal.

    grace: how long an interrupted command may take.

    SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on, and the whole group has ended when this
    returns. Outside the main thread they cannot be: there they have the effect that the caller
    has chosen. Other threads do no harm to signals; `spawn` says what they mean for a fork. What
    Python has buffered for stdout is the caller's to flush before.

    Raises ExecutionError where the command cannot be started.
    """
    program = find_program(job)
    with logged(job.log), Terminal() as terminal, Signals() as signals, Watchdog() as watchdog:
        descriptor = terminal.descriptor_to_give()
        group = 0
        try:
            group = spawn(program, job, terminal=descriptor, mask=signals.mask)
            watchdog.add(group)
            if descriptor is not None:
                terminal.record_given(group)
            ending = Termination(group, grace, job.timeout)
            return _AttachedProcess(group, terminal, signals, ending).wait()
        except BaseException:
            # A handler of our caller's has raised; the command must not be lost.
            if group:
                destroy(group)
            raise


class _AttachedProcess:
    """A running command with our streams, and all that is done for it until it has ended."""

    def __init__(
        self, group: int, terminal: Terminal, signals: Signals, ending: Termination
    ) -> None:
        self._group = group
        self._terminal = terminal
        self._signals = signals
        self._ending = ending

    def wait(self) -> Result:
        self._signals.unblock()
        status, usage = self._wait_for_leader()
        # Ctrl-C has then reached the command's group alone.
        was_given = self._terminal.given
        # Before the rest is ended, so that the user can hurry us with Ctrl-C.
        self._terminal.take_back()
        if shell_code(status) > 128:
            self._terminal.restore_modes()
        self._ending.leader_has_ended(_ended_by(status) if was_given else None)
        self._read_requests(0)
        while not self._ending.is_over():
            self._read_requests(self._ending.seconds())
            self._ending.escalate_if_due()
        return self._ending.result(shell_code(status), usage)

    def _wait_for_leader(self) -> tuple[int, Usage]:
        # Asked without waiting, then waited for by reading: the byte of a SIGCHLD that arrives
        # in between is in the pipe.
        waits = not self._signals.active and self._ending.seconds() is None
        flags = os.WUNTRACED | (0 if waits else os.WNOHANG)
        while True:
            pid, status, told = os.wait4(self._group, flags)
            if pid == 0:
                for number in self._signals.read(self._pause()):
                    self._receive(number)
                self._ending.escalate_if_due()
            elif os.WIFSTOPPED(status):
                self._stopped(os.WSTOPSIG(status))
            else:
                return os.waitstatus_to_exitcode(status), usage_of(told)

    def _pause(self) -> float | None:
        # Outside the main thread nothing tells of the command's end before its timeout.
        seconds = self._ending.seconds()
        return seconds if self._signals.active else min(seconds or 0, _PAUSE)

    def _read_requests(self, seconds: float | None) -> None:
        for number in self._signals.read(seconds):
            if number in ENDING:
                self._ending.request(number)

    def _receive(self, number: int) -> None:
        if number in ENDING:
            self._ending.request(number)
        elif number == signal.SIGTSTP:
            # Ctrl-Z while we have the terminal reaches our group alone. We do not wait for the
            # command to stop: if it has just been stopped as it asked for the terminal, it does
            # not stop again, and being given the terminal would undo the Ctrl-Z.
            send_signal(self._group, number)
            self._suspend(number, siblings=False)
        elif number == signal.SIGCONT:
            self._resume()
        elif number == signal.SIGWINCH and not self._terminal.given:
            send_signal(self._group, number)

    def _stopped(self, number: int) -> None:
        """Do what the terminal would have done, had the command been in our group."""
        wants_terminal = number in (signal.SIGTTIN, signal.SIGTTOU)
        if wants_terminal and self._terminal.give(self._group):
            send_signal(self._group, signal.SIGCONT)
        elif self._terminal.exists:
            self._suspend(number, siblings=True)
        # Without a terminal there is no job control: whoever has stopped it will continue it.

    def _suspend(self, number: int, *, siblings: bool) -> None:
        """Stop like the command, so that our shell takes over; resume after `fg` or `bg`.

        siblings: whether the rest of our group has not had the signal, but is to stop too: a
            shell waits for all of it, where we were called by a script or by `make`.
        """
        self._terminal.take_back()
        # Unlike SIGSTOP, SIGTSTP is discarded where nobody could continue us.
        own = signal.SIGTSTP if number == signal.SIGSTOP else number
        before = time.monotonic()
        self._signals.stop(own, siblings=siblings)
        self._ending.postpone(time.monotonic() - before)
        wants_terminal = number in (signal.SIGTTIN, signal.SIGTTOU)
        if self._was_continued(0) or number == signal.SIGTSTP:
            self._resume()
        elif wants_terminal and not self._was_continued(_CONTINUE_NOTICE):
            # Nobody can give us the terminal any more. Continued, the command would ask again,
            # on and on; so it gets what stopped groups get that have lost their shell.
            self._ending.request(signal.SIGHUP)
        elif wants_terminal:
            self._resume()

    def _was_continued(self, seconds: float) -> bool:
        if not self._signals.active:
            # Nothing tells; the pause is for a command that nobody can give the terminal to,
            # and that stops again and again.
            self._signals.read(_PAUSE)
            return True
        numbers = self._signals.read(seconds)
        for number in numbers:
            if number != signal.SIGCONT:
                self._receive(number)
        return signal.SIGCONT in numbers

    def _resume(self) -> None:
        self._terminal.give_again(self._group)
        send_signal(self._group, signal.SIGCONT)


def _ended_by(status: int) -> int | None:
    """Return the signal that made the command end, also where it says so by 130 alone."""
    if status == 128 + signal.SIGINT:
        return int(signal.SIGINT)
    return -status if -status in ENDING else None
