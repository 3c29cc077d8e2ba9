"""The caller's own environment: nothing is built."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.console import Console
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.lockfile import Lock
from buildrun.errors import EnvironmentFailure
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker, memoize

NAME = "local"

# Functions that bash takes from variables. The second is what it calls for a command that is not
# found, in a process of its own.
_PYTHON3 = '() { python3 "$@"; }'
_NOT_FOUND = (
    '() { echo "bash: $1: command not found" >&2; case $1 in python|python3) echo '
    "'hint: install Python 3 (Debian: `apt-get install python3`), add its directory to `PATH`, "
    "or have an environment built: `--env-manager virtualenv`' >&2; esac; return 127; }"
)


def identify(request: EnvironmentRequest, reader: DependencyTracker) -> Identity:  # noqa: ARG001
    """Return an identity without a key: what the caller has is not known."""
    return Identity(NAME, "", {})


def build(
    identity: Identity, prefix: str, request: EnvironmentRequest, console: Console, lock: int
) -> None:
    """Never called: there is no prefix."""
    raise AssertionError((identity, prefix, request, console, lock))


def sentinels(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:  # noqa: ARG001
    """Return nothing."""
    return {}, ""


def modified_files(prefix: str) -> Sequence[str]:  # noqa: ARG001
    """Return nothing."""
    return ()


def lock(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
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
    changes = {"BUILDRUN_ENV_MANAGER": "local"}
    search = environ.get("PATH", os.defpath)
    if shutil.which("python", path=search):
        return changes
    if shutil.which("python3", path=search):
        return {**changes, "BASH_FUNC_python%%": _PYTHON3}
    return {**changes, "BASH_FUNC_command_not_found_handle%%": _NOT_FOUND}


# Prints the version, then each directory of modules and what is installed there.
_ASK = """
import json, os, sys
found = []
for path in sys.path:
    if os.path.isdir(path):
        names = sorted(n for n in os.listdir(path) if n.endswith((".dist-info", ".egg-info")))
        found.append([os.path.abspath(path), names])
print(json.dumps([sys.version, sys.executable, found]))
"""

_ANSWER = 20.0  # seconds that the program may take

# What decides which Python a command finds, and where that looks for modules.
_VARIABLES = ("PYENV_VERSION", "PYTHONHOME", "PYTHONPATH", "PYTHONNOUSERSITE", "VIRTUAL_ENV")


def describe_active_python(request: EnvironmentRequest) -> str:
    """Return a digest that two machines share where the same Python has the same packages."""

    def compute(reader: DependencyTracker) -> str:
        return digest.key("caller", _describe(request, reader))

    return str(memoize(request.memo, f"caller {request.project.root}", request.environ, compute))


def _describe(request: EnvironmentRequest, reader: DependencyTracker) -> Any:
    """Return the version of the Python that commands find, and what is installed for it."""
    for name in _VARIABLES:
        reader.variable(name)
    reader.exists(os.path.join(request.project.root, ".python-version"))
    search = (reader.variable("PATH") or os.defpath).split(os.pathsep)
    names = ("python", "python3")
    paths = [os.path.join(directory, name) for name in names for directory in search]
    program = next((path for path in paths if os.path.isabs(path) and reader.executable(path)), "")
    if not program:
        return None
    try:
        done = subprocess.run(
            (program, "-c", _ASK), cwd=os.sep, env=dict(request.environ),
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER, check=True,
        )  # fmt: skip
        version, executable, found = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        reader.untrackable = True
        return None
    reader.executable(str(executable))
    for path, _ in found:
        reader.directory(path)
    return [version, sorted({name for _, names in found for name in names})]
