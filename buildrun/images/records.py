"""What is written down of the images that were made: one small file for each key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun import files, locks
from buildrun.errors import BuildrunError, StoreError
from buildrun.images import reference
from buildrun.locks import Lock

if TYPE_CHECKING:
    from buildrun.home import Home

_NAME = re.compile(r"([0-9a-f]{64})\.json")


class Record(NamedTuple):
    """What a key has made.

    id: empty while it is being made, and after a build that was killed. base: the id of the base.
    bytes: of its own layer. created: seconds since the epoch.
    """

    key: str
    id: str
    reference: str
    base: str
    project: str
    bytes: int = 0
    created: float = 0.0


def read(home: Home, key: str) -> Record | None:
    """Return the record of a key; None where there is none, or it is damaged."""
    try:
        with open(path(home, key), "rb") as file:
            value: Any = json.loads(file.read())
        if value.pop("version") != 1:
            return None
        record = Record(**value)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    kinds = [type(item) for item in record]
    if kinds != [str, str, str, str, str, int, float] or record.key != key:
        return None
    return record if record.id == "" or reference.is_id(record.id) else None


def write(home: Home, record: Record) -> None:
    """Write a record down; raises StoreError."""
    try:
        content = json.dumps({"version": 1, **record._asdict()})
        files.publish(path(home, record.key), content.encode())
    except OSError as error:
        raise _unwritable(home, error) from error


def lock(home: Home, key: str, *, waiting: Callable[[], None]) -> Lock:
    """Return the only right to make what a key stands for; raises StoreError.

    waiting: is called once where somebody else has it.
    """
    try:
        os.makedirs(home.images, exist_ok=True)
        return locks.exclusive(f"{path(home, key)}.lock", waiting=waiting)
    except OSError as error:
        raise _unwritable(home, error) from error


def use(home: Home, key: str) -> None:
    """Note that an image was used, which keeps it from being collected."""
    try:
        os.utime(path(home, key))
    except OSError:
        pass  # it was made with another store, or this one may only be read


def keys(home: Home) -> Iterator[str]:
    """Yield the keys of which there is a record, sound or not."""
    try:
        names = sorted(os.listdir(home.images))
    except OSError:
        return
    for name in names:
        match = _NAME.fullmatch(name)
        if match is not None:
            yield f"sha256:{match.group(1)}"


def path(home: Home, key: str) -> str:
    """Return where the record of a key is."""
    return os.path.join(home.images, f"{key[7:]}.json")


def _unwritable(home: Home, error: OSError) -> BuildrunError:
    return StoreError(
        f"the record of an image cannot be written: {error.strerror}",
        place=home.images,
        hint="set BUILDRUN_HOME",
    )
