"""Conditions on files that are no inputs: what was there when a command looked for them."""

import os
import stat
from collections.abc import Mapping

import xxhash

from buildrun.workspace.names import is_always_ignored

# What stands before the digest of the names that a directory holds.
NAMES = "names:"


def observe(root: str, path: str, *, names: bool = False) -> str:
    """Return what is there: "", ``file`` or ``directory``; names: of a directory its names too.

    path: relative to the root. What programs leave behind does not count among names.
    """
    place = os.path.join(root, path)
    try:
        is_directory = stat.S_ISDIR(os.stat(place).st_mode)
        if not names:
            return "directory" if is_directory else "file"
        held = sorted(
            name for name in os.listdir(os.fsencode(place)) if not is_always_ignored(name)
        )
    except OSError:
        return ""
    return NAMES + xxhash.xxh3_128_hexdigest(b"\0".join(held))


def broken(root: str, conditions: Mapping[str, str]) -> str | None:
    """Return the first path where there is something else than was, or None."""
    for path, was in conditions.items():
        if observe(root, path, names=was.startswith(NAMES)) != was:
            return path
    return None
