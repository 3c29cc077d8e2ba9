"""Safe extraction of tar and zip archives."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, NamedTuple

from buildrun.console import printable
from buildrun.errors import ProjectError, StoreError
from buildrun.store import files

# What an archive may unpack to: so many bytes, or so many times its own size where that is more.
_BYTES, _TIMES = 1 << 30, 100
_MEMBERS = 500_000
# Longer paths and deeper trees cannot be made.
_LONGEST = 4000


class Member(NamedTuple):
    """A file, directory or link of an archive.

    size: bytes as declared. target: of a link. same: the member that a hard link names.
    open: returns the content of a file.
    """

    path: str
    kind: str
    size: int = 0
    executable: bool = False
    target: str = ""
    open: Callable[[], IO[bytes]] | None = None


def unpack(archive: str, directory: str, shown: str) -> None:
    """Unpack into a new directory; raises ProjectError, and StoreError where there is no room.

    shown: what the archive is called in messages.
    """
    try:
        with files.open_regular(archive) as file:
            size = os.fstat(file.fileno()).st_size
        os.makedirs(directory)
        _Unpacking(directory, max(_BYTES, _TIMES * size)).go(_members(archive))
    except _Refused as refused:
        raise ProjectError(
            f"the archive `{shown}` is refused: {refused}",
            hint="unpack it yourself if you trust it, and give the directory",
        ) from None
    except ProjectError:
        raise
    except files.NotAFile as error:
        raise ProjectError(
            f"the archive `{shown}` cannot be read: {error.strerror}",
            hint="give the archive itself",
        ) from None
    except OSError as error:
        if error.errno is None or isinstance(error, EOFError):
            raise _broken(shown, error) from None
        raise StoreError(
            f"the archive `{shown}` cannot be unpacked: {error.strerror}", place=directory
        ) from None
    except (EOFError, zlib.error, ValueError, RuntimeError, NotImplementedError) as error:
        raise _broken(shown, error) from None
    except Exception as error:  # tarfile and zipfile have errors of their own
        if type(error).__module__ in ("tarfile", "zipfile", "zipfile._path", "lzma", "_lzma"):
            raise _broken(shown, error) from None
        raise


class _Refused(Exception):
    """What an archive must not hold."""


class _Unpacking:
    """What was unpacked so far."""

    def __init__(self, directory: str, most: int) -> None:
        self._directory = directory
        self._most = most
        self._bytes = 0
        self._links: list[tuple[str, str]] = []

    def go(self, members: Iterator[Member]) -> None:
        for number, member in enumerate(members):
            if number >= _MEMBERS:
                raise _Refused(f"it holds more than {_MEMBERS} files")
            path = _inside(member.path)
            if path == os.curdir:
                continue
            self._put(member, path)
        self._link()

    def _put(self, member: Member, path: str) -> None:
        place = os.path.join(self._directory, path)
        if member.kind == "directory":
            os.makedirs(place, exist_ok=True)
            return
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if member.kind == "link":
            self._links.append((path, member.target))
        elif member.kind == "same":
            # What it names was unpacked before, as a file, for links come last.
            other = os.path.join(self._directory, _inside(member.target))
            self._count(os.lstat(other).st_size)
            _make_way(place)
            shutil.copy(other, place, follow_symlinks=False)
        elif member.kind == "file" and member.open is not None:
            self._count(member.size)
            _make_way(place)
            with member.open() as source:
                self._copy(source, place, member)
        else:
            raise _Refused(f"`{printable(member.path)}` is neither a file, a directory nor a link")

    def _copy(self, source: IO[bytes], place: str, member: Member) -> None:
        mode = 0o777 if member.executable else 0o666
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        left = member.size
        with open(os.open(place, flags, mode), "wb") as sink:
            while chunk := source.read(min(1 << 20, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise _Refused(f"`{printable(member.path)}` is larger than it says")
                sink.write(chunk)
        if left:
            raise EOFError("it ends too early")

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > self._most:
            raise _Refused(f"it would unpack to more than {self._most / 1e9:.0f} GB")

    def _link(self) -> None:
        """Make the links last, so that no file is ever written through one."""
        top = os.path.realpath(self._directory)
        for path, target in self._links:
            place = os.path.join(self._directory, path)
            if os.path.isabs(target) or "\0" in target:
                raise _Refused(f"the link `{printable(path)}` leads out of it")
            _make_way(place)
            os.symlink(target, place)
        for path, _ in self._links:
            real = os.path.realpath(os.path.join(self._directory, path))
            if real != top and not real.startswith(top + os.sep):
                raise _Refused(f"the link `{printable(path)}` leads out of it")


def _inside(name: str) -> str:
    """Return the normal form of a member's path; raises _Refused where it leads out."""
    if os.path.isabs(name) or ".." in name.split("/") or "\0" in name or len(name) > _LONGEST:
        raise _Refused(f"`{printable(name[:200])}` leads out of it")
    return os.path.normpath(name or os.curdir)


def _make_way(place: str) -> None:
    """Let a later member of the same name take the place of an earlier one."""
    try:
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            os.unlink(place)
    except FileNotFoundError:
        pass


def _members(archive: str) -> Iterator[Member]:
    return (zip_members if archive.lower().endswith(".zip") else tar_members)(archive)


def _broken(shown: str, error: BaseException) -> ProjectError:
    return ProjectError(
        f"the archive `{shown}` is broken: {printable(str(error)) or type(error).__name__}",
        hint="get it again",
    )


def tar_members(archive: str) -> Iterator[Member]:
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


# A link's target is a path.
_LONGEST_TARGET = 4096


def zip_members(archive: str) -> Iterator[Member]:
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
