"""The content-addressed store: each content in a file named by its digest."""

from __future__ import annotations

import errno
import os
import stat
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from buildrun.errors import StoreError
from buildrun.store import digest as digests
from buildrun.store import files
from buildrun.store.files import closing, is_shared, make_directory, open_regular
from buildrun.store.home import Home

# What collection leaves alone since a running process may be about to name it; seconds.
GRACE = 3600.0
TEMPORARY = ".tmp"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
# What is read into memory: logs, listings and manifests, never an output.
_LARGEST = 1 << 30


class MissingBlob(StoreError):
    """A result names a content that is not in the store, or not as it was; so it is a miss."""


def path_for(directory: str, digest: str) -> str:
    """Return the path for a digest: ``<directory>/blake3/af/af1349…``.

    Raises ValueError for what is no digest, since that could lead anywhere.
    """
    if not digests.is_digest(digest):
        raise ValueError(f"not a digest: {digest!r}")
    algorithm, _, name = digest.partition(":")
    return f"{directory}/{algorithm}/{name[:2]}/{name}"


def path_of(home: Home, digest: str) -> str:
    """Return where a content lies, if it is there; raises ValueError for what is no digest."""
    return path_for(home.blobs, digest)


def has(home: Home, digest: str, size: int | None = None) -> bool:
    """Return whether a content is there, of that size; then it is not collected for a while."""
    return not missing(home, {digest: size})


def missing(home: Home, wanted: Mapping[str, int | None]) -> list[str]:
    """Return which contents are not there, of that size; others are not collected for a while."""
    recent, absent = time.time() - GRACE / 4, []
    for digest, size in wanted.items():
        path = path_of(home, digest)
        try:
            status = os.lstat(path)
        except OSError:
            absent.append(digest)
            continue
        if not stat.S_ISREG(status.st_mode) or size not in (None, status.st_size):
            absent.append(digest)
        elif status.st_mtime < recent:
            ignore_errors(os.utime, path)
    return absent


def put(home: Home, digest: str, source: int, size: int, copier: Copier) -> None:
    """Store what an open file holds from its beginning, unless it is there already.

    Raises StoreError where the content is not what the digest says, or the store is full.
    """
    if has(home, digest, size):
        return
    with publishing(path_of(home, digest)) as target:
        # What was really copied counts, for a file may change between two looks at it.
        cloned = copier.clone(source, target)
        found = copier.digest(target) if cloned else copier.copy(source, target)
        if found != (digest, size):
            raise StoreError("it changed while it was stored")


def put_file(home: Home, path: str) -> str:
    """Store a file, such as a log, and return its digest; raises StoreError."""
    try:
        with open(path, "rb", buffering=0) as file:
            copier = Copier()
            digest, size = copier.digest(file.fileno())
            file.seek(0)
            put(home, digest, file.fileno(), size, copier)
    except OSError as error:
        raise StoreError(f"it cannot be read: {error.strerror}", place=path) from error
    except StoreError as error:
        error.place = error.place or path
        raise
    return digest


def put_bytes(home: Home, data: bytes) -> str:
    """Store a short content and return its digest; raises StoreError."""
    digest = digests.content(data)
    if not has(home, digest, len(data)):
        publish(path_of(home, digest), data)
    return digest


def publish(path: str, data: bytes) -> None:
    """Put a file in its place in the store in one step; raises StoreError."""
    with publishing(path) as target:
        write(target, data)


def read(home: Home, digest: str) -> bytes | None:
    """Return a short content, or None; a damaged one is removed. Raises ValueError."""
    data = files.read_or_none(path_of(home, digest), limit=_LARGEST)
    if data is not None and digests.content(data) != digest:
        discard(home, digest)
        return None
    return data


def is_damaged(path: str, digest: str, copier: Copier) -> bool:
    """Return whether what is at a path is not the content of that digest; what is gone is not."""
    try:
        with open_regular(path, follow=False) as file:
            return copier.digest(file.fileno())[0] != digest
    except FileNotFoundError:
        return False
    except OSError:  # no file, or the disk cannot read it
        return True


class File(NamedTuple):
    """A file among contents or results; used: when it was last. bytes: of disk."""

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


