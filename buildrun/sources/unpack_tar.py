"""The members of a tar file, compressed or not."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from typing import IO

from buildrun.sources.unpack import Member


def members(archive: str) -> Iterator[Member]:
    """Yield each member; raises tarfile's errors."""
    # As a stream: nothing is read twice, and what is not asked for is not looked for.
    with tarfile.open(archive, "r:*") as file:
        for info in file:
            if info.isdir():
                yield Member(info.name, "directory")
            elif info.issym():
                yield Member(info.name, "link", target=info.linkname)
            elif info.islnk():
                yield Member(info.name, "same", target=info.linkname)
            elif info.isreg():
                executable = bool(info.mode & 0o100)
                opening = partial(_content, file, info)
                yield Member(info.name, "file", info.size, executable, open=opening)
            else:
                yield Member(info.name, "other")


def _content(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = file.extractfile(info)
    if content is None:
        raise tarfile.ReadError(f"`{info.name}` has no content")
    return content
