"""Garbage collection of derived images."""

from __future__ import annotations

import os
from typing import Any

from buildrun.environments.images import derive
from buildrun.environments.images.derive import ImageRecord
from buildrun.environments.images.engine import Engine
from buildrun.errors import BuildrunError
from buildrun.store import digest, locks
from buildrun.store.cas import ignore_errors
from buildrun.store.gc import HALF_MADE, CacheEntry
from buildrun.store.home import Home


def list_entries(home: Home, engine: Engine) -> list[CacheEntry]:
    """Return what is there, the most recently used first; drop records whose image is gone.

    Where no engine answers, what is written down counts. Without records no engine is asked.
    """
    # In this order: an image that is written down by now is there when the engine is asked.
    written = [kept for key in derive.keys(home) if (kept := _entry(home, key)) is not None]
    if not written:
        return []
    try:
        there: dict[str, list[str]] | None = _by_key(engine)
    except BuildrunError:
        there = None
    found = []
    for kept in written:
        if there is not None and kept.complete and kept.row["id"] not in there.get(kept.key, ()):
            _drop(home, kept.key, kept.row["id"])
        else:
            found.append(kept)
    return sorted(found, key=lambda kept: kept.used, reverse=True)


def remove(home: Home, engine: Engine, item: CacheEntry) -> bool:
    """Remove an image; returns False where it is being made, or a container uses it.

    Raises BuildrunError where no engine answers.
    """
    lock = locks.attempt(f"{derive.path(home, item.key)}.lock")
    if lock is None:
        return False
    with lock:
        gone = [engine.remove(image) for image in _by_key(engine).get(item.key, ())]
        if not all(gone):
            return False
        ignore_errors(os.unlink, derive.path(home, item.key))
    return True


def verify(home: Home) -> list[tuple[str, str]]:
    """Return the damaged records with the reason, and remove them."""
    damaged = []
    for key in derive.keys(home):
        if derive.read(home, key) is None and os.path.exists(derive.path(home, key)):
            damaged.append((key, "the record of this image is damaged"))
            _drop(home, key, None)
    return damaged


def _by_key(source: Engine) -> dict[str, list[str]]:
    # Those of older versions have another prefix before the number that names the record.
    return {digest.PREFIX + key.rpartition(":")[2]: ids for key, ids in source.made().items()}


def _entry(home: Home, key: str) -> CacheEntry | None:
    path, record = derive.path(home, key), derive.read(home, key)
    try:
        used = os.stat(path).st_mtime
    except OSError:
        return None  # removed meanwhile
    complete = record is not None and bool(record.id)
    record = record or ImageRecord(key, "", "", "", "", 0, used)
    row: dict[str, Any] = {
        "key": key,
        "id": record.id,
        "reference": record.reference,
        "project": record.project,
    }
    row |= {"bytes": record.bytes, "created": record.created or used}
    row |= {"used": used, "complete": complete}
    about = (record.reference or "-") + ("" if complete else HALF_MADE)
    size, name = record.bytes, key[7:31]
    return CacheEntry("image", key, path, name, "image", about, size, size, used, complete, row)


def _drop(home: Home, key: str, seen: str | None) -> None:
    """Remove a record, unless its image is being made again, or was since it was seen."""
    lock = locks.attempt(f"{derive.path(home, key)}.lock")
    if lock is not None:
        with lock:
            record = derive.read(home, key)
            if (record.id if record is not None else None) == seen:
                ignore_errors(os.unlink, derive.path(home, key))
