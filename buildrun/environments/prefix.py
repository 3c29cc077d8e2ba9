"""A prefix in the store: its marker, its lock, whether it is whole.

What a warm run needs of environments, and nothing else.
"""

from __future__ import annotations

import json
import os
from typing import Any

from buildrun.store import locks
from buildrun.store.home import Home

MARKER = ".buildrun.json"
# The roots of the projects that used the environment, a JSON text a line; its time is the last use.
USES = ".buildrun-uses"
VERSION = 1
# A whole prefix that is being refreshed waits under its name with this at the end.
ASIDE = ".old"


def prefix_of(home: Home, key: str) -> str:
    """Return where the environment of this key lies; short, for ``#!`` lines have a limit."""
    return os.path.join(home.environments, key.rpartition(":")[2][:24])


def why_unusable(prefix: str, key: str) -> str | None:
    """Return why a prefix cannot be used, or None when it can."""
    try:
        with open(os.path.join(prefix, MARKER), "rb") as file:
            marker = json.loads(file.read())
        if marker["version"] != VERSION or marker["key"] != key:
            return "it was made by another version of buildrun"
        return _missing(prefix, marker)
    except FileNotFoundError:
        return "an earlier build did not finish" if os.path.lexists(prefix) else "it is new"
    except (OSError, ValueError, KeyError, TypeError):
        return "its marker is damaged"


def acquire(prefix: str, key: str, project: str) -> locks.Lock | None:
    """Return the lock of an environment that is ready and whole, at once, or None."""
    lock = locks.attempt(prefix + ".lock", shared=True)
    if lock is not None and why_unusable(prefix, key) is not None:
        lock.release()
        return None
    if lock is not None:
        record_use(prefix, project)
    return lock


def invalidate(prefix: str) -> None:
    """Make the next run build the environment again."""
    try:
        os.unlink(os.path.join(prefix, MARKER))
    except OSError:
        pass


def _missing(prefix: str, marker: dict[str, Any]) -> str | None:
    for directory, names in marker["witnesses"].items():
        gone = set(names).difference(os.listdir(os.path.join(prefix, directory)))
        if gone:
            return f"`{os.path.join(directory, min(gone))}` is missing from it"
    if marker["base"] is not None:
        path, recorded = marker["base"]
        if signature(path) != recorded:
            return f"its interpreter {path} was changed or removed"
    return None


def signature(path: str) -> list[int] | None:
    """Return what a replaced interpreter would change, or None for an absent one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def record_use(prefix: str, project: str) -> None:
    """Record the use, for collection by age and for `cache ls`."""
    path, line = os.path.join(prefix, USES), json.dumps(project).encode() + b"\n"
    try:
        with open(path, "ab+") as file:
            file.seek(0)
            if line not in file.readlines():
                file.write(line)
        os.utime(path)
    except OSError:
        pass  # a store that may only be read
