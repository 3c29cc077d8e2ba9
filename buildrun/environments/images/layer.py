"""Image layers made of environments."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from buildrun.errors import ExecutionError
from buildrun.workspace import archive as tar
from buildrun.workspace.archive import Layer

_HARD_LINK = b"1"
_CACHE = "__pycache__"
_CHUNK = 1 << 20

Take = Callable[[], Iterator[bytes]]
# Told the path of a file in the environment and its content, returns another content.
Edit = Callable[[bytes, bytes], bytes]


def of_archive(take: Take, directory: str) -> Layer:
    """Return the layer that has an archive's content in a directory of the image.

    take: gives the archive, whose top is the directory itself; it is read twice, first for the
    layer's size.
    """
    return _measured(lambda: _normal(_Stream(take()), directory))


def of_directory(place: str, directory: str, edited: Callable[[bytes], bool], edit: Edit) -> Layer:
    """Return the layer that has what lies in a directory of this machine in one of the image.

    edited: whether the file of a path, relative to the directory, goes through ``edit``.
    """

    def chunks() -> Iterator[bytes]:
        top = os.fsencode(directory.strip("/"))
        yield from _above(directory)
        yield tar.header(top + b"/", tar.DIRECTORY, mode=0o755)
        for below in _walk(os.fsencode(place), b""):
            yield from _place(os.path.join(os.fsencode(place), below), top, below, edited, edit)
        yield tar.END

    return _measured(chunks)


def _measured(chunks: Take) -> Layer:
    return Layer(sum(map(len, chunks())), lambda: tar.gathered(chunks()))


def _above(directory: str) -> Iterator[bytes]:
    parts = directory.strip("/").split("/")[:-1]
    for number in range(len(parts)):
        name = os.fsencode("/".join(parts[: number + 1]))
        yield tar.header(name + b"/", tar.DIRECTORY, mode=0o755)


def _walk(place: bytes, below: bytes) -> Iterator[bytes]:
    for name in sorted(os.listdir(os.path.join(place, below))):
        path = os.path.join(below, name)
        if name != os.fsencode(_CACHE):
            yield path
            if stat.S_ISDIR(os.lstat(os.path.join(place, path)).st_mode):
                yield from _walk(place, path)


def _place(
    path: bytes, top: bytes, below: bytes, edited: Callable[[bytes], bool], edit: Edit
) -> Iterator[bytes]:
    status, name = os.lstat(path), top + b"/" + below
    if stat.S_ISDIR(status.st_mode):
        yield tar.header(name + b"/", tar.DIRECTORY, mode=0o755)
    elif stat.S_ISLNK(status.st_mode):
        yield tar.header(name, tar.SYMLINK, target=os.readlink(path), mode=0o777)
    elif stat.S_ISREG(status.st_mode):
        mode = 0o755 if status.st_mode & 0o111 else 0o644
        with open(path, "rb") as file:
            if edited(below):
                text = edit(below, file.read())
                yield tar.header(name, size=len(text), mode=mode) + text + tar.padding(len(text))
                return
            yield tar.header(name, size=status.st_size, mode=mode)
            while chunk := file.read(_CHUNK):
                yield chunk
            yield tar.padding(status.st_size)


def _normal(stream: _Stream, directory: str) -> Iterator[bytes]:
    yield from _above(directory)
    top, last = os.path.split(directory.strip("/"))
    try:
        # Engines list a directory's names in the order of their bytes.
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                below = member.name.partition("/")[2]
                path = f"{top}/{last}/{below}".strip("/")
                yield from _member(archive, member, path, below)
    except tarfile.TarError as error:
        raise ExecutionError(f"the environment's archive is damaged: {error}") from error
    stream.drain()
    yield tar.END


def _member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, below: str
) -> Iterator[bytes]:
    name = os.fsencode(path)
    if _CACHE in below.split("/"):
        return
    if member.isdir():
        yield tar.header(name + b"/", tar.DIRECTORY, mode=0o755)
    elif member.issym():
        target = os.fsencode(member.linkname)
        yield tar.header(name, tar.SYMLINK, target=target, mode=0o777)
    elif member.islnk():
        # Named from the top of the archive, as members are.
        top = os.fsencode(path[: len(path) - len(below)])
        target = top + os.fsencode(member.linkname.partition("/")[2])
        yield tar.header(name, _HARD_LINK, target=target, mode=_mode(member))
    elif member.isreg():
        content: Any = archive.extractfile(member)
        yield tar.header(name, size=member.size, mode=_mode(member))
        while chunk := content.read(_CHUNK):
            yield chunk
        yield tar.padding(member.size)


def _mode(member: tarfile.TarInfo) -> int:
    return 0o755 if member.mode & 0o111 else 0o644


class _Stream:
    """Chunks as a file to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, wanted = [], size
        while wanted > 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
            part, self._rest = self._rest[:wanted], self._rest[wanted:]
            parts.append(part)
            wanted -= len(part)
        return b"".join(parts)

    def drain(self) -> None:
        """Read to the end, where whoever sends it says whether it went well."""
        for _ in self._chunks:
            pass
