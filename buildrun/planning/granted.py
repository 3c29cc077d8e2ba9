"""Which files and directories of a project stand for its declared files, as few as can be."""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING

from buildrun.store.files import and_above
from buildrun.workspace.names import is_always_ignored, is_never_part

if TYPE_CHECKING:
    from buildrun.workspace.select import FileSet


def granted(root: str, inputs: FileSet) -> list[bytes]:
    """Return absolute paths; a directory stands for all in it, where all of it is declared.

    root: without links. What programs leave behind counts as declared, for it decides nothing.
    """
    top = os.fsencode(root)
    declared = {os.path.join(top, path.rstrip(b"/")) for path in inputs.selection.paths}
    found: list[bytes] = [path for path in declared if not path.startswith(top + b"/")]
    above = {top}
    for here in {path.rpartition(b"/")[0] for path in declared}:
        above.update(itertools.takewhile(lambda each: len(each) > len(top), and_above(here)))
    if _grant(top, declared, above, found):
        return [*found, top]
    return found


def _grant(directory: bytes, declared: set[bytes], above: set[bytes], found: list[bytes]) -> bool:
    """Add what stands for a directory's content, unless it does so itself; return whether."""
    some: list[bytes] = []
    is_whole = True
    with os.scandir(directory) as entries:
        for entry in entries:
            path = entry.path
            if path in declared or _is_leftover(entry.name):
                some.append(path)
            elif path not in above or not entry.is_dir(follow_symlinks=False):
                is_whole = False
            elif _grant(path, declared, above, found):
                some.append(path)
            else:
                is_whole = False
    if not is_whole:
        found += some
    return is_whole


def _is_leftover(name: bytes) -> bool:
    return is_always_ignored(name) and not is_never_part(name)
