"""What links lead to.

A link counts by the name of its target. One that leads out of what is selected counts by what is
there as well; one that leads into it does not, for that counts anyway. So each directory that
links lead to is entered once, and circles end.
"""

import os
import stat
from collections.abc import Collection, Iterable

from buildrun.console import display
from buildrun.store import stat_signature
from buildrun.store.files import is_within
from buildrun.workspace import glob, names, select
from buildrun.workspace.walk import Selection, Sink, walk

# How much links may lead to where nobody has named what is read.
_FILES = 100_000
_BYTES = 10 << 30


def follow(
    root: bytes,
    selection: Selection,
    without: Iterable[str] = (),
    *,
    named: bool,
    outputs: Collection[bytes] | None = None,
) -> Selection:
    """Return a selection with what its links lead to, less some paths.

    named: whether somebody has named what is selected; else there are bounds, and what is left out
    of every project is left out behind links too. outputs: for a selection of outputs, the inputs;
    a link that leads anywhere else is a problem.
    """
    if not selection.linked and not stat_signature.are_links(selection.signatures):
        return selection
    return _Follower(root, selection, select.plain(without), named, outputs).selection()


class _Follower:
    """Follows the links of one selection.

    A place is told by its real path, which is relative to the root where it lies in it.
    """

    def __init__(
        self,
        root: bytes,
        selection: Selection,
        without: Iterable[bytes],
        named: bool,
        outputs: Collection[bytes] | None,
    ) -> None:
        self._root = root
        self._home = os.path.realpath(root)
        self._selection = selection
        self._counted = {*selection.paths, *(outputs or ())}
        # What counts with all that is beneath it, here or elsewhere.
        self._whole = set(without)
        self._named, self._outputs = named, outputs
        self._files = self._bytes = 0
        self._sink = Sink(passing_over=not named)
        self._sink.found.update(selection.files())
        self._sink.problems.update(selection.problems)

    def selection(self) -> Selection:
        linked = list(self._selection.linked)
        for path, status in glob.behind(self._root, linked, self._sink.on_error):
            above, name = os.path.split(path)
            if not self._is_counted(os.path.join(self._place(above), name)):
                select.add(self._sink, self._root, path, status)
        pending = sorted(
            path
            for path, signature in self._sink.found.items()
            if stat_signature.is_link(signature)
        )
        for link in pending:
            pending += self._follow(link)
        for each in linked:  # of what is there only that counts which is looked for
            select.add_link(self._sink, self._root, each.path)
        return self._sink.selection(*self._selection.unmatched)

    def _follow(self, link: bytes) -> list[bytes]:
        """Add what a link leads to, and return the links there."""
        sink, full = self._sink, os.path.join(self._root, link)
        try:
            status = os.stat(full)
        except OSError:
            return []  # it leads nowhere, or in a circle
        place = self._place(link)
        if self._is_counted(place) or (not self._named and self._is_left_out(place, full)):
            return []
        if self._outputs is not None:
            fact = "is a link to what is no output of the step"
            sink.problems.setdefault(link, f"`{display(link)}` {fact}")
            if is_within(self._home, place):
                return []
        if not stat.S_ISDIR(status.st_mode):
            sink.add(link + b"/", stat_signature.of(status))
            self._count(link, status.st_size)
            return []
        if place == b"/":
            sink.problems[link] = f"`{display(link)}` is a link to the whole disk"
            return []
        self._whole.add(place)
        return self._enter(link, place)

    def _enter(self, link: bytes, place: bytes) -> list[bytes]:
        """Add what a directory holds, and return the links there."""
        links: list[bytes] = []

        def choose(below: bytes, entries: list[bytes], descriptor: int) -> list[bytes]:
            del descriptor
            if not self._named and any(mark in entries for mark in names.ENVIRONMENT):
                return []
            here = os.path.join(place, below[len(link) + 1 :])
            chosen = [
                name
                for name in entries
                if not names.is_always_ignored(name) and not self._is_elsewhere(here + name)
            ]
            if self._named and not entries:
                self._sink.enter(below, empty=True)
            return chosen

        for paths, signatures in walk(self._root, link + b"/", choose, self._sink):
            for path, signature in zip(paths, signatures, strict=True):
                self._sink.add(path, signature)
                if stat_signature.is_link(signature):
                    links.append(path)
                elif not self._count(link, stat_signature.size(signature)):
                    return []
        return links

    def _count(self, link: bytes, size: int) -> bool:
        """Count a file behind a link; returns whether that is within the bounds."""
        self._files += 1
        self._bytes += size
        if self._named or (self._files <= _FILES and self._bytes <= _BYTES):
            return True
        for path in [path for path in self._sink.found if path.startswith(link + b"/")]:
            del self._sink.found[path]
        self._sink.problems[link] = (
            f"`{display(link)}` is a link to more than {_FILES} files or {_BYTES >> 30} GiB"
        )
        return False

    def _place(self, path: bytes) -> bytes:
        real = os.path.realpath(os.path.join(self._root, path))
        if is_within(real, self._home):
            return real[len(self._home) :].lstrip(b"/")
        return real

    def _is_counted(self, place: bytes) -> bool:
        """Return whether what is at a place counts without the link, here or elsewhere."""
        if place in self._counted or (place + b"/" if place else b"") in self._selection.entered:
            return True
        while place not in (b"", b"/"):
            if place in self._whole:
                return True
            place = os.path.dirname(place)
        return False

    def _is_elsewhere(self, place: bytes) -> bool:
        """Return whether it is the project, or what does not count here."""
        return place == self._home or place in self._whole

    def _is_left_out(self, place: bytes, full: bytes) -> bool:
        """Return whether it is what is left out of every project."""
        inside = os.path.basename(place) if place.startswith(b"/") else place
        if any(names.is_always_ignored(name) for name in inside.split(b"/")):
            return True
        return any(os.path.lexists(os.path.join(full, mark)) for mark in names.ENVIRONMENT)
