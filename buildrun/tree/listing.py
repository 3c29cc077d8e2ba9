"""What a tree holds, as a text that is the same wherever the tree is the same."""

import json
import os
import re
from collections.abc import Iterable
from json.encoder import encode_basestring_ascii
from typing import Any, NamedTuple

FILE = "file"
EXECUTABLE = "executable"
SYMLINK = "symlink"
DIRECTORY = "directory"
KINDS = frozenset({FILE, EXECUTABLE, SYMLINK, DIRECTORY})

_DIGEST = re.compile(r"xxh3:[0-9a-f]{32}|sha256:[0-9a-f]{64}")


class Entry(NamedTuple):
    """One file, link or directory.

    path: relative to the project's root, with ``/``; bytes that are no UTF-8 are surrogates, as
        ``os.fsdecode`` has it. Where an input is a link to a file, what the file holds is a
        further entry whose path ends in ``/``.
    kind: ``file``, ``executable``, ``symlink`` or ``directory``.
    content: the digest of a file's bytes, a link's target, nothing for a directory.
    size: the bytes of a file, else 0.
    """

    path: str
    kind: str
    content: str
    size: int


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
        entries = tuple([_entry(json.loads(line)) for line in data.splitlines()])
    except RecursionError:  # brackets within brackets
        raise ValueError("a line has the wrong shape") from None
    links: set[str] = set()
    before = b""
    for path, kind, _, _ in entries:
        name = os.fsencode(path)
        if name <= before:
            raise ValueError("a path is not in its order")
        before = name
        if kind == SYMLINK:
            links.add(path)
        elif path[-1] == "/" and path[:-1] not in links:
            raise ValueError("a path ends in a slash")
    if encode(entries) != data:
        raise ValueError("a line is not canonical")
    return entries


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    found = list(entries)
    if all(entry.path.isascii() for entry in found):
        return sorted(found, key=lambda entry: entry.path)  # which is the same, and quick
    return sorted(found, key=lambda entry: os.fsencode(entry.path))


def _entry(row: Any) -> Entry:
    if not isinstance(row, list) or [type(item) for item in row] != [str, str, str, int]:
        raise ValueError("a line has the wrong shape")
    entry = Entry(*row)
    parts = (entry.path[:-1] if entry.path.endswith("/") else entry.path).split("/")
    if "\0" in entry.path or any(part in {"", ".", ".."} for part in parts):
        raise ValueError("a path is not within the tree")
    if not _is_sound(entry):
        raise ValueError("a kind, content or size is wrong")
    return entry


def _is_sound(entry: Entry) -> bool:
    if entry.kind in {FILE, EXECUTABLE}:
        return entry.size >= 0 and _DIGEST.fullmatch(entry.content) is not None
    if entry.size != 0 or entry.path.endswith("/"):
        return False
    if entry.kind == SYMLINK:
        os.fsencode(entry.content)
        return entry.content != "" and "\0" not in entry.content
    return entry.kind == DIRECTORY and entry.content == ""
