"""Garbage collection of environments."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments import base as registry
from buildrun.environments import prefix
from buildrun.errors import StoreError
from buildrun.store import locks

if TYPE_CHECKING:
    from buildrun.store.home import Home


class CacheEntry(NamedTuple):
    """An environment in the store.

    bytes: of disk, a file with several links counted once. used: seconds since the epoch.
    projects: roots of the projects that used it. complete: False for what a killed build left.
    """

    name: str
    path: str
    manager: str | None
    key: str | None
    bytes: int
    used: float
    projects: tuple[str, ...]
    complete: bool

    @property
    def cost(self) -> int:
        """Return the bytes that are free without it."""
        return self.bytes


def list_entries(home: Home) -> list[CacheEntry]:
    """Return what is there, the most recently used first."""
    try:
        names = os.listdir(home.environments)
    except OSError:
        return []
    found = [_look(os.path.join(home.environments, name)) for name in names]
    return sorted((item for item in found if item), key=lambda item: item.used, reverse=True)


def remove(item: CacheEntry) -> bool:
    """Remove an environment; returns False where somebody builds or uses it.

    Raises StoreError for a store that may only be read.
    """
    if not os.access(os.path.dirname(item.path), os.W_OK):
        raise StoreError(
            "the store may only be read", place=os.path.dirname(item.path), hint="set BUILDRUN_HOME"
        )
    base = item.path.removesuffix(prefix.ASIDE)
    lock = locks.attempt(base + ".lock")
    if lock is None:
        return False
    with lock:
        prefix.invalidate(item.path)
        shutil.rmtree(item.path, ignore_errors=True)
    return not os.path.lexists(item.path)


def verify(home: Home) -> list[tuple[str, str]]:
    """Return the damaged environments with the reason; the next run builds them anew."""
    damaged = []
    for item in list_entries(home):
        if not item.complete or item.manager is None or item.key is None:
            continue
        # Whoever removes or builds it holds its lock alone.
        lock = locks.attempt(item.path + ".lock", shared=True)
        if lock is None and os.access(home.environments, os.W_OK):
            continue
        with lock or nullcontext():
            if not _marker(item.path):
                continue
            reason = prefix.why_unusable(item.path, item.key) or _damage(item)
            if reason:
                damaged.append((item.name, reason))
                prefix.invalidate(item.path)
    return damaged


def _damage(item: CacheEntry) -> str | None:
    manager = registry.load(item.manager or "")
    files = manager.modified_files(item.path)
    return f"{len(files)} files changed or gone, such as `{files[0]}`" if files else None


def _look(path: str) -> CacheEntry | None:
    if not os.path.isdir(path) or os.path.islink(path):
        return None
    marker = {} if path.endswith(prefix.ASIDE) else _marker(path)
    return CacheEntry(
        name=os.path.basename(path),
        path=path,
        manager=marker.get("manager"),
        key=marker.get("key"),
        bytes=_bytes(path),
        used=_used(path),
        projects=_projects(path),
        complete=bool(marker),
    )


def _projects(path: str) -> tuple[str, ...]:
    try:
        with open(os.path.join(path, prefix.USES), "rb") as file:
            return tuple(str(json.loads(line)) for line in file)
    except (OSError, ValueError):
        return ()


def _marker(path: str) -> dict[str, Any]:
    try:
        with open(os.path.join(path, prefix.MARKER), "rb") as file:
            value = json.loads(file.read())
        return value if isinstance(value, dict) else {}
    except (OSError, ValueError):
        return {}


def _used(path: str) -> float:
    for name in (os.path.join(path, prefix.USES), path):
        try:
            return os.stat(name).st_mtime
        except OSError:
            continue
    return 0.0


def _bytes(path: str) -> int:
    total, seen = 0, set()
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                status = os.lstat(os.path.join(directory, name))
            except OSError:
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total
