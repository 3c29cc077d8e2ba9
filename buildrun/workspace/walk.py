"""The one walk through a tree, for keys, images and archives alike, and what it finds."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from buildrun.console import display
from buildrun.store import stat_signature
from buildrun.store.files import closing
from buildrun.workspace.glob import LinkedDirectory

# Paths relative to the root, in the order of their bytes, and the signature of each.
Chunk = tuple[list[bytes], list[bytes]]

# Told a directory's path, with a slash at its end or empty, the names it holds and a descriptor
# of it; returns the names that count.
Choose = Callable[[bytes, list[bytes], int], list[bytes]]

_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

# It vanished, or something else took its place since it was seen; a link is ELOOP or ENOTDIR.
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


class Sink:
    """Gathers what is found, each path once; pipes and the like are problems, or passed over."""

    def __init__(self, *, passing_over: bool = False) -> None:
        """Start with nothing."""
        self._passing_over = passing_over
        self.found: dict[bytes, bytes] = {}
        self.entered: set[bytes] = set()
        self.problems: dict[bytes, str] = {}

    def on_error(self, path: bytes, error: OSError) -> None:
        """Take a path that cannot be looked at, and why."""
        name = path.rstrip(b"/") or b"."
        self.problems[name] = f"`{display(name)}` cannot be read: {error.strerror}"

    def on_special(self, path: bytes) -> None:
        """Take the path of a device, a socket or a pipe."""
        if not self._passing_over:
            self.problems[path] = f"`{display(path)}` is neither a file nor a directory"

    def add(self, path: bytes, signature: bytes) -> None:
        """Take a file or a link."""
        if stat_signature.is_file(signature) or stat_signature.is_link(signature):
            self.found[path] = signature
        else:
            self.on_special(path)

    def enter(self, below: bytes, *, empty: bool) -> None:
        """Take a directory that is looked into; where it is empty, that counts."""
        self.entered.add(below)
        if empty and below:
            self.found.setdefault(below[:-1], stat_signature.DIRECTORY)

    def selection(self, *unmatched: str, linked: Iterable[LinkedDirectory] = ()) -> Selection:
        """Return all that was found."""
        paths = sorted(self.found)
        signatures = [self.found[path] for path in paths]
        problems = tuple(self.problems.items())
        entered = frozenset(self.entered)
        return Selection(paths, signatures, problems, unmatched, entered, tuple(linked))


class Selection(NamedTuple):
    """What was found on the disk.

    paths: relative to the root, in order, each with its signature. problems: by path. unmatched:
    the patterns or outputs for which there is nothing. entered: the directories in which nothing
    else counts. linked: links to directories that ``**`` has met, for `link_targets`.
    """

    paths: Sequence[bytes]
    signatures: Sequence[bytes]
    problems: tuple[tuple[bytes, str], ...] = ()
    unmatched: tuple[str, ...] = ()
    entered: frozenset[bytes] = frozenset()
    linked: tuple[LinkedDirectory, ...] = ()

    def files(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield each path with its signature."""
        return zip(self.paths, self.signatures, strict=True)


class _Level:
    """What a directory holds, and how much of it has been told."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []  # those of directories end in a slash
        self.signatures: list[bytes] = []
        self.directories: list[int] = []  # where they are, the first one last
        self.yielded = 0


def everything(below: bytes, entries: list[bytes], descriptor: int) -> list[bytes]:
    """Choose all that a directory holds."""
    del below, descriptor
    return entries


def walk(
    root: bytes, below: bytes, choose: Choose, sink: Sink, *, directories: bool = False
) -> Iterator[Chunk]:
    """Yield what is beneath a directory, which may be a link, in the order of the paths' bytes.

    below: with a slash at its end; empty for the root. directories: whether they are told as well.
    Links are told and not followed. What vanishes meanwhile is not told.
    """
    stack = [_level(root, below, choose, sink, flags=_FLAGS)]
    while stack:
        level = stack[-1]
        if not level.directories:
            stack.pop()
            yield level.paths[level.yielded :], level.signatures[level.yielded :]
            continue
        at = level.directories.pop()
        yield level.paths[level.yielded : at], level.signatures[level.yielded : at]
        level.yielded = at + 1
        path = level.paths[at]
        if directories:
            yield [path[:-1]], [stat_signature.DIRECTORY]
        stack.append(_level(root, path, choose, sink, flags=_FLAGS | os.O_NOFOLLOW))


def _level(root: bytes, below: bytes, choose: Choose, sink: Sink, *, flags: int) -> _Level:
    place = os.path.join(root, below[:-1])  # with its slash a link would be followed
    try:
        with closing(os.open(place, flags)) as descriptor:
            entries = choose(below, os.listdir(place), descriptor)
            return _read_entries(below, sorted(entries), descriptor, sink)
    except OSError as error:
        if error.errno not in _GONE:
            sink.on_error(below, error)
        return _Level()


def _read_entries(below: bytes, names: list[bytes], descriptor: int, sink: Sink) -> _Level:
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
            sink.on_error(below + name, error)
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
            sink.on_special(below + name)
    if mixed:  # what is in a directory sorts by its name and a slash
        order = sorted(range(len(paths)), key=paths.__getitem__)
        level.paths = [paths[at] for at in order]
        level.signatures = [signatures[at] for at in order]
        level.directories = [at for at, path in enumerate(level.paths) if path.endswith(b"/")][::-1]
    return level
