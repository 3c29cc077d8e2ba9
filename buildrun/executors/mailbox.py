"""Calls that other threads leave for the loop."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType

from buildrun.executors.spawn import open_pipe


class Mailbox:
    """Calls in the order in which they came, and a descriptor that tells of the first of them."""

    def __init__(self) -> None:
        """Prepare; calls that are posted before entry are kept."""
        self._lock = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._reader = self._writer = -1

    def __enter__(self) -> Mailbox:
        """Open; raises OSError."""
        with self._lock:
            self._reader, self._writer = open_pipe()
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close, and drop what was not taken."""
        with self._lock:
            for descriptor in (self._reader, self._writer):
                os.close(descriptor)
            self._reader = self._writer = -1
            self._calls.clear()

    def __len__(self) -> int:
        """Return how many calls are waiting."""
        return len(self._calls)

    def fileno(self) -> int:
        """Return the descriptor to wait for until there are calls; `quiet` is due then."""
        return self._reader

    def post(self, call: Callable[[], None]) -> None:
        """Add a call; from any thread."""
        # The number of a pipe that has been closed meanwhile may be another file's.
        with self._lock:
            self._calls.append(call)
            if self._writer >= 0 and len(self._calls) == 1:
                self._wake()

    def take(self) -> Callable[[], None] | None:
        """Return the first call and remove it."""
        with self._lock:
            return self._calls.popleft() if self._calls else None

    def quiet(self) -> None:
        """Forget that calls were told of."""
        try:
            os.read(self._reader, 4096)
        except BlockingIOError:
            pass

    def _wake(self) -> None:
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # told often enough
