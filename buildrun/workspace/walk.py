"""The one walk through a tree, for keys, images and archives alike."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import Protocol

from buildrun.store import stat_signature

# Paths relative to the root, in the order of their bytes, and the signature of each.
Chunk = tuple[list[bytes], list[bytes]]

# Told a directory's path, with a slash at its end or empty, the names it holds and a descriptor
# of it; returns the names that count.
Choose = Callable[[bytes, list[bytes], int], list[bytes]]

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# It vanished, or something else took its place since it was seen; a link is ELOOP or ENOTDIR.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Watcher(Protocol):
    """Is told what cannot be part of a tree."""

    def on_error(self, path: bytes, error: OSError) -> None:
        """Take a path that cannot be looked at, and why."""

    def odd(self, path: bytes) -> None:
        """Take the path of a device, a socket or a pipe."""


class _Level:
    """What a directory holds, and how much of it has been told."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []  # those of directories end in a slash
        self.signatures: list[bytes] = []
        self.directories: list[int] = []  # where they are, the first one last
        self.told = 0


def everything(below: bytes, held: list[bytes], descriptor: int) -> list[bytes]:
    """Choose all that a directory holds."""
    del below, descriptor
    return held


def walk(
    root: bytes, below: bytes, choose: Choose, watcher: Watcher, *, directories: bool = False
) -> Iterator[Chunk]:
    """Yield what is beneath a directory, in the order of the paths' bytes.

    below: the directory, relative to the root, with a slash at its end; empty for the root.
    directories: whether they are told as well; they are entered in any case.
    Links are told and not followed, but ``below`` may be one. What vanishes meanwhile is not told.
    """
    stack = [_level(root, below, choose, watcher, flags=_FLAGS)]
    while stack:
        level = stack[-1]
        if not level.directories:
            stack.pop()
            yield level.paths[level.told :], level.signatures[level.told :]
            continue
        at = level.directories.pop()
        yield level.paths[level.told : at], level.signatures[level.told : at]
        level.told = at + 1
        path = level.paths[at]
        if directories:
            yield [path[:-1]], [stat_signature.DIRECTORY]
        stack.append(_level(root, path, choose, watcher, flags=_FLAGS | os.O_NOFOLLOW))


def _level(root: bytes, below: bytes, choose: Choose, watcher: Watcher, *, flags: int) -> _Level:
    place = os.path.join(root, below[:-1])  # with its slash a link would be followed
    try:
        descriptor = os.open(place, flags)
    except OSError as error:
        if error.errno not in _GONE:
            watcher.on_error(below, error)
        return _Level()
    try:
        held = choose(below, os.listdir(place), descriptor)
        return _look(below, sorted(held), descriptor, watcher)
    except OSError as error:
        if error.errno not in _GONE:
            watcher.on_error(below, error)
        return _Level()
    finally:
        os.close(descriptor)


def _look(below: bytes, names: list[bytes], descriptor: int, watcher: Watcher) -> _Level:
    level = _Level()
    paths, signatures = level.paths, level.signatures
    kind_of, lstat, sign = stat.S_IFMT, os.lstat, stat_signature.of
    contents = (stat.S_IFREG, stat.S_IFLNK)
    mixed = False
    for name in names:
        try:
            # Seen from the directory, so that no path has to be searched again for each file.
            status = lstat(name, dir_fd=descriptor)
        except FileNotFoundError:
            continue
        except OSError as error:
            watcher.on_error(below + name, error)
            continue
        kind = kind_of(status.st_mode)
        if kind in contents:
            paths.append(below + name)
            signatures.append(sign(status))
        elif kind == stat.S_IFDIR:
            paths.append(below + name + b"/")
            signatures.append(stat_signature.DIRECTORY)
            mixed = True
        else:
            watcher.odd(below + name)
    if mixed:  # what is in a directory sorts by its name and a slash
        order = sorted(range(len(paths)), key=paths.__getitem__)
        level.paths = [paths[at] for at in order]
        level.signatures = [signatures[at] for at in order]
        level.directories = [at for at, path in enumerate(level.paths) if path.endswith(b"/")][::-1]
    return level
