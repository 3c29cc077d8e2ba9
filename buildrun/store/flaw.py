"""What may be an output of a result: nothing that lies, or leads, outside of what was declared."""

import posixpath
from collections.abc import Collection, Mapping, Sequence

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
    owners = Owners(outputs)
    if missing := outputs.keys() - {owners.of(path) for path in kinds}:
        return f"`{min(missing)}` is missing"
    return _flaw_of(entries, kinds, owners)


def _flaw_of(entries: Sequence[Entry], kinds: Mapping[str, str], owners: "Owners") -> str | None:
    directories: set[str] = set()
    for entry in entries:
        if owners.of(entry.path) is None:
            return f"`{entry.path}` is not one of the declared outputs"
        above = entry.path.rpartition("/")[0]
        if above not in directories and not _is_directory(above, kinds, owners):
            return f"`{entry.path}` lies in something that is no directory"
        directories.add(above)
        if entry.kind == "symlink" and not _stays(entry):
            return f"`{entry.path}` leads out of the project"
    return None


class Owners:
    """Which output a path belongs to; what was found for a directory is kept.

    outputs: by path, without a slash at the end.
    """

    def __init__(self, outputs: Collection[str]) -> None:
        """Start with nothing found."""
        self._outputs = outputs
        self._found: dict[str, str | None] = {}

    def of(self, path: str) -> str | None:
        """Return the output that a path is or lies in."""
        if path in self._outputs:
            return path
        above = path.rpartition("/")[0]
        if above not in self._found:
            self._found[above] = output_of(above, self._outputs)
        return self._found[above]


def output_of(path: str, outputs: Collection[str]) -> str | None:
    """Return which of the outputs a path is or lies in."""
    while path and path not in outputs:
        path = path.rpartition("/")[0]
    return path or None


def _is_directory(path: str, kinds: Mapping[str, str], owners: "Owners") -> bool:
    """Return whether a path is a listed directory, or lies above the outputs."""
    return kinds.get(path) == "directory" or owners.of(path) is None


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
