"""Environments in the store: each built once for its key, under a lock, marker last.

A prefix is built at its final path, since virtualenvs and conda environments cannot be moved.
Without its marker it is what a killed build left, and is removed. A key has two locks: one for
building, and one for the prefix, held exclusively while it is built and shared while it is used.
"""

from __future__ import annotations

import json
import os
import time
from typing import NamedTuple

from buildrun.console import Console
from buildrun.environments.base import EnvironmentManager, EnvironmentRequest, Identity
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
from buildrun.store.home import Home
from buildrun.store.memo import DependencyTracker, prune

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
    lock: locks.Lock | None = None
    reused = True
    try:
        lock, reused = _Builder(manager, identity, prefix, request, console).obtain(refresh=refresh)
        record_use(prefix, request.project.root)
    except StoreError:
        # A store that may only be read serves what it has; nobody can take it away meanwhile.
        if refresh or why_unusable(prefix, identity.key) is not None:
            raise
    try:
        variables = manager.activate(prefix, request.environ)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return Environment(manager.NAME, identity.key, prefix, reused, variables), lock


class _Builder(NamedTuple):
    """One environment, and all that it takes to build it."""

    manager: EnvironmentManager
    identity: Identity
    prefix: str
    request: EnvironmentRequest
    console: Console

    def obtain(self, *, refresh: bool) -> tuple[locks.Lock, bool]:
        """Return a shared hold on an environment that is whole, and whether it was there."""
        for _ in range(_TRIES):
            use = self._lock(".lock", shared=True)
            if not refresh and self._flaw() is None:
                return use, True
            use.release()
            # Those who come to build wait for the build alone, not for the commands of those who
            # use what was built.
            with self._lock(".build.lock"):
                if not refresh and self._flaw() is None:
                    continue
                use = self._lock(".lock")
                try:
                    built = self._build(use, refresh=refresh)
                    refresh = False
                    # Between the two holds a collection may come in.
                    use.share()
                    if self._flaw() is None:
                        return use, not built
                except BaseException:
                    use.release()
                    raise
                use.release()
        raise StoreError(
            f"the environment was built and cannot be used at once: {self._flaw()}",
            place=self.prefix,
            hint="something else removes or changes the store's files; set BUILDRUN_HOME elsewhere",
        )

    def _flaw(self) -> str | None:
        return why_unusable(self.prefix, self.identity.key)

    def _build(self, lock: locks.Lock, *, refresh: bool) -> bool:
        """Build, unless a refresh that was killed left a whole environment; return whether."""
        prefix, console, name = self.prefix, self.console, self.manager.NAME
        _restore(prefix)
        flaw = self._flaw()
        if flaw is None and not refresh:
            return False
        for warning in self.identity.warnings:
            console.warn(warning)
        reason = flaw or "it is to be refreshed"
        console.note(console.style(f"building the {name} environment ({reason})", "dim"))
        started = time.monotonic()
        try:
            if flaw is None:  # kept until the new one is whole
                os.rename(prefix, prefix + ASIDE)
            else:
                _clear(prefix)
            with going_on(console, f"building the {name} environment"):
                self.manager.build(self.identity, prefix, self.request, console, lock.descriptor)
            self._mark()
            _clear(prefix + ASIDE, quietly=True)
        except BaseException as error:
            _restore(prefix)
            if isinstance(error, OSError):
                raise unwritable(prefix, error) from error
            raise
        prune(self.request.memo, _OLD_RECORDS)
        seconds = time.monotonic() - started
        console.note(console.style(f"environment ready in {seconds:.1f} s: {prefix}", "dim"))
        return True

    def _mark(self) -> None:
        """Write the marker, unless what the environment was made from changed meanwhile."""
        request, identity = self.request, self.identity
        seen = request.memo.parent
        if seen is None or seen.untrackable or not seen.is_current(seen.files, seen.variables):
            now = self.manager.identify(request, DependencyTracker(request.environ))
            if now.key != identity.key:
                raise EnvironmentFailure(
                    "the requirements changed while the environment was built",
                    place=request.project.file or request.project.root,
                    hint="run again",
                )
        listed, base = self.manager.sentinels(self.prefix)
        marker = {
            "version": VERSION,
            "key": identity.key,
            "manager": self.manager.NAME,
            "parts": identity.parts,
            "witnesses": listed,
            "base": [base, signature(base)] if base else None,
            "created": int(time.time()),
        }
        publish(os.path.join(self.prefix, MARKER), json.dumps(marker).encode())

    def _lock(self, suffix: str, *, shared: bool = False) -> locks.Lock:
        name = os.path.basename(self.prefix)
        told = f"waiting for another run that builds or uses the environment {name}"
        try:
            os.makedirs(os.path.dirname(self.prefix), exist_ok=True)
            acquire = locks.shared if shared else locks.exclusive
            return acquire(self.prefix + suffix, waiting=lambda: self.console.note(told))
        except OSError as error:
            raise unwritable(self.prefix, error) from error


def _restore(prefix: str) -> None:
    """Remove what a failed or killed build left, and bring back what it was to replace."""
    if not os.path.lexists(os.path.join(prefix, MARKER)):
        _clear(prefix, quietly=True)
    if not os.path.lexists(prefix) and os.path.lexists(prefix + ASIDE):
        os.rename(prefix + ASIDE, prefix)
    _clear(prefix + ASIDE, quietly=True)


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


def unwritable(place: str, error: OSError) -> StoreError:
    """Return the error for a place in the store that cannot be written to."""
    return StoreError(
        f"cannot write into the store: {error.strerror or error}",
        place=error.filename or place,
        hint="set BUILDRUN_HOME to a directory that can be written and has space",
    )
