"""What the paths mean that programs use: which files, and whether these are of interest."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

# Links that are followed on the way to a file; the kernel follows as many.
_MOST_LINKS = 40


class Place(NamedTuple):
    """A directory: where it really is, the links that led there, whether it is of interest."""

    path: bytes
    links: tuple[bytes, ...]
    counts: bool


class Found(NamedTuple):
    """A file; links: that led there. mode: as ``stat`` has it, 0 where nothing is there."""

    path: bytes
    links: tuple[bytes, ...]
    mode: int


class Paths:
    """Resolves paths, and remembers directories.

    Of interest is what lies in the project, and what lies in none of the other directories that are
    given; of two that contain each other the inner one decides.
    """

    def __init__(self, project: bytes, quiet: Iterable[bytes]) -> None:
        """Take directories without links in their paths."""
        self._counts = {b"/": True, **dict.fromkeys(quiet, False), project: True}
        self._known: dict[bytes, Place] = {}

    def directory(self, path: bytes) -> Place:
        """Return the directory of an absolute path."""
        found = self._known.get(path)
        if found is None:
            real, links = self._walk(path)
            found = Place(real, links, self.counts(real))
            if not path.startswith(b"/proc/"):  # where links change by themselves
                self._known[path] = found
        return found

    def counts(self, path: bytes) -> bool:
        """Return whether what lies there is of interest; path: without links."""
        while path not in self._counts:
            path = path.rpartition(b"/")[0] or b"/"
        return self._counts[path]

    def is_quiet(self, path: bytes) -> bool:
        """Return whether a path's directory is known, and known to be of no interest.

        A link there may still lead to what is.
        """
        above, _, name = path.rpartition(b"/")
        place = self._known.get(above)
        return place is not None and not place.counts and name != b".."

    def forget(self) -> None:
        """Drop what is remembered, since links or directories may have moved."""
        self._known.clear()

    def file(self, path: bytes, *, follow: bool) -> Found | None:
        """Return where a file really is, and what is there; None where all is quiet.

        path: absolute. follow: whether a link at its end is followed.
        """
        above, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            place = self.directory(path)
            return Found(place.path, place.links, _mode(place.path)) if place.counts else None
        place = self.directory(above or b"/")
        if not place.counts and not follow:
            return None
        own = _join(place.path, name)
        mode = _mode(own)
        if not follow or not stat.S_ISLNK(mode):
            return Found(own, place.links, mode) if place.counts else None
        real, links = self._walk(own)
        return Found(real, (*place.links, *links), _mode(real)) if self.counts(real) else None

    def _walk(self, path: bytes) -> tuple[bytes, tuple[bytes, ...]]:
        """Follow all links in a path; what is not there is taken for a directory."""
        waiting, real = path.split(b"/")[::-1], b"/"
        links: list[bytes] = []
        while waiting:
            name = waiting.pop()
            if name == b"..":
                real = real.rpartition(b"/")[0] or b"/"
            elif name not in (b"", b"."):
                here = _join(real, name)
                target = _target(here)
                if target is None or len(links) > _MOST_LINKS:
                    real = here
                    continue
                links.append(here)
                waiting += target.split(b"/")[::-1]
                if target.startswith(b"/"):
                    real = b"/"
        return real, tuple(link for link in links if self.counts(link))


def _mode(path: bytes) -> int:
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory != b"/" else b"/" + name


def _target(path: bytes) -> bytes | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
