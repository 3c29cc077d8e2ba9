"""How findings are to be shown, and files named: from the caller's directory or a repository's."""

from __future__ import annotations

import os
from typing import NamedTuple


class Style(NamedTuple):
    """How to show findings."""

    cwd: str  # paths beneath it are shown relative to it
    strict: bool = False  # warnings count as failures
    quiet: bool = False  # text without warnings, except when strict
    colour: bool = False
    workspace: str = ""  # the absolute directory that a CI service reads paths from, if known
    columns: int | None = None  # of the terminal


def shown(path: str, cwd: str) -> str:
    """Return a path relative to ``cwd`` where it lies beneath, else as it is."""
    if path == cwd:
        return "."
    prefix = cwd.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else path


def root_of(path: str, style: Style) -> str:
    """Return the directory that services read a file's path from.

    That is the workspace or else the git repository that holds it, or else the caller's directory.
    """
    for workspace in (style.workspace, os.path.realpath(style.workspace)):
        if style.workspace and shown(path, workspace) != path:
            return workspace
    directory = path
    while directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
        if os.path.lexists(os.path.join(directory, ".git")):
            return directory
    return style.cwd


def from_root(path: str, style: Style) -> str:
    """Return a file's path as services read it, absolute where its root is not known."""
    return below(path, root_of(path, style))


def below(path: str, root: str) -> str:
    """Return a path relative to a directory above, without `..`; as it is where there is none."""
    if os.pardir in path.split(os.sep):
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        root = os.path.realpath(root)
    return shown(path, root)
