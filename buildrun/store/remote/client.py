"""Results shared between machines: fetched, verified and uploaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from buildrun.store.cas import TEMPORARY
from buildrun.store.digest import is_digest
from buildrun.store.remote.connection import Connection, TransferStats, Work, name_of
from buildrun.store.remote.errors import is_absent, is_denied
from buildrun.store.remote.transfer import (
    BytesUpload,
    FileUpload,
    NoProgress,
    Refused,
    Task,
    VerifiedDownload,
)

LARGEST_MANIFEST = 64 << 20
LARGEST_BLOB = 1 << 40
_EMPTY = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
_numbers = count()

Progress = Callable[[int, int], None]


class Remote:
    """A shared place for results. It never stops a run.

    Every trouble is told once and then the place is left alone; an object that is not what its
    name says is not used, told once, and the others still are. Methods may be called from
    several threads; ``warn`` is called within them, never from a thread of ours.

    uploaded, downloaded: what went there and what came, for a summary.
    """

    def __init__(
        self, url: str, *, write: bool, warn: Callable[[str, str], None], seconds: float = 10.0
    ) -> None:
        """Touch nothing before the first use.

        url: what fsspec knows, or a directory. write: whether ``upload`` does anything.
        warn: is called with a message and a hint.
        seconds: how long one small operation, or transfers without progress, may take.
        """
        self.writes = write
        self._link = Connection(url, write=write, seconds=seconds)
        self._uploads = Uploads(self._link)
        self._warn = warn
        self._closed = False
        self.uploaded = self._uploads.traffic
        self.downloaded = TransferStats()

    def manifest(self, key: str) -> bytes | None:
        """Return the manifest for a key; None where there is none, or trouble.

        Raises ValueError for a key that is no digest.
        """
        name = name_of("results", key)
        (found,) = self._link.ask([(name, self._reading(name))])
        if found is not None:
            self.downloaded.add(len(found), results=1)
        self._link.tell(self._warn)
        return found

    def fetch(
        self, digest: str, path: str, size: int | None = None, limit: int = LARGEST_BLOB
    ) -> bool:
        """Bring a content to the file at ``path``, which it replaces, and return whether it is.

        size: its bytes as announced; where they are not, it may have ``limit`` bytes.
        Where False is returned, nothing is at the path that was not there before.
        """
        return not self.fetch_many([(digest, path, size)], limit)

    def fetch_many(
        self,
        items: Sequence[tuple[str, str, int | None]],
        limit: int = LARGEST_BLOB,
        progress: Progress | None = None,
    ) -> set[str]:
        """Bring contents, many at once, and return the digests of those that did not come.

        items: digest, path and bytes as announced, as for ``fetch``.
        progress: is told, now and then, of the contents that have ended and of all.
        """
        failed = {digest for digest, _, _ in items if not is_digest(digest)}
        for digest in failed:
            self._link.refuse(repr(digest), "is no BLAKE3 digest")
        wanted = [item for item in items if item[0] not in failed]
        came = self._link.ask(
            [(name_of("blobs", item[0]), self._bringing(*item, limit)) for item in wanted],
            (lambda tasks: progress(sum(task.done for task in tasks), len(tasks)))
            if progress
            else None,
        )
        self._link.tell(self._warn)
        return failed | {item[0] for item, done in zip(wanted, came, strict=True) if not done}

    def has(self, digest: str, size: int | None = None) -> bool:
        """Return whether a content is there, with the bytes announced; False in trouble.

        Raises ValueError for what is no digest.
        """
        name = name_of("blobs", digest)

        def look(_: Task[Any]) -> bool:
            try:
                found = self._link.place().size(name)
            except Exception as error:
                if is_absent(error):
                    return False
                raise
            return found is None or (found >= 0 and size in (None, found))

        (there,) = self._link.ask([(name, look)])
        self._link.tell(self._warn)
        return bool(there)

    def refuse(self, key: str, why: str) -> None:
        """Tell that a manifest that came is not to be used, such as "is not JSON"."""
        self._link.refuse(name_of("results", key), why)
        self._link.tell(self._warn)

    def upload(self, key: str, manifest: bytes, blobs: Sequence[tuple[str, str, int]]) -> None:
        """Queue a result: first its contents that are not there, then its manifest.

        blobs: digest, local path and bytes. A file that is not what its digest says any more
        leaves the whole result here. Raises ValueError for what are no digests.
        """
        self._uploads.add(key, manifest, blobs)
        self._link.tell(self._warn)

    def finish(self, progress: Progress | None = None) -> None:
        """Wait for the uploads as long as they get on, and close; again, it does nothing.

        progress: is told, now and then, of the bytes that are done with and of all.
        """
        if not self._closed:
            self._uploads.wait(progress)
            self._link.judge_denials()
            self._close()
        self._link.tell(self._warn)

    def abandon(self) -> None:
        """Stop soon; what is half there has no name that a reader looks at."""
        self._close()
        self._link.writing.settle(1.0)
        self._link.reading.settle(1.0)

    def _close(self) -> None:
        self._closed = True
        self._link.close()

    def _reading(self, name: str) -> Work[bytes]:
        def read(task: Task[Any]) -> bytes:
            from tempfile import TemporaryDirectory

            with TemporaryDirectory(prefix="buildrun-") as directory:
                into = VerifiedDownload(os.path.join(directory, "manifest"), LARGEST_MANIFEST)
                try:
                    self._link.place().read(task, name, into)
                finally:
                    into.close()
                with open(into.path, "rb") as file:
                    return file.read()

        return read

    def _bringing(self, digest: str, path: str, size: int | None, limit: int) -> Work[bool]:
        def bring(task: Task[Any]) -> bool:
            temporary = f"{path}.{os.getpid()}.{next(_numbers)}{TEMPORARY}"
            into = VerifiedDownload(temporary, limit if size is None else size)
            try:
                if digest != _EMPTY:
                    self._link.place().read(task, name_of("blobs", digest), into)
                made = into.close()
                if size is not None and into.size < size:
                    raise Refused(f"has only {into.size} of {size} bytes")
                if made != digest:
                    raise Refused("has another content than its name says")
                task.commit(lambda: into.publish(path))
            finally:
                into.discard()
            self.downloaded.add(into.size)
            return True

        return bring


class _Result:
    """A result whose manifest follows when every content is there."""

    def __init__(self, name: str, manifest: bytes, blobs: int) -> None:
        self.name = name
        self.manifest = BytesUpload(manifest)
        self.left = blobs
        self.whole = True


class Uploads:
    """The uploads of a run.

    traffic: what has been written there.
    """

    def __init__(self, link: Connection) -> None:
        """Have nothing to send yet."""
        self.traffic = TransferStats()
        self._link = link
        self._lock = threading.Lock()
        self._there: set[str] = set()
        self._under_way: set[FileUpload] = set()
        self._done = 0
        self._all = 0

    def add(self, key: str, manifest: bytes, blobs: Sequence[tuple[str, str, int]]) -> None:
        """Queue a result, as ``Remote.upload`` says; raises ValueError."""
        names = [name_of("blobs", digest) for digest, _, _ in blobs]
        result = _Result(name_of("results", key), manifest, len(blobs))
        with self._lock:
            self._all += len(manifest) + sum(size for _, _, size in blobs)
        for name, blob in zip(names, blobs, strict=True):
            self._start(self._sending(result, name, FileUpload(*blob)), name)
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
        except NoProgress as error:
            self._link.leave(error)

    def _so_far(self) -> int:
        with self._lock:
            return self._done + sum(min(goods.taken, goods.size) for goods in self._under_way)

    def _start(self, work: Callable[[Task[Any]], None], name: str, *, first: bool = False) -> None:
        self._link.writing.start(self._link.guarded(work, name, out=True), first=first)

    def _sending(
        self, result: _Result, name: str, goods: FileUpload
    ) -> Callable[[Task[Any]], None]:
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

    def _send(self, task: Task[Any], name: str, goods: FileUpload) -> None:
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
