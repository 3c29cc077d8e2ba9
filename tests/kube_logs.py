"""The log of a container, as a container runtime keeps it and a kubelet hands it out."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import NamedTuple

# A runtime writes a longer line as several entries; bytes.
ENTRY = 16 * 1024

SECOND = 1_000_000_000


class Entry(NamedTuple):
    """A line or a part of one; at: nanoseconds since 1970, first: whether a line starts with it."""

    at: int
    data: bytes
    first: bool

    def text(self, *, timestamps: bool) -> bytes:
        """Return it as an answer has it."""
        return (
            stamp(self.at).encode() + b" " + self.data if timestamps and self.first else self.data
        )


def stamp(at: int) -> str:
    """Write nanoseconds since 1970 as RFC 3339 with nine digits, as a kubelet does."""
    whole = datetime.fromtimestamp(at // SECOND, timezone.utc)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{at % SECOND:09d}Z"


class Log:
    """What one container has written; a line has the time at which it was whole."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._entries: list[Entry] = []
        self._rest = b""
        self._first = True
        self.closed = False

    def write(self, data: bytes, at: int | None = None) -> None:
        """Add bytes; what comes after the last newline is kept back until there is more."""
        with self._changed:
            self._rest += data
            while self._rest:
                cut = self._rest.find(b"\n", 0, ENTRY) + 1 or ENTRY
                if cut > len(self._rest):
                    break
                self._add(cut, at)
            self._changed.notify_all()

    def close(self) -> None:
        """End it, with what was kept back as its last, incomplete line."""
        with self._changed:
            if self._rest:
                self._add(len(self._rest), None)
            self.closed = True
            self._changed.notify_all()

    def tail(self, lines: int, limit: int) -> str:
        """Return the last lines, as many bytes as fit."""
        with self._changed:
            whole = b"".join(entry.data for entry in self._entries)
        return b"".join(whole.splitlines(keepends=True)[-lines:])[-limit:].decode(errors="replace")

    def read(
        self, *, follow: bool, since: int = 0, tail: int | None = None, waiting: float = 0.5
    ) -> Iterator[list[Entry]]:
        """Yield its entries as they come, none now and then where there are none, to its end.

        since: nanoseconds since 1970. tail: how many of the lines that are there.
        """
        with self._changed:
            position = 0 if tail is None else self._start(tail)
        while True:
            with self._changed:
                if follow and position == len(self._entries) and not self.closed:
                    self._changed.wait(waiting)
                new = self._entries[position:]
                ended = self.closed or not follow
            position += len(new)
            yield [entry for entry in new if entry.at >= since]
            if ended and not new:
                return

    def _add(self, length: int, at: int | None) -> None:
        data, self._rest = self._rest[:length], self._rest[length:]
        self._entries.append(Entry(time.time_ns() if at is None else at, data, self._first))
        self._first = data.endswith(b"\n")

    def _start(self, lines: int) -> int:
        starts = [number for number, entry in enumerate(self._entries) if entry.first]
        return starts[-lines] if 0 < lines <= len(starts) else (0 if lines else len(self._entries))
