"""A container's log, by lines, each once, however often the connection is lost."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes.api import HURRY, Api, Stream, Target, lines_of
from buildrun.executors.kubernetes.errors import ApiError
from buildrun.executors.kubernetes.job_state import restarts_of

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.watch import View

# Seconds without a line after which a connection is taken for dead and opened anew.
_SILENCE = 90.0

# Seconds between connections that end at once, at most.
_PAUSE = 2.0

# Seconds that the rest of a log may take once the container has ended; and between two looks
# whether the user asks to end.
_REST = 60.0
_SLICE = 0.5

# How often the log of a container that has ended is asked for where the connection is lost.
_TRIES = 5

# How late a line may come after one with a later time.
_LATE = timedelta(seconds=2)

# As the server writes times: seconds, their fraction, the zone. Bytes of a time at most.
_FORM = "%Y-%m-%dT%H:%M:%S"
_STAMP = re.compile(rb"\n(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ")
_LONGEST = 64


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


class Follower:
    """Reads the log of one container in a thread of its own, until the container has ended.

    error: what has ended it early.
    """

    def __init__(
        self,
        api: Api,
        pod: Target,
        container: str,
        sink: Callable[[bytes], None],
        *,
        ended: bool = False,
        previous: bool = False,
        failed: Callable[[], None] = lambda: None,
    ) -> None:
        """Start to read; sink: gets the text of lines, some at a time.

        ended, previous: as for `end`. failed: is called once `error` tells why.
        """
        self._api = api
        self._pod = pod._replace(sub="log")
        self._container = container
        self._sink = sink
        self._position = Position()
        self._stream: Stream | None = None
        self._changed = threading.Event()
        self._has_ended = ended
        self._is_abandoned = False
        self._previous = previous
        self._failed = failed
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def end(self, *, previous: bool) -> None:
        """Note that the container has ended; previous: and was started anew since."""
        self._previous = previous
        self._has_ended = True
        self._changed.set()

    def finish(self, seconds: float | None) -> bool:
        """Wait until all is read; False where that takes longer."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def leave(self) -> None:
        """Read no more."""
        self._is_abandoned = True
        self._changed.set()
        if self._stream is not None:
            self._stream.close()

    def _run(self) -> None:
        lost = 0
        try:
            while not self._is_abandoned:
                ended, began = self._has_ended, time.monotonic()
                if ended and self._is_whole():
                    return
                whole = self._read(follow=not ended)
                if ended and whole:
                    return
                lost += ended
                if lost == _TRIES:
                    raise ExecutionError("the connection is lost each time that it is asked for")
                # Where the server has said that there is no more, the end is about to be told.
                passed = 0.0 if whole else time.monotonic() - began
                self._changed.wait(0.0 if self._has_ended else max(0.0, _PAUSE - passed))
        except BaseException as error:
            self.error = error
            self._failed()

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
        except ApiError as error:
            # 400: the container is not there yet, or its log not any more. 404: nor is the pod.
            if error.status not in (400, 404):
                raise
            return True
        try:
            for block in self._stream.blocks():
                # A line without an end may have been cut off; the last reading tells.
                is_whole = block.endswith(b"\n") or (self._stream.whole and not follow)
                if is_whole and (text := self._position.take(block)):
                    self._sink(text)
        finally:
            self._stream.close()
        return self._stream.whole

    def _query(self, *, follow: bool) -> dict[str, str]:
        query = {"container": self._container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        elif self._previous:
            query["previous"] = "true"
        return query


class JobLog:
    """The logs of a container in the pods of a Job, one after the other.

    sink, failed: as for `Follower`. warn: gets a message and a hint. is_hurried: returns whether
    the user asks to end.
    """

    def __init__(
        self,
        api: Api,
        namespace: str,
        container: str,
        sink: Callable[[bytes], None],
        failed: Callable[[], None],
        warn: Callable[[str, str], None],
        is_hurried: Callable[[], bool],
    ) -> None:
        """Read nothing yet."""
        self._api = api
        self._pods = Target("pods", namespace)
        self._container = container
        self._sink = sink
        self._failed = failed
        self._warn = warn
        self._is_hurried = is_hurried
        self._follower: Follower | None = None
        self._followed = ("", -1)
        self._earlier: set[str] = set()

    def follow(self, pod: str, restarts: int) -> None:
        """Read the log of a container, and to its end that of the one before."""
        if (pod, restarts) != self._followed:
            self.finish(previous=self._followed[0] == pod)
            if self._followed[0] != pod and restarts:
                self._begin(pod, restarts - 1, previous=True)
                self.finish(previous=True)
            self._begin(pod, restarts, previous=False)
        self._tell_trouble()

    def read_earlier(self, view: View) -> None:
        """Read the logs of pods that others have replaced already, each once."""
        for pod in view.pods[:-1]:
            name = pod["metadata"]["name"]
            if name not in self._earlier:
                self._earlier.add(name)
                self.follow(name, restarts_of(pod, self._container))
                self.finish()

    def finish(self, *, previous: bool = False) -> None:
        """Read what is followed to its end; previous: its container was started anew since."""
        follower, waited = self._follower, 0.0
        if follower is None:
            return
        follower.end(previous=previous)
        while not follower.finish(_SLICE):
            waited += _SLICE
            if waited >= (HURRY if self._is_hurried() else _REST):
                self._warn("the rest of the log does not come", "")
                follower.leave()
                break
        self._tell_trouble()

    def leave(self) -> None:
        """Read no more."""
        if self._follower is not None:
            self._follower.leave()

    def _begin(self, pod: str, restarts: int, *, previous: bool) -> None:
        self._followed = (pod, restarts)
        self._follower = Follower(
            self._api,
            self._pods._replace(name=pod),
            self._container,
            self._sink,
            ended=previous,
            previous=previous,
            failed=self._failed,
        )

    def _tell_trouble(self) -> None:
        error = self._follower.error if self._follower is not None else None
        if isinstance(error, ExecutionError):
            self._warn(f"the log is not whole: {error.message}", error.hint or "")
        elif error is not None:
            raise error
