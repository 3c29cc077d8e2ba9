"""What a selection of files was at one moment."""

import os
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from buildrun.tree import signature
from buildrun.tree.listing import Entry
from buildrun.tree.patterns import Door
from buildrun.tree.signature import Signature


class Selection(NamedTuple):
    """What was found on the disk.

    paths: relative to the root, in order. signatures: theirs, packed. problems: each with the path
    it is about. unmatched: the patterns or outputs for which there is nothing. entered: the
    directories, with a slash at their end, in which nothing else counts. doors: links to
    directories that ``**`` has met; see `follow`.
    """

    paths: Sequence[bytes]
    signatures: Sequence[bytes]
    problems: tuple[tuple[bytes, str], ...] = ()
    unmatched: tuple[str, ...] = ()
    entered: frozenset[bytes] = frozenset()
    doors: tuple[Door, ...] = ()


class Taken:
    """What a selection of files was at one moment.

    digest: of its listing. problems: texts that name a path; where there is one, nothing that was
    computed from these files may be cached. unmatched: the patterns that match nothing, or the
    outputs that do not exist. again: looks at the disk anew. young: the paths of those that may
    have changed since without a trace. skip: how much of the selection's paths entries lack.
    """

    def __init__(
        self,
        digest: str,
        selection: Selection,
        entries: tuple[Entry, ...] | Callable[[], tuple[Entry, ...]],
        problems: tuple[str, ...],
        young: frozenset[bytes],
        again: Callable[[], Selection],
        skip: int = 0,
    ) -> None:
        """Keep what was found; entries are made when they are asked for."""
        self.digest = digest
        self.problems = problems
        self.unmatched = selection.unmatched
        self.selection = selection
        self.young = young
        self.again = again
        self.skip = skip
        self._entries = entries

    def entries(self) -> tuple[Entry, ...]:
        """Return the listing; raises ProjectError where the disk and the index both changed."""
        if not isinstance(self._entries, tuple):
            self._entries = self._entries()
        return self._entries

    def has_only_links_out(self) -> bool:
        """Return whether all problems are links, so that nothing is missing from the listing."""
        about = {path for path, _ in self.selection.problems}
        links = zip(self.selection.paths, self.selection.signatures, strict=True)
        about -= {path for path, seen in links if signature.is_link(seen)}
        return not about and len(self.problems) == len(self.selection.problems)

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
