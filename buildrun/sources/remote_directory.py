"""A project in a directory at an address that fsspec reads, such as s3://: copied for each run."""

from __future__ import annotations

from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest, version_refused
from buildrun.sources.download import download_tree, fetching
from buildrun.sources.workdir import temporary


def matches(address: Address, request: SourceRequest) -> bool:  # noqa: ARG001
    """Return whether it is a URL; what git and archives are was asked before."""
    return address.scheme != ""


def open_project(address: Address, request: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    if request.version is not None:
        raise version_refused(address)
    shown = addresses.shown(address.base)
    if request.offline:
        raise ProjectError(
            f"`{shown}` is a directory elsewhere, and nothing is fetched with `--offline`",
            hint="an archive of it would be kept for that",
        )
    with temporary(request, address.base, addresses.clone_name(address.base)) as opened:
        with fetching(address.base, request) as progress:
            if not download_tree(address.base, opened.path, progress):
                raise ProjectError(
                    f"`{shown}` is a file, and a project is a directory or an archive",
                    hint="give the directory, or an archive with one of the usual endings, such "
                    "as .zip",
                )
        root = addresses.enter(opened.path, address.subdirectory, f"`{shown}`")
    return Checkout(root, Origin(address.shown, subdirectory=address.subdirectory), opened)
