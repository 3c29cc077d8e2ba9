"""What the paths mean that programs use: which files, and whether these are of interest."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

# Links that are followed on the way to a file; the kernel follows as many.
_MOST_LINKS = 40
# Paths as long as this the kernel refuses, and we could not look at what a program reaches by
# shorter ones.
LONGEST = 4096

# Links that lead each process to what is its own.
_SELF = (b"/proc/self", b"/proc/thread-self")


class Place(NamedTuple):
    """A directory: where it really is, the links that led there, whether it is of interest."""

    path: bytes
    links: tuple[bytes, ...]
    counts: bool


class Found(NamedTuple):
    """A file; links: that led there. mode: as ``stat`` has it, 0 where nothing is there.

    counts: whether it is of interest itself; else links of the project alone are told.
    """

    path: bytes
    links: tuple[bytes, ...]
    mode: int
    counts: bool = True


class Paths:
    """Resolves paths, and remembers directories.

    Of interest is what lies in the project, and what lies in none of the other directories that are
    given; of two that contain each other the inner one decides.
    """

    def __init__(self, project: bytes, quiet: Iterable[bytes]) -> None:
        """Take directories without links in their paths."""
        self._project = _join(project, b"")
        self._counts = {b"/": True, **dict.fromkeys(quiet, False), project: True}
        self._known: dict[bytes, Place] = {}
        self._quiet: set[bytes] = set()

    def directory(self, path: bytes, thread: int) -> Place:
        """Return the directory of an absolute path; thread: that uses it."""
        found = self._known.get(path)
        if found is None:
            real, links, lasts = self._walk(path, thread)
            found = Place(real, links, self.counts(real))
            if lasts:
                self._known[path] = found
        return found

    def counts(self, path: bytes) -> bool:
        """Return whether what lies there is of interest; path: without links."""
        while path not in self._counts:
            path = path.rpartition(b"/")[0] or b"/"
        return self._counts[path]

    def is_quiet(self, path: bytes) -> bool:
        """Return whether a path is known to lead to what is of no interest."""
        return path in self._quiet

    def forget(self) -> None:
        """Drop what is remembered, since links or directories may have moved."""
        self._known.clear()
        self._quiet.clear()

    def file(self, path: bytes, *, follow: bool, thread: int = 0) -> Found | None:
        """Return where a file really is, and what is there; None where all is quiet.

        path: absolute. follow: whether a link at its end is followed. thread: that uses the path.
        Raises OSError for a path that is too long.
        """
        above, _, name = path.rpartition(b"/")
        if name in (b"", b".", b".."):
            place = self.directory(path, thread)
            return self._found(place.path, place.links, place.counts)
        place = self.directory(above or b"/", thread)
        own = _join(place.path, name)
        mode = _mode(own)
        lasts = above in self._known
        if not follow or not stat.S_ISLNK(mode):
            if place.counts:
                return Found(own, place.links, mode)
            found = self._found(own, place.links, counts=False)
            lasts = lasts and not stat.S_ISLNK(mode)
        else:
            real, links, is_same = self._walk(own, thread)
            found = self._found(real, (*place.links, *links), self.counts(real))
            lasts = lasts and is_same
        if found is None and lasts:
            self._quiet.add(path)
        return found

    def _found(self, path: bytes, links: tuple[bytes, ...], counts: bool) -> Found | None:
        if counts:
            return Found(path, links, _mode(path))
        links = tuple(link for link in links if link.startswith(self._project))
        return Found(path, links, 0, counts=False) if links else None

    def _walk(self, path: bytes, thread: int) -> tuple[bytes, tuple[bytes, ...], bool]:
        """Follow all links in a path, and return whether they lead there the next time as well.

        What is not there is taken for a directory, but ends a path that goes up from it.
        """
        waiting, real = path.split(b"/")[::-1], b"/"
        links: list[bytes] = []
        while waiting:
            name = waiting.pop()
            if name == b"..":
                if not os.path.isdir(real):
                    break
                real = real.rpartition(b"/")[0] or b"/"
            elif name not in (b"", b"."):
                here = _join(real, name)
                target = b"%d" % thread if here in _SELF else _target(here)
                if target is None or len(links) > _MOST_LINKS:
                    real = here
                    continue
                links.append(here)
                waiting += target.split(b"/")[::-1]
                if target.startswith(b"/"):
                    real = b"/"
        lasts = not any(link.startswith(b"/proc/") for link in links)
        return real, tuple(link for link in links if self.counts(link)), lasts


def _mode(path: bytes) -> int:
    _refuse_long(path)
    try:
        return os.lstat(path).st_mode
    except OSError:
        return 0


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory != b"/" else b"/" + name


def _target(path: bytes) -> bytes | None:
    _refuse_long(path)
    try:
        return os.readlink(path)
    except OSError:
        return None


def _refuse_long(path: bytes) -> None:
    if len(path) >= LONGEST:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
