"""A command whose output is read by us, without blocking."""

from __future__ import annotations

import fcntl
import os
import selectors
import signal
import struct
import termios
import time

from buildrun.errors import ExecutionError
from buildrun.executors.base import TIMED_OUT, Job, OutputSink, Result
from buildrun.executors.process import Members, find_program, open_pipe, send, spawn
from buildrun.executors.signals import CAUGHT
from buildrun.executors.termination import GracePeriods, Termination

# What is read of one stream before the others have their turn; a Linux pipe holds as much.
_CHUNK = 65536

# Seconds that are left after the command's end for what it writes through another process, as
# with ``exec > >(tee log)``, for which bash does not wait. Nothing tells such a process from a
# server in the background, which would keep us waiting for ever.
_LINGER = 0.1

# Pauses in seconds between looks at a group whose leader has ended.
_FIRST_PAUSE = 0.001
_LAST_PAUSE = 0.05


class CapturedProcess:
    """A command in a session of its own, and all that is done for it until it has ended.

    Nothing here blocks: `read` is called when there is something to read, `look` when a child of
    ours has ended or when `seconds` have passed, until `result` or `error` is there.
    """

    def __init__(
        self,
        job: Job,
        sink: OutputSink,
        grace: GracePeriods,
        *,
        stdin: int,
        mask: set[int],
        selector: selectors.BaseSelector,
    ) -> None:
        """Start the command; raises ExecutionError. The caller has blocked signals."""
        self.result: Result | None = None
        self.error: BaseException | None = None
        self._sink = sink
        self._selector = selector
        self.group, self._streams = _start(job, stdin, mask)
        self.ending = Termination(self.group, grace, job.timeout)
        self._members = Members(self.group)
        self._code: int | None = None
        self._pause = _FIRST_PAUSE
        # When the next look at the group is due, or the linger over; of use without a leader.
        self._due = 0.0
        try:
            for descriptor in self._streams:
                selector.register(descriptor, selectors.EVENT_READ, self)
        except OSError as error:
            self.destroy()
            raise _too_many(error) from None

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do."""
        return self.result is not None

    def seconds(self) -> float | None:
        """Return the time to the next `look` that is due by itself, or None."""
        step = self.ending.seconds()
        if self._code is None:
            return step
        left = max(0.0, self._due - time.monotonic())
        return left if step is None else min(left, step)

    def ask(self, number: int) -> None:
        """Pass on a signal that asks us to end; a command that has just ended keeps its result."""
        self.look(leader=True)
        if self._code is None or self.ending.begun:
            self.ending.ask(number)
        else:
            self._due = 0.0

    def read(self, descriptor: int) -> None:
        """Pass on a part of what has been written to this stream."""
        if descriptor not in self._streams:
            return  # closed by what else has been told at the same time
        if self._read(descriptor, _CHUNK) == 0:
            self._close(descriptor)
            if not self._streams:
                self._due = 0.0

    def look(self, *, leader: bool) -> None:
        """Take the steps whose time has come, to the end if nothing is left to wait for.

        leader: whether the leader may have ended.
        """
        if self.ended:
            return
        if leader and self._code is None:
            self._note_leader()
        self.ending.advance_if_due()
        if self._code is not None and not self._waits_for_more():
            self._finish(self._code)

    def destroy(self) -> None:
        """End the command at once, where there is no time for more."""
        if self.ended:
            return
        send(self.group, signal.SIGKILL)
        if self._code is None:
            try:
                os.waitpid(self.group, 0)
            except ChildProcessError:
                pass
        self._finish(128 + signal.SIGKILL)

    def _note_leader(self) -> None:
        try:
            pid, status = os.waitpid(self.group, os.WNOHANG)
        except ChildProcessError:
            self.error = self.error or ExecutionError(
                "the command's exit code is lost: another part of this process has taken it"
            )
            self._code = 255
        else:
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._code = code if code >= 0 else 128 - code
        self.ending.leader_has_ended()
        self._due = time.monotonic() + (0.0 if self.ending.begun else _LINGER)

    def _waits_for_more(self) -> bool:
        now = time.monotonic()
        if not self.ending.begun:
            return bool(self._streams) and now < self._due
        if not self._members.exist() or self.ending.given_up:
            return False
        self._due = now + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)
        return True

    def _finish(self, code: int) -> None:
        for descriptor in tuple(self._streams):
            self._drain(descriptor)
            self._close(descriptor)
        timed_out = self.ending.timed_out
        self.result = Result(TIMED_OUT if timed_out else code, self.ending.interrupted, timed_out)

    def _drain(self, descriptor: int) -> None:
        """Read what is there now; whoever goes on writing does not keep us."""
        left = _available(descriptor)
        while left > 0:
            size = self._read(descriptor, min(left, _CHUNK))
            if size == 0:
                return
            left -= size

    def _read(self, descriptor: int, limit: int) -> int:
        chunk = os.read(descriptor, limit)
        if chunk and self.error is None:
            try:
                self._sink(self._streams[descriptor], chunk)
            except BaseException as error:
                # Nothing more is passed on, but all is read: a full pipe would hold up the end.
                self.error = error
                self.ending.end()
        return len(chunk)

    def _close(self, descriptor: int) -> None:
        try:
            self._selector.unregister(descriptor)
        except KeyError:
            pass  # it could not be registered
        del self._streams[descriptor]
        os.close(descriptor)


def _start(job: Job, stdin: int, mask: set[int]) -> tuple[int, dict[int, int]]:
    """Start the command; return its group, and its streams' numbers by descriptor."""
    program = find_program(job)
    readers: dict[int, int] = {}
    writers: list[int] = []
    try:
        for number in (1, 2):
            reader, writer = open_pipe()
            readers[reader] = number
            writers.append(writer)
        streams = (stdin, writers[0], writers[1])
        group = spawn(program, job, terminal=None, caught=CAUGHT, mask=mask, streams=streams)
    except BaseException as error:
        for reader in readers:
            os.close(reader)
        if isinstance(error, OSError):
            raise _too_many(error) from None
        raise
    finally:
        for writer in writers:
            os.close(writer)
    return group, readers


def _too_many(error: OSError) -> ExecutionError:
    return ExecutionError(
        f"the command's output cannot be captured: {(error.strerror or str(error)).lower()}",
        hint="run fewer commands at once, or raise the limit of open files with `ulimit -n`",
    )


def _available(descriptor: int) -> int:
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])
