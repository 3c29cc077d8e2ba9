"""Image layers made of environments."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, NamedTuple, cast

from buildrun.errors import ExecutionError
from buildrun.workspace import archive as tar
from buildrun.workspace.archive import DIRECTORY, FILE, SYMLINK, Layer

_HARD_LINK = b"1"
_CACHE = b"__pycache__"
_CHUNK = 1 << 20

# Told a file's path in the environment, and where it lies, returns another content for it, or None.
Edit = Callable[[bytes, bytes], bytes | None]


class _Member(NamedTuple):
    """What goes into a layer; path: relative to the environment, which is "" itself.

    mode: of a file; that of others is fixed. target: of a link, a hard one's as path.
    """

    path: bytes
    kind: bytes
    size: int = 0
    mode: int = 0
    target: bytes = b""
    content: Iterable[bytes] = ()


def of_archive(take: Callable[[], Iterator[bytes]], directory: str) -> Layer:
    """Return the layer that has an archive's content in a directory of the image.

    take: gives the archive, whose top is the directory itself; it is read twice, first for the
    layer's size.
    """
    return _layer(directory, lambda: _unpacked(_Stream(take())))


def of_directory(place: str, directory: str, edit: Edit) -> Layer:
    """Return the layer that has what lies in a directory of this machine in one of the image."""
    return _layer(directory, lambda: _walk(os.fsencode(place), b"", edit))


def _layer(directory: str, members: Callable[[], Iterator[_Member]]) -> Layer:
    def chunks() -> Iterator[bytes]:
        return _packed(os.fsencode(directory.strip("/")), members())

    return Layer(sum(map(len, chunks())), lambda: tar.gathered(chunks()))


def _packed(top: bytes, members: Iterator[_Member]) -> Iterator[bytes]:
    parts = top.split(b"/")
    for number in range(1, len(parts)):
        yield tar.header(b"/".join(parts[:number]) + b"/", DIRECTORY, mode=0o755)
    for path, kind, size, mode, target, content in members:
        if _CACHE in path.split(b"/"):
            continue
        name = os.path.join(top, path).rstrip(b"/")
        if kind == DIRECTORY:
            yield tar.header(name + b"/", kind, mode=0o755)
        elif kind == SYMLINK:
            yield tar.header(name, kind, target=target, mode=0o777)
        else:
            original = os.path.join(top, target) if kind == _HARD_LINK else b""
            simple = 0o755 if mode & 0o111 else 0o644
            yield tar.header(name, kind, size, target=original, mode=simple)
            yield from content
            yield tar.padding(size)
    yield tar.END


def _walk(place: bytes, path: bytes, edit: Edit) -> Iterator[_Member]:
    whole = os.path.join(place, path)
    status = os.lstat(whole)
    if stat.S_ISDIR(status.st_mode):
        yield _Member(path, DIRECTORY)
        for name in sorted(os.listdir(whole)):
            if name != _CACHE:
                yield from _walk(place, os.path.join(path, name), edit)
    elif stat.S_ISLNK(status.st_mode):
        yield _Member(path, SYMLINK, target=os.readlink(whole))
    elif stat.S_ISREG(status.st_mode):
        edited = edit(path, whole)
        if edited is not None:
            yield _Member(path, FILE, len(edited), status.st_mode, content=(edited,))
        else:
            with open(whole, "rb") as file:
                size, mode = status.st_size, status.st_mode
                yield _Member(path, FILE, size, mode, content=_chunks(file))


def _unpacked(stream: _Stream) -> Iterator[_Member]:
    try:
        # Engines list a directory's names in the order of their bytes.
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                path = os.fsencode(member.name.partition("/")[2])
                if member.isdir():
                    yield _Member(path, DIRECTORY)
                elif member.issym():
                    yield _Member(path, SYMLINK, target=os.fsencode(member.linkname))
                elif member.islnk():
                    # Named from the top of the archive, as members are.
                    target = os.fsencode(member.linkname.partition("/")[2])
                    yield _Member(path, _HARD_LINK, 0, member.mode, target)
                elif member.isreg():
                    content = _chunks(archive.extractfile(member))
                    yield _Member(path, FILE, member.size, member.mode, content=content)
    except tarfile.TarError as error:
        raise ExecutionError(f"the environment's archive is damaged: {error}") from error
    # To the end, where whoever sends it says whether it went well.
    for _ in stream.chunks:
        pass


def _chunks(file: Any) -> Iterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk


class _Stream:
    """Chunks as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, wanted = [], size
        while wanted > 0:
            if not self._rest:
                self._rest = next(self.chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)
