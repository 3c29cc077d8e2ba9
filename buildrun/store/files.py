"""Files written whole, and directories opened without following links."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import AnyStr, BinaryIO

from buildrun.errors import StoreError, UsageError

# Bytes that a file may have which is read as a whole.
LARGEST = 64 << 20


class NotAFile(OSError):
    """A device, pipe or socket in the place of a file."""


def open_regular(path: str | bytes, *, follow: bool = True) -> BinaryIO:
    """Open a regular file to be read, without waiting for a pipe or a device.

    Raises OSError, of which NotAFile is one.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device without a driver
            raise NotAFile(errno.ENXIO, _OTHER, path) from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "this is a directory, not a file", path)
    raise NotAFile(errno.EINVAL, _OTHER, path)


def read(path: str | bytes, *, follow: bool = True, limit: int = LARGEST) -> bytes:
    """Return what a regular file holds; raises OSError as `open_regular`, and for a larger one."""
    with open_regular(path, follow=follow) as file:
        if os.fstat(file.fileno()).st_size > limit:
            raise OSError(errno.EFBIG, f"this file has more than {limit} bytes", path)
        return file.read()


def read_or_none(path: str | bytes, *, follow: bool = False, limit: int = LARGEST) -> bytes | None:
    """Return what a regular file holds, or None where there is none or it is longer."""
    try:
        return read(path, follow=follow, limit=limit)
    except OSError:
        return None


def names_in(directory: str) -> list[str]:
    """Return the sorted names in a directory; none where it cannot be read."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def is_within(path: AnyStr, directory: AnyStr) -> bool:
    """Return whether a path is a directory or lies in it; both are absolute, or none."""
    return path == directory or path.startswith(os.path.join(directory, directory[:0]))


def and_above(path: AnyStr) -> Iterator[AnyStr]:
    """Yield a path and the directories that it lies in, but not the root of all; upwards."""
    while (above := os.path.dirname(path)) != path:
        yield path
        path = above


class closing:
    """Gives an open descriptor, and closes it at the end of the block."""

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor."""
        self._descriptor = descriptor

    def __enter__(self) -> int:
        """Give the descriptor."""
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        """Close it."""
        os.close(self._descriptor)


def text(path: str) -> str:
    """Return the text of a file, "" where it cannot be read."""
    try:
        return read(path).decode(errors="replace")
    except OSError:
        return ""


def shipped(path: str) -> str:
    """Return where a file of buildrun's own lies that is no code.

    In a wheel that is inside the package, in a checkout beside it. Raises FileNotFoundError.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for directory in (package, os.path.dirname(package)):
        candidate = os.path.join(directory, path)
        if os.path.isfile(candidate):
            return candidate
    raise FileNotFoundError(f"{path} is missing from this installation of buildrun")


_OTHER = "this is a device, pipe or socket, not a file"


def publish(
    path: str, content: bytes, *, mode: int = 0o644, like: os.stat_result | None = None
) -> None:
    """Replace a file in one step; raises OSError, and then the old one is untouched.

    like: of the file whose owner, group and rights it gets.
    """
    temporary = f"{path}.{os.getpid()}.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            if like is not None:
                os.fchown(descriptor, like.st_uid, like.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:
            pass
        raise


def destination(given: str, cwd: str, option: str) -> str:
    """Return the absolute path of a file that an option names, links followed.

    One that stands for an open file, such as ``/dev/stdout``, stays as it is. Raises UsageError
    where nothing can be written.
    """
    name = os.path.basename(given)
    try:
        path = os.path.normpath(os.path.join(cwd, given))
        real = path if is_descriptor(path) else os.path.realpath(os.path.join(cwd, given))
        if os.path.exists(real) or not os.path.exists(path):  # else a pipe behind a link
            path = real
        there = path if os.path.exists(path) else os.path.dirname(path)
        fits = bool(name) and not os.path.isdir(path) and os.access(there, os.W_OK)
        fits = fits and (there == path or not is_descriptor(path))
    except ValueError:
        path, fits = given, False
    if not fits:
        raise UsageError("nothing can be written there", place=path, hint=f"check `{option}`")
    return path


def require_replaceable(path: str, beginning: bytes, option: str) -> None:
    """Raise UsageError for a file that holds something, and does not begin so.

    option: that has named the file.
    """
    found: bytes | None
    if is_descriptor(path):
        return
    try:
        with open_regular(path) as file:
            found = file.read(len(beginning))
    except (FileNotFoundError, NotAFile):
        return  # nothing is there that could be lost
    except OSError:
        found = None
    if found not in (b"", beginning):
        raise UsageError(
            "something else is there, which would be replaced",
            place=path,
            hint=f"name another file with `{option}`, or remove this one",
        )


_DESCRIPTORS = {"/dev/stdout": 1, "/dev/stderr": 2}


def is_descriptor(path: str) -> bool:
    """Return whether a path stands for a file that this or another process has open."""
    directory, _, name = path.rpartition("/")
    of_process = directory.startswith("/proc/") and directory.endswith("/fd")
    return path in _DESCRIPTORS or (name.isdecimal() and (directory == "/dev/fd" or of_process))


def overwrite(path: str, content: bytes) -> None:
    """Replace a file in one step, or write into a pipe, a terminal or what is open.

    Raises OSError.
    """
    if not is_descriptor(path) and (not os.path.exists(path) or os.path.isfile(path)):
        publish(path, content)
        return
    number = path.removeprefix("/proc/self/fd/").removeprefix("/dev/fd/")
    own = int(number) if number.isdecimal() else _DESCRIPTORS.get(path)
    # With the place in it that its other writers share.
    with open_to_append(path) if own is None else open(own, "wb", closefd=False) as file:
        file.write(content)


def open_to_append(path: str, *, create: bool = False) -> BinaryIO:
    """Open a file, pipe or device; raises OSError, also for a pipe that nobody reads."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    descriptor = os.open(path, flags | os.O_CREAT if create else flags, 0o666)
    os.set_blocking(descriptor, True)
    return open(descriptor, "wb")


def make_directory(path: str) -> None:
    """Make a directory of the store, and those above it, for their owner alone; raises OSError.

    Beneath a group's, with the set-group-ID bit and the right to write, it is the group's too.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_directory(above)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    if is_shared(above):
        rights = stat.S_IRWXU | stat.S_IRWXG | stat.S_ISGID
        os.chmod(path, rights)


def is_shared(directory: str) -> bool:
    """Return whether a directory of the store is a group's; raises OSError."""
    group = stat.S_ISGID | stat.S_IWGRP
    return os.stat(directory).st_mode & group == group


_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(root: str, path: str, *, make: bool = False) -> int:
    """Return a descriptor of a directory of the project; links that stay inside are followed.

    make: what is absent is made. Raises OSError, and StoreError where the path leads out.
    """
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, path))
    if not is_within(real, base):
        raise StoreError("it leads out of the project", place=os.path.join(root, path))
    # Step by step: what has become a link since it was resolved is not followed.
    directory = os.open(base, _DIRECTORY)
    for name in os.path.relpath(real, base).split("/") if real != base else ():
        above = directory
        try:
            directory = _enter(above, name, make=make)
        finally:
            os.close(above)
    return directory


def open_beneath(directory: int | None, name: str) -> int:
    """Return a descriptor of a directory in another one; raises OSError, also for a link."""
    return os.open(name, _DIRECTORY, dir_fd=directory)


def _enter(above: int, name: str, *, make: bool) -> int:
    try:
        return open_beneath(above, name)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        pass  # another process made it
    return open_beneath(above, name)
