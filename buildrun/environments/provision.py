"""Environments in the store: each built once for its key, under a lock, marker last.

A prefix is built at its final path, since virtualenvs and conda environments cannot be moved.
Without its marker it is what a killed build left, and is removed. A key has two locks: one for
building, and one for the prefix, held exclusively while it is built and shared while it is used.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.heartbeat import going_on
from buildrun.environments.prefix import (
    ASIDE,
    MARKER,
    VERSION,
    invalidate,
    prefix_of,
    record_use,
    signature,
    why_unusable,
)
from buildrun.errors import EnvironmentFailure, StoreError
from buildrun.executors.base import Environment
from buildrun.store import locks
from buildrun.store.files import publish
from buildrun.store.memo import DependencyTracker, prune

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentManager
    from buildrun.store.home import Home

# Seconds after which a record of what was computed is removed, when something is built anyway.
_OLD_RECORDS = 30 * 86400.0

# How often an environment is built when others keep removing it.
_TRIES = 3


def provide(
    manager: EnvironmentManager,
    identity: Identity,
    request: EnvironmentRequest,
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
        variables = manager.activate("", request.environ)
        return Environment(manager.NAME, None, None, True, variables), None
    prefix = prefix_of(home, identity.key)
    try:
        lock, reused = _obtain(manager, identity, prefix, request, console, refresh=refresh)
    except StoreError:
        if refresh or why_unusable(prefix, identity.key) is not None:
            raise
        # A store that may only be read serves what it has; nobody can take it away meanwhile.
        return _ready(manager, identity, prefix, request, reused=True), None
    record_use(prefix, request.project.root)
    try:
        return _ready(manager, identity, prefix, request, reused=reused), lock
    except BaseException:
        lock.release()
        raise


def _obtain(
    manager: EnvironmentManager,
    identity: Identity,
    prefix: str,
    request: EnvironmentRequest,
    console: Console,
    *,
    refresh: bool,
) -> tuple[locks.Lock, bool]:
    """Return a shared hold on an environment that is whole, and whether it was there already."""
    for _ in range(_TRIES):
        use = _lock(prefix, ".lock", console, shared=True)
        if not refresh and why_unusable(prefix, identity.key) is None:
            return use, True
        use.release()
        # Those who come to build wait for the build alone, not for the commands of those who
        # use what was built.
        with _lock(prefix, ".build.lock", console):
            if not refresh and why_unusable(prefix, identity.key) is None:
                continue
            use = _lock(prefix, ".lock", console)
            try:
                built = _build(manager, identity, prefix, request, console, use, refresh=refresh)
                refresh = False
                # Between the two holds a collection may come in.
                use.share()
                if why_unusable(prefix, identity.key) is None:
                    return use, not built
            except BaseException:
                use.release()
                raise
            use.release()
    reason = why_unusable(prefix, identity.key)
    raise StoreError(
        f"the environment was built and cannot be used at once: {reason}",
        place=prefix,
        hint="something else removes or changes the store's files; set BUILDRUN_HOME elsewhere",
    )


def _ready(
    manager: EnvironmentManager,
    identity: Identity,
    prefix: str,
    request: EnvironmentRequest,
    *,
    reused: bool,
) -> Environment:
    variables = manager.activate(prefix, request.environ)
    return Environment(manager.NAME, identity.key, prefix, reused, variables)


def _build(
    manager: EnvironmentManager,
    identity: Identity,
    prefix: str,
    request: EnvironmentRequest,
    console: Console,
    lock: locks.Lock,
    *,
    refresh: bool,
) -> bool:
    """Build under the lock, unless a refresh that was killed left a whole one; return whether."""
    _restore(prefix)
    reason = why_unusable(prefix, identity.key)
    if reason is None and not refresh:
        return False
    for warning in identity.warnings:
        console.warn(warning)
    reason = reason or "it is to be refreshed"
    console.note(console.style(f"building the {manager.NAME} environment ({reason})", "dim"))
    started = time.monotonic()
    try:
        _set_aside(prefix, keep=why_unusable(prefix, identity.key) is None)
        with going_on(console, f"building the {manager.NAME} environment"):
            manager.build(identity, prefix, request, console, lock.descriptor)
        _mark(manager, identity, prefix, request)
        _clear(prefix + ASIDE, quietly=True)
    except OSError as error:
        _restore(prefix)
        raise _store_failure(prefix, error) from error
    except BaseException:
        _restore(prefix)
        raise
    seconds = time.monotonic() - started
    prune(request.memo, _OLD_RECORDS)
    console.note(console.style(f"environment ready in {seconds:.1f} s: {prefix}", "dim"))
    return True


def _set_aside(prefix: str, *, keep: bool) -> None:
    """Make room for a new prefix; a whole one is kept until the new one is."""
    if keep:
        os.rename(prefix, prefix + ASIDE)
    else:
        _clear(prefix)


def _restore(prefix: str) -> None:
    """Remove what a failed or killed build left, and bring back what it was to replace."""
    if not os.path.lexists(os.path.join(prefix, MARKER)):
        _clear(prefix, quietly=True)
    if not os.path.lexists(prefix) and os.path.lexists(prefix + ASIDE):
        os.rename(prefix + ASIDE, prefix)
    _clear(prefix + ASIDE, quietly=True)


def _mark(
    manager: EnvironmentManager, identity: Identity, prefix: str, request: EnvironmentRequest
) -> None:
    """Write the marker, unless what the environment was made from changed meanwhile."""
    if _changed(manager, identity, request):
        raise EnvironmentFailure(
            "the requirements changed while the environment was built",
            place=request.project.file or request.project.root,
            hint="run again",
        )
    listed, base = manager.sentinels(prefix)
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


def _changed(manager: EnvironmentManager, identity: Identity, request: EnvironmentRequest) -> bool:
    seen = request.memo.parent
    if seen is not None and not seen.untrackable and seen.is_current(seen.files, seen.variables):
        return False
    return manager.identify(request, DependencyTracker(request.environ)).key != identity.key


def _lock(prefix: str, suffix: str, console: Console, *, shared: bool = False) -> locks.Lock:
    name = os.path.basename(prefix)

    def waiting() -> None:
        console.note(f"waiting for another run that builds or uses the environment {name}")

    try:
        os.makedirs(os.path.dirname(prefix), exist_ok=True)
        acquire = locks.shared if shared else locks.exclusive
        return acquire(prefix + suffix, waiting=waiting)
    except OSError as error:
        raise _store_failure(prefix, error) from error


def _clear(path: str, *, quietly: bool = False) -> None:
    import shutil

    try:
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.lexists(path):
            invalidate(path)
            shutil.rmtree(path)
    except OSError:
        if not quietly:
            raise


def _store_failure(prefix: str, error: OSError) -> StoreError:
    return StoreError(
        f"cannot write into the store: {error.strerror or error}",
        place=error.filename or os.path.dirname(prefix),
        hint="set BUILDRUN_HOME to a directory that can be written and has space",
    )
