"""Results shared between machines, in any place that fsspec reaches.

Trust ends here: whoever can write there may have written anything, so every content is checked
against its digest before it gets its name. That a manifest is what its key says is for its
reader to check. Below the address, ``v1/results/sha256/9f/9f86d0…`` are manifests and
``v1/blobs/sha256/…`` contents.
"""

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from typing import Any

from buildrun.store import remote_place
from buildrun.store.blobs import TEMPORARY, is_digest, place
from buildrun.store.remote_goods import Arriving, Changed, Leaving, Refused, Text
from buildrun.store.remote_lane import Lane, Result, Stalled, Stopped, Task
from buildrun.store.remote_trouble import explain, hide, is_absent, is_denied, shown

LARGEST_MANIFEST = 64 << 20
LARGEST_BLOB = 1 << 40
_EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
_numbers = count()

Warn = Callable[[str, str], None]
Progress = Callable[[int, int], None]


class Traffic:
    """What went one way: manifests, and bytes of manifests and contents."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.results = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def add(self, size: int, *, results: int = 0) -> None:
        """Count what has gone."""
        with self._lock:
            self.results += results
            self.bytes += size


class _Upload:
    """A result on its way: its manifest follows when every content is there."""

    def __init__(self, key: str, manifest: bytes, blobs: int) -> None:
        self.key = key
        self.manifest = manifest
        self.left = blobs
        self.whole = True


class Remote:
    """A shared place for results. It never stops a run.

    Every trouble is told once and then the place is left alone; an object that is not what its
    name says is not used, told once, and the others still are. Methods may be called from
    several threads; ``warn`` is called within them, never from a thread of ours.
    """

    def __init__(self, url: str, *, write: bool, warn: Warn, seconds: float = 10.0) -> None:
        """Touch nothing before the first use.

        url: what fsspec knows, or a directory. write: whether ``upload`` does anything.
        warn: is called with a message and a hint.
        seconds: how long one small operation, or transfers without progress, may take.
        """
        self._url = os.path.abspath(os.path.expanduser(url)) if "://" not in url else url
        self._write = write
        self._warn = warn
        self._reading = Lane(remote_place.width(url), seconds)
        self._writing = Lane(remote_place.width(url), seconds)
        self._opening = threading.Lock()
        self._place: remote_place.Place | None = None
        self._lock = threading.Lock()
        self._warnings: list[tuple[str, str]] = []
        self._left = False
        self._closed = False
        self._refused = False
        self._answered = False
        self._denied: BaseException | None = None
        self._there: set[str] = set()
        self._sent = 0
        self._queued = 0
        self._pending = 0
        self.uploaded = Traffic()
        self.downloaded = Traffic()

    def manifest(self, key: str) -> bytes | None:
        """Return the manifest for a key; None where there is none, or trouble.

        Raises ValueError for a key of another algorithm than SHA-256.
        """
        name = _name("results", key)

        def read(task: Task[Any]) -> bytes:
            import tempfile

            with tempfile.TemporaryDirectory(prefix="buildrun-") as directory:
                into = Arriving(os.path.join(directory, "manifest"), LARGEST_MANIFEST)
                try:
                    self._connected().read(task, name, into)
                    into.close()
                    with open(into.path, "rb") as file:
                        return file.read()
                finally:
                    into.discard()

        found = self._ask([self._reading.start(self._guarded(read, name))])[0]
        if found is not None:
            self.downloaded.add(len(found), results=1)
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
        progress: is told, now and then, of the contents that came and of all.
        """
        failed = {digest for digest, _, _ in items if not _is_shared(digest)}
        for digest in failed:
            self._refuse(digest, "is not named by a SHA-256 digest")
        wanted = [item for item in items if item[0] not in failed]
        tasks = [
            self._reading.start(self._guarded(self._bringing(*item, limit), item[0]))
            for item in wanted
        ]

        def tick() -> None:
            if progress:
                progress(sum(task.done for task in tasks), len(tasks))

        came = self._ask(tasks, tick)
        return failed | {item[0] for item, done in zip(wanted, came, strict=True) if not done}

    def has(self, digest: str, size: int | None = None) -> bool:
        """Return whether a content is there, with the bytes announced; False in trouble."""
        if not _is_shared(digest):
            return False
        name = _name("blobs", digest)

        def look(_: Task[Any]) -> bool:
            return self._has(name, size)

        return bool(self._ask([self._reading.start(self._guarded(look, name))])[0])

    def refuse(self, key: str, why: str) -> None:
        """Tell, once a run, that a manifest that came is not to be used."""
        self._refuse(_name("results", key), why)
        self._tell()

    def upload(self, key: str, manifest: bytes, blobs: Sequence[tuple[str, str, int]]) -> None:
        """Queue a result: first its contents that are not there, then its manifest.

        blobs: digest, local path and bytes. A file that is not what its digest says any more
        leaves the whole result here. Raises ValueError for digests that are not SHA-256.
        """
        names = [_name("blobs", digest) for digest, _, _ in blobs]
        _name("results", key)
        self._tell()
        if not self._write or self._writing.stopped:
            return
        result = _Upload(key, manifest, len(blobs))
        with self._lock:
            self._pending += 1
            self._queued += len(manifest) + sum(size for _, _, size in blobs)
        for name, (digest, path, size) in zip(names, blobs, strict=True):
            goods = Leaving(path, digest, size)
            self._writing.start(self._guarded(self._sending(result, name, goods), name, out=True))
        if not blobs:
            self._send_manifest(result)

    def finish(self, progress: Progress | None = None) -> None:
        """Wait for the uploads as long as they get on, and close; again, it does nothing.

        progress: is told, now and then, of the bytes that are there and of all.
        """
        if not self._closed:
            if self._writing.stopped:
                self._writing.settle(0.5)  # for what runs to clear away its own
            try:
                if not self._writing.stopped:
                    self._writing.drain(
                        (lambda: progress(self._sent, self._queued)) if progress else None
                    )
            except Stalled as error:
                self._leave(error)
            if self._denied and not self._answered:
                self._leave(self._denied)
            self._close()
        self._tell()

    def abandon(self) -> None:
        """Stop soon; what is half there has no name that a reader looks at."""
        self._close()
        self._writing.settle(1.0)
        self._reading.settle(1.0)

    def _close(self) -> None:
        self._closed = True
        self._reading.stop()
        self._writing.stop()

    def _connected(self) -> remote_place.Place:
        with self._opening:
            if self._place is None:
                self._place = remote_place.connect(self._url, write=self._write)
                self._reading.move()  # imports are slow, yet no fault of the place
                self._writing.move()
            return self._place

    def _bringing(
        self, digest: str, path: str, size: int | None, limit: int
    ) -> Callable[[Task[Any]], bool]:
        def bring(task: Task[Any]) -> bool:
            temporary = f"{path}.{os.getpid()}.{next(_numbers)}{TEMPORARY}"
            into = Arriving(temporary, limit if size is None else size)
            try:
                if digest != _EMPTY:
                    self._connected().read(task, _name("blobs", digest), into)
                made = into.close()
                if size is not None and into.size < size:
                    raise Refused(f"has only {into.size} of {size} bytes")
                if made != digest:
                    raise Refused("has another content than its name says")
                task.commit(lambda: os.replace(temporary, path))
            finally:
                into.discard()
            self.downloaded.add(into.size)
            return True

        return bring

    def _sending(self, result: _Upload, name: str, goods: Leaving) -> Callable[[Task[Any]], None]:
        def send(task: Task[Any]) -> None:
            whole = False
            try:
                if not result.whole:
                    return
                if not self._known(name, goods.size):
                    self._connected().write(task, name, goods)
                    self.uploaded.add(goods.size)
                whole = True
            finally:
                with self._lock:
                    if whole:
                        self._there.add(name)
                        self._sent += goods.size
                    result.whole = result.whole and whole
                    result.left -= 1
                    last = not result.left
                if last and result.whole:
                    self._send_manifest(result)

        return send

    def _send_manifest(self, result: _Upload) -> None:
        name = _name("results", result.key)
        text = Text(result.manifest)

        def send(task: Task[Any]) -> None:
            self._connected().write(task, name, text)
            self.uploaded.add(text.size, results=1)
            with self._lock:
                self._sent += text.size
                self._pending -= 1

        self._writing.start(self._guarded(send, name, out=True), first=True)

    def _known(self, name: str, size: int) -> bool:
        with self._lock:
            if name in self._there:
                return True
        try:
            return self._has(name, size)
        except Exception as error:
            if is_denied(error):  # of what is not there too, to those who may not list
                return False
            raise

    def _has(self, name: str, size: int | None) -> bool:
        try:
            found = self._connected().size(name)
        except Exception as error:
            if is_absent(error):
                return False
            raise
        return found is None or (found >= 0 and size in (None, found))

    def _guarded(
        self, work: Callable[[Task[Any]], Result], name: str, *, out: bool = False
    ) -> Callable[[Task[Any]], Result | None]:
        """Return the work with all of its errors taken note of."""

        def run(task: Task[Any]) -> Result | None:
            try:
                made = work(task)
            except Stopped:
                return None
            except Refused as error:
                self._refuse(name, str(error))
            except Changed as error:
                self._note(f"`{error}` has changed, so its result is not shared", "")
            except Exception as error:
                self._take(error, out=out)
            else:
                self._answered = True
                return made
            return None

        return run

    def _take(self, error: Exception, *, out: bool) -> None:
        if not out and is_absent(error):
            self._answered = True
        elif not out and is_denied(error) and not remote_place.is_directory(self._url):
            self._denied = self._denied or error  # maybe it is only absent
        elif out and (is_denied(error) or isinstance(error, PermissionError)):
            self._answered = True
            self._writing.stop()
            with self._lock:
                self._write = False
            trouble = explain(error, self._url, os.environ)
            self._note(
                trouble.text.replace("; going on without it", "; results are not shared"),
                trouble.hint,
            )
        else:
            self._leave(error)

    def _leave(self, error: BaseException) -> None:
        with self._lock:
            if self._left:
                return
            self._left = True
        trouble = explain(error, self._url, os.environ)
        self._note(*trouble)
        self._reading.stop()
        self._writing.stop()

    def _refuse(self, name: str, why: str) -> None:
        with self._lock:
            if self._refused:
                return
            self._refused = True
        self._note(
            f"the remote cache `{shown(self._url)}` holds what is not to be trusted: "
            f"`{name}` {why}; it is not used",
            "delete it there, and see who may write there",
        )

    def _note(self, text: str, hint: str) -> None:
        with self._lock:
            self._warnings.append((hide(text, self._url, os.environ), hint))

    def _tell(self) -> None:
        with self._lock:
            warnings, self._warnings = self._warnings, []
        for text, hint in warnings:
            self._warn(text, hint)

    def _ask(
        self, tasks: Sequence[Task[Result]], tick: Callable[[], None] | None = None
    ) -> list[Result | None]:
        try:
            self._reading.wait(tasks, tick)
        except Stalled as error:
            self._leave(error)
        except BaseException:
            _drop(tasks)
            raise
        self._tell()
        return [task.result for task in tasks]


def _drop(tasks: Iterable[Task[Result]]) -> None:
    for task in tasks:
        task.drop()


def _is_shared(digest: str) -> bool:
    return is_digest(digest) and digest.startswith("sha256:")


def _name(kind: str, digest: str) -> str:
    if not _is_shared(digest):
        raise ValueError(f"only SHA-256 digests are shared, not {digest!r}")
    return place(f"v1/{kind}", digest)
