"""Leases on containers: those whose run is gone are removed."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping

from buildrun.executors.docker_cli import remove_argv
from buildrun.store import locks

# What decides which engine the CLI speaks to.
_ENGINE = ("DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_CONFIG", "DOCKER_TLS_VERIFY",
           "DOCKER_CERT_PATH")  # fmt: skip

# Seconds that the engine may take to remove a container.
_REMOVAL = 60
# Seconds after which a container does not come any more.
_LATEST = 60


class ContainerLease:
    """The hold on a container's file, which lies in the directory."""

    def __init__(self, path: str, lock: locks.Lock) -> None:
        """Take over the lock."""
        self.directory = os.path.dirname(path)
        self._path = path
        self._lock = lock

    def end(self) -> None:
        """Note that the container is gone; calling it again is harmless."""
        if self._lock.descriptor >= 0:
            _unlink(self._path)
            self._lock.release()


def lease(directory: str, name: str, environ: Mapping[str, str]) -> ContainerLease:
    """Note that a container of this name is about to be made by this process; raises OSError."""
    path = os.path.join(directory, name)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, path):
            break
        os.close(descriptor)  # taken for abandoned between its making and its locking
    engine = {key: environ[key] for key in _ENGINE if key in environ}
    os.pwrite(descriptor, json.dumps(engine).encode(), 0)
    return ContainerLease(path, locks.Lock(descriptor))


def abandoned(directory: str) -> list[tuple[str, Mapping[str, str], locks.Lock]]:
    """Return the containers that nobody attends, with the variables of their engine.

    The locks keep others from removing the same ones.
    """
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    found = []
    for name in names:
        lock = locks.attempt(os.path.join(directory, name))
        if lock is None:
            continue
        found.append((name, _engine(lock.descriptor), lock))
    return found


def reap_abandoned(directory: str, environ: Mapping[str, str]) -> list[str]:
    """Remove the containers that nobody attends, and return their names.

    One that is not there may still come: the engine does what a killed CLI has asked of it. So it
    is looked for again at the end of this run, and by the next.
    """
    gone = []
    for name, engine, lock in abandoned(directory):
        with lock:
            others = {key: value for key, value in environ.items() if key not in _ENGINE}
            removed = _removed([name], {**others, **engine})
            if removed is None or (not removed and _age(lock) < _LATEST):
                continue
            _unlink(os.path.join(directory, name))
            gone.append(name)
    return gone


def remove(names: list[str], environ: Mapping[str, str]) -> bool:
    """End and remove containers; returns False where the engine could not be asked."""
    return _removed(names, environ) is not None


def _removed(names: list[str], environ: Mapping[str, str]) -> set[str] | None:
    """Return which containers were there and are not any more; None where that is not known."""
    import subprocess

    try:
        done = subprocess.run(
            remove_argv(names),
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_REMOVAL,
            check=False,
            # Ctrl-C is for the command, not for the tidying up after it.
            start_new_session=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    if done.returncode != 0 and b"no such container" not in done.stderr.lower():
        return None
    return set(done.stdout.decode(errors="replace").split())


def _age(lock: locks.Lock) -> float:
    return time.time() - os.fstat(lock.descriptor).st_mtime


def _engine(descriptor: int) -> Mapping[str, str]:
    try:
        value = json.loads(os.pread(descriptor, 65536, 0))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_at(descriptor: int, path: str) -> bool:
    try:
        there = os.stat(path)
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
