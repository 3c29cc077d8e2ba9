"""What a command, and all that it started, did with files: the record of a trace."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

VERSION = 1


class Accesses(NamedTuple):
    """What was done with files; paths are absolute, without links, undecodable bytes escaped.

    read: what was there before and was opened for reading, or run. written: what was made, changed
    or removed. listed: directories whose names were read, as a program's own doing. searched: those
    whose names were read in search of single ones, as far as can be told. looked_up: names that
    were looked for and neither read nor written, and what was there: "", ``file`` or ``directory``.
    variables: names of variables that Python programs read. unseen: why not everything was seen, ""
    where it was.
    """

    read: tuple[str, ...] = ()
    written: tuple[str, ...] = ()
    listed: tuple[str, ...] = ()
    looked_up: Mapping[str, str] = {}
    variables: tuple[str, ...] = ()
    unseen: str = ""
    searched: tuple[str, ...] = ()


def joined(earlier: Accesses | None, later: Accesses) -> Accesses:
    """Return what two tries of a command did: what the first one has read the other may know."""
    if earlier is None:
        return later
    both = {
        name: tuple(dict.fromkeys(getattr(earlier, name) + value))
        for name, value in later._asdict().items()
        if isinstance(value, tuple)
    }
    looked_up = {**later.looked_up, **earlier.looked_up}
    return Accesses(**both, looked_up=looked_up, unseen=earlier.unseen or later.unseen)


def encode(accesses: Accesses) -> bytes:
    """Return the record as JSON in ASCII."""
    value = {"version": VERSION, **accesses._asdict()}
    return json.dumps(value, separators=(",", ":")).encode()


def decode(data: bytes) -> Accesses:
    """Return the record; raises ValueError where it is none of ours."""
    value = json.loads(data)
    if not isinstance(value, dict) or value.pop("version", None) != VERSION:
        raise ValueError("not a record of accesses")
    if value.keys() != set(Accesses._fields):
        raise ValueError("not a record of accesses")
    for name in ("read", "written", "listed", "variables", "searched"):
        value[name] = tuple(value[name])
    return Accesses(**value)
