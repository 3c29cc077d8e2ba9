"""The manifest of a result: what it was made from and what came out, checked."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.store.digest import is_digest
from buildrun.store.digest import key as key_of
from buildrun.store.listing import Entry

VERSION = 1
# Seconds; far beyond any calendar, and still a number like others.
_LATEST = 1e12


class Manifest(NamedTuple):
    """A result; it is stored after everything that it names.

    key: the digest of ``parts``. inputs, outputs: digests of listings. declared: outputs as
    declared, ``dir/`` with its slash. log: the digest of what the command wrote, both streams in
    order; streams: runs of (1 or 2, bytes) of it. seconds: what the command took. created: since
    the epoch. details: JSON that is no part of the key: ``run`` is the run that made it; the rest
    explains, or tells whether the result counts, which whoever asks for it decides.
    """

    key: str
    parts: Mapping[str, Any]
    project: str
    step: str
    entry_point: str
    inputs: str
    outputs: str
    declared: tuple[str, ...]
    log: str
    streams: tuple[tuple[int, int], ...]
    seconds: float
    created: float
    producer: str
    details: Mapping[str, Any]


def encode(manifest: Manifest) -> bytes:
    """Return the manifest as JSON in ASCII."""
    value = {"version": VERSION, **manifest._asdict()}
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def decode(data: bytes) -> Manifest:
    """Return the manifest; raises ValueError for anything odd, such as a key of other parts."""
    try:
        return _decoded(json.loads(data, parse_constant=_refuse))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _decoded(value: Any) -> Manifest:
    _check(isinstance(value, dict) and value.pop("version", None) == VERSION, "version")
    _check(value.keys() == set(Manifest._fields), "fields")
    for name in ("project", "step", "entry_point", "producer"):
        _check(isinstance(value[name], str), name)
    for name in ("parts", "details"):
        _check(isinstance(value[name], dict), name)
    for name in ("seconds", "created"):
        _check(_is_time(value[name]), name)
    for name in ("inputs", "outputs", "log"):
        _check(is_digest(value[name]), name)
    declared, streams = value["declared"], value["streams"]
    _check(isinstance(declared, list) and all(map(is_output, declared)), "declared")
    _check(isinstance(streams, list) and all(map(_is_run, streams)), "streams")
    _check(key_of("result", value["parts"]) == value["key"], "key")
    value["declared"] = tuple(declared)
    value["streams"] = tuple((stream, size) for stream, size in streams)
    return Manifest(**value)


def is_output(path: object) -> bool:
    """Return whether this is a path inside the project, as outputs are declared."""
    if not isinstance(path, str) or "\0" in path:
        return False
    return all(part not in ("", ".", "..") for part in path.removesuffix("/").split("/"))


def _is_run(run: object) -> bool:
    if not isinstance(run, list) or len(run) != 2:
        return False
    stream, size = run
    return type(stream) is int and type(size) is int and stream in (1, 2) and size > 0


def _is_time(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < _LATEST  # type: ignore[operator]


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _check(right: object, name: str) -> None:
    if not right:
        raise ValueError(f"a manifest with a wrong `{name}`")


def validate_outputs(entries: Sequence[Entry], declared: Sequence[str]) -> str | None:
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
    owners = DeclaredOutputs(outputs)
    if missing := outputs.keys() - {owners.of(path) for path in kinds}:
        return f"`{min(missing)}` is missing"
    return _flaw_of(entries, kinds, owners)


def _flaw_of(
    entries: Sequence[Entry], kinds: Mapping[str, str], owners: DeclaredOutputs
) -> str | None:
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


class DeclaredOutputs:
    """Which output a path belongs to; outputs: without a slash at their ends."""

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


def _is_directory(path: str, kinds: Mapping[str, str], owners: DeclaredOutputs) -> bool:
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
