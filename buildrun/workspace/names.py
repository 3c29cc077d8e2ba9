"""Names that are no part of a project wherever they are."""

import os
from collections.abc import Iterable

from buildrun.store import home

# Version control's own, and what buildrun itself moves aside while it works.
_NEVER = b".git"
_STAGING = home.STAGING.encode()

VERSION_CONTROL = (".git", ".hg", ".svn")

# What programs leave behind while they run: it decides no result, and it comes and goes.
_LEFTOVERS = frozenset(
    {
        _NEVER, b".hg", b".svn", b"__pycache__", b"mlruns", b"mlartifacts", b".ipynb_checkpoints",
        b".pytest_cache", b".mypy_cache", b".ruff_cache", b".DS_Store",
    }
)  # fmt: skip
_STARTS = (_STAGING, b"mlflow.db")
_ENDS = (b".pyc", b".egg-info")

# What a directory holds that is an environment of Python or conda.
ENVIRONMENT = (b"pyvenv.cfg", b"conda-meta")


def is_never_part(name: bytes) -> bool:
    """Return whether a name is no part of a project even where a pattern spells it."""
    return name == _NEVER or name.startswith(_STAGING)


def is_always_ignored(name: bytes) -> bool:
    """Return whether a name is no part of a project unless a pattern spells it."""
    return name in _LEFTOVERS or name.startswith(_STARTS) or name.endswith(_ENDS)


def is_leftover(path: str) -> bool:
    """Return whether a path is, or lies in, what is ignored unless a pattern spells it."""
    return any(map(is_always_ignored, os.fsencode(path).split(b"/")))


def source(path: str) -> str:
    """Return the source of what Python has compiled, and reads in its place; else the path."""
    directory, cached, name = path.rpartition("__pycache__/")
    return f"{directory}{name.split('.')[0]}.py" if cached and name.endswith(".pyc") else path


def always_ignored(held: Iterable[bytes]) -> set[bytes]:
    """Return the names that are leftovers."""
    found = set(_LEFTOVERS.intersection(held))
    found.update([name for name in held if name.startswith(_STARTS) or name.endswith(_ENDS)])
    return found
