"""The connection to a remote cache: opened once, given up at the first failure."""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any

from buildrun.store.cas import path_for
from buildrun.store.remote import fs
from buildrun.store.remote.errors import explain, hide, is_absent, is_denied, shown
from buildrun.store.remote.transfer import (
    Changed,
    NoProgress,
    Refused,
    Result,
    Stopped,
    Task,
    TransferPool,
)

# Seconds that loading a library may take, which is no fault of the place's.
_LOADING = 20.0

Work = Callable[[Task[Any]], Result]


class TransferStats:
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


class Connection:
    """What is known of the place in this run, and what the user is still to be told of it.

    reading, writing: the threads for each direction.
    """

    def __init__(self, url: str, *, write: bool, seconds: float) -> None:
        """Touch nothing yet."""
        # A later change of directory must not lead elsewhere.
        self.url = url if "://" in url else os.path.abspath(os.path.expanduser(url))
        self.reading = TransferPool(fs.width(url), seconds)
        self.writing = TransferPool(fs.width(url), seconds)
        self._write = write
        self._opening = threading.Lock()
        self._place: fs.RemoteStore | None = None
        self._lock = threading.Lock()
        self._warnings: list[tuple[str, str]] = []
        self._left = False
        self._refused = False
        self._changed = False
        self._answered = False
        self._denied: BaseException | None = None
        if not write:
            self.writing.stop()

    def place(self) -> fs.RemoteStore:
        """Return the place, for a thread of ours; raises whatever keeps us from it."""
        with self._opening:
            if self._place is None:
                extra = 0.0 if fs.is_directory(self.url) else _LOADING
                with self.reading.patience(extra), self.writing.patience(extra):
                    self._place = fs.connect(self.url, write=self._write)
            return self._place

    def ask(
        self,
        works: Sequence[tuple[str, Work[Result]]],
        tick: Callable[[Sequence[Task[Any]]], None] | None = None,
    ) -> list[Result | None]:
        """Return what each work returns that reads an object; None where that went wrong."""
        tasks = [self.reading.start(self.guarded(work, name)) for name, work in works]
        try:
            self.reading.wait(tasks, (lambda: tick(tasks)) if tick else None)
        except NoProgress as error:
            self.leave(error)
        except BaseException:
            for task in tasks:
                task.drop()
            raise
        return [task.result for task in tasks]

    def guarded(
        self, work: Work[Result], name: str, *, out: bool = False
    ) -> Callable[[Task[Any]], Result | None]:
        """Return the work on an object, with None for all errors, of which note is taken.

        out: whether it writes.
        """

        def run(task: Task[Any]) -> Result | None:
            try:
                made = work(task)
            except Stopped:
                return None
            except Refused as error:
                self.refuse(name, str(error))
            except Changed as error:
                self._tell_change(str(error))
            except Exception as error:
                self._take(error, out=out)
            else:
                self._answered = True
                return made
            return None

        return run

    def refuse(self, name: str, why: str) -> None:
        """Take note of an object that is not to be used; the others still are."""
        with self._lock:
            if self._refused:
                return
            self._refused = True
        self._note(
            f"the remote cache `{shown(self.url)}` holds what is not to be trusted: "
            f"`{name}` {why}; it is not used",
            "delete it there, and see who may write there",
        )

    def leave(self, error: BaseException) -> None:
        """Have nothing more to do with the place."""
        with self._lock:
            if self._left:
                return
            self._left = True
        self._note(*explain(error, self.url, os.environ))
        self.close()

    def close(self) -> None:
        """Start nothing more, and end what runs soon."""
        self.reading.stop()
        self.writing.stop()

    def judge_denials(self) -> None:
        """At the end: leave the place if it denied reading, and never did anything for us."""
        if self._denied and not self._answered:
            self.leave(self._denied)

    def tell(self, warn: Callable[[str, str], None]) -> None:
        """Hand on what the user is to know."""
        with self._lock:
            warnings, self._warnings = self._warnings, []
        for text, hint in warnings:
            warn(text, hint)

    def _take(self, error: Exception, *, out: bool) -> None:
        if not out and is_absent(error):
            self._answered = True
        elif not out and is_denied(error) and not fs.is_directory(self.url):
            # S3 says so of what is absent too, to those who may not list.
            self._denied = self._denied or error
        elif out and (isinstance(error, PermissionError) or is_denied(error)):
            self._answered = True
            if not self.writing.stopped:
                self.writing.stop()
                self._note(*explain(error, self.url, os.environ, "results are not shared"))
        else:
            self.leave(error)

    def _tell_change(self, path: str) -> None:
        with self._lock:
            if self._changed:
                return
            self._changed = True
        self._note(f"`{path}` has changed, so its result is not shared", "")

    def _note(self, text: str, hint: str) -> None:
        with self._lock:
            self._warnings.append((hide(text, self.url, os.environ), hint))


def name_of(kind: str, digest: str) -> str:
    """Return an object's name, such as ``v1/blobs/blake3/af/af1349…``.

    Raises ValueError for what is no digest.
    """
    return path_for(f"v1/{kind}", digest)
