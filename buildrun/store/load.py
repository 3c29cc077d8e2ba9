"""Looking results up; what is missing or not as it should be is a miss, never an error."""

import os
import time
from functools import lru_cache

from buildrun.home import Home
from buildrun.store import blobs
from buildrun.store.flaw import flaw
from buildrun.store.manifest import Manifest, decode
from buildrun.tree import listing
from buildrun.tree.listing import Entry

# A manifest of some megabytes has a log of a million changes between its streams.
LARGEST = 64 << 20
# Seconds after which a use is recorded again.
_USE = 3600.0


def path_of(home: Home, key: str) -> str:
    """Return where the manifest of a key lies; raises ValueError for what is no digest."""
    return blobs.place(home.results, key)


def load(home: Home, key: str) -> Manifest | None:
    """Return the result of a key, and record the use.

    Raises ValueError for what is no digest.
    """
    path = path_of(home, key)
    found = look(path)
    if found is None or found.key != key:
        return None
    try:
        if time.time() - os.stat(path).st_mtime > _USE:
            os.utime(path)
    except OSError:
        pass  # a store that may only be read
    return found


def look(path: str) -> Manifest | None:
    """Return the manifest in a file, whatever its key."""
    data = blobs.contents(path, LARGEST)
    try:
        return None if data is None else decode(data)
    except ValueError:
        return None


def outputs_of(home: Home, manifest: Manifest) -> tuple[Entry, ...] | None:
    """Return the outputs, or None where they are not known or not safe to restore."""
    try:
        return _outputs(home, manifest.outputs, manifest.declared)
    except ValueError:
        return None


def listing_of(home: Home, digest: str) -> tuple[Entry, ...] | None:
    """Return a listing that only explains, such as that of inputs; None where it is not known."""
    data = blobs.read(home, digest)
    try:
        return None if data is None else listing.decode(data)
    except ValueError:
        return None


@lru_cache(maxsize=2)
def _outputs(home: Home, digest: str, declared: tuple[str, ...]) -> tuple[Entry, ...]:
    """Return a listing, which a restore needs several times; raises ValueError without one."""
    data = blobs.read(home, digest)
    if data is None:
        raise ValueError("it is lost")
    entries = listing.decode(data)
    if reason := flaw(entries, declared):
        raise ValueError(reason)
    return entries


def all_digests(home: Home, manifest: Manifest) -> dict[str, int | None]:
    """Return all contents that a result names, with their sizes where these are known."""
    named: dict[str, int | None] = {
        manifest.log: sum(size for _, size in manifest.streams),
        manifest.outputs: None,
        manifest.inputs: None,
    }
    for entry in outputs_of(home, manifest) or ():
        if entry.kind in ("file", "executable"):
            named[entry.content] = entry.size
    return named
