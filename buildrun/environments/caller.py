"""What can be known of the caller's own environment, for the keys of results.

It is the Python that commands find, and the names and versions of what is installed for it. Other
programs on PATH are not looked at; who needs them in the key gives the project an environment.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from buildrun import digest
from buildrun.memo import recall

if TYPE_CHECKING:
    from buildrun.environments.contract import Request
    from buildrun.memo import Reader

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


def fingerprint(request: Request) -> str:
    """Return a digest that two machines share where the same Python has the same packages."""

    def compute(reader: Reader) -> str:
        return digest.key("caller", _look(request, reader))

    return str(recall(request.memory, f"caller {request.project.root}", request.environ, compute))


def _look(request: Request, reader: Reader) -> Any:
    for name in _VARIABLES:
        reader.variable(name)
    reader.exists(os.path.join(request.project.root, ".python-version"))
    program = _find(reader)
    if program is None:
        return None
    answer = _ask(program, request)
    if answer is None:
        reader.volatile = True
        return None
    version, executable, found = answer
    reader.executable(str(executable))
    for path, _ in found:
        reader.directory(path)
    return [version, sorted({name for _, names in found for name in names})]


def _find(reader: Reader) -> str | None:
    search = (reader.variable("PATH") or os.defpath).split(os.pathsep)
    for name in ("python", "python3"):
        for directory in search:
            path = os.path.join(directory, name)
            if os.path.isabs(path) and reader.executable(path):
                return path
    return None


def _ask(program: str, request: Request) -> Any:
    import json
    import subprocess

    try:
        done = subprocess.run(
            (program, "-c", _ASK),
            cwd=os.sep,
            env=dict(request.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER,
            check=True,
        )
        return json.loads(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
