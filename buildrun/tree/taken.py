"""What a selection of files was at one moment."""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from buildrun.tree import signature
from buildrun.tree.listing import Entry
from buildrun.tree.signature import Signature


class Selection(NamedTuple):
    """What was found on the disk.

    paths: relative to the root, in order. signatures: theirs, packed. problems: each with the path
    it is about. unmatched: the patterns or outputs for which there is nothing.
    """

    paths: Sequence[bytes]
    signatures: Sequence[bytes]
    problems: tuple[tuple[bytes, str], ...] = ()
    unmatched: tuple[str, ...] = ()


class Taken:
    """What a selection of files was at one moment.

    digest: of its listing. problems: texts that name a path; where there is one, nothing that was
    computed from these files may be cached. unmatched: the patterns that match nothing, or the
    outputs that do not exist. again: looks at the disk anew. young: the paths of those that may
    have changed since without a trace.
    """

    def __init__(
        self,
        digest: str,
        selection: Selection,
        entries: tuple[Entry, ...] | Callable[[], tuple[Entry, ...]],
        problems: tuple[str, ...],
        young: frozenset[bytes],
        again: Callable[[], Selection],
    ) -> None:
        """Keep what was found; entries are made when they are asked for."""
        self.digest = digest
        self.problems = problems
        self.unmatched = selection.unmatched
        self.selection = selection
        self.young = young
        self.again = again
        self._entries = entries

    def entries(self) -> tuple[Entry, ...]:
        """Return the listing; raises ProjectError where the disk and the index both changed."""
        if not isinstance(self._entries, tuple):
            self._entries = self._entries()
        return self._entries

    def signature(self, path: str) -> Signature | None:
        """Return what a file's or link's lstat was; None for a directory and what is not in it.

        A path with a slash at its end is what a link leads to.
        """
        name = os.fsencode(path)
        paths = self.selection.paths
        at = bisect_left(paths, name)
        if at == len(paths) or paths[at] != name:
            return None
        packed = self.selection.signatures[at]
        return None if signature.is_directory(packed) else signature.unpack(packed)
