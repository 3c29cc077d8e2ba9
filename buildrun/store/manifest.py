"""The record of a result: what it was made from, and what came out."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun import digest as digests
from buildrun.store.blobs import algorithm_of, is_digest

VERSION = 1
# Seconds; far beyond any calendar, and still a number like others.
_LATEST = 1e12


class Manifest(NamedTuple):
    """A result; it is stored after everything that it names.

    key: the digest of ``parts``, which are JSON; its algorithm is that of all digests here.
    inputs, outputs: digests of listings. declared: paths of outputs as declared, ``dir/`` with
    its slash. log: the digest of what the command wrote, both streams in order. streams: runs of
    (1 or 2, bytes) that say which stream each part of the log went to. seconds: what the command
    took. created: seconds since the epoch. details: JSON that explains and decides nothing.
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
    """Return the manifest.

    Raises ValueError for anything odd, and where the key is not that of the parts: whoever wrote
    this does not decide which question it answers.
    """
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
    _check(is_digest(value["key"]), "key")
    algorithm = algorithm_of(value["key"])
    for name in ("inputs", "outputs", "log"):
        _check(is_digest(value[name]) and algorithm_of(value[name]) == algorithm, name)
    declared, streams = value["declared"], value["streams"]
    _check(isinstance(declared, list) and all(map(is_output, declared)), "declared")
    _check(isinstance(streams, list) and all(map(_is_run, streams)), "streams")
    _check(digests.key("result", value["parts"], algorithm) == value["key"], "key")
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
