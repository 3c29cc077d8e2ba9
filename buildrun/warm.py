"""The shortest way from a command line to its command, when nothing changed since the last time.

A run that succeeded in preparing its command leaves a record of it, with every file, variable
and argument that it was made from. While those are the same and the environment is whole, the
same command line needs neither options nor project nor plan.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.console import Console, has_credentials
from buildrun.project.locate import find_mlproject
from buildrun.store import home, locks
from buildrun.store.memo import DependencyTracker, Memo, get, lock_of, put

# Where something else than the command is asked for, or the record could not hold it all.
_COLD = frozenset({"--report", "--refresh", "--dry-run", "--watch", "--help", "-h"})


# Before the name of a command line: of what is to be done first, see ``keep``.
_AGAIN = "again\0"


class PlanLease:
    """The right to go the long way for a command line, while others of the same wait.

    argv: the command line, empty where no record shall be left.
    """

    def __init__(self, argv: Sequence[str] = (), lock: locks.Lock | None = None) -> None:
        """Take over a lock, if one is held."""
        self.argv = argv
        self._lock = lock

    def release(self) -> None:
        """Let the others look for what was found; calling it again is harmless."""
        if self._lock is not None:
            self._lock.release()


def attempt(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> int | PlanLease:
    """Run and return the exit code, or a claim where the long way has to be gone."""
    if not argv or _is_cold(argv):
        return PlanLease()
    memory = Memo(home.locate(environ).memo)
    name = _name(argv, cwd)
    code = _run_record(memory, name, environ)
    if code is not None:
        return code
    # Of many that start at once one prepares the command, and the others find it prepared; they
    # wait for that alone, not for each other's commands.
    claim = PlanLease(argv, _wait(memory, name, environ))
    if _again(memory, name, environ) is None and _record(memory, name, environ) is None:
        return claim
    claim.release()
    code = _run_record(memory, name, environ)
    return code if code is not None else PlanLease(argv)


def _run_record(memory: Memo, name: str, environ: Mapping[str, str]) -> int | None:
    """Run what a run left for the next one; None where there is nothing that fits."""
    again = _again(memory, name, environ)
    if again is None:
        return _run(_record(memory, name, environ), environ)
    # In a working directory that is made again first, and removed at the end.
    from buildrun.sources.checkout import restore_checkout

    def load() -> None:
        from buildrun import prepared  # noqa: F401
        from buildrun.environments import prefix  # noqa: F401

    opened = restore_checkout(again, home.locate(environ), environ, load)
    if opened is None:
        return None
    try:
        return _run(_record(memory, name, environ, temporary=True), environ)
    finally:
        opened.close()


def keep(
    claim: PlanLease,
    cwd: str,
    memory: Memo,
    seen: DependencyTracker,
    value: Mapping[str, Any],
    again: Any = None,
) -> None:
    """Leave the record for ``attempt``, unless there are credentials in it.

    seen: all that the value was made from. again: how the working directory is had another time,
    where it is a temporary one; see ``sources.again``.
    """
    if claim.argv and not has_credentials(json.dumps([value, again])):
        name = _name(claim.argv, cwd)
        record = {**value, "temporary": again is not None}
        put(memory, name, seen, record, subject=_subject())
        if again is not None:
            put(memory, _AGAIN + name, DependencyTracker({}), again, subject=_subject())


def _again(memory: Memo, name: str, environ: Mapping[str, str]) -> Any:
    """Return how a temporary working directory is had another time, or None for none."""
    return get(memory, _AGAIN + name, environ, subject=_subject())


def _record(memory: Memo, name: str, environ: Mapping[str, str], *, temporary: bool = False) -> Any:
    """Return what a run left for the next one, or None where anything has changed since.

    temporary: whether the caller has made the working directory for it. Without that it may be
    there as well, but is then another run's.
    """
    value = get(memory, name, environ, subject=_subject())
    if value is None or "tracking" not in value:  # None, or left by an earlier buildrun
        return None
    if value.get("temporary", False) != temporary:
        return None
    if find_mlproject(value["root"]) != value["mlproject"]:
        return None
    return value


def _run(value: Any, environ: Mapping[str, str]) -> int | None:
    """Run what a record says; None where there is none or its environment is not ready."""
    if value is None:
        return None
    console = Console(environ, quiet=value["quiet"])
    if "plan" in value:
        from buildrun import warm_steps

        return warm_steps.attempt(value, environ, console)
    if "docker" in value:
        from buildrun import warm_docker

        return warm_docker.attempt(value, environ, console)
    from buildrun.environments import prefix
    from buildrun.executors.base import Result
    from buildrun.prepared import Prepared, perform, recorded

    prepared = Prepared(**value["prepared"])
    lock = None
    if prepared.prefix is not None:
        lock = prefix.acquire(prepared.prefix, prepared.key, value["root"])
        if lock is None:
            return None
    if value["notice"]:
        console.note(value["notice"])
    try:
        store = home.locate(environ)

        def run(seen: Prepared) -> Result:
            call = lambda log: perform(seen, environ, console, log)  # noqa: E731
            return recorded(seen, value["project"], store.runs, call, console, value.get("where"))

        if value["tracking"] is None:
            return run(prepared).exit_code
        from buildrun import warm_tracking

        prefixes = (prepared.prefix,) if prepared.prefix is not None else ()
        tracked = warm_tracking.begin(value["tracking"], environ, store, console, prefixes)
        seen = prepared._replace(changes={**prepared.changes, **tracked.variables})
        return tracked.told(lambda: run(seen)).exit_code
    finally:
        if lock is not None:
            lock.release()


def _wait(memory: Memo, name: str, environ: Mapping[str, str]) -> locks.Lock | None:
    """Return the lock of a command line, or None where the store may only be read."""

    def waiting() -> None:
        Console(environ).note("waiting for another run that prepares the same command")
        # What comes after the waiting is loaded during it.
        from buildrun import prepared  # noqa: F401

    try:
        return lock_of(memory, name, waiting=waiting)
    except OSError:
        return None


def _is_cold(argv: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] in _COLD for argument in argv)


def _name(argv: Sequence[str], cwd: str) -> str:
    return "\0".join(("run", sys.prefix, cwd, *argv))


def _subject() -> list[str]:
    return [sys.version]
