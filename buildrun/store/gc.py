"""Garbage collection of results: what is there, what may go, and taking it out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import StoreError
from buildrun.store import action_cache, cas
from buildrun.store import digest as digests
from buildrun.store.cas import File, list_files, scan
from buildrun.store.files import read_or_none

if TYPE_CHECKING:
    from buildrun.store.home import Home
    from buildrun.store.manifest import Manifest

# What is said of an entry whose build was killed.
HALF_MADE = "  (half made)"
# Digests in what remembers the last run of each step; they lead to listings that explain.
_MENTIONED = re.compile(digests.PATTERN.encode())


class CacheEntry(NamedTuple):
    """Something in the store that can be removed: an environment, result, image or source.

    key: what it is found by. name, label, about: cells of a table. bytes: of disk, for a result
    those of all its contents. cost: bytes that are free without it. used: seconds since the epoch.
    complete: False for what is damaged or half made. row: what JSON says.
    """

    kind: str
    key: str
    path: str
    name: str
    label: str
    about: str
    bytes: int
    cost: int
    used: float
    complete: bool
    row: Mapping[str, Any]


def list_entries(home: Home) -> list[CacheEntry]:
    """Return the results, the last used first; what several name is that one's cost."""
    found: list[CacheEntry] = []
    seen: set[str] = set()
    for file in sorted(list_files(home.results), key=lambda file: file.used, reverse=True):
        manifest = _manifest(file)
        if manifest is not None:
            sizes = _sizes(home, manifest)
            own = sum(size for digest, size in sizes.items() if digest not in seen)
            seen.update(sizes)
            found.append(_entry(file, manifest, sum(sizes.values()), own))
        elif file.is_content and os.path.lexists(file.path):
            found.append(_entry(file, None, 0, 0))
    return found


def _entry(file: File, manifest: Manifest | None, size: int, own: int) -> CacheEntry:
    row: dict[str, Any] = {"key": file.digest}
    for name in ("project", "step", "entry_point"):
        row[name] = "" if manifest is None else getattr(manifest, name)
    row |= {"bytes": size, "created": manifest.created if manifest else file.used}
    row["assurance"] = manifest.details.get("assurance", "declared") if manifest else None
    about = f"{printable(row['project'])}: {printable(row['step'])}"
    return CacheEntry(
        "result",
        file.digest,
        file.path,
        file.digest.rpartition(":")[2][:24],
        "result",
        about if manifest is not None else "-  (damaged)",
        size,
        own + file.bytes,
        file.used,
        manifest is not None,
        {**row, "used": file.used},
    )


def total(home: Home) -> tuple[int, int]:
    """Return the number of results, and the bytes of disk of them and of all contents."""
    results = list(list_files(home.results))
    return sum(file.is_content for file in results), sum(
        file.bytes for file in (*results, *list_files(home.blobs))
    )


def select_expired(
    items: Iterable[CacheEntry], *, now: float, max_age: float | None, max_size: int | None
) -> list[CacheEntry]:
    """Return what should go: what is of no use, what was not used for ``max_age`` seconds, and
    the least recently used of what is more than ``max_size`` bytes in all.
    """
    chosen, size = [], 0
    for item in sorted(items, key=lambda item: item.used, reverse=True):
        old = max_age is not None and now - item.used > max_age
        full = max_size is not None and size + item.cost > max_size
        if old or full or not item.complete:
            chosen.append(item)
        else:
            size += item.cost
    return chosen


def remove(item: CacheEntry) -> bool:
    """Remove a result, not its contents; raises StoreError for a store that may only be read."""
    try:
        os.unlink(item.path)
    except FileNotFoundError:
        pass
    except OSError as error:
        text = f"the result cannot be removed: {error.strerror}"
        raise StoreError(text, place=item.path, hint="set BUILDRUN_HOME") from error
    return True


def collect_garbage(home: Home, *, everything: bool = False) -> int:
    """Remove contents that nothing names, and what killed runs left; returns the bytes.

    What is younger than an hour stays, for its result may be on its way. everything: then that
    goes as well, and contents that only explain the next run.
    """
    # In this order: what is named from now on was put, or touched, after it was listed here.
    candidates = [file for file in list_files(home.blobs) if everything or _is_old(file.used)]
    named = _named(home, explanations=not everything)
    freed = 0
    for file in candidates:
        if file.is_content and file.digest not in named:
            freed += _unlink(file, everything=everything)
    for file in (*candidates, *list_files(home.results)):
        if file.is_obsolete:
            freed += _unlink(file, everything=everything)
        elif file.path.endswith(cas.TEMPORARY):
            freed += _unlink(file, everything=False)
    _remove_obsolete_directories(home)
    return freed


def contents(home: Home) -> Iterator[File]:
    """Yield all contents that are there."""
    return (file for file in list_files(home.blobs) if file.is_content)


def manifests(home: Home) -> Iterator[tuple[File, Manifest | None]]:
    """Yield all results that are there, with None for a damaged one."""
    for file in list_files(home.results):
        if file.is_content:
            yield file, _manifest(file)


def _remove_obsolete_directories(home: Home) -> None:
    """Remove those that are empty now, and indexes of files under digests of other kinds."""
    for directory in (home.blobs, home.results):
        for algorithm in scan(directory):
            if algorithm.name != digests.ALGORITHM:
                for shard in scan(algorithm.path):
                    cas.ignore_errors(os.rmdir, shard.path)
                cas.ignore_errors(os.rmdir, algorithm.path)
    for entry in scan(os.path.join(home.memo, "projects")):
        if entry.name.endswith((".xxh3.index", ".sha256.index")):
            cas.ignore_errors(os.unlink, entry.path)


def _manifest(file: File) -> Manifest | None:
    found = action_cache.manifest_at(file.path) if file.is_content else None
    return found if found is not None and found.key == file.digest else None


def _sizes(home: Home, manifest: Manifest) -> dict[str, int]:
    """Return the contents of a result with their sizes."""
    named = action_cache.all_digests(home, manifest)
    return {
        digest: _size(home, digest) if known is None else known for digest, known in named.items()
    }


def _size(home: Home, digest: str) -> int:
    try:
        return os.stat(cas.path_of(home, digest)).st_size
    except OSError:
        return 0  # lost, or not kept


def _named(home: Home, *, explanations: bool) -> set[str]:
    named: set[str] = set()
    for _, manifest in manifests(home):
        if manifest is not None:
            named.update(action_cache.all_digests(home, manifest))
    if explanations:
        for entry in scan(os.path.join(home.memo, "projects")):
            if entry.name.endswith(".steps"):
                data = read_or_none(entry.path) or b""
                named.update(match.decode() for match in _MENTIONED.findall(data))
    return named


def _unlink(file: File, *, everything: bool) -> int:
    try:
        if not everything and not _is_old(os.lstat(file.path).st_mtime):
            return 0  # somebody has found a use for it meanwhile
        os.unlink(file.path)
    except OSError:
        return 0
    return file.bytes


def _is_old(used: float) -> bool:
    return time.time() - used > cas.GRACE
