"""Past runs: one directory each, with how it went and the logs of its steps."""

import json
import os
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from buildrun.files import publish

_RECORD = "run.json"


class Record(NamedTuple):
    """A run as it was recorded.

    started: seconds since the epoch. status: ``running``, ``ok``, ``failed``, ``cancelled``; or
    ``lost``, where the process ended without saying how. steps: as in `run --report`.
    """

    run_id: str
    project: str
    root: str
    entry_point: str
    started: float
    status: str
    exit_code: int | None
    seconds: float | None
    steps: Sequence[Any]
    pid: int


def directory(runs: str, run_id: str) -> str:
    """Return a run's directory; runs: where all of them are."""
    return os.path.join(runs, run_id)


def new_id() -> str:
    """Return an id for a run, in the form of MLflow's."""
    return os.urandom(16).hex()


def write(runs: str, record: Record) -> None:
    """Keep the record; a full or read-only disk costs the memory of the run only."""
    try:
        place = directory(runs, record.run_id)
        os.makedirs(place, mode=0o700, exist_ok=True)
        value = {"version": 1, **record._asdict()}
        publish(os.path.join(place, _RECORD), json.dumps(value).encode(), mode=0o600)
    except OSError:
        pass


def survey(runs: str) -> list[Record]:
    """Return what is recorded, the latest first."""
    try:
        names = os.listdir(runs)
    except OSError:
        return []
    found = [load(runs, name) for name in names]
    return sorted((item for item in found if item), key=lambda item: item.started, reverse=True)


def load(runs: str, run_id: str) -> Record | None:
    """Return a run's record, or None where there is none that can be read."""
    try:
        with open(os.path.join(directory(runs, run_id), _RECORD), "rb") as file:
            value = json.loads(file.read())
        record = Record(**{name: value[name] for name in Record._fields})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if record.status == "running" and not _lives(record.pid):
        return record._replace(status="lost")
    return record


def find(runs: str, start: str) -> list[str]:
    """Return the ids that begin with the given text."""
    try:
        return sorted(name for name in os.listdir(runs) if name.startswith(start))
    except OSError:
        return []


def begin(run_id: str, project: str, root: str, entry_point: str) -> Record:
    """Return the record of a run that starts now."""
    return Record(
        run_id, project, root, entry_point, time.time(), "running", None, None, (), os.getpid()
    )


def end(
    record: Record, status: str, exit_code: int, seconds: float, steps: Sequence[Any]
) -> Record:
    """Return the record of a run that has ended."""
    return record._replace(
        status=status, exit_code=exit_code, seconds=round(seconds, 3), steps=tuple(steps)
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
