"""Conditions on files that are no inputs: what was there when a command looked for them."""

import os
import stat
from collections.abc import Collection, Mapping

import xxhash

from buildrun.store.files import and_above
from buildrun.workspace.names import is_always_ignored

# What stands before the digest of the names that a directory holds.
NAMES = "names:"


def observe(root: str, path: str, *, names: bool = False, outputs: Collection[str] = ()) -> str:
    """Return what is there: "", ``file:`` with its size, or ``directory``; names: and its names.

    path: relative to the root. Among names neither outputs count, nor directories that lead to
    them, nor what programs leave behind: these come and go.
    """
    place = os.path.join(root, path)
    try:
        status = os.stat(place)
        if not names:
            is_directory = stat.S_ISDIR(status.st_mode)
            return "directory" if is_directory else f"file:{status.st_size}"
        held = [name for name in os.listdir(os.fsencode(place)) if not is_always_ignored(name)]
    except OSError:
        return ""
    made = {each for path in outputs for each in and_above(os.fsencode(os.path.normpath(path)))}
    below = b"" if path in ("", ".") else os.fsencode(path) + b"/"
    counted = sorted(name for name in held if below + name not in made)
    return NAMES + xxhash.xxh3_128_hexdigest(b"\0".join(counted))


def broken(root: str, conditions: Mapping[str, str], outputs: Collection[str] = ()) -> str | None:
    """Return the first path where there is something else than was, or None; see ``observe``."""
    for path, was in conditions.items():
        if observe(root, path, names=was.startswith(NAMES), outputs=outputs) != was:
            return path
    return None
