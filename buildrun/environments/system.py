"""The caller's own environment: nothing is built."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun.environments.contract import Identity, Request
from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.lockfile import Lock
    from buildrun.memo import Reader

NAME = "local"

# Functions that bash takes from variables. The second is what it calls for a command that is not
# found, in a process of its own.
_PYTHON3 = '() { python3 "$@"; }'
_NOT_FOUND = (
    '() { echo "bash: $1: command not found" >&2; case $1 in python|python3) echo '
    "'hint: install Python 3 (Debian: `apt-get install python3`), add its directory to `PATH`, "
    "or have an environment built: `--env-manager virtualenv`' >&2; esac; return 127; }"
)


def identify(request: Request, reader: Reader) -> Identity:  # noqa: ARG001
    """Return an identity without a key: what the caller has is not known."""
    return Identity(NAME, "", {})


def build(identity: Identity, prefix: str, request: Request, console: Console, lock: int) -> None:
    """Never called: there is no prefix."""
    raise AssertionError((identity, prefix, request, console, lock))


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:  # noqa: ARG001
    """Return nothing."""
    return {}, ""


def damage(prefix: str) -> Sequence[str]:  # noqa: ARG001
    """Return nothing."""
    return ()


def lock(
    request: Request, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Refuse: there is nothing to lock."""
    raise EnvironmentFailure(
        "the caller's own environment cannot be locked",
        place=str((request.project.root, platforms, previous, console)[0]),
        hint="leave out `--env-manager` and BUILDRUN_ENV_MANAGER",
    )


def activate(prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]:  # noqa: ARG001
    """Return the variable by which a buildrun that the command starts stays in the environment.

    Where there is only a ``python3``, commands find it as ``python`` too: by a function of bash.
    Where there is neither, another one says what to do.
    """
    import shutil

    changes = {"BUILDRUN_ENV_MANAGER": "local"}
    search = environ.get("PATH", os.defpath)
    if shutil.which("python", path=search):
        return changes
    if shutil.which("python3", path=search):
        return {**changes, "BASH_FUNC_python%%": _PYTHON3}
    return {**changes, "BASH_FUNC_command_not_found_handle%%": _NOT_FOUND}
