"""The files that a step declares, one by one, as another place has to hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from buildrun.store import stat_signature
from buildrun.store.files import and_above
from buildrun.workspace import link_targets, select

# As many links in a row as Linux follows.
_MOST_LINKS = 40


class DeclaredFiles(NamedTuple):
    """What input patterns name; paths relative to the root, in order.

    files: files and links, and what these links lead to in the project. directories: those in
    which nothing else counts.
    """

    files: tuple[str, ...]
    directories: tuple[str, ...]


def declared_files(root: str, patterns: Iterable[str], without: Sequence[str]) -> DeclaredFiles:
    """Return what counts in the key of a step with these input patterns, and no more.

    without: outputs, which are no inputs even where a pattern names them.
    """
    top = os.fsencode(root)
    named = select.union([select.pattern(top, text) for text in patterns])
    chosen = link_targets.follow(top, select.without(named, without), without, named=True)
    walker = _Walker(top)
    files: set[bytes] = set()
    directories: set[bytes] = set()
    for path, signature in chosen.files():
        into = directories if stat_signature.is_directory(signature) else files
        links, end = walker.resolve(path)
        files.update(links)
        if end is not None:
            into.add(end)
    return DeclaredFiles(_sorted(files), _sorted(directories))


def merged(chosen: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the chosen ones among known paths, a directory for all that is known in it."""
    wanted = set(chosen)
    partly = {
        above for path in known if path not in wanted for above in and_above(os.path.dirname(path))
    }
    found = set()
    for path in wanted:
        whole = [above for above in and_above(os.path.dirname(path)) if above not in partly]
        found.add(whole[-1] if whole else path)
    return sorted(found)


def _sorted(paths: set[bytes]) -> tuple[str, ...]:
    return tuple(os.fsdecode(path) for path in sorted(paths - {b""}))


class _Walker:
    """Follows links within the project; directories that are none are asked once."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._plain: set[bytes] = set()

    def resolve(self, path: bytes) -> tuple[list[bytes], bytes | None]:
        """Return the links on the way to a path, and where it ends; None where that is outside.

        A link at its end is followed where the path has a slash there. All are paths without links.
        """
        links: list[bytes] = []
        place, waiting = b"", path.split(b"/")
        while waiting:
            name = waiting.pop(0)
            if name == b"..":
                if not place:
                    return links, None
                place = os.path.dirname(place)
            elif name not in (b"", b"."):
                place = os.path.join(place, name)
                target = self._target(place) if waiting else None
                if target is not None:
                    links.append(place)
                    if target.startswith(b"/") or len(links) > _MOST_LINKS:
                        return links, None
                    place, waiting = os.path.dirname(place), target.split(b"/") + waiting
        return links, place

    def _target(self, place: bytes) -> bytes | None:
        """Return what a link says, None for anything else."""
        if place in self._plain:
            return None
        try:
            return os.readlink(os.path.join(self._root, place))
        except OSError:
            self._plain.add(place)
            return None
