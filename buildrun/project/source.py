"""From what the user names to a directory that holds a project."""

from __future__ import annotations

import os

from buildrun.errors import ProjectError


def fetch(uri: str, cwd: str, version: str | None = None) -> str:
    """Return the absolute directory of the project at ``uri``.

    uri: a directory or a ``file:`` URI, with an optional ``#subdirectory``; quotes around it are
        dropped, as MLflow does. cwd: what a relative path is relative to.
    Raises ProjectError.
    """
    base, subdirectory = _split(uri)
    directory = _local_path(base, cwd)
    if not os.path.exists(directory):
        raise ProjectError(f"there is no project at `{base}`", hint=_missing_hint(base))
    if version is not None:
        raise ProjectError(
            "setting a version is only supported for git project URIs",
            place=uri,
            hint="leave `--version` out, or check the version out yourself",
        )
    if not os.path.isdir(directory):
        directory = _project_of_file(directory, base)
    return _enter(directory, subdirectory)


def _split(uri: str) -> tuple[str, str]:
    base, _, subdirectory = uri.strip("'\"").partition("#")
    return base, subdirectory


def _local_path(base: str, cwd: str) -> str:
    if base.lower().startswith("file:"):
        from urllib.parse import unquote, urlsplit

        parts = urlsplit(base)
        base = unquote(parts.netloc + parts.path if parts.netloc != "localhost" else parts.path)
    if "\0" in base:
        raise ProjectError("the project's path holds a NUL byte")
    return os.path.abspath(os.path.join(cwd, base))


def _missing_hint(base: str) -> str:
    if "://" in base or "@" in base:
        return "this version of buildrun runs local directories; clone or download the project"
    return "give the directory that holds the MLproject file, such as `.`"


def _project_of_file(path: str, given: str) -> str:
    if os.path.basename(path).lower() == "mlproject":
        return os.path.dirname(path)
    raise ProjectError(
        f"`{given}` is a file, and a project is a directory",
        hint="give the directory; choose one of its scripts with `-e SCRIPT`",
    )


def _enter(directory: str, subdirectory: str) -> str:
    if not subdirectory:
        return directory
    if os.path.isabs(subdirectory) or ".." in subdirectory.split("/"):
        raise ProjectError(
            f"the subdirectory `#{subdirectory}` leaves the project",
            hint="give a path below the project, without `..`",
        )
    inside = os.path.join(directory, os.path.normpath(subdirectory))
    if not os.path.isdir(inside):
        raise ProjectError(f"could not find subdirectory `{subdirectory}` of {directory}")
    real = os.path.realpath(inside)
    if os.path.commonpath([real, os.path.realpath(directory)]) != os.path.realpath(directory):
        raise ProjectError(f"the subdirectory `#{subdirectory}` is a link out of the project")
    return inside
