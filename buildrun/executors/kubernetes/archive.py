"""Staged files as a deterministic tar in parts."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes import pod_runner
from buildrun.store import stat_signature
from buildrun.store.home import STAGING
from buildrun.store.remote.transfer import CHUNK, Changed
from buildrun.workspace import archive as tar

_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# It vanished, or became a link or something else.
_OTHER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO})
_STAGING = os.fsencode(STAGING)


class _Piece(NamedTuple):
    """A header, or a file's content with what fills up its last block.

    seen: the file's signature. path: None for a header.
    """

    start: int
    size: int
    head: bytes = b""
    path: bytes | None = None
    content: int = 0
    seen: bytes = b""


class Part(NamedTuple):
    """Some bytes of an archive, with their digest in hexadecimal."""

    start: int
    size: int
    sha256: str


class Archive:
    """A tar that was not written, but is known.

    size: its bytes. sha256: its digest in hexadecimal. parts: what it is sent as.
    """

    def __init__(self, pieces: Sequence[_Piece], size: int, largest: int) -> None:
        """Read all files once; raises ExecutionError for one that changes, or cannot be read.

        largest: the bytes of a part.
        """
        self._pieces = pieces
        self._starts = [piece.start for piece in pieces]
        self.size = size
        self.sha256, self.parts = self._measured(largest)

    def chunks(self, start: int, size: int) -> Iterator[bytes]:
        """Yield some of its bytes; raises Changed, with the file's path, and ExecutionError."""
        end = start + size
        number = bisect_right(self._starts, start) - 1
        while start < end:
            piece = self._pieces[number]
            upto = min(end, piece.start + piece.size)
            if piece.path is None:
                yield piece.head[start - piece.start : upto - piece.start]
            else:
                yield from _content(piece, start - piece.start, upto - piece.start)
            start = upto
            number += 1

    def _measured(self, largest: int) -> tuple[str, tuple[Part, ...]]:
        whole = hashlib.sha256()
        parts = []
        for start in range(0, self.size, largest):
            size = min(largest, self.size - start)
            made = whole if size == self.size else hashlib.sha256()
            for chunk in self.chunks(start, size):
                made.update(chunk)
                if made is not whole:
                    whole.update(chunk)
            parts.append(Part(start, size, made.hexdigest()))
        return whole.hexdigest(), tuple(parts)


class Slice:
    """A part of an archive, as an upload."""

    def __init__(self, archive: Archive, part: Part) -> None:
        """Open nothing yet."""
        self._archive = archive
        self._part = part

    def chunks(self) -> Iterator[bytes]:
        """Yield the content; raise Changed at its end at the latest where it has become another."""
        made = hashlib.sha256()
        for chunk in tar.gathered(self._archive.chunks(self._part.start, self._part.size)):
            made.update(chunk)
            yield chunk
        if made.hexdigest() != self._part.sha256:
            raise Changed("")


def archive(root: str, paths: Sequence[str], *, as_absolute: bool, largest: Largest) -> Archive:
    """Return the archive of files, links and whole directories; absent ones are passed over.

    paths: relative to the root. as_absolute: it is to be unpacked in ``/``, so names begin there.
    Raises ExecutionError.
    """
    top = os.fsencode(os.path.abspath(root))
    names = [_name(path, top, as_absolute=as_absolute) for path in paths]
    base = b"/" if as_absolute else top
    pieces, size = [], 0
    try:
        for name in _outermost(names):
            for piece in _pieces(base, name, size, as_absolute=as_absolute):
                pieces.append(piece)
                size = piece.start + piece.size
        if pieces:
            pieces.append(_Piece(size, len(tar.END), tar.END))
            size += len(tar.END)
        return Archive(pieces, size, largest.of(size))
    except Changed as error:
        raise changed(error) from None
    except OSError as error:
        raise unreadable(error, os.fsencode(error.filename or root)) from None


