"""Leases on containers: those whose run is gone are removed."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping

from buildrun.store import locks
from buildrun.store.cas import ignore_errors

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
            ignore_errors(os.unlink, self._path)
            self._lock.release()


def lease(directory: str, name: str, environ: Mapping[str, str]) -> ContainerLease:
    """Note that a container of this name is about to be made by this process; raises OSError."""
    path = os.path.join(directory, name)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = locks.lease(path)
    engine = {key: environ[key] for key in _ENGINE if key in environ}
    os.pwrite(lock.descriptor, json.dumps(engine).encode(), 0)
    return ContainerLease(path, lock)


def reap_abandoned(directory: str, environ: Mapping[str, str]) -> list[str]:
    """Remove the containers that nobody attends, and return their names.

    One that is not there may still come: the engine does what a killed CLI has asked of it. So it
    is looked for again at the end of this run, and by the next.
    """
    gone = []
    others = {key: value for key, value in environ.items() if key not in _ENGINE}
    for name, lock in locks.abandoned(directory):
        removed = _removed([name], {**others, **_engine(lock.descriptor)})
        age = time.time() - os.fstat(lock.descriptor).st_mtime
        if removed is not None and (removed or age >= _LATEST):
            ignore_errors(os.unlink, os.path.join(directory, name))
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
            ("docker", "rm", "--force", "--volumes", *names),
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


def _engine(descriptor: int) -> Mapping[str, str]:
    try:
        value = json.loads(os.pread(descriptor, 65536, 0))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
