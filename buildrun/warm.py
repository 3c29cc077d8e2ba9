"""The shortest way from a command line to its command, when nothing changed since the last time.

A run that succeeded in preparing its command leaves a record of it, with every file, variable
and argument that it was made from. While those are the same and the environment is whole, the
same command line needs neither options nor project nor plan.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun import home
from buildrun.memo import Memory, Reader, known, remember
from buildrun.project.locate import find_mlproject

# Where something else than the command is asked for, or the record could not hold it all.
_COLD = frozenset({"--report", "--refresh", "--dry-run"})


def attempt(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> int | None:
    """Run and return the exit code, or None where the long way has to be gone."""
    if not argv or not _COLD.isdisjoint(argv):
        return None
    memory = Memory(home.locate(environ).memory, write=False)
    value = known(memory, _name(argv, cwd), environ, subject=_subject())
    if value is None or find_mlproject(value["root"]) != value["mlproject"]:
        return None
    from buildrun.environments import prefix
    from buildrun.run import Prepared, perform

    prepared = Prepared(**value["prepared"])
    lock = None
    if prepared.prefix is not None:
        lock = prefix.hold(prepared.prefix, prepared.key, value["root"])
        if lock is None:
            return None
    from buildrun.console import Console

    try:
        return perform(prepared, environ, Console(environ, quiet=value["quiet"])).exit_code
    finally:
        if lock is not None:
            lock.release()


def keep(
    argv: Sequence[str], cwd: str, memory: Memory, seen: Reader, value: Mapping[str, Any]
) -> None:
    """Leave the record for ``attempt``; seen: all that the value was made from."""
    if _COLD.isdisjoint(argv):
        remember(memory, _name(argv, cwd), seen, value, subject=_subject())


def _name(argv: Sequence[str], cwd: str) -> str:
    return "\0".join(("run", cwd, *argv))


def _subject() -> list[str]:
    return [sys.version, sys.prefix]
