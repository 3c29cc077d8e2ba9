"""Transfers to and from a remote cache: threads, progress, and verified contents."""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Generic, TypeVar

from buildrun.store import digest as digests

Result = TypeVar("Result")

# Bytes in a second that a connection must carry where their progress cannot be seen: 4 Mbit/s.
_SLOWEST = 512 << 10

# Seconds between two looks of a waiter at how far the work is.
_GLANCE = 0.1
# A waiter looks at the clock this often; one that sleeps far longer was itself stopped (Ctrl-Z).
_TICK = 0.5


class NoProgress(Exception):
    """Nothing has moved for too long."""


class Stopped(Exception):
    """Nobody waits for the work any more."""


class Task(Generic[Result]):
    """One piece of work.

    awaited: whether somebody is to be woken at its end.
    done: whether it has ended; then ``error`` is set or ``result`` is what the work returned.
    """

    def __init__(self, lane: TransferPool, work: Callable[[Task[Any]], Result]) -> None:
        """Keep the work until a thread is free."""
        self._lane = lane
        self._work = work
        self._dropped = False
        self.awaited = False
        self.done = False
        self.result: Result | None = None
        self.error: BaseException | None = None

    def heartbeat(self) -> None:
        """Tell that bytes have arrived or left; raises Stopped where nobody wants more."""
        self._lane.move()
        if self._dropped or self._lane.stopped:
            raise Stopped

    def commit(self, publish: Callable[[], None]) -> None:
        """Make the outcome visible; raises Stopped where whoever asked for it has gone."""
        with self._lane.changed:
            if self._dropped or self._lane.stopped:
                raise Stopped
            publish()

    @contextmanager
    def allow(self, size: int) -> Iterator[None]:
        """Allow more time while ``size`` bytes travel without a sign of their progress."""
        self.heartbeat()
        with self._lane.patience(size / _SLOWEST):
            yield
        self.heartbeat()

    def drop(self) -> None:
        """Forget the work: from now on it changes nothing that others see."""
        with self._lane.changed:
            self._dropped = True

    def run(self) -> None:
        """Do the work, in a thread of the lane."""
        try:
            self.result = self._work(self)
        except BaseException as error:
            self.error = error


