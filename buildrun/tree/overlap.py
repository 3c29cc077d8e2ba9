"""Whether an input pattern could match what a step makes, before it has made it."""

from __future__ import annotations

from collections.abc import Sequence

from buildrun.tree.patterns import matches


def overlaps(pattern: str, output: str) -> bool:
    """Return whether the pattern could match the output, something in it, or a directory above.

    output: a path as declared, with or without a slash at its end.
    """
    return _overlap(_parts(pattern), _parts(output))


def _overlap(pattern: Sequence[str], output: Sequence[str]) -> bool:
    for part, name in zip(pattern, output, strict=False):
        if part == "**":
            return True
        if not matches(part, name):
            return False
    return True  # one of them goes on below the other


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]
