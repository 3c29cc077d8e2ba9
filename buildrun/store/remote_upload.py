"""Results on their way to a remote cache, in the background."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

from buildrun.store.remote_goods import Leaving, Text
from buildrun.store.remote_lane import Stalled, Task
from buildrun.store.remote_link import Link, Traffic, name_of
from buildrun.store.remote_trouble import is_absent, is_denied


class _Result:
    """A result whose manifest follows when every content is there."""

    def __init__(self, name: str, manifest: bytes, blobs: int) -> None:
        self.name = name
        self.manifest = Text(manifest)
        self.left = blobs
        self.whole = True


class Uploads:
    """The uploads of a run.

    traffic: what has been written there.
    """

    def __init__(self, link: Link) -> None:
        """Have nothing to send yet."""
        self.traffic = Traffic()
        self._link = link
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._under_way: set[Leaving] = set()
        self._done = 0
        self._all = 0

    def add(self, key: str, manifest: bytes, blobs: Sequence[tuple[str, str, int]]) -> None:
        """Queue a result, as ``Remote.upload`` says; raises ValueError."""
        names = [name_of("blobs", digest) for digest, _, _ in blobs]
        result = _Result(name_of("results", key), manifest, len(blobs))
        with self._lock:
            self._all += len(manifest) + sum(size for _, _, size in blobs)
        for name, blob in zip(names, blobs, strict=True):
            self._start(self._sending(result, name, Leaving(*blob)), name)
        if not blobs:
            self._send_manifest(result)

    def wait(self, progress: Callable[[int, int], None] | None) -> None:
        """Return when all is there or has failed, or when nothing gets on any more."""
        lane = self._link.writing
        if lane.stopped:
            lane.settle(0.5)  # for what runs to clear away what it has begun
            return
        try:
            lane.drain((lambda: progress(self._so_far(), self._all)) if progress else None)
        except Stalled as error:
            self._link.leave(error)

    def _so_far(self) -> int:
        with self._lock:
            return self._done + sum(min(goods.taken, goods.size) for goods in self._under_way)

    def _start(self, work: Callable[[Task[Any]], None], name: str, *, first: bool = False) -> None:
        self._link.writing.start(self._link.guarded(work, name, out=True), first=first)

    def _sending(self, result: _Result, name: str, goods: Leaving) -> Callable[[Task[Any]], None]:
        def send(task: Task[Any]) -> None:
            sent = False
            with self._lock:
                self._under_way.add(goods)
            try:
                if result.whole:
                    self._send(task, name, goods)
                    sent = True
            finally:
                with self._lock:
                    self._under_way.remove(goods)
                    self._done += goods.size
                    result.whole = result.whole and sent
                    result.left -= 1
                    complete = result.whole and not result.left
                if complete:
                    self._send_manifest(result)

        return send

    def _send(self, task: Task[Any], name: str, goods: Leaving) -> None:
        if name in self._there:
            return
        if not self._is_there(name, goods.size):
            self._link.place().write(task, name, goods)
            self.traffic.add(goods.size)
        self._there.add(name)

    def _send_manifest(self, result: _Result) -> None:
        def send(task: Task[Any]) -> None:
            self._link.place().write(task, result.name, result.manifest)
            self.traffic.add(result.manifest.size, results=1)
            with self._lock:
                self._done += result.manifest.size

        self._start(send, result.name, first=True)

    def _is_there(self, name: str, size: int) -> bool:
        try:
            return self._link.place().size(name) in (None, size)
        except Exception as error:
            # Denied is what S3 calls the absent too, to those who may not list.
            if is_absent(error) or is_denied(error):
                return False
            raise
