"""How a process group is brought to its end: signals, grace periods, and what is left of it."""

from __future__ import annotations

import os
import signal
import time
from typing import NamedTuple

from buildrun.executors.base import TIMED_OUT, Result, Usage
from buildrun.executors.process import (
    GroupMembers,
    move_above_standard,
    open_pipe,
    send_signal,
)


class GracePeriods(NamedTuple):
    """How long a group that was asked to end may take, in seconds.

    interrupt: after SIGINT. end: after any other signal, and after a timeout's.
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

# Seconds between looks at a group whose last members are not our children: nothing tells us of
# their end.
_FIRST_PAUSE = 0.001
_LAST_PAUSE = 0.05


class Termination:
    """Ends a group when asked to, or after a timeout: the signal, then SIGTERM, then SIGKILL.

    begun: whether the group is to end. interrupted: the signal by which the user has asked for
    it, else None. timed_out: whether the timeout came first.
    """

    def __init__(self, group: int, grace: GracePeriods, timeout: float | None = None) -> None:
        """Take the group and the seconds after which it is to end, None for never."""
        self.begun = False
        self.interrupted: int | None = None
        self.timed_out = False
        self._group = group
        self._members = GroupMembers(group)
        self._grace = grace
        self._next = None if timeout is None else int(signal.SIGTERM)
        self._due = time.monotonic() + (timeout or 0.0)
        self._requested = 0.0
        # When to look at the members again, once the leader has ended.
        self._look: float | None = None
        self._pause = _FIRST_PAUSE

    def seconds(self) -> float | None:
        """Return how long to wait before there is something to do, or None for ever."""
        waits = [] if self._next is None else [self._left(), _LONGEST_WAIT]
        if self.begun and self._look is not None:
            waits.append(max(0.0, self._look - time.monotonic()))
        return min(waits, default=None)

    def request(self, number: int) -> None:
        """Pass the user's signal on; a later one brings the next signal forward."""
        now = time.monotonic()
        if self.interrupted is None:
            self.interrupted = number
            if not self.begun:
                self._send(number)
        elif now - self._requested >= self._grace.echo:
            self._escalate()
        self._requested = now

    def begin(self) -> None:
        """Have the group end for a reason of ours."""
        if not self.begun:
            self._send(signal.SIGTERM)

    def postpone(self, seconds: float) -> None:
        """Leave out a time in which the group was stopped."""
        self._due += seconds

    def escalate_if_due(self) -> None:
        """Send the next signal if its time has come."""
        if self._next is not None and self._left() == 0:
            self.timed_out = self.timed_out or not self.begun
            self._escalate()

    def leader_has_ended(self, by: int | None = None) -> None:
        """Note it; by: the terminal's signal that has ended the leader without us.

        What is left after SIGINT gets less time; a timeout is the leader's alone.
        """
        if by is not None and self.interrupted is None:
            if by == signal.SIGINT:
                # Ctrl-C has reached the whole group; twice means "at once" to some programs.
                self.interrupted = by
                self._requested = time.monotonic()
                if not self.begun:
                    self._plan(by)
            elif not self.begun:
                self.request(by)
        if not self.begun:
            self._next = None
        elif self.interrupted == signal.SIGINT and self._next == signal.SIGTERM:
            self._due = min(self._due, time.monotonic() + self._grace.rest)
        self._look = 0.0

    def is_over(self) -> bool:
        """Return whether nothing is left to wait for once the leader has ended."""
        if not self.begun:
            return True
        # Not even SIGKILL helps a process that hangs in the kernel.
        given_up = self._next is None and self._left() == 0
        # Once the last member has gone its number could be another group's, but only after all
        # process numbers were used within one pause.
        if given_up or not self._members.any_alive():
            return True
        self._look = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)
        return False

    def result(self, code: int, usage: Usage | None) -> Result:
        """Return how the command ended whose leader has exited with the code."""
        exit_code = TIMED_OUT if self.timed_out else code
        return Result(exit_code, self.interrupted, self.timed_out, usage=usage)

    def _left(self) -> float:
        return max(0.0, self._due - time.monotonic())

    def _escalate(self) -> None:
        if self._next is not None:
            self._send(self._next)

    def _send(self, number: int) -> None:
        send_signal(self._group, number)
        # A stopped process acts on a signal only when it is continued.
        send_signal(self._group, signal.SIGCONT)
        self._plan(number)

    def _plan(self, number: int) -> None:
        self.begun = True
        self._next = _NEXT.get(number, signal.SIGTERM)
        if number == signal.SIGKILL:
            seconds = _KILL_TIME
        else:
            seconds = self._grace.interrupt if number == signal.SIGINT else self._grace.end
        self._due = time.monotonic() + seconds


# What the watchdog runs: it reads the groups that run now, a line each time they change; the end of
# the file is our own end. $1: tenths of a second from SIGTERM to SIGKILL.
_WATCHDOG = """\
trap '' INT TERM HUP QUIT TSTP TTIN TTOU
while read -r line; do groups=$line; done
each() {
  found=1
  for group in $groups; do kill -s "$1" -- "-$group" && found=0; done
  return "$found"
}
each TERM
each CONT
left=$1
while [ "$left" -gt 0 ] && each 0; do sleep 0.1; left=$((left - 1)); done
each KILL
"""


class Watchdog:
    """A process that ends our groups should we be killed, from entry to exit.

    The kernel's own way, PR_SET_PDEATHSIG, reaches a command's first process alone, and not what
    that has started; and Python can ask for it only after a fork, or by loading `ctypes`. Without a
    watchdog nothing else is different, so where it cannot be started, nothing is said.
    """

    def __init__(self) -> None:
        """Prepare; nothing is started before entry."""
        self._groups: set[int] = set()
        self._process = 0
        self._writer = -1

    def __enter__(self) -> Watchdog:
        """Start the process, in a session of its own and with nothing of ours."""
        null = reader = -1
        try:
            reader, self._writer = open_pipe()
            null = move_above_standard(os.open(os.devnull, os.O_WRONLY))
            streams = (reader, null, null)
            self._process = os.posix_spawn(
                "/bin/sh",
                ("sh", "-c", _WATCHDOG, "sh", str(round(GRACE.end * 10))),
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, own, n) for n, own in enumerate(streams)],
                setsigmask=(),
                setsid=True,
            )
        except (OSError, NotImplementedError):
            self._close()
        finally:
            for descriptor in (reader, null):
                if descriptor >= 0:
                    os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the process end; what still runs is left alone."""
        if self._process:
            try:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # another part of this process has taken it
        self._close()

    def add(self, group: int) -> None:
        """End this group too, should we be killed."""
        self._groups.add(group)
        self._tell()

    def discard(self, group: int) -> None:
        """Leave a group alone, which has ended."""
        self._groups.discard(group)
        self._tell()

    def _tell(self) -> None:
        if self._writer >= 0:
            try:
                os.write(self._writer, " ".join(map(str, self._groups)).encode() + b"\n")
            except OSError:
                self._close()  # it was ended by somebody

    def _close(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
