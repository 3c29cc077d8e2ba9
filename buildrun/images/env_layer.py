"""A layer of an environment: sorted, with fixed times and owners, without compiled modules."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from buildrun.errors import ExecutionError
from buildrun.images import tar
from buildrun.images.layer import Layer

_HARD_LINK = b"1"
_CACHE = "__pycache__"

Take = Callable[[], Iterator[bytes]]
Edit = Callable[[str, bytes], bytes | None]


def of_archive(take: Take, directory: str, edit: Edit | None = None) -> Layer:
    """Return the layer that has an archive's content in a directory of the image.

    take: gives the archive, whose top is the directory itself; it is read twice, first for the
    layer's size. edit: told a JSON file's path in the archive and its content, returns another
    content, or None to leave the file out.
    """

    def chunks() -> Iterator[bytes]:
        return tar.gathered(_normal(_Stream(take()), directory, edit))

    return Layer(sum(map(len, chunks())), chunks)


def _normal(stream: _Stream, directory: str, edit: Edit | None) -> Iterator[bytes]:
    top = os.path.dirname(directory.strip("/"))
    parts = top.split("/") if top else []
    for number in range(len(parts)):
        name = os.fsencode("/".join(parts[: number + 1]))
        yield tar.header(name + b"/", tar.DIRECTORY, mode=0o755)
    last = os.path.basename(directory)
    try:
        # Engines list a directory's names in the order of their bytes.
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # or it keeps all of them
                below = member.name.partition("/")[2]
                path = f"{top}/{last}/{below}".strip("/")
                yield from _member(archive, member, path, below, edit)
    except tarfile.TarError as error:
        raise ExecutionError(f"the environment's archive is damaged: {error}") from error
    stream.drain()
    yield tar.END


def _member(
    archive: tarfile.TarFile, member: tarfile.TarInfo, path: str, below: str, edit: Edit | None
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
        yield from _file(archive, member, name, below, edit)


def _file(
    archive: tarfile.TarFile, member: tarfile.TarInfo, name: bytes, below: str, edit: Edit | None
) -> Iterator[bytes]:
    content: Any = archive.extractfile(member)
    if edit is not None and below.endswith((".json", "/history")):
        text = edit(below, content.read())
        if text is not None:
            yield tar.header(name, size=len(text), mode=_mode(member)) + text
            yield tar.padding(len(text))
        return
    yield tar.header(name, size=member.size, mode=_mode(member))
    while chunk := content.read(1 << 20):
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
