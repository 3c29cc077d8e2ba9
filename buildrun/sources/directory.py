"""A directory on this machine: the project runs where it lies."""

from __future__ import annotations

import os

from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest


def matches(address: Address, request: SourceRequest) -> bool:
    """Return whether it is a directory with files, or an MLproject file."""
    path = address.path
    if path is None or request.version is not None:
        return False
    if os.path.isdir(path):
        return not is_repository(path)
    return not is_archive(path)


def open_project(address: Address, request: SourceRequest) -> Checkout:  # noqa: ARG001
    """Return the directory; raises ProjectError."""
    path = address.path or ""
    if not os.path.isdir(path):
        path = _project_of_file(path, address.shown)
    root = addresses.enter(path, address.subdirectory, path)
    return Checkout(root, Origin(root, subdirectory=address.subdirectory))


def is_repository(path: str) -> bool:
    """Return whether a directory is itself what git keeps, as a bare repository is."""
    return (
        os.path.isfile(os.path.join(path, "HEAD"))
        and os.path.isdir(os.path.join(path, "objects"))
        and os.path.isdir(os.path.join(path, "refs"))
    )


def is_archive(name: str) -> bool:
    """Return whether a path or URL has the name of an archive that can be unpacked."""
    return name.lower().endswith(
        (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
    )


def _project_of_file(path: str, given: str) -> str:
    if os.path.basename(path).lower() == "mlproject":
        return os.path.dirname(path)
    raise ProjectError(
        f"`{given}` is a file, and a project is a directory",
        hint="give the directory; choose one of its scripts with `-e SCRIPT`",
    )
