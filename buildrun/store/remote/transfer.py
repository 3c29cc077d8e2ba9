"""Transfers in threads that are given up when nothing moves, and contents that are verified."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from buildrun.store import digest as digests
from buildrun.store.files import open_regular

Result = TypeVar("Result")

# Yields a content; it may raise Changed, which then must not be published.
Chunks = Callable[[], Iterator[bytes]]

CHUNK = 1 << 20
# Bytes in a second that a connection must carry where their progress cannot be seen: 4 Mbit/s.
_SLOWEST = 512 << 10
# Seconds between two looks of a waiter at the clock.
_TICK = 0.5


class NoProgress(Exception):
    """Nothing has moved for too long."""


class Stopped(Exception):
    """Nobody waits for the transfer any more."""


class Refused(Exception):
    """The remote cache holds something else than the name says; the text says how."""


class Unwritable(Exception):
    """What arrives cannot be written here; the text says why."""


class Changed(Exception):
    """A local file is not what its digest says any more; the text is its path."""


@contextmanager
def writing_here(*numbers: int) -> Iterator[None]:
    """Raise Unwritable for an OSError, or only for those with the error numbers given."""
    try:
        yield
    except OSError as error:
        if numbers and error.errno not in numbers:
            raise
        raise Unwritable(error.strerror) from None


class Task(Generic[Result]):
    """One transfer of a pool.

    ended: is set at its end; then there is an ``error``, or the ``result`` of the work.
    """

    def __init__(self, pool: TransferPool, work: Callable[[Task[Any]], Result]) -> None:
        """Keep the work until a thread is free."""
        self._pool = pool
        self._work = work
        self.ended = threading.Event()
        self.result: Result | None = None
        self.error: BaseException | None = None

    def heartbeat(self) -> None:
        """Say that bytes have arrived or left; raises Stopped when the pool has stopped."""
        if self._pool.stopped:
            raise Stopped
        self._pool.heartbeat()

    @contextmanager
    def allow(self, size: int) -> Iterator[None]:
        """Allow more time while ``size`` bytes travel without a heartbeat; raises Stopped."""
        self.heartbeat()
        with self._pool.patience(size / _SLOWEST):
            yield
        self.heartbeat()

    def run(self) -> None:
        """Do the work, and keep its result or its error."""
        try:
            self.heartbeat()
            self.result = self._work(self)
        except BaseException as error:
            self.error = error


class TransferPool:
    """Runs up to ``width`` transfers at once, in the order in which they were started.

    Its threads are daemons: those of a ThreadPoolExecutor keep the process while a server hangs.
    seconds: how long all may go without a heartbeat. stopped: nothing more is started.
    """

    def __init__(self, width: int, seconds: float) -> None:
        """Start no thread yet."""
        self.stopped = False
        self._width = width
        self._allowed = seconds
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Task[Any] | None] = SimpleQueue()
        self._unfinished: set[Task[Any]] = set()
        self._threads = 0
        self._moved = 0.0

    def start(self, work: Callable[[Task[Any]], Result]) -> Task[Result]:
        """Queue a transfer; in a pool that has stopped it ends at once."""
        task = Task(self, work)
        with self._lock:
            if self.stopped:
                self._run(task)
                return task
            if not self._unfinished:
                self.heartbeat()
            self._unfinished.add(task)
            self._queue.put(task)
            if self._threads < min(self._width, len(self._unfinished)):
                self._threads += 1
                threading.Thread(target=self._work, name="remote cache", daemon=True).start()
        return task

    def wait(self, tasks: Sequence[Task[Any]] | None = None) -> None:
        """Return when the tasks, by default all, have ended; raises NoProgress."""
        for task in list(self._unfinished) if tasks is None else tasks:
            while not task.ended.is_set():
                before = monotonic()
                left = self._moved + self._allowed - before
                if left <= 0:
                    raise NoProgress
                task.ended.wait(min(left, _TICK))
                if monotonic() - before > _TICK + 2:  # the process was suspended, as by Ctrl-Z
                    self.heartbeat()

    def stop(self) -> None:
        """Start nothing more, and let what runs end at its next heartbeat."""
        with self._lock:
            self.stopped = True
            try:
                while task := self._queue.get_nowait():
                    self._run(task)
            except Empty:
                pass
            for _ in range(self._threads):
                self._queue.put(None)

    def settle(self, seconds: float) -> None:
        """Return when nothing runs any more in a pool that has stopped, or after the seconds."""
        end = monotonic() + seconds
        for task in list(self._unfinished):
            task.ended.wait(max(0.0, end - monotonic()))

    def heartbeat(self) -> None:
        """Say that something has moved."""
        self._moved = monotonic()

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Allow so many more seconds without a heartbeat, within a block."""
        with self._lock:
            self._allowed += seconds
        try:
            yield
        finally:
            with self._lock:
                self._allowed -= seconds
            self.heartbeat()

    def _work(self) -> None:
        while task := self._queue.get():
            self._run(task)

    def _run(self, task: Task[Any]) -> None:
        task.run()
        self.heartbeat()
        self._unfinished.discard(task)
        task.ended.set()


def verified(digest: str, path: str, size: int) -> Iterator[bytes]:
    """Yield what a file holds; raises Changed, at its end at the latest, where it is another."""
    made, count = digests.new(), 0
    try:
        with open_regular(path) as file:
            while chunk := file.read(CHUNK):
                made.update(chunk)
                count += len(chunk)
                yield chunk
    except OSError:
        raise Changed(path) from None
    if count != size or digests.text(made) != digest:
        raise Changed(path)
