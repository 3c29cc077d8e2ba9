"""What is in a project's directory at one moment: files and directories, as globs take them in."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import NamedTuple

from buildrun.store.files import is_within
from buildrun.workspace import names

_MARKS = frozenset(map(os.fsdecode, names.ENVIRONMENT))

# Files at most, since a link may lead to a large disk.
_LIMIT = 200_000


class Tree(NamedTuple):
    """Files and directories by path relative to the real root, with where they really are.

    Links count as files, at their own place; one to a directory out of the project is entered
    instead. Leftovers are no part of it, and of a virtualenv only its mark is, at no place.
    whole: whether nothing else is there.
    """

    root: str
    files: Mapping[str, str]
    directories: Mapping[str, str]
    whole: bool = True


def look(root: str, without: Collection[str] = ()) -> Tree:
    """Return what is in a directory; without: relative paths that are passed over."""
    root = os.path.realpath(root)
    files: dict[str, str] = {}
    directories, waiting, entered = {"": root}, [""], {root}
    while waiting and len(files) < _LIMIT:
        below = waiting.pop()
        held = _entries(directories[below])
        mark = next((entry.name for entry in held if entry.name in _MARKS), None)
        if mark is not None and below:
            files[os.path.join(below, mark)] = ""
            del directories[below]
            continue
        for entry in held:
            path, is_link = os.path.join(below, entry.name), entry.is_symlink()
            real = os.path.realpath(entry.path) if is_link else entry.path
            if path in without:
                continue
            if not entry.is_dir() or (is_link and (real in entered or _is_known(real, root))):
                files[path] = entry.path
            elif real not in entered:
                entered.add(real)
                directories[path] = real
                waiting.append(path)
    del directories[""]
    return Tree(root, files, directories, not waiting)


def _is_known(real: str, root: str) -> bool:
    """Return whether a directory is looked at anyway, or holds the project."""
    return is_within(real, root) or is_within(root, real)


def _entries(place: str) -> list[os.DirEntry[str]]:
    """Return what counts in a directory; of one that cannot be read, nothing."""
    try:
        with os.scandir(place) as listing:
            held = sorted(listing, key=lambda entry: entry.name)
    except OSError:
        return []
    return [entry for entry in held if not names.is_leftover(entry.name)]
