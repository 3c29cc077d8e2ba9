"""A container's log, by lines, each once, however often the connection is lost."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes.api import Api, Stream, Target, lines_of
from buildrun.executors.kubernetes.errors import ApiError

# Seconds without a line after which a connection is taken for dead and opened anew.
_SILENCE = 90.0

# Seconds between connections that end at once, at most.
_PAUSE = 2.0

# How often the log of a container that has ended is asked for where the connection is lost.
_TRIES = 5


# How late a line may come after one with a later time.
_LATE = timedelta(seconds=2)

# As the server writes times: seconds, their fraction, the zone.
_FORM = "%Y-%m-%dT%H:%M:%S"
_STAMP = re.compile(rb"\n(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")

# Bytes of a time at most.
_LONGEST = 64

# Bytes that may wait to be handed on before no more are read.
_MOST = 4 << 20


class Position:
    """How far a log was read: the server begins again at a second, not at a line.

    Both of a container's streams are in one log, whose times need not be quite in order; so the
    lines of the last seconds are asked for again and kept in mind, and those that come twice are
    left out.

    since: from when to read on, "" for the beginning. last: the line that was read last.
    """

    def __init__(self) -> None:
        """Start at the log's beginning."""
        self.since = ""
        self.last = b""
        self._second = b""
        # What came lately, with the second of its last line; and what of it may come again, until
        # a line is later than that.
        self._recent: deque[tuple[bytes, bytes]] = deque()
        self._again: Counter[bytes] = Counter()
        self._until = b""

    def begin(self) -> None:
        """Note that the log is about to come anew, from `since`."""
        first = self.since[:19].encode()
        lines = [line for _, block in self._recent for line in lines_of(block)]
        self._again = Counter(line for line in lines if line[:1].isdigit() and line[:19] >= first)
        self._until = _later(self._second, 2 * _LATE) if self._second else b""

    def take(self, block: bytes) -> bytes:
        """Return the text of lines, without their times and without lines that were there before.

        What bears no time is the server's own words.
        """
        if self._again:
            block = b"".join(line for line in lines_of(block) if self._is_fresh(line))
        if block:
            self.last = block[block.rfind(b"\n", 0, -1) + 1 :]
            self._advance(block)
        # One call for all lines, since there may be hundreds of thousands in a second.
        return _STAMP.sub(b"\n", b"\n" + block)[1:]

    def _is_fresh(self, line: bytes) -> bool:
        there = self._again[line] > 0
        self._again[line] -= there
        return not there

    def _advance(self, block: bytes) -> None:
        found = _last_stamp(block)
        if found is not None and found[1] > self._second:
            self._second = found[1]
            self.since = (_later(self._second, -_LATE) + found[2]).decode()
            # The last line of some may be earlier than others of them.
            first = _later(self._second, -2 * _LATE)
            while self._recent and self._recent[0][0] < first:
                self._recent.popleft()
            if self._second > self._until:
                self._again.clear()
        self._recent.append((self._second, block))


def _last_stamp(block: bytes) -> re.Match[bytes] | None:
    """Return the time of the last line that bears one."""
    end = len(block)
    while end > 0:
        start = block.rfind(b"\n", 0, end - 1) + 1
        if found := _STAMP.match(b"\n" + block[start : start + _LONGEST]):
            return found
        end = start
    return None


def _later(second: bytes, by: timedelta) -> bytes:
    return (datetime.strptime(second.decode(), _FORM) + by).strftime(_FORM).encode()


