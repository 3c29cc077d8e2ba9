"""Patterns of inputs: which paths they mean.

A pattern is relative to the project's root. ``*`` and ``?`` do not cross ``/`` and match names
that begin with a dot as well, ``[...]`` is a set, ``**`` as a whole part crosses directories, a
backslash takes the next character as it is. What a pattern names means everything beneath it if
it is a directory; with a slash at its end it names directories only.

A name that no part of the pattern spells out is passed over where it is a leftover, see `names`.
Directories that are links are entered where a part names them; ``**`` does not enter them.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from buildrun.tree import globs, names

_ANY_DEPTH = "**"

Match = tuple[bytes, os.stat_result]
Trouble = Callable[[bytes, OSError], None]


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern means a path, itself or as part of a directory that it names.

    path: relative, with ``/``; nothing is looked up on the disk.
    """
    path = path.rstrip("/")
    parts = split(pattern)
    if parts is not None and not globs.is_glob(pattern):  # a name needs no expression
        name = "/".join(parts)
        return not name or path == name or path.startswith(name + "/")
    return _expression(pattern).fullmatch(path) is not None


def ignore(path: bytes, error: OSError) -> None:
    """Let what cannot be read be absent."""
    del path, error


def exists(root: str, pattern: str) -> bool:
    """Return whether anything is there that the pattern names; what cannot be read is not."""
    return next(found(os.fsencode(root), pattern), None) is not None


def prefix(pattern: str) -> str:
    """Return the directory, relative to the root, beneath which everything lies that matches."""
    parts = split(pattern) or ()
    literal = next((at for at, part in enumerate(parts) if globs.is_glob(part)), len(parts))
    if literal == len(parts) and not pattern.endswith("/"):
        literal -= 1
    return "/".join(parts[: max(literal, 0)])


def is_inside(pattern: str) -> bool:
    """Return whether a pattern is one, and cannot leave the project."""
    return split(pattern) is not None


@lru_cache(maxsize=4096)
def split(pattern: str) -> tuple[str, ...] | None:
    """Return a pattern's parts; None for what is absolute, has ``..`` or a NUL, or is no name."""
    parts = [part for part in pattern.split("/") if part not in ("", ".")]
    if not pattern or pattern[0] == "/" or ".." in parts or "\0" in pattern:
        return None
    try:
        os.fsencode(pattern)
    except UnicodeEncodeError:  # half of a pair of surrogates
        return None
    # Everything beneath a directory is what all that is in it means, so one star will do.
    if parts and parts[-1] == _ANY_DEPTH:
        parts[-1] = "*"
    return tuple(
        part
        for at, part in enumerate(parts)
        if part != _ANY_DEPTH or (parts[at + 1] != _ANY_DEPTH and parts[at + 1 :] != ["*"])
    )


def found(root: bytes, pattern: str, trouble: Trouble = ignore) -> Iterator[Match]:
    """Yield what a pattern names: paths relative to the root, each with its lstat.

    trouble: is told the path of what cannot be looked at, and why.
    What is beneath a directory that is named is not told.
    """
    parts = split(pattern)
    if parts is None:
        return
    for path, status in _found(_Place(root, trouble), b"", parts):
        if not pattern.endswith("/") or _is_directory(os.path.join(root, path), status):
            yield path, status


class _Place(NamedTuple):
    """Where is looked, and who is told what cannot be."""

    root: bytes
    trouble: Trouble

    def status(self, path: bytes) -> Iterator[Match]:
        """Yield a path with its lstat, if it is there."""
        try:
            yield path, os.lstat(os.path.join(self.root, path))
        except OSError as error:
            self._tell(path, error)

    def names(self, below: bytes, *, directories: bool = False) -> list[bytes]:
        """Return the names in a directory, or those of its directories, without leftovers."""
        try:
            with os.scandir(os.path.join(self.root, below)) as listing:
                return sorted(
                    entry.name
                    for entry in listing
                    if not names.leftover(entry.name)
                    and (not directories or entry.is_dir(follow_symlinks=False))
                )
        except OSError as error:
            self._tell(below, error)
            return []

    def _tell(self, path: bytes, error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            self.trouble(path, error)


def _found(place: _Place, below: bytes, parts: tuple[str, ...]) -> Iterator[Match]:
    """Yield what the parts name beneath a directory, which ends in a slash or is empty."""
    literal = 0
    while literal < len(parts) and not globs.is_glob(parts[literal]):
        literal += 1
    fixed = [os.fsencode(part) for part in parts[:literal]]
    if any(names.never(name) for name in fixed):
        return
    path = below + b"/".join(fixed)
    if literal == len(parts):
        yield from place.status(path)
        return
    if fixed:
        path += b"/"
    part, rest = parts[literal], parts[literal + 1 :]
    if part == _ANY_DEPTH:
        for directory in _directories(place, path):
            yield from _found(place, directory, rest)
        return
    matching = _part(part).fullmatch
    for name in place.names(path):
        if not matching(os.fsdecode(name)):
            continue
        if rest:
            yield from _found(place, path + name + b"/", rest)
        else:
            yield from place.status(path + name)


def _directories(place: _Place, below: bytes) -> Iterator[bytes]:
    """Yield a directory and all those beneath it."""
    waiting = [below]
    while waiting:
        directory = waiting.pop()
        yield directory
        inner = place.names(directory, directories=True)
        waiting.extend([directory + name + b"/" for name in reversed(inner)])


def _is_directory(path: bytes, status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return os.path.isdir(path)
    return stat.S_ISDIR(status.st_mode)


@lru_cache(maxsize=4096)
def _part(part: str) -> re.Pattern[str]:
    return re.compile(globs.translate(part), re.DOTALL)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = split(pattern)
    if parts is None:
        return re.compile(globs.NEVER)
    if not parts:  # the project itself
        return re.compile(".*", re.DOTALL)
    steps = [
        "(?:[^/]+/)*" if part == _ANY_DEPTH else globs.translate(part) + "/" for part in parts[:-1]
    ]
    return re.compile("".join(steps) + globs.translate(parts[-1]) + "(?:/.*)?", re.DOTALL)
