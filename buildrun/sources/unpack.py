"""Safe extraction of tar and zip archives, within bounds.

The checks are ours for both: tarfile's own filter knows no bounds, renames what this refuses, and
is not in every Python 3.10; zipfile has none.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, BinaryIO, Literal, NamedTuple, cast

from buildrun.console import printable
from buildrun.errors import BuildrunError, ProjectError, StoreError
from buildrun.store import files

# What an archive may unpack to: so many bytes, or so many times its own size where that is more.
_BYTES, _TIMES = 1 << 30, 100
_MEMBERS = 500_000
# Longer paths and deeper trees cannot be made.
_LONGEST = 4000


class _Member(NamedTuple):
    """A member of an archive; target: what a link names; open: returns what a file holds."""

    path: str
    kind: Literal["file", "directory", "symlink", "hard link", "other"]
    target: str = ""
    size: int = 0
    executable: bool = False
    open: Callable[[], IO[bytes]] | None = None


class _Refused(Exception):
    """What an archive must not hold."""


def unpack(archive: str, directory: str, shown: str) -> None:
    """Unpack into a new directory; raises ProjectError, and StoreError where there is no room."""
    try:
        with files.open_regular(archive) as file:
            os.makedirs(directory)
            limit = max(_BYTES, _TIMES * os.fstat(file.fileno()).st_size)
            is_zip = archive.lower().endswith(".zip")
            _extract(_zip_members(file) if is_zip else _tar_members(file), directory, limit)
    except _Refused as refused:
        raise ProjectError(
            f"the archive `{shown}` is refused: {refused}",
            hint="unpack it yourself if you trust it, and give the directory",
        ) from None
    except files.NotAFile as error:
        raise ProjectError(
            f"the archive `{shown}` cannot be read: {error.strerror}",
            hint="give the archive itself",
        ) from None
    except BuildrunError:
        raise
    except Exception as error:  # every kind of compression has errors of its own
        if isinstance(error, OSError) and error.errno is not None:
            raise StoreError(
                f"the archive `{shown}` cannot be unpacked: {error.strerror}", place=directory
            ) from None
        raise ProjectError(
            f"the archive `{shown}` is broken: {printable(str(error)) or type(error).__name__}",
            hint="get it again",
        ) from None


def _extract(members: Iterator[_Member], directory: str, limit: int) -> None:
    left = limit
    links = []
    for number, member in enumerate(members):
        if number >= _MEMBERS:
            raise _Refused(f"it holds more than {_MEMBERS} files")
        path = _inside(member.path)
        place = os.path.join(directory, path)
        if path == os.curdir or member.kind == "directory":
            os.makedirs(place, exist_ok=True)
            continue
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if member.kind == "symlink":
            links.append((path, member.target))
            continue
        source = _linked(member, directory) if member.kind == "hard link" else member
        if source.open is None:
            raise _Refused(f"`{printable(path)}` is neither a file, a directory nor a link")
        left -= source.size
        if left < 0:
            raise _Refused(f"it would unpack to more than {limit / 1e9:.0f} GB")
        with source.open() as content:
            _write(content, place, source)
    _make_links(links, directory)


def _linked(member: _Member, directory: str) -> _Member:
    """Return a hard link as a copy of what it names, which was unpacked before."""
    other = os.path.join(directory, _inside(member.target))
    if not os.path.isfile(other):
        raise _Refused(f"the link `{printable(member.path)}` names no file before it")
    status = os.stat(other)
    return _Member(
        member.path, "file", "", status.st_size, bool(status.st_mode & stat.S_IXUSR),
        lambda: open(other, "rb"),
    )  # fmt: skip


def _write(content: IO[bytes], place: str, member: _Member) -> None:
    _make_way(place)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    left = member.size
    with open(os.open(place, flags, 0o777 if member.executable else 0o666), "wb") as sink:
        while chunk := content.read(min(1 << 20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise _Refused(f"`{printable(member.path)}` is larger than it says")
            sink.write(chunk)
    if left:
        raise EOFError("it ends too early")


def _make_links(links: list[tuple[str, str]], directory: str) -> None:
    """Make symbolic links; last, so that no file is ever written through one."""
    top = os.path.realpath(directory)
    for path, target in links:
        if os.path.isabs(target) or "\0" in target:
            raise _Refused(f"the link `{printable(path)}` leads out of it")
        place = os.path.join(directory, path)
        _make_way(place)
        os.symlink(target, place)
    for path, _ in links:
        real = os.path.realpath(os.path.join(directory, path))
        if real != top and not real.startswith(top + os.sep):
            raise _Refused(f"the link `{printable(path)}` leads out of it")


def _inside(name: str) -> str:
    """Return the normal form of a member's path; raises _Refused where it leads out."""
    if os.path.isabs(name) or ".." in name.split("/") or "\0" in name or len(name) > _LONGEST:
        raise _Refused(f"`{printable(name[:200])}` leads out of it")
    return os.path.normpath(name or os.curdir)


def _make_way(place: str) -> None:
    """Let a later member of the same name take the place of an earlier one."""
    if os.path.islink(place) or os.path.isfile(place):
        os.unlink(place)


def _tar_members(file: BinaryIO) -> Iterator[_Member]:
    with tarfile.open(fileobj=file, mode="r:*") as archive:
        for info in archive:  # in their order in the file: nothing is read twice
            if info.isreg():
                opening = cast(Callable[[], IO[bytes]], partial(archive.extractfile, info))
                is_program = bool(info.mode & stat.S_IXUSR)
                yield _Member(info.name, "file", "", info.size, is_program, opening)
            elif info.isdir():
                yield _Member(info.name, "directory")
            elif info.issym():
                yield _Member(info.name, "symlink", info.linkname)
            else:
                yield _Member(info.name, "hard link" if info.islnk() else "other", info.linkname)


def _zip_members(file: BinaryIO) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if info.flag_bits & 1:
                raise ProjectError("the archive is encrypted", hint="unpack it yourself")
            mode = info.external_attr >> 16
            opening = partial(archive.open, info)
            if info.is_dir():
                yield _Member(info.filename, "directory")
            elif stat.S_ISLNK(mode):
                with opening() as link:
                    target = os.fsdecode(link.read(_LONGEST))
                yield _Member(info.filename, "symlink", target)
            else:
                is_program = bool(mode & stat.S_IXUSR)
                yield _Member(info.filename, "file", "", info.file_size, is_program, opening)
