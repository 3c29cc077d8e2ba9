"""The kinds of sources, in the order in which they are asked."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from buildrun.errors import ProjectError
from buildrun.sources import address
from buildrun.sources.contract import Asked, Kind, Opened

KINDS = (
    "buildrun.sources.directory",
    "buildrun.sources.local_git",
    "buildrun.sources.archive",
    "buildrun.sources.git",
    "buildrun.sources.remote_tree",
)


def open_project(uri: str, asked: Asked) -> Opened:
    """Return the project at ``uri``; whoever asked closes it. Raises BuildrunError."""
    parsed = address.parse(uri, asked.cwd)
    for name in KINDS:
        kind = cast(Kind, import_module(name))
        if kind.matches(parsed, asked):
            return kind.open_project(parsed, asked)
    raise ProjectError(
        f"there is no project at `{parsed.shown}`",
        hint="give a directory, a git URL, or an archive",
    )
