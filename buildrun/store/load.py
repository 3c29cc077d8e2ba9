"""Looking results up; what is missing or not as it should be is a miss, never an error."""

import os
import posixpath
import time
from collections.abc import Mapping, Sequence

from buildrun.home import Home
from buildrun.store import blobs
from buildrun.store.manifest import Manifest, decode, is_output
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
    data = blobs.read(home, manifest.outputs)
    try:
        entries = None if data is None else listing.decode(data)
    except ValueError:
        return None
    if entries is None or flaw(entries, manifest.declared) is not None:
        return None
    return entries


def listing_of(home: Home, digest: str) -> tuple[Entry, ...] | None:
    """Return a listing that only explains, such as that of inputs; None where it is not known."""
    data = blobs.read(home, digest)
    try:
        return None if data is None else listing.decode(data)
    except ValueError:
        return None


def flaw(entries: Sequence[Entry], declared: Sequence[str]) -> str | None:
    """Return why entries are not what these outputs can be, or None.

    Nothing may lie, or lead, outside of what was declared and of the project.
    """
    outputs = {path.rstrip("/"): path for path in declared}
    if not all(map(is_output, declared)) or len(outputs) != len(declared):
        return "the declared outputs are no paths in the project"
    if any(output_of(posixpath.dirname(path), outputs) for path in outputs):
        return "the declared outputs overlap"
    kinds = {entry.path: entry.kind for entry in entries}
    for path, name in outputs.items():
        if name.endswith("/") and kinds.get(path, "directory") != "directory":
            return f"`{name}` is not a directory"
    found = {output_of(entry.path, outputs) for entry in entries}
    if None in found:
        return "there is more than what was declared"
    if len(found) != len(outputs):
        return "an output is missing"
    for entry in entries:
        if not _is_below_directories(entry.path, kinds):
            return f"`{entry.path}` lies in something that is no directory"
        if entry.kind == "symlink" and not _stays(entry):
            return f"`{entry.path}` leads out of the project"
        if entry.kind in ("file", "executable") and not blobs.is_digest(entry.content):
            return f"`{entry.path}` has no digest"
    return None


def output_of(path: str, outputs: Mapping[str, object]) -> str | None:
    """Return which output a path is or lies in; outputs: by path without a slash at the end."""
    while path:
        if path in outputs:
            return path
        path = posixpath.dirname(path)
    return None


def _is_below_directories(path: str, kinds: Mapping[str, str]) -> bool:
    above = posixpath.dirname(path)
    while above:
        if kinds.get(above, "directory") != "directory":
            return False
        above = posixpath.dirname(above)
    return True


def _stays(link: Entry) -> bool:
    """Return whether a link leads to a place inside the project, whatever else is a link.

    So `..` may stand at the beginning only: behind a name it climbs from wherever that leads.
    """
    parts = link.content.split("/")
    if not link.content or "\0" in link.content or parts[0] == "":
        return False
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    return climbs <= link.path.count("/") and ".." not in parts[climbs:]


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

