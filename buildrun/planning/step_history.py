"""The build log: what each step of a project was last made from, and how long it took."""

import json
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.store import locks
from buildrun.store.files import make_directory

VERSION = 1

# The journal is written anew when it has so many more lines than steps.
_SLACK = 200


# Behind a step's id: what its command left last; no id can end so.
_LEFT = "\0left"


class StepRecord(NamedTuple):
    """How a step ended when it last ended well.

    key: "" where the result could not be keyed. inputs, outputs: digests of their listings.
    parts, details: see ``ActionKey``. seconds: that the command took.
    """

    key: str
    parts: Mapping[str, Any]
    details: Mapping[str, Any]
    inputs: str
    outputs: str
    seconds: float


class History:
    """The journal of one project, a file; read at first use."""

    def __init__(self, path: str, *, write: bool = True) -> None:
        """Take the place; nothing is read yet."""
        self._path = path
        self._write = write
        self._known: dict[str, StepRecord] | None = None

    def last(self, step: str) -> StepRecord | None:
        """Return how the step ended last, or None; also None where only its time is known."""
        found = self._all().get(step)
        return found if found is not None and found.parts else None

    def seconds(self) -> dict[str, float]:
        """Return how long the command of each step took when it last ran."""
        return {step: last.seconds for step, last in self._all().items()}

    def record_duration(self, step: str, seconds: float) -> None:
        """Note how long a step took whose result is not kept."""
        self.add(step, StepRecord("", {}, {}, "", "", round(seconds, 3)))

    def leftover(self, step: str) -> str:
        """Return the digest of what a command has left at the step's outputs, or ""."""
        found = self._all().get(step + _LEFT)
        return found.outputs if found is not None else ""

    def record_leftover(self, step: str, outputs: str) -> None:
        """Note what a command has left without a result that is kept; outputs: their digest."""
        if self.leftover(step) != outputs:
            self.add(step + _LEFT, StepRecord("", {}, {}, "", outputs, 0.0))

    def add(self, step: str, last: StepRecord) -> None:
        """Note that a step has ended; a full or read-only disk costs the memory of it only."""
        self._all()[step] = last
        if not self._write:
            return
        line = json.dumps([VERSION, step, *last]).encode() + b"\n"
        try:
            make_directory(os.path.dirname(self._path))
            with locks.exclusive(self._path + ".lock"):
                _append(self._path, line)
        except OSError:
            pass

    def compact(self) -> None:
        """Drop the lines that later ones have replaced, when there are many."""
        if not self._write or self._known is None:
            return
        try:
            with open(self._path, "rb") as file:
                count = sum(1 for _ in file)
            if count <= len(self._known) + _SLACK:
                return
            from buildrun.store.files import publish

            with locks.exclusive(self._path + ".lock"):
                known = self._read()  # another process may have added lines
                lines = [json.dumps([VERSION, step, *last]) for step, last in known.items()]
                publish(self._path, ("\n".join(lines) + "\n").encode(), mode=0o600)
        except OSError:
            pass

    def _all(self) -> dict[str, StepRecord]:
        if self._known is None:
            self._known = self._read()
        return self._known

    def _read(self) -> dict[str, StepRecord]:
        try:
            with open(self._path, "rb") as file:
                lines = file.read().splitlines()
        except OSError:
            return {}
        known = {}
        for line in lines:
            try:
                version, step, *fields = json.loads(line)
                last = StepRecord(*fields)
            except (ValueError, TypeError, RecursionError):
                continue  # cut off where the process was killed
            if version == VERSION and isinstance(step, str) and _is_sound(last):
                known[step] = last
        return known


def _is_sound(last: StepRecord) -> bool:
    texts = (last.key, last.inputs, last.outputs)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(last.parts, dict)
        and isinstance(last.details, dict)
        and isinstance(last.seconds, float | int)
        and last.seconds >= 0
    )


def _append(path: str, line: bytes) -> None:
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        end = os.lseek(descriptor, 0, os.SEEK_END)
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            line = b"\n" + line  # after what a kill has cut off
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
