"""Makes the files of a new environment its own, and compares them with what packages record.

uv and rattler link files into environments from a cache of packages. What is written into such a
link is written into the cache and into all other environments. So what is linked is copied, save
programs and libraries of machine code: nobody edits them, and they are most of the bytes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from buildrun.store.cas import Copier, write

_CHUNK = 1 << 20
_THREADS = 4

# How files begin that stay shared, and from which size on: ELF, Mach-O, and archives of them.
_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"!<ar")
_LARGE = 1 << 16


class File(NamedTuple):
    """A file as its package records it.

    path: relative to the prefix. size: bytes, None where it may have any. sha256: hexadecimal, ""
    where it may have any content.
    """

    package: str
    path: str
    size: int | None
    sha256: str


def settle(prefix: str, recorded: Iterable[File]) -> list[str]:
    """Give a prefix files of its own; return the packages that have others than they record.

    Packages may have the same file, and then one of them is right. Raises OSError.
    """
    copier = Copier()
    known: dict[str, list[File]] = {}
    for each in recorded:
        if each.sha256:
            known.setdefault(os.path.join(prefix, each.path), []).append(each)

    def wrong(found: tuple[str, os.stat_result]) -> Sequence[File]:
        path, status = found
        made = _own(path, status, copier) if status.st_nlink > 1 else sha256(path)
        owners = known.get(path, ())
        return () if any(made == each.sha256 for each in owners) else owners

    there = [item for item in _files(prefix) if item[1].st_nlink > 1 or item[0] in known]
    small = [item for item in there if item[1].st_size < _LARGE]
    large = [item for item in there if item[1].st_size >= _LARGE]
    # Threads that hash much at a time get on beside each other. With many short calls of the
    # system they would wait for Python's lock.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        groups = list(pool.map(wrong, large))
    bad = {each.package for group in (*groups, *map(wrong, small)) for each in group}
    missing = known.keys() - {path for path, _ in there}
    return sorted(bad.union(each.package for path in missing for each in known[path]))


def _files(prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, _, names in os.walk(prefix):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield path, status


def sha256(path: str) -> str:
    """Return the digest of a file, hexadecimal; raises OSError."""
    with open(path, "rb") as file:
        return _hashed(file.fileno(), hashlib.sha256())


def _own(path: str, status: os.stat_result, copier: Copier) -> str:
    """Put a copy in a link's place, unless it may be shared; return the SHA-256."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # No more than there is, for which Python makes room each time.
        chunk = os.read(source, min(status.st_size, _CHUNK))
        made = hashlib.sha256(chunk)
        if status.st_size >= _LARGE and chunk.startswith(_CODE):
            return _hashed(source, made)
        # Not written beside it and renamed: that makes file systems wait for the disk, and a prefix
        # without its marker is used by nobody.
        os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(path, flags, stat.S_IMODE(status.st_mode))
        try:
            if copier.clone(source, target):
                _hashed(source, made)
            else:
                write(target, chunk)
                while len(chunk) == _CHUNK:
                    chunk = os.read(source, _CHUNK)
                    made.update(chunk)
                    write(target, chunk)
            if os.fstat(target).st_mode != status.st_mode:  # the umask takes bits away
                os.fchmod(target, stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
        return made.hexdigest()
    finally:
        os.close(source)


def _hashed(descriptor: int, made: hashlib._Hash) -> str:
    while chunk := os.read(descriptor, _CHUNK):
        made.update(chunk)
    return made.hexdigest()
