"""The members of a zip file."""

from __future__ import annotations

import stat
import zipfile
from collections.abc import Iterator
from functools import partial

from buildrun.errors import ProjectError
from buildrun.sources.unpack import Member

# A link's target is a path.
_LONGEST_TARGET = 4096


def members(archive: str) -> Iterator[Member]:
    """Yield each member; raises zipfile's errors, and ProjectError for one with a password."""
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            if info.flag_bits & 1:
                raise ProjectError("the archive is encrypted", hint="unpack it yourself")
            mode = info.external_attr >> 16
            if info.is_dir():
                yield Member(info.filename, "directory")
            elif stat.S_ISLNK(mode):
                with file.open(info) as link:
                    target = link.read(_LONGEST_TARGET).decode("utf-8", "surrogateescape")
                yield Member(info.filename, "link", target=target)
            else:
                yield Member(
                    info.filename,
                    "file",
                    info.file_size,
                    bool(mode & stat.S_IXUSR),
                    open=partial(file.open, info),
                )