class _Outlet:
    """Hands lines on in a thread of its own: all at once that have come since it did so last.

    So whoever reads need not wait for another thread at each line.
    """

    def __init__(self, deliver: Callable[[list[bytes]], None]) -> None:
        self._deliver = deliver
        self._changed = threading.Condition()
        self._waiting: list[bytes] = []
        self._size = 0
        self._is_busy = self._is_closed = False
        self._error: BaseException | None = None
        threading.Thread(target=self._run, daemon=True).start()

    def put(self, block: bytes) -> None:
        """Hand lines on soon; raises what has ended that."""
        with self._changed:
            self._changed.wait_for(lambda: self._size < _MOST or self._error)
            if self._error is not None:
                raise self._error
            self._waiting.append(block)
            self._size += len(block)
            self._changed.notify_all()

    def drain(self) -> None:
        """Wait until all was handed on; raises what has ended that."""
        with self._changed:
            self._changed.wait_for(lambda: self._error or not (self._waiting or self._is_busy))
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """Hand nothing on any more."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                blocks, self._waiting, self._size = self._waiting, [], 0
                self._is_busy = True
                self._changed.notify_all()
            try:
                self._deliver(blocks)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return


class Follower:
    """Reads the log of one container in a thread of its own, until the container has ended.

    sink: gets the text of lines, some at a time. ended: whether the container has ended by now.
    """

    def __init__(
        self,
        api: Api,
        pod: Target,
        container: str,
        sink: Callable[[bytes], None],
        ended: Callable[[], bool],
        *,
        previous: bool = False,
        failed: Callable[[], None] | None = None,
    ) -> None:
        """Start to read; previous: as for `wake`. failed: is called once `error` tells why."""
        self._api = api
        self._pod = pod._replace(sub="log")
        self._container = container
        self._sink = sink
        self._ended = ended
        self._position = Position()
        self._outlet = _Outlet(self._deliver)
        self._stream: Stream | None = None
        self._left = threading.Event()
        self._is_abandoned = False
        self._previous = previous
        self._failed = failed
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self, seconds: float | None) -> bool:
        """Wait until all is read; False where that takes longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def wake(self, *, previous: bool) -> None:
        """Note that the container has ended; previous: and was started anew since."""
        self._previous = previous
        self._left.set()

    def leave(self) -> None:
        """Read no more."""
        self._left.set()
        self._is_abandoned = True
        if self._stream is not None:
            self._stream.close()

    def _run(self) -> None:
        lost = 0
        try:
            while True:
                ended = self._ended()
                began = time.monotonic()
                if ended and self._is_whole():
                    return
                whole = self._read(follow=not ended)
                if ended and whole:
                    return
                if self._is_abandoned:
                    return
                lost += ended
                if lost == _TRIES:
                    raise ExecutionError("the connection is lost each time that it is asked for")
                if not self._ended():
                    # Where the server has said that there is no more, the end is about to be told.
                    passed = 0.0 if whole else time.monotonic() - began
                    self._left.wait(max(0.0, _PAUSE - passed))
        except BaseException as error:
            self.error = error
            if self._failed is not None:
                self._failed()
        finally:
            self._outlet.close()

    def _is_whole(self) -> bool:
        """Return whether what was read last is the log's last line, so that nothing is missing."""
        if not self._position.last:
            return False
        query = {**self._query(follow=False), "tailLines": "1"}
        try:
            return self._api.text(self._pod, **query) == self._position.last
        except ApiError:
            return False

    def _read(self, *, follow: bool) -> bool:
        """Read on; return whether the server has said that there is no more."""
        query = self._query(follow=follow)
        if self._position.since:
            query["sinceTime"] = self._position.since
        self._position.begin()
        try:
            self._stream = self._api.stream(self._pod, query, silence=_SILENCE)
            try:
                for block in self._stream.blocks():
                    # A line without an end may have been cut off; the last reading tells.
                    if block.endswith(b"\n") or (self._stream.whole and not follow):
                        self._outlet.put(block)
            finally:
                self._stream.close()
            return self._stream.whole
        except ApiError as error:
            # 400: the container is not there yet, or its log not any more. 404: nor is the pod.
            if error.status not in (400, 404):
                raise
            return True
        finally:
            self._outlet.drain()

    def _query(self, *, follow: bool) -> dict[str, str]:
        query = {"container": self._container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        elif self._previous:
            query["previous"] = "true"
        return query

    def _deliver(self, blocks: list[bytes]) -> None:
        if text := b"".join(map(self._position.take, blocks)):
            self._sink(text)
