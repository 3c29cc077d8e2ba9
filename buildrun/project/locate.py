"""Where a project's files lie. Imported by every run, so it imports nothing heavy."""

from __future__ import annotations

import os

from buildrun.errors import ProjectError

PYTHON_ENV = "python_env.yaml"
CONDA_ENV = "conda.yaml"

# How far below a directory projects are looked for.
_LEVELS = 4
_DIRECTORIES = 1000


def find_mlproject(root: str) -> str | None:
    """Return the path of the MLproject file in any letter case, the usual one first, or None.

    It may be a directory, which is for the reader to refuse. Raises ProjectError.
    """
    try:
        names = os.listdir(root)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ProjectError(
            f"the directory cannot be read: {reason}", place=root, hint="check the path"
        ) from error
    matches = [name for name in names if name.lower() == "mlproject"]
    if not matches:
        return None
    return os.path.join(root, min(matches, key=lambda name: (name != "MLproject", name)))


def lock_path(environment_file: str) -> str:
    """Return where the lock of an environment file is."""
    return os.path.splitext(environment_file)[0] + ".lock"


def scripts_in(root: str) -> list[str]:
    """Return the files in a directory that run as entry points without being declared."""
    return [
        name
        for name in sorted(os.listdir(root))
        if name.endswith((".py", ".sh", ".R")) and os.path.isfile(os.path.join(root, name))
    ]


def projects_below(root: str) -> list[str]:
    """Return the directories below with an MLproject, relative to `root`; large trees in part."""
    found: list[str] = []
    level, count = [""], 0
    for _ in range(_LEVELS):
        below: list[str] = []
        for path in level:
            names = _directories(os.path.join(root, path))
            below += [os.path.join(path, name) for name in names]
        below = below[: _DIRECTORIES - count]
        count += len(below)
        level = []
        for path in below:
            try:
                is_project = find_mlproject(os.path.join(root, path)) is not None
            except ProjectError:
                continue
            (found if is_project else level).append(path)
    return sorted(found)


def _directories(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            )
    except OSError:
        return []
