"""The remote cache: results shared between machines, fetched, verified and uploaded."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from buildrun.store.cas import TEMPORARY, ignore_errors, path_for
from buildrun.store.digest import is_digest
from buildrun.store.remote import fs
from buildrun.store.remote.errors import explain, hide, is_absent, is_denied, shown
from buildrun.store.remote.transfer import (
    Changed,
    NoProgress,
    Refused,
    Result,
    Task,
    TransferPool,
    verified,
    writing_here,
)

LARGEST_MANIFEST = 64 << 20
# What a content may have whose size is not announced: a listing or a log.
LARGEST_LISTING = 1 << 30
# Seconds that loading a library may take, which is no fault of the remote's.
_LOADING = 20.0

Work = Callable[[Task[Any]], Result]


class Remote:
    """A remote cache; what fails is a miss, and told once. May be used by several threads.

    After most failures it is not used again; after an object that is not what its name says,
    the others still are.
    """

    def __init__(
        self,
        url: str,
        *,
        write: bool,
        warn: Callable[[str, str], None],
        note: Callable[[str], None] = lambda _: None,
        seconds: float = 10.0,
    ) -> None:
        """Connect to nothing yet; url: what fsspec knows, or a directory.

        warn: is called with a message and a hint, by any thread; note: with a message. seconds:
        without any progress.
        """
        self.writes = write
        # A later change of directory must not lead elsewhere.
        self._url = url if "://" in url else os.path.abspath(os.path.expanduser(url))
        self._warn = warn
        self._note = note
        self._downloads = TransferPool(fs.width(url), seconds)
        self._uploads = TransferPool(fs.width(url), seconds)
        self._lock = threading.Lock()
        self._connecting = threading.Lock()
        self._store: fs.RemoteStore | None = None
        self._told: set[str] = set()
        self._closed = False
        self._answered = False
        self._denied: BaseException | None = None
        self._there: set[str] = set()
        if not write:
            self._uploads.stop()

    def manifest(self, key: str) -> bytes | None:
        """Return the manifest of a result, None where there is none; raises ValueError."""
        name = name_of("results", key)

        def read(task: Task[Any]) -> bytes:
            return self._connected().read_bytes(task, name, LARGEST_MANIFEST)

        (found,) = self._ask([(name, read)])
        return found

    def fetch_many(self, items: Sequence[tuple[str, str, int | None]]) -> set[str]:
        """Download contents; return the digests of those that did not come, and changed no file.

        items: the digest, the path of the file to make or replace, and the size if it is known.
        """
        failed = {digest for digest, _, _ in items if not is_digest(digest)}
        for digest in failed:
            self._distrust(repr(digest), "is no BLAKE3 digest")
        wanted = [item for item in items if item[0] not in failed]
        came = self._ask(
            [(name_of("blobs", item[0]), partial(self._download, *item)) for item in wanted]
        )
        return failed | {item[0] for item, done in zip(wanted, came, strict=True) if not done}

    def refuse(self, key: str, why: str) -> None:
        """Warn that a manifest that came is not used, such as for "is not JSON"."""
        self._distrust(name_of("results", key), why)

    def withhold(self) -> None:
        """Say that a result is not put there because it was made without checks."""
        with self._lock:
            told = "withheld" in self._told
            self._told.add("withheld")
        if not told:
            self._note("results whose inputs were not checked are not put into the remote cache")

    def upload(self, key: str, manifest: bytes, blobs: Sequence[tuple[str, str, int]]) -> None:
        """Queue a result: its contents that are not there, then its manifest.

        blobs: digest, local path and size. Where a file is not what its digest says any more, the
        manifest stays here. Raises ValueError for what are no digests.
        """
        name = name_of("results", key)
        contents = {name_of("blobs", item[0]): item for item in blobs}
        missing = set(contents)

        def send_manifest(task: Task[Any]) -> None:
            self._connected().write(task, name, len(manifest), lambda: iter([manifest]))

        def send(content: str, task: Task[Any]) -> None:
            *_, size = contents[content]
            if content not in self._there and not self._connected().has(content, size):
                chunks = partial(verified, *contents[content])
                self._connected().write(task, content, size, chunks)
            self._there.add(content)
            with self._lock:
                missing.remove(content)
                complete = not missing
            if complete:
                send_manifest(task)

        for content in contents:
            self._start(self._uploads, name, partial(send, content))
        if not contents:
            self._start(self._uploads, name, send_manifest)

    def finish(self) -> None:
        """Wait for the uploads as long as they get on, and close; again, it does nothing."""
        try:
            if not self._uploads.stopped:
                self._uploads.wait()
        except NoProgress as error:
            self._leave(error)
        if self._denied and not self._answered:
            self._leave(self._denied)
        self._close(0.5)

    def abandon(self) -> None:
        """Stop soon; what is half there has no name that a reader looks at."""
        self._close(1.0)

    def _close(self, seconds: float) -> None:
        """Stop, and give what runs so long to clear away what it has begun."""
        self._closed = True
        self._stop()
        self._uploads.settle(seconds)
        self._downloads.settle(seconds)

    def _stop(self) -> None:
        self._downloads.stop()
        self._uploads.stop()

    def _ask(self, works: Sequence[tuple[str, Work[Result]]]) -> list[Result | None]:
        """Return what each work returns that reads an object; None where that failed."""
        tasks = [self._start(self._downloads, name, work) for name, work in works]
        try:
            self._downloads.wait(tasks)
        except NoProgress as error:
            self._leave(error)
        except BaseException:
            self._downloads.stop()  # so that nothing is changed behind whoever interrupted
            raise
        return [task.result for task in tasks]

    def _start(self, pool: TransferPool, name: str, work: Work[Result]) -> Task[Result | None]:
        """Start the work on an object; its failure becomes a warning, and None."""

        def run(task: Task[Any]) -> Result | None:
            try:
                result = work(task)
            except Exception as error:
                if not pool.stopped:
                    self._take(error, name, uploading=pool is self._uploads)
                return None
            self._answered = True
            return result

        return pool.start(run)

    def _connected(self) -> fs.RemoteStore:
        with self._connecting:
            if self._store is None:
                extra = 0.0 if fs.is_directory(self._url) else _LOADING
                with self._downloads.patience(extra), self._uploads.patience(extra):
                    self._store = fs.connect(self._url, write=self.writes)
            return self._store

    def _download(self, digest: str, path: str, size: int | None, task: Task[Any]) -> bool:
        temporary = f"{path}.{os.urandom(6).hex()}{TEMPORARY}"
        try:
            with writing_here():
                os.makedirs(os.path.dirname(path), exist_ok=True)
                open(temporary, "xb").close()
            limit = LARGEST_LISTING if size is None else size
            self._connected().read(task, name_of("blobs", digest), temporary, limit)
            length = os.stat(temporary).st_size
            if size is not None and length < size:
                raise Refused(f"has only {length} of {size} bytes")
            for _ in verified(digest, temporary, length):
                task.heartbeat()
            with writing_here():
                os.replace(temporary, path)
        except Changed:
            raise Refused("has another content than its name says") from None
        finally:
            ignore_errors(os.unlink, temporary)
        return True

    def _take(self, error: Exception, name: str, *, uploading: bool) -> None:
        """Turn a failure into a miss, a warning, or the end of all use of the remote."""
        if isinstance(error, Refused):
            self._distrust(name, str(error))
        elif isinstance(error, Changed):
            self._tell("changed", f"`{error}` has changed, so its result is not shared", "")
        elif uploading and (isinstance(error, PermissionError) or is_denied(error)):
            self._answered = True
            self._tell("denied", *explain(error, self._url, os.environ, "results are not shared"))
            self._uploads.stop()
        elif not uploading and is_absent(error):
            self._answered = True
        elif not uploading and is_denied(error) and not fs.is_directory(self._url):
            # S3 says so of what is absent too, to those who may not list: judged at the end.
            self._denied = self._denied or error
        else:
            self._leave(error)

    def _leave(self, error: BaseException) -> None:
        """Have nothing more to do with the remote."""
        self._tell("left", *explain(error, self._url, os.environ))
        self._stop()

    def _distrust(self, name: str, why: str) -> None:
        self._tell(
            "distrusted",
            f"the remote cache `{shown(self._url)}` holds what is not to be trusted: "
            f"`{name}` {why}; it is not used",
            "delete it there, and see who may write there",
        )

    def _tell(self, kind: str, text: str, hint: str) -> None:
        """Give the first warning of a kind."""
        with self._lock:
            if self._closed or kind in self._told:
                return
            self._told.add(kind)
        self._warn(hide(text, self._url, os.environ), hint)


def name_of(kind: str, digest: str) -> str:
    """Return an object's name, such as ``v1/blobs/blake3/af/af1349…``; raises ValueError."""
    return path_for(f"v1/{kind}", digest)
