"""Garbage collection of results: what is there, what may go, and taking it out."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from buildrun.errors import StoreError
from buildrun.store import action_cache, cas
from buildrun.store import digest as digests

if TYPE_CHECKING:
    from buildrun.store.home import Home
    from buildrun.store.manifest import Manifest

# Digests in what remembers the last run of each step; they lead to listings that explain.
_MENTIONED = re.compile(digests.PATTERN.encode())


class Item(Protocol):
    """Anything that can be taken out of the store."""

    # Seconds since the epoch.
    @property
    def used(self) -> float: ...  # noqa: D102

    # Bytes that are free without it.
    @property
    def cost(self) -> int: ...  # noqa: D102

    # False for what is of no use.
    @property
    def complete(self) -> bool: ...  # noqa: D102


AnyItem = TypeVar("AnyItem", bound=Item)


class CacheEntry(NamedTuple):
    """A result in the store.

    bytes: of all contents that it names. created, used: seconds since the epoch. cost: bytes of
    those that no result names which was used later. complete: False for a damaged manifest.
    """

    key: str
    project: str
    step: str
    entry_point: str
    bytes: int
    created: float
    used: float
    path: str
    cost: int
    complete: bool = True


def list_entries(home: Home) -> list[CacheEntry]:
    """Return what is there, the most recently used first."""
    found: list[CacheEntry] = []
    seen: set[str] = set()
    files = sorted(_files(home.results), key=lambda file: file.used, reverse=True)
    for file in files:
        manifest = _manifest(file)
        if manifest is None:
            if file.is_content and os.path.lexists(file.path):
                found.append(_damaged(file))
            continue
        sizes = _sizes(home, manifest)
        own = sum(size for digest, size in sizes.items() if digest not in seen)
        seen.update(sizes)
        found.append(
            CacheEntry(
                manifest.key,
                manifest.project,
                manifest.step,
                manifest.entry_point,
                sum(sizes.values()),
                manifest.created,
                file.used,
                file.path,
                own + file.bytes,
            )
        )
    return found


def total(home: Home) -> tuple[int, int]:
    """Return the number of results, and the bytes of disk of them and of all contents."""
    results = list(_files(home.results))
    return sum(file.is_content for file in results), sum(
        file.bytes for file in (*results, *_files(home.blobs))
    )


def select_expired(
    items: Iterable[AnyItem], *, now: float, max_age: float | None, max_size: int | None
) -> list[AnyItem]:
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


def remove(chosen: Sequence[CacheEntry]) -> list[CacheEntry]:
    """Remove results, not their contents, and return those that are gone.

    Raises StoreError for a store that may only be read.
    """
    gone = []
    for item in chosen:
        try:
            os.unlink(item.path)
        except FileNotFoundError:
            pass
        except OSError as error:
            text = f"the result cannot be removed: {error.strerror}"
            raise StoreError(text, place=item.path, hint="set BUILDRUN_HOME") from error
        gone.append(item)
    return gone


def collect_garbage(home: Home, *, everything: bool = False) -> int:
    """Remove contents that nothing names, and what killed runs left; returns the bytes.

    What buildrun once kept under digests of other kinds goes as well.

    What is younger than an hour stays, for its result may be on its way. everything: then that
    goes as well, and contents that only explain the next run.
    """
    # In this order: what is named from now on was put, or touched, after it was listed here.
    candidates = [file for file in _files(home.blobs) if everything or _is_old(file.used)]
    named = _named(home, explanations=not everything)
    freed = 0
    for file in candidates:
        if file.is_content and file.digest not in named:
            freed += _unlink(file, everything=everything)
    for file in (*candidates, *_files(home.results)):
        if file.is_obsolete:
            freed += _unlink(file, everything=everything)
        elif file.path.endswith(cas.TEMPORARY):
            freed += _unlink(file, everything=False)
    _remove_obsolete_directories(home)
    return freed


class File(NamedTuple):
    """A file among the contents or results.

    used: when it was last written or used. bytes: of disk.
    """

    path: str
    digest: str
    used: float
    bytes: int

    @property
    def is_content(self) -> bool:
        """Return whether it lies where the digest in its name says."""
        return digests.is_digest(self.digest)

    @property
    def is_obsolete(self) -> bool:
        """Return whether it is under a digest of another kind, which is never looked for."""
        return not self.digest.startswith(digests.PREFIX)


def contents(home: Home) -> Iterator[File]:
    """Yield all contents that are there."""
    return (file for file in _files(home.blobs) if file.is_content)


def manifests(home: Home) -> Iterator[tuple[File, Manifest | None]]:
    """Yield all results that are there, with None for a damaged one."""
    for file in _files(home.results):
        if file.is_content:
            yield file, _manifest(file)


def _files(directory: str) -> Iterator[File]:
    for algorithm in _scan(directory):
        for shard in _scan(algorithm.path):
            for entry in _scan(shard.path):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # removed meanwhile
                digest = f"{algorithm.name}:{entry.name}"
                yield File(entry.path, digest, status.st_mtime, status.st_blocks * 512)


def _remove_obsolete_directories(home: Home) -> None:
    """Remove those that are empty now, and indexes of files under digests of other kinds."""
    for directory in (home.blobs, home.results):
        for algorithm in _scan(directory):
            if algorithm.name != digests.ALGORITHM:
                for shard in _scan(algorithm.path):
                    cas.ignore_errors(os.rmdir, shard.path)
                cas.ignore_errors(os.rmdir, algorithm.path)
    for entry in _scan(os.path.join(home.memo, "projects")):
        if entry.name.endswith((".xxh3.index", ".sha256.index")):
            cas.ignore_errors(os.unlink, entry.path)


def _scan(directory: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as listing:
            return list(listing)
    except OSError:
        return []


def _manifest(file: File) -> Manifest | None:
    found = action_cache.look(file.path) if file.is_content else None
    return found if found is not None and found.key == file.digest else None


def _damaged(file: File) -> CacheEntry:
    return CacheEntry(
        file.digest, "", "", "", 0, file.used, file.used, file.path, file.bytes, complete=False
    )


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
        for entry in _scan(os.path.join(home.memo, "projects")):
            data = (
                cas.contents(entry.path, action_cache.LARGEST)
                if entry.name.endswith(".steps")
                else b""
            )
            named.update(match.decode() for match in _MENTIONED.findall(data or b""))
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
