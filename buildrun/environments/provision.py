"""Environments in the store: each built once for its key, under a lock, marker last.

A prefix is built at its final path, since virtualenvs and conda environments cannot be moved.
Without its marker it is what a killed build left, and is removed. The lock of a key is held
exclusively while its prefix is built and shared while a command runs in it.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import TYPE_CHECKING, Any

from buildrun import locks
from buildrun.environments.contract import Environment, Identity, Manager, Request
from buildrun.errors import EnvironmentFailure, StoreError
from buildrun.files import publish

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.home import Home

MARKER = ".buildrun.json"
# The roots of the projects that used the environment, a JSON text a line; its time is the last use.
USES = ".buildrun-uses"
_VERSION = 1


def prefix_of(home: Home, key: str) -> str:
    """Return where the environment of this key lies; short, for ``#!`` lines have a limit."""
    return os.path.join(home.environments, key.rpartition(":")[2][:24])


def flaw(prefix: str, key: str) -> str | None:
    """Return why a prefix cannot be used, or None when it can."""
    try:
        with open(os.path.join(prefix, MARKER), "rb") as file:
            marker = json.loads(file.read())
        if marker["version"] != _VERSION or marker["key"] != key:
            return "it was made by another version of buildrun"
        return _missing(prefix, marker)
    except FileNotFoundError:
        return "an earlier build did not finish" if os.path.lexists(prefix) else "it is new"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its marker cannot be read ({error})"


def provide(
    manager: Manager,
    identity: Identity,
    request: Request,
    home: Home,
    console: Console,
    *,
    refresh: bool = False,
) -> tuple[Environment, locks.Lock | None]:
    """Return the environment, built if need be, and the lock that keeps it while it is used.

    refresh: build it anew even if it is there.
    Raises EnvironmentFailure, StoreError; then no half-made prefix is left.
    """
    if not identity.key:
        return Environment(manager.NAME, None, None, True, {}), None
    prefix = prefix_of(home, identity.key)
    variables = manager.activate(prefix, request.environ)
    try:
        lock = _lock(prefix, shared=True, console=console)
    except StoreError:
        if refresh or flaw(prefix, identity.key) is not None:
            raise
        # A store that may only be read serves what it has; nobody can take it away meanwhile.
        return Environment(manager.NAME, identity.key, prefix, True, variables), None
    try:
        reused = True
        while refresh or flaw(prefix, identity.key) is not None:
            lock.release()
            lock = _lock(prefix, shared=False, console=console)
            reason = "it is to be refreshed" if refresh else flaw(prefix, identity.key)
            if reason is not None:
                reused = False
                _build(manager, identity, prefix, request, console, lock, reason)
            refresh = False
            lock.share()
        _record_use(prefix, request.project.root)
    except BaseException:
        lock.release()
        raise
    return Environment(manager.NAME, identity.key, prefix, reused, variables), lock


def discard(prefix: str) -> None:
    """Make the next run build the environment again."""
    try:
        os.unlink(os.path.join(prefix, MARKER))
    except OSError:
        pass


def _build(
    manager: Manager,
    identity: Identity,
    prefix: str,
    request: Request,
    console: Console,
    lock: locks.Lock,
    reason: str,
) -> None:
    for warning in identity.warnings:
        console.warn(warning)
    console.note(console.style(f"building the {manager.NAME} environment ({reason})", "dim"))
    started = time.monotonic()
    _clear(prefix)
    try:
        manager.build(identity, prefix, request, console, lock.descriptor)
        _mark(manager, identity, prefix, request)
    except OSError as error:
        _clear(prefix, quietly=True)
        raise _store_failure(prefix, error) from error
    except BaseException:
        _clear(prefix, quietly=True)
        raise
    seconds = time.monotonic() - started
    console.note(console.style(f"environment ready in {seconds:.1f} s: {prefix}", "dim"))


def _mark(manager: Manager, identity: Identity, prefix: str, request: Request) -> None:
    """Write the marker, unless what the environment was made from changed meanwhile."""
    from buildrun.memo import Reader

    again = manager.identify(request, Reader(request.environ))
    if again.key != identity.key:
        raise EnvironmentFailure(
            "the requirements changed while the environment was built",
            place=request.project.file or request.project.root,
            hint="run again",
        )
    listed, base = manager.witnesses(prefix)
    marker = {
        "version": _VERSION,
        "key": identity.key,
        "manager": manager.NAME,
        "parts": identity.parts,
        "witnesses": listed,
        "base": [base, _signature(base)] if base else None,
        "created": int(time.time()),
    }
    publish(os.path.join(prefix, MARKER), json.dumps(marker).encode())


def _missing(prefix: str, marker: dict[str, Any]) -> str | None:
    for directory, names in marker["witnesses"].items():
        gone = set(names).difference(os.listdir(os.path.join(prefix, directory)))
        if gone:
            return f"`{os.path.join(directory, min(gone))}` is missing from it"
    if marker["base"] is not None:
        path, signature = marker["base"]
        if _signature(path) != signature:
            return f"its interpreter {path} was changed or removed"
    return None


def _signature(path: str) -> list[int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _lock(prefix: str, *, shared: bool, console: Console) -> locks.Lock:
    name = os.path.basename(prefix)

    def waiting() -> None:
        console.note(f"waiting for another run that builds or uses the environment {name}")

    try:
        os.makedirs(os.path.dirname(prefix), exist_ok=True)
        acquire = locks.shared if shared else locks.exclusive
        return acquire(prefix + ".lock", waiting=waiting)
    except OSError as error:
        raise _store_failure(prefix, error) from error


def _clear(prefix: str, *, quietly: bool = False) -> None:
    if not os.path.lexists(prefix):
        return
    discard(prefix)
    try:
        shutil.rmtree(prefix)
    except OSError:
        if not quietly:
            raise


def _record_use(prefix: str, project: str) -> None:
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


def _store_failure(prefix: str, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write into the store: {error.strerror or error}",
        place=error.filename or os.path.dirname(prefix),
        hint="set BUILDRUN_HOME to a directory that can be written and has space",
    )
