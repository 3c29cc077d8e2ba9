"""A container's log, by lines, each once, however often the connection is lost."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from buildrun.kubernetes.api import Api, Stream, Target
from buildrun.kubernetes.trouble import Refusal

# Seconds without a line after which a connection is taken for dead and opened anew.
_SILENCE = 90.0

# Seconds between connections that end at once, at most.
_PAUSE = 2.0


# How late a line may come after one with a later time.
_LATE = timedelta(seconds=2)

# As the server writes times: seconds, their fraction, the zone.
_FORM = "%Y-%m-%dT%H:%M:%S"
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d)\Z")


class Position:
    """How far a log was read: the server begins again at a second, not at a line.

    Both of a container's streams are in one log, whose times need not be quite in order; so the
    lines of the last seconds are asked for again and kept in mind, and those that come twice are
    left out.

    since: from when to read on, "" for the beginning.
    """

    def __init__(self) -> None:
        """Start at the log's beginning."""
        self.since = ""
        self._second = b""
        self._recent: Counter[tuple[bytes, int]] = Counter()
        self._again: Counter[tuple[bytes, int]] = Counter()

    def begin(self) -> None:
        """Note that the log is about to come anew, from `since`."""
        self._again = Counter(self._recent)

    def take(self, line: bytes) -> bytes | None:
        """Return a line without its time; None where it was there before."""
        stamp, _, text = line.partition(b" ")
        found = _STAMP.match(stamp)
        if found is None:
            return line  # the server's own words
        mark = (stamp, hash(text))
        if self._again[mark] > 0:
            self._again[mark] -= 1
            return None
        self._recent[mark] += 1
        second, zone = found.groups()
        if second > self._second:
            before = datetime.strptime(second.decode(), _FORM) - _LATE
            since = before.strftime(_FORM)
            self._recent = Counter(
                {item: count for item, count in self._recent.items() if item[0] >= since.encode()}
            )
            self._second = second
            self.since = since + zone.decode()
        return text


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
        self._stream: Stream | None = None
        self._left = threading.Event()
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
        self._ended = _yes
        if self._stream is not None:
            self._stream.close()

    def _run(self) -> None:
        try:
            while True:
                ended = self._ended()
                began = time.monotonic()
                self._read(follow=not ended)
                if ended:
                    return
                if not self._ended():
                    self._left.wait(max(0.0, _PAUSE - (time.monotonic() - began)))
        except BaseException as error:
            self.error = error
            if self._failed is not None:
                self._failed()

    def _read(self, *, follow: bool) -> None:
        try:
            for batch in self._batches(follow=follow):
                # A line without an end may have been cut off; the last reading tells.
                whole = (line for line in batch if not follow or line.endswith(b"\n"))
                texts = [text for line in whole if (text := self._position.take(line)) is not None]
                if texts:
                    self._sink(b"".join(texts))
        except Refusal as error:
            # 400: the container is not there yet, or its log not any more. 404: nor is the pod.
            if error.status not in (400, 404):
                raise

    def _batches(self, *, follow: bool) -> Iterator[list[bytes]]:
        query = {"container": self._container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        elif self._previous:
            query["previous"] = "true"
        if self._position.since:
            query["sinceTime"] = self._position.since
        self._position.begin()
        self._stream = self._api.stream(self._pod, query, silence=_SILENCE)
        try:
            yield from self._stream.batches()
        finally:
            self._stream.close()


def _yes() -> bool:
    return True
