"""Locks between processes: one file each, released by the system when its holders end.

A lock file is never deleted, since a process may be waiting on it. The file of a lease is: it
tells of something that goes on as long as its process, and what nobody holds is abandoned.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from typing import TypeVar

from buildrun.store.files import names_in

_T = TypeVar("_T")


class Lock:
    """A shared or exclusive hold on a lock file.

    descriptor: the open file; a child that inherits it keeps the lock after its parent's death.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over an open descriptor that already holds the lock."""
        self.descriptor = descriptor

    def share(self) -> None:
        """Let other readers in; between the two a writer may have been, so look again after."""
        fcntl.flock(self.descriptor, fcntl.LOCK_SH)

    def is_at(self, path: str) -> bool:
        """Return whether the lock file is still the one at a path."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), os.stat(path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go; calling it again is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> Lock:
        """Hold the lock for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go at the block's end."""
        self.release()


def exclusive(path: str, *, waiting: Callable[[], None] | None = None) -> Lock:
    """Return the only hold on a lock; waiting: called once if it is held. Raises OSError."""
    return _acquire(path, fcntl.LOCK_EX, waiting)


def shared(path: str, *, waiting: Callable[[], None] | None = None) -> Lock:
    """Return a hold that other readers may share; raises OSError as ``exclusive`` does."""
    return _acquire(path, fcntl.LOCK_SH, waiting)


def attempt(path: str, *, shared: bool = False) -> Lock | None:
    """Return a hold on the lock, or None at once where somebody else has it or it has no file."""
    try:
        return _acquire(path, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError:
        return None


def once(
    find: Callable[[], _T | None], make: Callable[[Lock], _T], acquire: Callable[[], Lock]
) -> _T:
    """Return what is found; else one of many that come at once makes it, and the others wait.

    acquire: returns the only right to make it.
    """
    found = find()
    if found is None:
        with acquire() as lock:
            found = find()
            if found is None:
                found = make(lock)
    return found


def lease(path: str) -> Lock:
    """Return the hold on a file that others delete once nobody holds it; raises OSError."""
    while True:
        lock = exclusive(path)
        if lock.is_at(path):
            return lock
        lock.release()  # taken for abandoned between its making and its locking


def abandoned(directory: str) -> Iterator[tuple[str, Lock]]:
    """Yield the names of the leases in a directory that nobody holds; each is held meanwhile."""
    for name in names_in(directory):
        lock = attempt(os.path.join(directory, name))
        if lock is not None:
            with lock:
                yield name, lock


def _acquire(path: str, kind: int, waiting: Callable[[], None] | None = None) -> Lock:
    lock = Lock(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644))
    try:
        try:
            fcntl.flock(lock.descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if kind & fcntl.LOCK_NB:
                raise
            if waiting is not None:
                waiting()
            fcntl.flock(lock.descriptor, kind)
    except BaseException:
        lock.release()
        raise
    return lock
