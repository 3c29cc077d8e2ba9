"""Garbage collection of mirrors and archives."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from buildrun.sources import workdir
from buildrun.store import locks
from buildrun.store.files import names_in
from buildrun.store.gc import CacheEntry
from buildrun.store.home import Home
from buildrun.workspace.move import delete


def list_entries(home: Home) -> list[CacheEntry]:
    """Return the mirrors of repositories, and the archives, that are kept."""
    found = []
    for kind in ("git", "archives"):
        above = os.path.join(home.sources, kind)
        for name in sorted(names_in(above)):
            path = os.path.join(above, name)
            if os.path.isdir(path):
                used = max(_time(path), _time(path + ".use"))
                size = sum(_sizes(path))
                found.append(
                    CacheEntry("source", name, path, name, kind, "", size, size, used, True, {})
                )
    return found


def prune(home: Home, max_age: float) -> list[CacheEntry]:
    """Remove what was not used for so many seconds and is not in use; returns what went."""
    workdir.collect(home)
    now = time.time()
    return [item for item in list_entries(home) if now - item.used >= max_age and _remove(item)]


def _remove(item: CacheEntry) -> bool:
    held = []
    try:
        # A mirror's locks lie beside it, an archive's in it.
        for path in (item.path + ".lock", item.path + ".use", os.path.join(item.path, ".lock")):
            lock = locks.attempt(path)
            if lock is None:
                return False
            held.append(lock)
        delete(item.path)
        return True
    finally:
        for lock in held:
            lock.release()


def _sizes(path: str) -> Iterable[int]:
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                yield os.lstat(os.path.join(directory, name)).st_size
            except FileNotFoundError:
                continue


def _time(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0
