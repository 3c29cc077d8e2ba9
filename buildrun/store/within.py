"""Directories of the project, opened so that no symbolic link leads out of it."""

import os

from buildrun.errors import StoreError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def open_directory(root: str, path: str, *, make: bool = False) -> int:
    """Return a descriptor of the directory at ``path``, relative to the root.

    Links that stay inside the root are followed. make: what is absent is made. Raises OSError,
    and StoreError where the path leads out.
    """
    base = os.path.realpath(root)
    real = os.path.realpath(os.path.join(base, path))
    if real != base and not real.startswith(base.rstrip("/") + "/"):
        raise StoreError("it leads out of the project", place=os.path.join(root, path))
    # Step by step: what has become a link since it was resolved is not followed.
    directory = os.open(base, _DIRECTORY)
    for name in os.path.relpath(real, base).split("/") if real != base else ():
        above = directory
        try:
            directory = _enter(above, name, make=make)
        finally:
            os.close(above)
    return directory


def enter(directory: int | None, name: str) -> int:
    """Return a descriptor of a directory in another one; raises OSError, also for a link."""
    return os.open(name, _DIRECTORY, dir_fd=directory)


def _enter(above: int, name: str, *, make: bool) -> int:
    try:
        return enter(above, name)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=above)
    except FileExistsError:
        pass  # another process made it
    return enter(above, name)
