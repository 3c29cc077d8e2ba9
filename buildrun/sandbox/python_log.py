"""What Python programs tell of themselves, by a `sitecustomize` of ours on their path.

It is the only way to see which variables a program reads, and whether it is Python's import system
that lists a directory. Programs that Python runs with `-I`, `-E` or `-S` tell nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# The directory of a `sitecustomize`.
HOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "python_hook")

# The variables that the hook reads: where it writes to, and whether it tells of files too.
_LOG, _ALL = "BUILDRUN_WATCH_LOG", "BUILDRUN_WATCH_FILES"


class Told(NamedTuple):
    """variables: their names. imports: listings by the import system. opened: paths and flags.

    modules: names at the top, without dots, of what they import.
    """

    variables: frozenset[str]
    imports: Mapping[bytes, int]
    opened: tuple[tuple[bytes, int], ...]
    modules: frozenset[bytes]


def variables(environ: Mapping[str, str], log: str, *, files: bool) -> dict[str, str]:
    """Return the variables that have Python programs write a log.

    environ: what the command sees without them. log: a file to be made. files: whether they tell of
    files as well, where nobody else sees these.
    """
    given = environ.get("PYTHONPATH", "")
    path = HOOK + os.pathsep + given if given else HOOK
    return {"PYTHONPATH": path, _LOG: log, **({_ALL: "1"} if files else {})}


def read(log: str) -> Told:
    """Return what they have told."""
    names: set[str] = set()
    modules: set[bytes] = set()
    imports: Counter[bytes] = Counter()
    opened: list[tuple[bytes, int]] = []
    try:
        with open(log, "rb") as file:
            lines = file.read().split(b"\0")
    except OSError:
        lines = []
    for line in lines:
        kind, _, text = line.partition(b" ")
        if kind == b"variable":
            names.add(os.fsdecode(text))
        elif kind == b"import":
            imports[text] += 1
        elif kind == b"module":
            modules.add(text)
        elif kind == b"open":
            flags, _, path = text.partition(b" ")
            opened.append((path, int(flags)))
    return Told(frozenset(names - {_LOG, _ALL}), imports, tuple(opened), frozenset(modules))
