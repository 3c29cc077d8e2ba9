"""The shortest way from a command line to its command, when nothing changed since the last time.

A run that succeeded in preparing its command leaves a record of it, with every file, variable
and argument that it was made from. While those are the same and the environment is whole, the
same command line needs neither options nor project nor plan.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun import home
from buildrun.memo import Memory, Reader, known, remember
from buildrun.project.locate import find_mlproject
from buildrun.secrets import are_in

# Where something else than the command is asked for, or the record could not hold it all.
_COLD = frozenset({"--report", "--refresh", "--dry-run"})


def attempt(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> int | None:
    """Run and return the exit code, or None where the long way has to be gone."""
    if not argv or _is_cold(argv):
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

    console = Console(environ, quiet=value["quiet"])
    if value["notice"]:
        console.note(value["notice"])
    try:
        return perform(prepared, environ, console).exit_code
    finally:
        if lock is not None:
            lock.release()


def keep(
    argv: Sequence[str], cwd: str, memory: Memory, seen: Reader, value: Mapping[str, Any]
) -> None:
    """Leave the record for ``attempt``, unless there are credentials in it.

    seen: all that the value was made from.
    """
    if not _is_cold(argv) and not are_in(json.dumps(value)):
        remember(memory, _name(argv, cwd), seen, value, subject=_subject())


def _is_cold(argv: Sequence[str]) -> bool:
    return any(argument.partition("=")[0] in _COLD for argument in argv)


def _name(argv: Sequence[str], cwd: str) -> str:
    return "\0".join(("run", sys.prefix, cwd, *argv))


def _subject() -> list[str]:
    return [sys.version]
