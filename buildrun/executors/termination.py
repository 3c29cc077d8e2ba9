"""How a process group is brought to its end: signals and grace periods."""

from __future__ import annotations

import signal
import time
from typing import NamedTuple

from buildrun.executors.process import send


class GracePeriods(NamedTuple):
    """How long a group that was asked to end may take, in seconds.

    interrupt: after SIGINT.
    end: after any other signal, and after a timeout's.
    rest: after SIGINT, for what is still there once the command itself has ended: mostly
        background jobs, which bash starts with SIGINT ignored.
    echo: within this time a second signal is the same request again. `timeout` signals its
        child and then its group, and other wrappers pass on what the terminal has sent already.
    """

    interrupt: float = 10.0
    end: float = 5.0
    rest: float = 1.0
    echo: float = 0.1


GRACE = GracePeriods()

# What follows a signal that has not ended the group; SIGTERM where nothing else is said.
_NEXT: dict[int, int | None] = {signal.SIGTERM: signal.SIGKILL, signal.SIGKILL: None}

# Seconds that the kernel gets to carry out SIGKILL.
_KILL_TIME = 5.0

# Seconds; poll and epoll take no more than 24 days.
_LONGEST_WAIT = 86400.0


class Termination:
    """Passes the user's signal on to a group; then SIGTERM and SIGKILL, each in its time."""

    def __init__(self, group: int, grace: GracePeriods, timeout: float | None = None) -> None:
        """Take the group that is to end once it is asked to, or after the timeout in seconds."""
        self.begun = False
        self.interrupted: int | None = None
        self.timed_out = False
        self._group = group
        self._grace = grace
        self._next = None if timeout is None else int(signal.SIGTERM)
        self._due = time.monotonic() + (timeout or 0.0)
        self._asked = 0.0

    @property
    def given_up(self) -> bool:
        """Whether not even SIGKILL has helped, as with a process that hangs in the kernel."""
        return self.begun and self._next is None and self._left() == 0

    def seconds(self) -> float | None:
        """Return a time to wait before `advance_if_due`, or None where no step is to come."""
        return None if self._next is None else min(self._left(), _LONGEST_WAIT)

    def ask(self, number: int) -> None:
        """Pass the signal on; a later request brings the next step forward."""
        now = time.monotonic()
        if self.interrupted is None:
            self.interrupted = number
            if not self.begun:
                self._send(number)
        elif now - self._asked >= self._grace.echo:
            self._advance()
        self._asked = now

    def follow(self, number: int) -> None:
        """Take over from a signal that has ended the leader without us."""
        if self.interrupted is not None:
            return
        if number == signal.SIGINT:
            # Ctrl-C has reached the whole group; twice means "at once" to some programs.
            self.interrupted = number
            self._asked = time.monotonic()
            if not self.begun:
                self._plan(number)
        elif not self.begun:
            self.ask(number)

    def end(self) -> None:
        """Have the group end for a reason of ours."""
        if not self.begun:
            self._send(signal.SIGTERM)

    def postpone(self, seconds: float) -> None:
        """Leave out a time in which the group was stopped."""
        self._due += seconds

    def leader_has_ended(self) -> None:
        """Allow what is left after SIGINT less time; a timeout is the leader's alone."""
        if not self.begun:
            self._next = None
        elif self.interrupted == signal.SIGINT and self._next == signal.SIGTERM:
            self._due = min(self._due, time.monotonic() + self._grace.rest)

    def advance_if_due(self) -> None:
        """Take the next step if its time has come."""
        if self._next is not None and self._left() == 0:
            self.timed_out = self.timed_out or not self.begun
            self._advance()

    def _left(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def _advance(self) -> None:
        if self._next is not None:
            self._send(self._next)

    def _send(self, number: int) -> None:
        send(self._group, number)
        # A stopped process acts on a signal only when it is continued.
        send(self._group, signal.SIGCONT)
        self._plan(number)

    def _plan(self, number: int) -> None:
        self.begun = True
        self._next = _NEXT.get(number, signal.SIGTERM)
        if number == signal.SIGKILL:
            seconds = _KILL_TIME
        else:
            seconds = self._grace.interrupt if number == signal.SIGINT else self._grace.end
        self._due = time.monotonic() + seconds
