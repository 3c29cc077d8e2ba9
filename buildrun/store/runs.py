"""Past runs: one directory each, with how it went and the logs of its steps."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.store.files import closing, make_directory, names_in, read_or_none

# Two lines for each time that there was a run of that id: how it began and how it ended. The last
# that can be read counts.
_RECORDS = "run.jsonl"

# Characters of an id that name its directory; each takes up to four bytes, of 255.
_LONGEST_NAME = 60


class Record(NamedTuple):
    """A run as it was recorded.

    status: ``running``, ``ok``, ``failed``, ``cancelled``, ``submitted`` to a cluster, or ``lost``
    where the process ended without saying how. steps: as in `run --report`. born: tells the
    process from later ones of its number, "" where that cannot be told.
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
    born: str


def told(record: Record) -> dict[str, Any]:
    """Return what others are told of a run: all but its process."""
    value = record._asdict()
    del value["pid"], value["born"]
    return value


# Called with each record that is written, and with the id of a run before anything is built for it.
listeners: list[Callable[[Record], None]] = []
id_listeners: list[Callable[[str], None]] = []


def announce(run_id: str) -> None:
    """Tell the listeners the id of a run."""
    for listener in id_listeners:
        listener(run_id)


def directory(runs: str, run_id: str) -> str:
    """Return a run's directory; runs: where all of them are."""
    # An id may be the user's own (`--run-id`), and must not lead elsewhere.
    name = run_id.replace(os.sep, "_").replace("\0", "_")[:_LONGEST_NAME]
    return os.path.join(runs, "_" if name in ("", os.curdir, os.pardir) else name)


def new_id() -> str:
    """Return an id for a run, in the form of MLflow's."""
    return os.urandom(16).hex()


def write(runs: str, record: Record) -> None:
    """Keep the record; a full or read-only disk costs the memory of the run only."""
    place = directory(runs, record.run_id)
    data = json.dumps({"version": 1, **record._asdict()}).encode() + b"\n"
    try:
        try:
            _append(place, data)
        except FileNotFoundError:
            make_directory(place)
            _append(place, data)
    except OSError:
        pass
    for listener in listeners:
        listener(record)


def list_runs(runs: str) -> list[Record]:
    """Return what is recorded, the latest first."""
    found = [load(runs, name) for name in names_in(runs)]
    return sorted((item for item in found if item), key=lambda item: item.started, reverse=True)


def load(runs: str, run_id: str) -> Record | None:
    """Return a run's record, or None where there is none that can be read."""
    data = read_or_none(os.path.join(directory(runs, run_id), _RECORDS)) or b""
    record = next(filter(None, map(_decode, reversed(data.splitlines()))), None)
    if record is not None and record.status == "running" and not _lives(record):
        return record._replace(status="lost")
    return record


def logs(runs: str, run_id: str) -> dict[str, str]:
    """Return the paths of the logs that are there by their names, in the order of the steps."""
    place = directory(runs, run_id)
    return {name: os.path.join(place, name) for name in names_in(place) if name.endswith(".log")}


def file_name(number: int, step: str) -> str:
    """Return a log's name: the step's number, and as much of its id as a file name may have."""
    safe = "".join(char if char.isalnum() or char in "-_." else "_" for char in step[:80])
    return f"{number:03}-{safe.encode('ascii', 'replace').decode().replace('?', '_')}.log"


def find(runs: str, start: str) -> list[str]:
    """Return the ids that begin with the given text."""
    return sorted(name for name in names_in(runs) if name.startswith(start))


def begin(run_id: str, project: str, root: str, entry_point: str) -> Record:
    """Return the record of a run that starts now."""
    pid = os.getpid()
    return Record(
        run_id, project, root, entry_point, time.time(), "running", None, None, (), pid, _born(pid)
    )


def end(
    record: Record, status: str, exit_code: int, seconds: float, steps: Sequence[Any]
) -> Record:
    """Return the record of a run that has ended."""
    return record._replace(
        status=status, exit_code=exit_code, seconds=round(seconds, 3), steps=tuple(steps)
    )


def _append(place: str, data: bytes) -> None:
    # To replace a file makes ext4 write the new one to the disk, which takes milliseconds.
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    with closing(os.open(os.path.join(place, _RECORDS), flags, 0o600)) as descriptor:
        os.write(descriptor, data)


def _decode(line: bytes) -> Record | None:
    """Return the record, or None for a line that was cut off or is no record."""
    try:
        value = json.loads(line)
        record = Record(**{name: value[name] for name in Record._fields})
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if _is_sound(record) else None


def _is_sound(record: Record) -> bool:
    """Return whether all is of its kind, as far as anybody relies on it."""
    texts = (*record[:4], record.status, record.born)
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(record.started, (int, float))
        and isinstance(record.seconds, (int, float, type(None)))
        and isinstance(record.exit_code, (int, type(None)))
        and isinstance(record.pid, int)
        and isinstance(record.steps, list)
        and all(isinstance(step, dict) and _is_step(step) for step in record.steps)
    )


def _is_step(step: Mapping[str, Any]) -> bool:
    return (
        all(isinstance(step.get(name), str) for name in ("id", "entry_point", "state"))
        and isinstance(step.get("seconds"), (int, float))
        and isinstance(step.get("log"), (str, type(None)))
        and isinstance(step.get("cpu_seconds"), (int, float, type(None)))
        and isinstance(step.get("peak_memory"), (int, type(None)))
        and isinstance(step.get("reasons"), list)
        and all(isinstance(reason, dict) for reason in step["reasons"])
    )


def _lives(record: Record) -> bool:
    try:
        os.kill(record.pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return _born(record.pid) == record.born


def _born(pid: int) -> str:
    """Return when a process was started, as Linux tells it; "" elsewhere."""
    try:
        # Without the buffers of a file object, since each plain run begins with this.
        with closing(os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)) as descriptor:
            # The name of the program may hold anything, so count from its end.
            return os.read(descriptor, 4096).rpartition(b")")[2].split()[19].decode()
    except (OSError, IndexError):
        return ""
