"""Garbage collection of mirrors, archives and other fetched sources."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from buildrun.sources import workdir
from buildrun.store import locks
from buildrun.store.home import Home
from buildrun.workspace.move import delete


class CacheEntry(NamedTuple):
    """A mirror of a repository, or an archive; used: when it was used last, since the epoch."""

    path: str
    bytes: int
    used: float


def list_entries(home: Home) -> list[CacheEntry]:
    """Return what is kept."""
    found = []
    for kind in ("git", "archives"):
        above = os.path.join(home.sources, kind)
        for name in _names(above):
            path = os.path.join(above, name)
            if os.path.isdir(path):
                found.append(CacheEntry(path, _size(path), _used(path)))
    return found


def prune(home: Home, max_age: float) -> list[CacheEntry]:
    """Remove what was not used for so many seconds and is not in use; returns what went."""
    workdir.collect(home)
    now = time.time()
    return [item for item in list_entries(home) if now - item.used >= max_age and _remove(item)]


def _remove(item: CacheEntry) -> bool:
    held = []
    try:
        for ending in (".lock", ".use"):
            lock = locks.attempt(item.path + ending)
            if lock is None:
                return False
            held.append(lock)
        delete(item.path)
        return True
    finally:
        for lock in held:
            lock.release()


def _used(path: str) -> float:
    times = [0.0]
    for name in (path, path + ".use"):
        try:
            times.append(os.stat(name).st_mtime)
        except OSError:
            continue
    return max(times)


def _size(path: str) -> int:
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_size
            except OSError:
                continue
    return total


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
