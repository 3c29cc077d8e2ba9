"""uv's failures in a few lines, with the place in the user's file and a remedy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.environments.requirements import name_of
from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.environments.requirements import Line
    from buildrun.environments.uv import ToolFailure

_REMEDIES = (
    ("no space left", "free space on the store's disk, or set BUILDRUN_HOME to another one"),
    ("failed to initialize cache", "set UV_CACHE_DIR to a directory that can be written"),
    ("read-only file system", "set BUILDRUN_HOME to a directory that can be written"),
    ("permission denied", "set BUILDRUN_HOME to a directory that you may write to"),
    ("not found in the package registry", "check the name's spelling and the package index"),
    ("hash mismatch", "the file is not the one that was locked; do not install it blindly"),
    ("certificate", "name your certificate authority in PIP_CERT or SSL_CERT_FILE"),
    ("no solution found", "loosen or correct the versions that it names"),
    ("not compatible", "choose a version that has a wheel for this platform"),
    ("dns error", "check the network and the index's address"),
    ("error sending request", "check the network and the index's address"),
    ("failed to fetch", "check the network and the index's address"),
    ("network connectivity is disabled", "run once without `--offline`"),
    ("failed to build", "install what the build names, or choose a version with a wheel"),
    ("failed to parse", "correct the requirement"),
)
_CHATTER = ("Using ", "Creating ", "Activate ", "warning:", "Resolved ", "Prepared ")


def explain(
    failure: ToolFailure, what: str, lines: Sequence[Line], default: str
) -> EnvironmentFailure:
    """Return the error to raise.

    failure: uv's; what the user has seen of it is not said again.
    what: the fact, such as "the environment could not be built".
    lines: the requirements, one of which may be to blame. default: the place if none is.
    """
    said = [line.rstrip() for line in failure.output.splitlines() if line.strip()]
    reason = [f"  {line}" for line in said if not line.startswith(_CHATTER)]
    message = what if failure.shown else "\n".join([f"{what}; uv says:", *reason[-12:]])
    return EnvironmentFailure(
        message,
        place=_blame(failure.output, lines) or default,
        hint=_remedy(failure.output),
    )


def locate(path: str | None, text: str) -> str | None:
    """Return the place in a file where a text stands, else the file."""
    try:
        with open(path or "", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if text and text in line:
                    return f"{path}:{number}:{line.index(text) + 1}"
    except (OSError, UnicodeDecodeError):
        pass
    return path


def _blame(output: str, lines: Sequence[Line]) -> str | None:
    said = set(re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", re.sub(r"[_.]+", "-", output.lower())))
    for line in lines:
        if line.text in output or name_of(line.text) in said:
            return f"{line.path}:{line.number}" if line.number else locate(line.path, line.text)
    return None


def _remedy(output: str) -> str:
    said = output.lower()
    for sign, remedy in _REMEDIES:
        if sign in said:
            return remedy
    return "correct the requirements, or run in your own environment with `--env-manager local`"
