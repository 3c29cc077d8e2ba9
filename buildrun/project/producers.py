"""Which entry point makes what a pattern may match."""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping

from buildrun.project.model import ProjectSpec
from buildrun.workspace import glob
from buildrun.workspace.glob import overlaps

_ANY_DEPTH = "**"


class Producers:
    """The outputs of all entry points, found without going through all of them."""

    def __init__(self, outputs: Iterable[tuple[str, str]]) -> None:
        """Take pairs of an entry point's name and an output."""
        self._sorted = sorted(
            (tuple(output.rstrip("/").split("/")), name, output) for name, output in outputs
        )
        self._parts = [parts for parts, _, _ in self._sorted]
        self._found: dict[tuple[str, bool], Mapping[str, str]] = {}

    def of(self, pattern: str, *, possibly: bool = False) -> Mapping[str, str]:
        """Return an output by the entry point that makes it, for all that the pattern may match.

        possibly: also what is possible and not probable, see ``_meets``.
        """
        if (pattern, possibly) not in self._found:
            parts = glob.split(pattern) or ()
            literal = next((at for at, part in enumerate(parts) if glob.is_glob(part)), len(parts))
            meets = overlaps if possibly else _meets
            self._found[pattern, possibly] = {
                name: output
                for name, output in self._near(parts[:literal])
                if meets(pattern, output)
            }
        return self._found[pattern, possibly]

    def _near(self, parts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Yield the outputs above a directory, and those beneath it or equal to it."""
        for length in range(1, len(parts)):
            yield from self._from(parts[:length], beneath=False)
        yield from self._from(parts, beneath=True)

    def _from(self, parts: tuple[str, ...], *, beneath: bool) -> Iterator[tuple[str, str]]:
        for at in range(bisect.bisect_left(self._parts, parts), len(self._parts)):
            own = self._parts[at]
            if own[: len(parts)] != parts or (not beneath and own != parts):
                return
            yield self._sorted[at][1:]


def producers_of(project: ProjectSpec) -> Producers:
    """Return who makes what in a project."""
    return Producers(
        (item.name, output) for item in project.entry_points for output in item.outputs
    )


def _meets(pattern: str, output: str) -> bool:
    """Return whether a pattern surely or probably matches an output, or something beneath it.

    What is only possible is left out: that something beneath a directory matches ``**/*.py``.
    """
    if glob.matches(pattern, output):
        return True
    if not output.endswith("/"):
        return False
    first, *rest = glob.split(pattern) or ("",)
    if first != _ANY_DEPTH:
        return overlaps(pattern, output)
    names = output.rstrip("/").split("/")
    return any(overlaps("/".join(rest), "/".join(names[at:])) for at in range(len(names)))