class TransferPool:
    """Up to ``width`` pieces of work at once, in order.

    seconds: how long all of them together may be without progress.
    stopped: whether no more is started and what runs is to end soon.
    """

    def __init__(self, width: int, seconds: float) -> None:
        """Start no thread yet."""
        lock = threading.RLock()
        self.changed = threading.Condition(lock)
        self._filled = threading.Condition(lock)
        self.stopped = False
        self._width = width
        self._allowed = seconds
        self._waiting: deque[Task[Any]] = deque()
        self._threads = 0
        self._busy = 0
        self._moved = monotonic()

    def start(self, work: Callable[[Task[Any]], Result], *, first: bool = False) -> Task[Result]:
        """Queue the work, at the front where it is to be ``first``; at once stopped, if we are."""
        task = Task(self, work)
        with self.changed:
            if self.stopped:
                task.error, task.done = Stopped(), True
                return task
            (self._waiting.appendleft if first else self._waiting.append)(task)
            self._filled.notify()
            if self._threads < min(self._width, self._busy + len(self._waiting)):
                self._threads += 1
                threading.Thread(target=self._work, name="remote cache", daemon=True).start()
        return task

    def wait(self, tasks: Iterable[Task[Result]], tick: Callable[[], None] | None = None) -> None:
        """Return when the tasks have ended.

        tick: is called now and then. Raises Stalled; whatever interrupts the wait passes.
        """
        waited = list(tasks)

        def ended() -> bool:
            while waited and waited[-1].done:
                waited.pop()
            if waited:
                waited[-1].awaited = True
            return not waited

        self._until(ended, tick)

    def drain(self, tick: Callable[[], None] | None = None) -> None:
        """Return when nothing waits or runs; raises Stalled."""
        self._until(lambda: not (self._waiting or self._busy), tick)

    def stop(self) -> None:
        """Start nothing more; what waits ends now, what runs at its next move."""
        with self.changed:
            self.stopped = True
            while self._waiting:
                task = self._waiting.popleft()
                task.error, task.done = Stopped(), True
            self.changed.notify_all()
            self._filled.notify_all()

    def settle(self, seconds: float) -> None:
        """Return when nothing runs, or after the seconds."""
        with self.changed:
            self.changed.wait_for(lambda: not self._busy, seconds)

    def move(self) -> None:
        """Take note that something has moved."""
        self._moved = monotonic()

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Allow so much more time without progress, within a block."""
        with self.changed:
            self._allowed += seconds
        try:
            yield
        finally:
            with self.changed:
                self._allowed -= seconds
                self.move()

    def _until(self, ended: Callable[[], bool], tick: Callable[[], None] | None) -> None:
        glanced = 0.0
        while True:
            with self.changed:
                before = monotonic()
                left = self._moved + self._allowed - before
                if ended():
                    return
                if self._busy and left <= 0:
                    raise NoProgress
                self.changed.wait(min(left, _TICK) if self._busy else _TICK)
                if monotonic() - before > _TICK + 2:
                    self.move()
            if tick and monotonic() - glanced > _GLANCE:
                tick()
                glanced = monotonic()

    def _work(self) -> None:
        while True:
            with self.changed:
                while not self._waiting:
                    if self.stopped:
                        return
                    self._filled.wait()
                task = self._waiting.popleft()
                if not self._busy:
                    self.move()
                self._busy += 1
            task.run()
            with self.changed:
                self._busy -= 1
                self.move()
                task.done = True
                if task.awaited or not (self._busy or self._waiting):
                    self.changed.notify_all()


CHUNK = 1 << 20


class Refused(Exception):
    """What the other side holds is not what its name says; the text says how."""


class Unwritable(Exception):
    """What arrives cannot be written here; the text says why."""


class Changed(Exception):
    """A local file is not what its digest says any more; the text names it."""


class VerifiedDownload:
    """A file that fills from afar, in constant memory.

    path: where it grows. limit: the bytes it may have; Refused is raised as soon as there are
    more.
    """

    def __init__(self, path: str, limit: int) -> None:
        """Make the empty file and its directory; raises Unwritable."""
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            self._file = open(path, "wb")  # noqa: SIM115
        except OSError as error:
            raise Unwritable(error.strerror) from None
        self.path = path
        self.limit = limit
        self.size = 0
        self._hash = digests.new()

    def write(self, chunk: bytes) -> None:
        """Take what follows."""
        self.check(self.size + len(chunk))
        try:
            self._file.write(chunk)
        except OSError as error:
            raise Unwritable(error.strerror) from None
        self._hash.update(chunk)
        self.size += len(chunk)

    def check(self, size: int | None) -> None:
        """Raise Refused where so many bytes are too many."""
        if size is not None and size > self.limit:
            raise Refused(f"is larger than {self.limit} bytes")

    def adopt(self, move: Callable[[], None]) -> None:
        """Measure a file that somebody else has written at the path; ``move`` is called often."""
        with open(self.path, "rb") as file:
            while chunk := file.read(CHUNK):
                self.size += len(chunk)
                self._hash.update(chunk)
                move()
        self.check(self.size)

    def close(self) -> str:
        """Return the digest of what has arrived; raises Unwritable."""
        try:
            self._file.close()
        except OSError as error:
            raise Unwritable(error.strerror) from None
        return digests.text(self._hash)

    def publish(self, path: str) -> None:
        """Give the file its name; raises Unwritable."""
        try:
            os.replace(self.path, path)
        except OSError as error:
            raise Unwritable(error.strerror) from None

    def discard(self) -> None:
        """Remove the file, if it is there."""
        try:
            self._file.close()
        except OSError:
            pass  # what could not be written is thrown away
        try:
            os.unlink(self.path)
        except OSError:
            pass


class FileUpload:
    """A local file on its way out.

    digest: what its content must be. size: its bytes. taken: those that were read so far.
    """

    def __init__(self, digest: str, path: str, size: int) -> None:
        """Open nothing yet."""
        self.path = path
        self.size = size
        self.taken = 0
        self._digest = digest

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Yield the content; after the last of it, raise Changed where it was not as announced.

        So whoever consumes it all before publishing anything publishes nothing wrong.
        """
        made = digests.new()
        self.taken = 0
        try:
            # Without waiting for the other end, should a pipe have taken the file's place.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Changed(self.path)
                while chunk := file.read(length):
                    made.update(chunk)
                    self.taken += len(chunk)
                    yield chunk
        except OSError:
            raise Changed(self.path) from None
        if self.taken != self.size or digests.text(made) != self._digest:
            raise Changed(self.path)


class BytesUpload:
    """Bytes in memory on their way out."""

    def __init__(self, data: bytes) -> None:
        """Keep them."""
        self.path = None
        self._data = data
        self.size = len(data)

    def chunks(self, length: int = CHUNK) -> Iterator[bytes]:
        """Yield them."""
        for start in range(0, self.size, length):
            yield self._data[start : start + length]
