"""Runs that are open at a server, so that none stays open when buildrun is killed."""

import json
import os
from collections.abc import Iterator
from typing import NamedTuple

from buildrun.store import locks
from buildrun.store.home import Home


class OpenRun(NamedTuple):
    """A run that may still be open. status, ended: how and when it ended, as far as is known."""

    path: str
    run_id: str
    uri: str
    status: str
    ended: int | None


class RunLease:
    """The hold on a note; an empty one where the store may only be read."""

    def __init__(self, note: OpenRun | None, lock: locks.Lock | None) -> None:
        """Take over the lock."""
        self._note = note
        self._lock = lock

    def leave(self, status: str, ended: int) -> None:
        """Note how the run ended, and leave it to a later run to say so."""
        if self._note is None or self._lock is None:
            return
        try:
            _write(self._lock.descriptor, self._note._replace(status=status, ended=ended))
        except OSError:
            pass
        self._lock.release()

    def drop(self) -> None:
        """Note that the run has ended; calling it again is harmless."""
        if self._note is not None and self._lock is not None and self._lock.descriptor >= 0:
            try:
                if self._lock.is_at(self._note.path):
                    os.unlink(self._note.path)
            except OSError:
                pass
            self._lock.release()


def keep(home: Home, run_id: str, uri: str) -> RunLease:
    """Note that a run is open; a full or read-only disk costs the note only."""
    directory = _directory(home)
    path = os.path.join(directory, run_id)
    note = OpenRun(path, run_id, uri, "", None)
    if not run_id.isalnum():
        return RunLease(None, None)
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        lock = locks.lease(path)
        try:
            _write(lock.descriptor, note)
        except OSError:
            lock.release()
            raise
    except OSError:
        return RunLease(None, None)
    return RunLease(note, lock)


def abandoned(home: Home, uri: str) -> Iterator[tuple[OpenRun, RunLease]]:
    """Yield what nobody holds of the runs at a server; uri: without credentials."""
    directory = _directory(home)
    for name, lock in locks.abandoned(directory):
        path = os.path.join(directory, name)
        note = _read(path, lock.descriptor)
        if note is None or note.run_id != name:
            RunLease(OpenRun(path, name, "", "", None), lock).drop()  # killed before it was written
        elif note.uri == uri:
            yield note, RunLease(note, lock)


def _directory(home: Home) -> str:
    return os.path.join(home.root, "tracking")


def _write(descriptor: int, note: OpenRun) -> None:
    data = json.dumps([note.run_id, note.uri, note.status, note.ended]).encode()
    os.pwrite(descriptor, data, 0)
    os.ftruncate(descriptor, len(data))


def _read(path: str, descriptor: int) -> OpenRun | None:
    try:
        run_id, uri, status, ended = json.loads(os.pread(descriptor, 65536, 0))
    except (OSError, ValueError, TypeError):
        return None
    sound = all(isinstance(text, str) for text in (run_id, uri, status))
    sound = sound and (ended is None or type(ended) is int)
    return OpenRun(path, run_id, uri, status, ended) if sound else None
