"""Garbage collection of environments."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import nullcontext
from typing import Any

from buildrun.environments import base as registry
from buildrun.environments import prefix
from buildrun.errors import StoreError
from buildrun.store import files, locks
from buildrun.store.gc import HALF_MADE, CacheEntry
from buildrun.store.home import Home


def list_entries(home: Home) -> list[CacheEntry]:
    """Return what is there, the most recently used first."""
    paths = [os.path.join(home.environments, name) for name in files.names_in(home.environments)]
    found = [_entry(path) for path in paths if os.path.isdir(path) and not os.path.islink(path)]
    return sorted(found, key=lambda item: item.used, reverse=True)


def remove(item: CacheEntry) -> bool:
    """Remove an environment; returns False where somebody builds or uses it.

    Raises StoreError for a store that may only be read.
    """
    if not os.access(os.path.dirname(item.path), os.W_OK):
        raise StoreError(
            "the store may only be read", place=os.path.dirname(item.path), hint="set BUILDRUN_HOME"
        )
    lock = locks.attempt(item.path.removesuffix(prefix.ASIDE) + ".lock")
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
        manager, key = item.row["manager"], item.row["key"]
        if not item.complete or manager is None or key is None:
            continue
        # Whoever removes or builds it holds its lock alone.
        lock = locks.attempt(item.path + ".lock", shared=True)
        if lock is None and os.access(home.environments, os.W_OK):
            continue
        with lock or nullcontext():
            if not _marker(item.path):
                continue
            reason = prefix.why_unusable(item.path, key) or _damage(manager, item.path)
            if reason:
                damaged.append((item.name, reason))
                prefix.invalidate(item.path)
    return damaged


def _damage(manager: str, path: str) -> str | None:
    found = registry.load(manager).modified_files(path)
    return f"{len(found)} files changed or gone, such as `{found[0]}`" if found else None


def _entry(path: str) -> CacheEntry:
    """Return what an environment is; of files with several names one counts."""
    marker = {} if path.endswith(prefix.ASIDE) else _marker(path)
    name, projects, manager = os.path.basename(path), _projects(path), marker.get("manager")
    size, used, complete = _bytes(path), _used(path), bool(marker)
    row = {"name": name, "path": path, "manager": manager, "key": marker.get("key")}
    row |= {"bytes": size, "used": used, "projects": projects, "complete": complete}
    about = (", ".join(projects) or "-") + ("" if complete else HALF_MADE)
    return CacheEntry(
        "environment", name, path, name, manager or "-", about, size, size, used, complete, row
    )


def _projects(path: str) -> tuple[str, ...]:
    try:
        lines = files.text(os.path.join(path, prefix.USES)).splitlines()
        return tuple(str(json.loads(line)) for line in lines)
    except ValueError:
        return ()


def _marker(path: str) -> dict[str, Any]:
    try:
        value = json.loads(files.text(os.path.join(path, prefix.MARKER)))
        return value if isinstance(value, dict) else {}
    except ValueError:
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
