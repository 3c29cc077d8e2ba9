"""Garbage collection of derived images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from buildrun.environments.images import derive, engine
from buildrun.errors import BuildrunError
from buildrun.store import digest, locks

if TYPE_CHECKING:
    from buildrun.environments.images.engine import BuiltImage, Engine
    from buildrun.store.home import Home


class CacheEntry(NamedTuple):
    """An image that was made with this store.

    bytes: of its own layer. used, created: seconds since the epoch. complete: False for what a
    killed build left, and for a damaged record.
    """

    key: str
    id: str
    reference: str
    project: str
    bytes: int
    created: float
    used: float
    complete: bool

    @property
    def cost(self) -> int:
        """Return the bytes that are free without it."""
        return self.bytes


def list_entries(home: Home, engine: Engine) -> list[CacheEntry]:
    """Return what is there, the most recently used first; drop records whose image is gone.

    Where no engine answers, what is written down counts. Without records no engine is asked.
    """
    # In this order: an image that is written down by now is there when the engine is asked.
    written = [kept for key in derive.keys(home) if (kept := _look(home, key)) is not None]
    if not written:
        return []
    try:
        there: dict[str, list[BuiltImage]] | None = _by_key(engine)
    except BuildrunError:
        there = None
    found = []
    for kept in written:
        if there is not None and not _is_there(kept, there.get(kept.key, ())):
            _drop(home, kept.key, kept.id)
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
        gone = [engine.remove(made.id) for made in _by_key(engine).get(item.key, ())]
        if not all(gone):
            return False
        _unlink(derive.path(home, item.key))
    return True


def verify(home: Home) -> list[tuple[str, str]]:
    """Return the damaged records with the reason, and remove them."""
    damaged = []
    for key in derive.keys(home):
        if derive.read(home, key) is None and os.path.exists(derive.path(home, key)):
            damaged.append((key, "the record of this image is damaged"))
            _drop(home, key, None)
    return damaged


def _by_key(source: Engine) -> dict[str, list[BuiltImage]]:
    found: dict[str, list[BuiltImage]] = {}
    for made in source.labelled():
        # Those of older versions have another prefix before the number that names the record.
        number = made.labels.get(engine.KEY, "").rpartition(":")[2]
        found.setdefault(digest.PREFIX + number, []).append(made)
    return found


def _look(home: Home, key: str) -> CacheEntry | None:
    record = derive.read(home, key)
    try:
        used = os.stat(derive.path(home, key)).st_mtime
    except OSError:
        return None  # removed meanwhile
    if record is None:
        return CacheEntry(key, "", "", "", 0, used, used, complete=False)
    return CacheEntry(
        key, record.id, record.reference, record.project, record.bytes,
        record.created or used, used, complete=bool(record.id),
    )  # fmt: skip


def _is_there(kept: CacheEntry, images: list[BuiltImage] | tuple[()]) -> bool:
    return not kept.complete or any(made.id == kept.id for made in images)


def _drop(home: Home, key: str, seen: str | None) -> None:
    """Remove a record, unless its image is being made again, or was since it was seen."""
    lock = locks.attempt(f"{derive.path(home, key)}.lock")
    if lock is not None:
        with lock:
            record = derive.read(home, key)
            if (record.id if record is not None else None) == seen:
                _unlink(derive.path(home, key))


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass  # gone already, or in a store that may only be read
