"""What `buildrun validate` checks: files that are named, a repository's projects, or a text."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence

from buildrun.console import Console, printable
from buildrun.errors import UsageError
from buildrun.project import discover
from buildrun.project.locate import CONDA_ENV, PYTHON_ENV, find_mlproject
from buildrun.project.read import Row, check_content, check_files, check_project
from buildrun.project.yaml_loader import SIZE_LIMIT
from buildrun.store.memo import DependencyTracker
from buildrun.workspace.changes import changed_since, repository_top, staged_deletions

# Files that are of a project by their names alone.
_BY_NAME = re.compile(r"mlproject|(python_env|conda)\.ya?ml", re.IGNORECASE)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose what is checked."""
    option = parser.add_argument
    option(
        "paths", metavar="PATH", nargs="*",
        help="a project's directory, an MLproject, an environment file, or `-` for standard input; "
        "default: all projects of the repository",
    )  # fmt: skip
    option(
        "--stdin-filename", metavar="PATH",
        help="where the text on standard input belongs; default: MLproject",
    )  # fmt: skip
    option(
        "--since", metavar="REV",
        help="only projects of which a file has changed since the branch left this revision",
    )  # fmt: skip
    option(
        "--of-projects", action="store_true",
        help="of the files that are named, pass over those that belong to no project",
    )  # fmt: skip


def check(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> Sequence[Row]:
    """Return the verdicts; raises UsageError, and ProjectError where there is nothing to check."""
    paths = arguments.paths
    if paths != ["-"] and ("-" in paths or arguments.stdin_filename is not None):
        raise UsageError(
            "a text on standard input is checked alone",
            hint="`buildrun validate - --stdin-filename PATH`; a file of that name is `./-`",
        )
    if arguments.since is not None and (paths or arguments.of_projects):
        raise UsageError(
            "`--since` chooses among all projects of the repository",
            hint="leave the paths out, or name what has changed yourself",
        )
    if paths == ["-"]:
        path = os.path.normpath(os.path.join(cwd, arguments.stdin_filename or "MLproject"))
        return [check_content(sys.stdin.buffer.read(SIZE_LIMIT + 1), path, cwd, environ)]
    if arguments.of_projects:
        return _check_those_of_projects(paths, environ, cwd)
    reader = DependencyTracker(environ)
    return check_files(paths or _projects(arguments.since, environ, cwd), cwd, reader)


def _projects(since: str | None, environ: Mapping[str, str], cwd: str) -> list[str]:
    """Return the projects of the repository, relative to the current directory."""
    top = repository_top(cwd) or cwd
    found = discover.find_projects(top, environ)
    if cwd not in found and _is_project(cwd):
        found.insert(0, cwd)  # git ignores it, or it has no MLproject
    if not found:
        raise discover.none_below(top)
    if since is not None:
        found = discover.concerned(found, changed_since(top, since, environ), environ)
        if not found:
            Console(environ).note(f"no project has changed since `{printable(since)}`")
    return [os.path.relpath(root, cwd) for root in found]


def _is_project(directory: str) -> bool:
    names = (PYTHON_ENV, CONDA_ENV)
    return find_mlproject(directory) is not None or any(
        os.path.exists(os.path.join(directory, name)) for name in names
    )


def _check_those_of_projects(
    paths: Sequence[str], environ: Mapping[str, str], cwd: str
) -> list[Row]:
    """Check what a project names or what has the name of a project's file, and nothing else.

    Where a file that it names is going to be deleted, all files of the project are checked.
    """
    reader = DependencyTracker(environ)
    top = repository_top(cwd) or cwd
    given = {os.path.realpath(os.path.join(cwd, path)): path for path in paths}
    deleted = set(map(os.path.realpath, staged_deletions(top, environ)))
    rows: dict[Row, None] = {}
    for root in discover.find_projects(top, environ):
        named = discover.files_of(root, environ)
        if given.keys().isdisjoint(named) and deleted.isdisjoint(named):
            continue
        files = check_project(root, reader)
        for path in () if deleted.isdisjoint(named) else [file.path for file in files]:
            given.setdefault(os.path.realpath(path), os.path.relpath(path, cwd))
        for file in files:
            if os.path.realpath(file.path) in given:
                rows[Row(given[os.path.realpath(file.path)], *file)] = None
    checked = {row.argument for row in rows}
    rest = [
        path
        for path in given.values()
        if path not in checked and _BY_NAME.fullmatch(os.path.basename(path))
    ]
    return [*rows, *check_files(rest, cwd, reader)]
