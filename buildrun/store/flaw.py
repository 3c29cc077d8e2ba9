"""What may be an output of a result: nothing that lies, or leads, outside of what was declared."""

import posixpath
from collections.abc import Mapping, Sequence

from buildrun.store.manifest import is_output
from buildrun.tree.listing import Entry


def flaw(entries: Sequence[Entry], declared: Sequence[str]) -> str | None:
    """Return why entries are not what these outputs can be, or None."""
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
    if missing := outputs.keys() - found:
        return f"`{min(missing)}` is missing"
    flaws = (_flaw_of(entry, kinds) for entry in entries)
    return next((found for found in flaws if found), None)


def output_of(path: str, outputs: Mapping[str, object]) -> str | None:
    """Return which output a path is or lies in; outputs: by path without a slash at the end."""
    while path:
        if path in outputs:
            return path
        path = posixpath.dirname(path)
    return None


def _flaw_of(entry: Entry, kinds: Mapping[str, str]) -> str | None:
    above = posixpath.dirname(entry.path)
    while above:
        if kinds.get(above, "directory") != "directory":
            return f"`{entry.path}` lies in something that is no directory"
        above = posixpath.dirname(above)
    if entry.kind == "symlink" and not _stays(entry):
        return f"`{entry.path}` leads out of the project"
    return None


def _stays(link: Entry) -> bool:
    """Return whether a link leads to a place inside the project, whatever else is a link.

    So `..` may stand at the beginning only: behind a name it climbs from wherever that leads.
    """
    parts = link.content.split("/")
    if parts[0] == "":
        return False
    climbs = 0
    while climbs < len(parts) and parts[climbs] == "..":
        climbs += 1
    return climbs <= link.path.count("/") and ".." not in parts[climbs:]
