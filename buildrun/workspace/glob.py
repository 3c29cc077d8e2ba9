"""Globs: input patterns, what they match, and whether two can overlap."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

from buildrun.store.files import and_above
from buildrun.workspace import names

NEVER = "(?!)"

_CLASSES = {
    "alnum": (("0", "9"), ("A", "Z"), ("a", "z")),
    "alpha": (("A", "Z"), ("a", "z")),
    "blank": ((" ", " "), ("\t", "\t")),
    "cntrl": (("\0", "\x1f"), ("\x7f", "\x7f")),
    "digit": (("0", "9"),),
    "graph": (("!", "~"),),
    "lower": (("a", "z"),),
    "print": ((" ", "~"),),
    "punct": (("!", "/"), (":", "@"), ("[", "`"), ("{", "~")),
    "space": (("\t", "\r"), (" ", " ")),
    "upper": (("A", "Z"),),
    "xdigit": (("0", "9"), ("A", "F"), ("a", "f")),
}

Range = tuple[str, str]


class _Malformed(Exception):
    """A set that is not closed, or a class that there is not."""


def is_glob(text: str) -> bool:
    """Return whether the text has a character that means something else than itself."""
    return any(character in text for character in "*?[\\")


def escape(path: str) -> str:
    """Return the pattern that matches this path alone."""
    return "".join(f"\\{char}" if is_glob(char) else char for char in path)


def translate(glob: str, *, docker: bool = False) -> str:
    """Return a regular expression for the whole of a path, NEVER for a malformed glob.

    docker: as in .dockerignore. Else as in .gitignore, to be compiled with ``re.DOTALL``.
    """
    parts: list[str] = []
    position = 0
    try:
        while position < len(glob):
            character = glob[position]
            if character == "*":
                part, position = (_docker_stars if docker else _stars)(glob, position)
            elif character == "[":
                part, position = _set(glob, position + 1, docker=docker)
            elif character == "\\":
                part, position = re.escape(_at(glob, position + 1)), position + 2
            else:
                part, position = "[^/]" if character == "?" else re.escape(character), position + 1
            parts.append(part)
    except _Malformed:
        return NEVER
    return "".join(parts)


def _stars(glob: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(glob) and glob[end] == "*":
        end += 1
    alone = position == 0 or glob[position - 1] == "/"
    if end - position < 2 or not alone:
        return "[^/]*", end
    if end == len(glob) or glob.startswith("\\/", end):
        return ".*", end
    return ("(?:.*/)?", end + 1) if glob[end] == "/" else ("[^/]*", end)


def _docker_stars(glob: str, position: int) -> tuple[str, int]:
    if not glob.startswith("**", position):
        return "[^/]*", position + 1
    end = position + (3 if glob.startswith("/", position + 2) else 2)
    return ".*" if end == len(glob) else "(?:.*/)?", end


def _set(glob: str, position: int, *, docker: bool) -> tuple[str, int]:
    negated = _at(glob, position) in ("^" if docker else "!^")
    if negated:
        position += 1
    ranges: list[Range] = []
    before = ""  # what a range may start with
    while True:
        character = _at(glob, position)
        following = glob[position + 1 : position + 2]
        if (
            character == "-"
            and before
            and following not in (("", "]", "-") if docker else ("", "]"))
        ):
            position += 2 if following == "\\" else 1
            ranges.append((before, _at(glob, position)))
            before = ""
        elif docker and character in "-]":
            raise _Malformed  # as Go's `filepath.Match` has it
        elif character == "\\":
            position += 1
            before = _at(glob, position)
            ranges.append((before, before))
        elif (
            not docker and glob.startswith("[:", position) and (named := _class(glob, position + 2))
        ):
            ranges.extend(named[0])
            position = named[1]
            before = ""
        else:
            ranges.append((character, character))
            before = character
        position += 1
        if _at(glob, position) == "]":
            return _alternatives(ranges, negated=negated, docker=docker), position + 1


def _class(glob: str, start: int) -> tuple[tuple[Range, ...], int] | None:
    """Return the ranges of ``[:name:]`` and where its last character is; None for a mere ``[``."""
    end = glob.find("]", start)
    if end < 0:
        raise _Malformed
    if end == start or glob[end - 1] != ":":
        return None
    name = glob[start : end - 1]
    if name not in _CLASSES:
        raise _Malformed
    return _CLASSES[name], end


def _alternatives(ranges: list[Range], *, negated: bool, docker: bool) -> str:
    forward = [(first, last) for first, last in ranges if first <= last]
    if docker and len(forward) < len(ranges):
        raise _Malformed
    body = "".join(f"{re.escape(first)}-{re.escape(last)}" for first, last in forward)
    slash = "" if docker else "/"
    if negated:
        return f"[^{slash}{body}]"
    return f"{'(?!/)' if slash else ''}[{body}]" if body else NEVER


def _at(glob: str, position: int) -> str:
    if position >= len(glob):
        raise _Malformed
    return glob[position]


_ANY_DEPTH = "**"

Match = tuple[bytes, os.stat_result]
OnError = Callable[[bytes, OSError], None]


class LinkedDirectory(NamedTuple):
    """A directory that is a link, met by ``**``.

    searched: the real path of what is searched anyway. parts: what is looked for behind it.
    """

    path: bytes
    searched: bytes
    parts: tuple[str, ...]


def matches(pattern: str, path: str) -> bool:
    """Return whether a pattern means a path, or a directory that it lies in, by its text."""
    path = path.rstrip("/")
    parts = split(pattern)
    if parts is not None and not is_glob(pattern):  # a name needs no expression
        name = "/".join(parts)
        return not name or path == name or path.startswith(name + "/")
    return _expression(pattern).fullmatch(path) is not None


def ignore(path: bytes, error: OSError) -> None:
    """Let what cannot be read be absent."""
    del path, error


def exists(root: str, pattern: str) -> bool:
    """Return whether anything is there that the pattern names; what cannot be read is not."""
    return next(expand(os.fsencode(root), pattern), None) is not None


def prefix(pattern: str) -> str:
    """Return the directory, relative to the root, beneath which everything lies that matches."""
    parts = split(pattern) or ()
    literal = next((at for at, part in enumerate(parts) if is_glob(part)), len(parts))
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


def expand(
    root: bytes,
    pattern: str,
    on_error: OnError = ignore,
    linked: list[LinkedDirectory] | None = None,
) -> Iterator[Match]:
    """Yield what a pattern names, not what is beneath it: relative paths, each with its lstat.

    linked: takes the links that ``**`` has met, for `behind`; without it they are entered as well.
    """
    parts = split(pattern)
    if parts is None:
        return
    met: list[LinkedDirectory] = [] if linked is None else linked
    for path, status in _found(_Search(root, on_error, met), b"", parts):
        if not pattern.endswith("/") or _is_directory(os.path.join(root, path), status):
            yield path, status
    if linked is None:
        yield from behind(root, met, on_error, directories=pattern.endswith("/"))


def behind(
    root: bytes,
    linked: list[LinkedDirectory],
    on_error: OnError = ignore,
    *,
    directories: bool = False,
) -> Iterator[Match]:
    """Yield what lies behind links that ``**`` has met; those met meanwhile are added to them."""
    searched = {(each.searched, each.parts) for each in linked}
    for each in linked:
        real = os.path.realpath(os.path.join(root, each.path))
        if any((place, each.parts) in searched for place in and_above(real)):
            continue
        searched.add((real, each.parts))
        if real == b"/":
            on_error(each.path, OSError(errno.EFBIG, "it leads to the whole disk"))
            continue
        for path, status in _found(_Search(root, on_error, linked), each.path + b"/", each.parts):
            if not directories or _is_directory(os.path.join(root, path), status):
                yield path, status


class _Search(NamedTuple):
    """Where is looked, who is told what cannot be, and who takes the links that ``**`` meets."""

    root: bytes
    on_error: OnError
    linked: list[LinkedDirectory]

    def status(self, path: bytes) -> Iterator[Match]:
        """Yield a path with its lstat, if it is there."""
        try:
            yield path, os.lstat(os.path.join(self.root, path))
        except OSError as error:
            self._tell(path, error)

    def entries(self, below: bytes) -> list[os.DirEntry[bytes]]:
        """Return what is in a directory, in the order of its names, without leftovers."""
        try:
            with os.scandir(os.path.join(self.root, below)) as listing:
                held = [entry for entry in listing if not names.is_always_ignored(entry.name)]
        except OSError as error:
            self._tell(below, error)
            return []
        return sorted(held, key=lambda entry: entry.name)

    def _tell(self, path: bytes, error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            self.on_error(path, error)


def _found(search: _Search, below: bytes, parts: tuple[str, ...]) -> Iterator[Match]:
    """Yield what the parts name beneath a directory, which ends in a slash or is empty."""
    literal = 0
    while literal < len(parts) and not is_glob(parts[literal]):
        literal += 1
    fixed = [os.fsencode(part) for part in parts[:literal]]
    if any(names.is_never_part(name) for name in fixed):
        return
    path = below + b"/".join(fixed)
    if literal == len(parts):
        yield from search.status(path)
        return
    if fixed:
        path += b"/"
    part, rest = parts[literal], parts[literal + 1 :]
    if part == _ANY_DEPTH:
        for directory in _directories(search, path, parts[literal:]):
            yield from _found(search, directory, rest)
        return
    matching = _part(part).fullmatch
    for name in [entry.name for entry in search.entries(path)]:
        if not matching(os.fsdecode(name)):
            continue
        if rest:
            yield from _found(search, path + name + b"/", rest)
        else:
            yield from search.status(path + name)


def _directories(search: _Search, below: bytes, parts: tuple[str, ...]) -> Iterator[bytes]:
    """Yield a directory and all those beneath it; parts: what is looked for in each."""
    searched = os.path.realpath(os.path.join(search.root, below))
    waiting = [below]
    while waiting:
        directory = waiting.pop()
        yield directory
        inner = search.entries(directory)
        waiting.extend(
            [
                directory + entry.name + b"/"
                for entry in reversed(inner)
                if entry.is_dir(follow_symlinks=False)
            ]
        )
        search.linked.extend(
            [
                LinkedDirectory(directory + entry.name, searched, parts)
                for entry in inner
                if entry.is_symlink() and entry.is_dir()
            ]
        )


def _is_directory(path: bytes, status: os.stat_result) -> bool:
    if stat.S_ISLNK(status.st_mode):
        return os.path.isdir(path)
    return stat.S_ISDIR(status.st_mode)


@lru_cache(maxsize=4096)
def _part(part: str) -> re.Pattern[str]:
    return re.compile(translate(part), re.DOTALL)


@lru_cache(maxsize=4096)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = split(pattern)
    if parts is None:
        return re.compile(NEVER)
    if not parts:  # the project itself
        return re.compile(".*", re.DOTALL)
    steps = ["(?:[^/]+/)*" if part == _ANY_DEPTH else translate(part) + "/" for part in parts[:-1]]
    return re.compile("".join(steps) + translate(parts[-1]) + "(?:/.*)?", re.DOTALL)


def overlaps(pattern: str, output: str) -> bool:
    """Return whether the pattern could match a declared output, what is in it, or what is above."""
    for part, name in zip(_parts(pattern), _parts(output), strict=False):
        if part == _ANY_DEPTH:
            return True
        if not matches(part, name):
            return False
    return True  # one of them goes on below the other


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
