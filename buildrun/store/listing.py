"""What a tree holds, as a text that is the same wherever the tree is the same."""

import json
import os
import re
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

from buildrun.store.digest import is_digest

FILE = "file"
EXECUTABLE = "executable"
SYMLINK = "symlink"
DIRECTORY = "directory"
KINDS = frozenset({FILE, EXECUTABLE, SYMLINK, DIRECTORY})

_TYPES = [str, str, str, int]
# A part that is empty or leads elsewhere; and what no path can hold.
_OUTSIDE = re.compile(r"(?:\A|/)\.{0,2}(?:/|\Z)|\0")


class Entry(NamedTuple):
    """One file, link or directory.

    path: relative to the project, as ``os.fsdecode`` has it. Where an input is a link to a file,
        what that holds is a further entry whose path ends in ``/``.
    content: the digest of a file's bytes, a link's target, nothing for a directory.
    """

    path: str
    kind: str
    content: str
    size: int

    @property
    def is_file(self) -> bool:
        """Return whether it is a file, with the right to execute it or without."""
        return self.kind in (FILE, EXECUTABLE)


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the canonical text: one compact ASCII JSON array a line, sorted by path in bytes."""
    quote = encode_basestring_ascii
    return "".join(
        [
            f'[{quote(path)},"{kind}",{quote(content)},{size}]\n'
            for path, kind, content, size in _in_order(entries)
        ]
    ).encode("ascii")


def decode(data: bytes) -> tuple[Entry, ...]:
    """Return what was encoded; raises ValueError for anything that ``encode`` does not write."""
    try:
        # In one call: a listing has as many lines as there are files.
        rows = json.loads(b"[%b]" % b",".join(data.splitlines()))
    except RecursionError:  # brackets within brackets
        raise ValueError("a line has the wrong shape") from None
    entries = tuple([_entry(row) for row in rows])
    kinds = {entry.path: entry.kind for entry in entries}
    if len(kinds) != len(entries):
        raise ValueError("a path is there twice")
    for path in kinds:
        if path[-1] == "/" and kinds.get(path[:-1]) != SYMLINK:
            raise ValueError("a path ends in a slash")
    if encode(entries) != data:
        raise ValueError("a line is not canonical, or not in its order")
    return entries


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    found = list(entries)
    if all(entry.path.isascii() for entry in found):
        return sorted(found, key=lambda entry: entry.path)  # which is the same, and quick
    return sorted(found, key=lambda entry: os.fsencode(entry.path))


def _entry(row: Any) -> Entry:
    if type(row) is not list or [type(item) for item in row] != _TYPES:
        raise ValueError("a line has the wrong shape")
    path, kind, content, size = row
    if _OUTSIDE.search(path.removesuffix("/")) is not None:
        raise ValueError("a path is not within the tree")
    if kind in (FILE, EXECUTABLE):
        sound = size >= 0 and is_digest(content)
    else:
        sound = size == 0 and path[-1] != "/" and _is_sound(kind, content)
    if not sound:
        raise ValueError("a kind, content or size is wrong")
    return Entry(path, kind, content, size)


def _is_sound(kind: str, content: str) -> bool:
    if kind == SYMLINK:
        os.fsencode(content)
        return content != "" and "\0" not in content
    return kind == DIRECTORY and content == ""
