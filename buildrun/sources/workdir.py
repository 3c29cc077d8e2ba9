"""Temporary working directories: one a run, below the store, removed when the run has ended.

A source has numbered places, and a run takes the first that is free. So the next run of the same
source has its files at the same paths, and finds what was remembered of them: environments,
fingerprints, histories. A hold on the place's lock tells that it is in use; what a killed run has
left has none, and a later run removes it.
"""

import os
import sys

import xxhash

from buildrun.errors import StoreError
from buildrun.store import locks
from buildrun.store.home import Home
from buildrun.store.locks import Lock
from buildrun.workspace.move import delete

# Runs of the same source at once; their number ends at what a machine can bear.
_PLACES = 10_000


class Workdir:
    """A directory for the files of one run.

    path: where the files go; it is absent at first. lock: None where it is to be kept. place,
    name: see ``claim_place``.
    """

    def __init__(self, top: str, name: str, lock: Lock | None) -> None:
        """Take over the lock of the place."""
        self.place, self.name = os.path.basename(top), name
        self.path = os.path.join(top, name)
        self._top = top
        self._lock = lock
        self._holds: list[Lock] = []

    def borrow(self, path: str) -> None:
        """Share the lock at ``path`` as long as the directory is in use; raises OSError.

        Its time tells when what it is of was used last.
        """
        self._holds.append(locks.shared(path))
        os.utime(path)

    def close(self) -> None:
        """Remove it, unless it is to be kept; calling it again is harmless."""
        if self._lock is not None and self._lock.descriptor >= 0:
            delete(self._top)
            self._lock.release()
        for lock in self._holds:
            lock.release()

    @property
    def is_kept(self) -> bool:
        """Return whether it stays when the run has ended."""
        return self._lock is None

    def discard(self) -> None:
        """Remove it in any case."""
        if self._lock is None:
            delete(self._top)
        self.close()


def claim(home: Home, identity: str, name: str, *, keep: bool = False) -> Workdir:
    """Return an empty working directory.

    identity: what the source is known by, the same for each run of it. name: the directory's own.
    keep: it lies outside the store, and nobody removes it. Raises StoreError.
    """
    name = _safe(name)
    if keep:
        return _kept(name)
    digest = xxhash.xxh3_64_hexdigest(identity.encode(errors="surrogateescape"))
    try:
        os.makedirs(_locks(home), exist_ok=True)
        for number in range(_PLACES):
            opened = claim_place(home, f"{digest}-{number}", name)
            if opened is not None:
                return opened
    except OSError as error:
        raise _failure(home, error) from None
    raise StoreError("no working directory could be had", place=_directory(home))


def claim_place(home: Home, place: str, name: str) -> Workdir | None:
    """Return the empty working directory at a place, or None where it is in use.

    place: the name of one that ``claim`` has given. Raises OSError.
    """
    lock = locks.attempt(os.path.join(_locks(home), place))
    return _taken(home, place, name, lock) if lock is not None else None


def collect(home: Home) -> None:
    """Remove what killed runs have left."""
    try:
        names = os.listdir(_directory(home))
    except OSError:
        return
    for name in names:
        lock = locks.attempt(os.path.join(_locks(home), name))
        if lock is not None:
            with lock:
                delete(os.path.join(_directory(home), name))


def _taken(home: Home, place: str, name: str, lock: Lock) -> Workdir:
    top = os.path.join(_directory(home), place)
    try:
        if os.path.lexists(top):
            delete(top)
        os.makedirs(top)
        os.chmod(top, 0o700)
    except BaseException:
        lock.release()
        raise
    return Workdir(top, name, lock)


def _kept(name: str) -> Workdir:
    import tempfile

    try:
        return Workdir(tempfile.mkdtemp(prefix="buildrun-"), name, None)
    except OSError as error:
        raise StoreError(f"no working directory can be made: {error.strerror}") from None


def _failure(home: Home, error: OSError) -> StoreError:
    return StoreError(
        f"no working directory can be made: {error.strerror}",
        place=_directory(home),
        hint="see that there is room and that you may write there, or set BUILDRUN_HOME",
    )


def _safe(name: str) -> str:
    """Return a name that is one, for a directory, and not too long."""
    name = "".join("_" if char == "/" or not char.isprintable() else char for char in name)
    name = os.fsdecode(os.fsencode(name)[:100]) if sys.getfilesystemencoding() else name
    return "project" if name.strip(".") == "" else name


def _directory(home: Home) -> str:
    return os.path.join(home.sources, "work")


def _locks(home: Home) -> str:
    return os.path.join(home.sources, "locks")
