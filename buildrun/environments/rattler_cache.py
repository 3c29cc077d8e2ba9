"""Checks of rattler's cache of unpacked packages."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from buildrun.store import locks

_REVISION_BYTES = 8  # before the digest in the file beside each package


class Entry(NamedTuple):
    """A package that is to be installed.

    digest: SHA-256 of its archive as the channel has it, hexadecimal; "" if it does not say.
    size: bytes of the archive, 0 if unknown.
    """

    name: str
    version: str
    build: str
    url: str
    digest: str
    size: int


class WrongHash(Exception):
    """An archive is not the one that its channel's index describes."""


def missing(entries: Sequence[Entry], directory: str) -> list[Entry]:
    """Return those that the cache does not have."""
    return [entry for entry in entries if not _has(entry, directory)]


def prepare(entries: Iterable[Entry], directory: str, waiting: Callable[[], None]) -> None:
    """Take out what rattler would wrongly use for one of the entries, and what kills have left.

    waiting: is called once if another process fills the cache.
    Raises WrongHash for a local archive that is not what its index says.
    """
    os.makedirs(directory, exist_ok=True)
    with _alone(directory, waiting):
        for name in os.listdir(directory):
            if name.startswith(".") and os.path.isdir(os.path.join(directory, name)):
                shutil.rmtree(os.path.join(directory, name), ignore_errors=True)
        for entry in entries:
            if not _has(entry, directory):
                _discard(entry, directory)
    for entry in entries:
        _verify_local(entry, directory)


def discard(entries: Iterable[Entry], directory: str) -> None:
    """Take packages out."""
    with _alone(directory, lambda: None):
        for entry in entries:
            _discard(entry, directory)


@contextmanager
def _alone(directory: str, waiting: Callable[[], None]) -> Iterator[None]:
    # The very lock that rattler holds while it uses the cache.
    with locks.exclusive(os.path.join(directory, ".cache.lock"), waiting=waiting):
        yield


def _has(entry: Entry, directory: str) -> bool:
    path = _path(entry, directory)
    try:
        with open(path + ".lock", "rb") as file:
            digest = file.read()[_REVISION_BYTES:].hex()
    except OSError:
        return False
    return bool(entry.digest) and digest == entry.digest and os.path.isdir(path)


def _path(entry: Entry, directory: str) -> str:
    return os.path.join(directory, f"{entry.name}-{entry.version}-{entry.build}")


def _discard(entry: Entry, directory: str) -> None:
    path = _path(entry, directory)
    if not os.path.isdir(path):
        return
    # A name that `prepare` sweeps away, should this be killed.
    aside = os.path.join(directory, f".{os.path.basename(path)}.{os.getpid()}")
    os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _verify_local(entry: Entry, directory: str) -> None:
    parts = urlsplit(entry.url)
    if parts.scheme != "file" or not entry.digest or _has(entry, directory):
        return
    digest = hashlib.sha256()
    with open(unquote(parts.path), "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != entry.digest:
        raise WrongHash(
            f"hash mismatch: {entry.url} has sha256 {digest.hexdigest()}, "
            f"its channel says {entry.digest}"
        )
