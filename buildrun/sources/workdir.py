"""Temporary working directories: one a run, below the store, removed when the run has ended.

A source has numbered places, and a run takes the first that is free. So the next run of the same
source has its files at the same paths, and finds what was remembered of them: environments,
fingerprints, histories. A lock on the place tells that it is in use; what a killed run has left has
none, and a later run removes it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import xxhash

from buildrun.console import printable
from buildrun.errors import StoreError
from buildrun.store import locks
from buildrun.store.home import Home
from buildrun.store.locks import Lock
from buildrun.workspace.move import delete

if TYPE_CHECKING:
    from buildrun.sources.base import SourceRequest

# Runs of the same source at once; their number ends at what a machine can bear.
_PLACES = 10_000


class Workdir:
    """A directory for the files of one run."""

    def __init__(self, top: str, name: str, lock: Lock | None) -> None:
        """Take over the lock of the place; there is none where the directory is to be kept."""
        self.place, self.name = os.path.basename(top), name
        self.path = os.path.join(top, name)
        self.is_kept = lock is None
        self._top = top
        self._locks = [lock] if lock is not None else []

    def borrow(self, path: str) -> None:
        """Share a lock while the directory is in use, and note the time; raises OSError."""
        self._locks.append(locks.shared(path))
        os.utime(path)

    def close(self) -> None:
        """Remove it, unless it is to be kept; calling it again is harmless."""
        if self._locks and not self.is_kept:  # without its lock it may be another run's
            delete(self._top)
        while self._locks:
            self._locks.pop().release()

    def discard(self) -> None:
        """Remove it in any case."""
        if self.is_kept:
            delete(self._top)
        self.close()


@contextmanager
def temporary(request: SourceRequest, identity: str, name: str) -> Iterator[Workdir]:
    """Yield a working directory of a source that outlives the block, unless the block fails."""
    collect(request.home)
    opened = _keep(_safe(name)) if request.keep else _claim(request.home, identity, _safe(name))
    try:
        yield opened
    except BaseException:
        opened.discard()
        raise
    if request.keep:
        request.console.note(f"the working directory is kept: {printable(opened.path)}")


def claim_place(home: Home, place: str, name: str) -> Workdir | None:
    """Return the working directory of a place, or None where it is in use; raises OSError."""
    lock = locks.attempt(os.path.join(home.sources, "locks", place))
    if lock is None:
        return None
    top = os.path.join(_directory(home), place)
    try:
        delete(top)
        os.makedirs(top)
        os.chmod(top, 0o700)
    except BaseException:
        lock.release()
        raise
    return Workdir(top, name, lock)


def collect(home: Home) -> None:
    """Remove what killed runs have left."""
    try:
        names = os.listdir(_directory(home))
    except OSError:
        return
    for name in names:
        lock = locks.attempt(os.path.join(home.sources, "locks", name))
        if lock is not None:
            with lock:
                delete(os.path.join(_directory(home), name))


def _claim(home: Home, identity: str, name: str) -> Workdir:
    digest = xxhash.xxh3_64_hexdigest(identity.encode(errors="surrogateescape"))
    try:
        os.makedirs(os.path.join(home.sources, "locks"), exist_ok=True)
        for number in range(_PLACES):
            opened = claim_place(home, f"{digest}-{number}", name)
            if opened is not None:
                return opened
    except OSError as error:
        raise StoreError(
            f"no working directory can be made: {error.strerror}",
            place=_directory(home),
            hint="see that there is room and that you may write there, or set BUILDRUN_HOME",
        ) from None
    raise StoreError("no working directory could be had", place=_directory(home))


def _keep(name: str) -> Workdir:
    import tempfile

    try:
        return Workdir(tempfile.mkdtemp(prefix="buildrun-"), name, None)
    except OSError as error:
        raise StoreError(f"no working directory can be made: {error.strerror}") from None


def _safe(name: str) -> str:
    """Return a name that is one, for a directory, and not too long."""
    name = "".join("_" if char == "/" or not char.isprintable() else char for char in name)
    name = os.fsdecode(os.fsencode(name)[:100])
    return name if name.strip(".") else "project"


def _directory(home: Home) -> str:
    return os.path.join(home.sources, "work")