class Largest(NamedTuple):
    """How large parts are: ``bytes``, and more where there were more than ``parts`` of them."""

    bytes: int
    parts: int

    def of(self, size: int) -> int:
        """Return the bytes of a part of so many."""
        return self.bytes * max(1, -(-size // (self.bytes * self.parts)))


def changed(error: Changed) -> ExecutionError:
    """Return what is said of a file that is not what it was a moment ago."""
    name = f"`{printable(str(error))}`" if str(error) else "a file"
    return ExecutionError(f"{name} changed while it was sent", hint="run it again")


def unreadable(error: OSError, path: bytes) -> ExecutionError:
    """Return what is said of a file that cannot be sent."""
    place = printable(os.fsdecode(path))
    return ExecutionError(f"it cannot be sent to the pod: {error.strerror}", place=place)


def _name(path: str, top: bytes, *, as_absolute: bool) -> bytes:
    """Return the name in the archive."""
    name = os.path.normpath(os.fsencode(path))
    if as_absolute:
        name = os.path.normpath(os.path.join(top, name)).lstrip(b"/")
    if name.startswith(b"/") or name.split(b"/")[0] in (b"", b".", b".."):
        raise ExecutionError("it cannot be sent to the pod", place=printable(path))
    return name


def _outermost(names: Sequence[bytes]) -> list[bytes]:
    """Return names in order, without those that lie in another one."""
    known = set(names)
    found = []
    for name in sorted(known):
        above = name.rpartition(b"/")[0]
        while above and above not in known:
            above = above.rpartition(b"/")[0]
        if not above:
            found.append(name)
    return found


def _pieces(base: bytes, top: bytes, start: int, *, as_absolute: bool) -> Iterator[_Piece]:
    source = os.path.join(base, top)
    if as_absolute:  # a path of this machine is meant as what it leads to
        source = os.path.realpath(source)
    if not os.path.lexists(source):
        return
    waiting = [top]
    while waiting:
        name = waiting.pop()
        path = source + name[len(top) :]
        status = os.lstat(path)
        content = 0
        if stat.S_ISDIR(status.st_mode):
            head = tar.header(name + b"/", tar.DIRECTORY, mode=0o755)
            children = [child for child in os.listdir(path) if not child.startswith(_STAGING)]
            waiting += [name + b"/" + child for child in sorted(children, reverse=True)]
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)
            if not as_absolute and not pod_runner.stays(name, target):
                raise ExecutionError(
                    f"`{printable(os.fsdecode(name))}` is a link that leaves the project",
                    hint="a pod has no other files of this machine: copy there what it leads to",
                )
            head = tar.header(name, tar.SYMLINK, target=target, mode=0o777)
        elif stat.S_ISREG(status.st_mode):
            content = status.st_size
            mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            head = tar.header(name, size=content, mode=mode)
        else:
            shown = printable(os.fsdecode(name))
            raise ExecutionError(f"`{shown}` is neither a file nor a directory")
        yield _Piece(start, len(head), head)
        start += len(head)
        if content:
            room = tar.room(content)
            yield _Piece(start, room, b"", path, content, stat_signature.of(status))
            start += room


def _content(piece: _Piece, start: int, end: int) -> Iterator[bytes]:
    """Yield bytes of a file, and of what fills up its last block."""
    path = piece.path or b""
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            if stat_signature.of(os.fstat(descriptor)) != piece.seen:
                raise Changed(os.fsdecode(path))
            while start < min(end, piece.content):
                chunk = os.pread(descriptor, min(CHUNK, min(end, piece.content) - start), start)
                if not chunk:
                    raise Changed(os.fsdecode(path))
                start += len(chunk)
                yield chunk
            if stat_signature.of(os.fstat(descriptor)) != piece.seen:
                raise Changed(os.fsdecode(path))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in _OTHER:
            raise Changed(os.fsdecode(path)) from None
        raise unreadable(error, path) from None
    if start < end:
        yield bytes(end - start)
