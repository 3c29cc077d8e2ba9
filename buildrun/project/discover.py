"""The projects of a repository: all of them, those that a change concerns, and their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.store import home
from buildrun.store.memo import DependencyTracker, Memo, memoize
from buildrun.workspace import names
from buildrun.workspace.gitignore import Filter, ask_git
from buildrun.workspace.walk import Sink, walk

_LS_FILES = (
    "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--",
    ":(glob,icase)**/MLproject",
)  # fmt: skip


def find_projects(directory: str, environ: Mapping[str, str]) -> list[str]:
    """Return the directories of all projects in a directory and below, in order.

    Those of which git tracks the MLproject file or would not ignore it; where there is no git, what
    no ignore file leaves out.
    """
    said = ask_git(directory, environ, *_LS_FILES) or b""
    top = os.fsencode(directory)
    files = set(said.split(b"\0")) - {b""} or _walk(top)
    found = {
        os.path.dirname(os.path.join(top, file))
        for file in files
        if not any(map(names.is_always_ignored, file.split(b"/")))
        and _may_exist(os.path.join(top, file))
    }
    return sorted(map(os.fsdecode, found))


def _may_exist(path: bytes) -> bool:
    """Return whether a file is there, also where its directory cannot be read."""
    try:
        os.lstat(path)
    except PermissionError:
        return True
    except OSError:
        return False
    return True


def none_below(directory: str) -> ProjectError:
    """Return the error for a directory in which no project was found."""
    return ProjectError(
        "there is no MLproject file in this directory or below",
        place=printable(directory),
        hint="choose a directory with projects; what git ignores does not count",
    )


def _walk(directory: bytes) -> list[bytes]:
    """Return the MLproject files below, also where git refuses or its repository is empty."""
    chunks = walk(directory, b"", Filter(directory), Sink(passing_over=True))
    return [
        path
        for paths, _ in chunks
        for path in paths
        if path.rpartition(b"/")[2].lower() == b"mlproject"
    ]


def concerned(
    projects: Sequence[str],
    paths: Iterable[str],
    environ: Mapping[str, str],
    *,
    write: bool = True,
) -> list[str]:
    """Return the projects that a change of these paths concerns.

    One of them lies in the project, or is a file that its MLproject or environment file names.
    write: False leaves the store alone.
    """
    changed: set[str] = set()
    above: set[str] = set()
    real: dict[str, str] = {}
    for path in paths:
        directory, name = os.path.split(path)
        if directory not in real:
            real[directory] = os.path.realpath(directory)
        place = os.path.join(real[directory], name)
        changed.update((place, os.path.realpath(place)))
        while place not in above and place != os.sep:
            above.add(place)
            place = os.path.dirname(place)
    return [
        root
        for root in projects
        if changed
        and (
            os.path.realpath(root) in above
            or not changed.isdisjoint(files_of(root, environ, write=write))
        )
    ]


def files_of(root: str, environ: Mapping[str, str], *, write: bool = True) -> list[str]:
    """Return the MLproject, the environment files and what they name, links followed; remembered.

    A file that is named counts also where it does not exist.
    """

    def compute(reader: DependencyTracker) -> list[str]:
        from buildrun.project.read import read_project

        read_project(root, reader)
        return sorted(path for path in reader.files if "\0" not in path)

    memory = Memo(home.locate(environ).memo, write)
    found = memoize(memory, f"files of {root}", environ, compute)
    return [os.path.realpath(path) for path in found]
