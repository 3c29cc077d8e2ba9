"""Environments in the store: each built once for its key, under a lock, marker last.

A prefix is built at its final path, since virtualenvs and conda environments cannot be moved.
Without its marker it is what a killed build left, and is removed. The lock of a key is held
exclusively while its prefix is built and shared while a command runs in it.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from buildrun import locks
from buildrun.environments.contract import Environment, Identity, Request
from buildrun.environments.prefix import (
    MARKER,
    VERSION,
    discard,
    flaw,
    prefix_of,
    record_use,
    signature,
)
from buildrun.errors import EnvironmentFailure, StoreError
from buildrun.files import publish

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.manager import Manager
    from buildrun.home import Home


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
    try:
        lock = _lock(prefix, shared=True, console=console)
    except StoreError:
        if refresh or flaw(prefix, identity.key) is not None:
            raise
        # A store that may only be read serves what it has; nobody can take it away meanwhile.
        return _ready(manager, identity, prefix, request, reused=True), None
    try:
        reused = True
        while refresh or flaw(prefix, identity.key) is not None:
            lock.release()
            lock = _lock(prefix, shared=False, console=console)
            reason = "it is to be refreshed" if refresh else flaw(prefix, identity.key)
            if reason is not None and not reused:
                raise _unstable(prefix, reason)
            if reason is not None:
                reused = False
                _build(manager, identity, prefix, request, console, lock, reason)
            refresh = False
            lock.share()
        record_use(prefix, request.project.root)
    except BaseException:
        lock.release()
        raise
    return _ready(manager, identity, prefix, request, reused=reused), lock


def _ready(
    manager: Manager, identity: Identity, prefix: str, request: Request, *, reused: bool
) -> Environment:
    variables = manager.activate(prefix, request.environ)
    return Environment(manager.NAME, identity.key, prefix, reused, variables)


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
        "version": VERSION,
        "key": identity.key,
        "manager": manager.NAME,
        "parts": identity.parts,
        "witnesses": listed,
        "base": [base, signature(base)] if base else None,
        "created": int(time.time()),
    }
    publish(os.path.join(prefix, MARKER), json.dumps(marker).encode())


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
    import shutil

    discard(prefix)
    try:
        shutil.rmtree(prefix)
    except OSError:
        if not quietly:
            raise


def _unstable(prefix: str, reason: str) -> StoreError:
    return StoreError(
        f"the environment was built and cannot be used at once: {reason}",
        place=prefix,
        hint="something else removes or changes the store's files; set BUILDRUN_HOME elsewhere",
    )


def _store_failure(prefix: str, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write into the store: {error.strerror or error}",
        place=error.filename or os.path.dirname(prefix),
        hint="set BUILDRUN_HOME to a directory that can be written and has space",
    )
