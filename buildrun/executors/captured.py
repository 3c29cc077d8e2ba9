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
from buildrun.executors.base import Job, OutputSink, Result, Usage
from buildrun.executors.process import (
    destroy,
    find_program,
    open_pipe,
    shell_code,
    spawn,
    usage_of,
)
from buildrun.executors.termination import GracePeriods, Termination

# What is read of one stream before the others have their turn; a Linux pipe holds as much.
_CHUNK = 65536

# Seconds that are left after the command's end for what it writes through another process, as
# with ``exec > >(tee log)``, for which bash does not wait. Nothing tells such a process from a
# server in the background, which would keep us waiting for ever.
_LINGER = 0.1


class CapturedProcess:
    """A command in a session of its own, and all that is done for it until it has ended.

    Nothing here blocks: `read` is called when there is something to read, `poll` when a child of
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
        # The leader's, once it has ended; and until when the streams stay open after that.
        self._code: int | None = None
        self._usage: Usage | None = None
        self._linger_end = 0.0
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
        """Return the time to the next `poll` that is due by itself, or None."""
        if self._code is None or self.ending.begun:
            return self.ending.seconds()
        return max(0.0, self._linger_end - time.monotonic())

    def request_end(self, number: int) -> None:
        """Pass on a signal that asks us to end; a command that has just ended keeps its result."""
        if self.ending.begun:
            self.ending.request(number)
            return
        self.poll(leader=True)
        if self._code is None:
            self.ending.request(number)
        else:
            self._linger_end = 0.0

    def read(self, descriptor: int) -> None:
        """Pass on a part of what has been written to this stream."""
        if descriptor not in self._streams:
            return  # closed by what else has been told at the same time
        if self._read(descriptor, _CHUNK) == 0:
            self._close(descriptor)
            if not self._streams:
                self._linger_end = 0.0

    def poll(self, *, leader: bool) -> None:
        """Take the steps whose time has come, to the end if nothing is left to wait for.

        leader: whether the leader may have ended.
        """
        if self.ended:
            return
        if leader and self._code is None:
            self._note_leader()
        self.ending.escalate_if_due()
        if self._code is not None and not self._lingers() and self.ending.is_over():
            self._finish(self._code)

    def destroy(self) -> None:
        """End the command at once, where there is no time for more."""
        if self.ended:
            return
        destroy(self.group)
        self._finish(128 + signal.SIGKILL)

    def _note_leader(self) -> None:
        try:
            pid, status, told = os.wait4(self.group, os.WNOHANG)
        except ChildProcessError:
            self.error = self.error or ExecutionError(
                "the command's exit code is lost: another part of this process has taken it"
            )
            self._code = 255
        else:
            if pid == 0:
                return
            self._code = shell_code(os.waitstatus_to_exitcode(status))
            self._usage = usage_of(told)
        self.ending.leader_has_ended()
        self._linger_end = time.monotonic() + _LINGER

    def _lingers(self) -> bool:
        waits = not self.ending.begun and time.monotonic() < self._linger_end
        return waits and bool(self._streams)

    def _finish(self, code: int) -> None:
        for descriptor in tuple(self._streams):
            self._drain(descriptor)
            self._close(descriptor)
        self.result = self.ending.result(code, self._usage)

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
                self.ending.begin()
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
        group = spawn(program, job, terminal=None, mask=mask, streams=streams)
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