def list_files(directory: str) -> Iterator[File]:
    """Yield the files that lie in a directory by digest, contents or results."""
    for algorithm in scan(directory):
        for shard in scan(algorithm.path):
            for entry in scan(shard.path):
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # removed meanwhile
                digest = f"{algorithm.name}:{entry.name}"
                yield File(entry.path, digest, status.st_mtime, status.st_blocks * 512)


def scan(directory: str) -> list[os.DirEntry[str]]:
    """Return what is in a directory; nothing where it cannot be read."""
    try:
        with os.scandir(directory) as listing:
            return list(listing)
    except OSError:
        return []


def discard(home: Home, digest: str) -> None:
    """Remove a content that is damaged, so that it is made again."""
    ignore_errors(os.unlink, path_of(home, digest))


@contextmanager
def publishing(path: str) -> Iterator[int]:
    """Give an empty file to write to, which is at ``path`` once the block ends well.

    Raises StoreError with a remedy where the store cannot be written; nothing is left then.
    """
    # The name is nobody else's: threads and other machines may store the same at once.
    temporary = f"{path}.{os.urandom(6).hex()}{TEMPORARY}"
    try:
        target = _create(temporary)
        try:
            with closing(target):
                yield target
            os.replace(temporary, path)
        except BaseException:
            ignore_errors(os.unlink, temporary)
            raise
    except OSError as error:
        if error.errno in _FULL:
            hint = "make room, for example with `buildrun cache gc`, or set BUILDRUN_HOME"
            raise StoreError("the disk of the store is full", place=path, hint=hint) from error
        text = f"the store cannot be written: {error.strerror or error}"
        raise StoreError(text, place=path, hint="set BUILDRUN_HOME") from error


def ignore_errors(call: Callable[[str], object], path: str) -> None:
    """Call for a path, and let it fail: it is gone, or may only be read."""
    try:
        call(path)
    except OSError:
        pass


def _create(path: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    # Nobody writes to it again: what is restored is a file of its own.
    try:
        target = os.open(path, flags, 0o400)
    except FileNotFoundError:
        make_directory(os.path.dirname(path))
        target = os.open(path, flags, 0o400)
    if is_shared(os.path.dirname(path)):
        os.fchmod(target, 0o440)
    return target


# FICLONE of linux/fs.h: both files share their blocks until one is written to.
_FICLONE = 0x40049409
_CHUNK = 1 << 20
_RANGE = 1 << 30
# Between two file systems, or on a kernel or file system that has no such call.
_NO_RANGES = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM})


class Copier:
    """Fills files; keeps in mind whether cloning works here, and a buffer."""

    def __init__(self) -> None:
        """Start in hope; the kernel is asked for a clone until it once says no."""
        self._clones = sys.platform == "linux"
        self._buffer = bytearray(_CHUNK)

    def clone(self, source: int, target: int) -> bool:
        """Make the empty target share the source's blocks; returns whether it does."""
        if not self._clones:
            return False
        import fcntl

        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError:  # another file system, or one without clones; a full disk shows later
            self._clones = False
        return self._clones

    def copy(self, source: int, target: int | None) -> tuple[str, int]:
        """Read to the end, into the target; return the digest and the bytes; raises OSError."""
        made, count, view = digests.new(), 0, memoryview(self._buffer)
        while size := os.readv(source, (self._buffer,)):
            made.update(view[:size])
            if target is not None:
                write(target, view[:size])
            count += size
        return digests.text(made), count

    def copy_unread(self, source: int, target: int) -> int:
        """Copy to the end without hashing, and return the number of bytes; raises OSError."""
        count = 0
        copy_range = getattr(os, "copy_file_range", None)  # of Linux
        try:
            while copy_range is not None and (size := copy_range(source, target, _RANGE)):
                count += size
        except OSError as error:
            if count or error.errno not in _NO_RANGES:
                raise
        # Nothing is left where that went well; some file systems claim to be done at once.
        view = memoryview(self._buffer)
        while size := os.readv(source, (self._buffer,)):
            write(target, view[:size])
            count += size
        return count

    def digest(self, source: int) -> tuple[str, int]:
        """Read to the end and return the digest and the number of bytes; raises OSError."""
        return self.copy(source, None)


def write(target: int, data: bytes | memoryview) -> None:
    """Write it all; raises OSError."""
    done = os.write(target, data)
    while done < len(data):  # a disk that fills up writes a part, and says so the next time
        done += os.write(target, memoryview(data)[done:])
