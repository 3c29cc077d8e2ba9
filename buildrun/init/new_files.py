"""Files that were not there: all of them whole, or none; nothing is ever overwritten."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping

from buildrun.console import printable
from buildrun.errors import BuildrunError, ProjectError
from buildrun.project.locate import find_mlproject


def require_free(directory: str, names: Iterable[str]) -> None:
    """Raise ProjectError that names all that is there already."""
    taken = {name for name in names if os.path.lexists(os.path.join(directory, name))}
    if os.path.isdir(directory) and (mlproject := find_mlproject(directory)):
        taken.add(os.path.basename(mlproject))
    if taken:
        raise _taken(directory, taken)


def write(directory: str, files: Mapping[str, str]) -> None:
    """Write files into a directory, which is made where it is absent; the last name comes last.

    Raises ProjectError, and then nothing is there that was not there before.
    """
    made: list[str] = []
    is_new = not os.path.isdir(directory)
    try:
        os.makedirs(directory, exist_ok=True)
        require_free(directory, files)
        with tempfile.TemporaryDirectory(prefix=".buildrun-init-", dir=directory) as staging:
            for name, text in files.items():
                _write(os.path.join(staging, name), text)
            for name in files:
                # Unlike a rename, a link replaces nothing that has come meanwhile.
                os.link(os.path.join(staging, name), os.path.join(directory, name))
                made.append(name)
    except BaseException as error:
        for name in made:
            os.unlink(os.path.join(directory, name))
        if is_new and os.path.isdir(directory):
            os.rmdir(directory)
        if isinstance(error, FileExistsError):
            raise _taken(directory, [os.path.basename(error.filename2 or directory)]) from None
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
            raise ProjectError(
                f"the project's files cannot be written: {reason}",
                place=printable(directory),
                hint="nothing was written; see to the directory, and call again",
            ) from None
        raise


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _taken(directory: str, names: Iterable[str]) -> BuildrunError:
    listed = ", ".join(f"`{printable(name)}`" for name in sorted(names))
    return ProjectError(
        f"{listed} would be overwritten, so nothing was written",
        place=printable(directory),
        hint="see what would be written with `--dry-run`; move what is there away, or take "
        "another directory",
    )
