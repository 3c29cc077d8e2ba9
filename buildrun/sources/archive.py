"""A project in an archive: a file here, or at any address that fsspec reads."""

from __future__ import annotations

import os

from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources import directory
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest, version_refused
from buildrun.sources.workdir import temporary


def matches(address: Address, request: SourceRequest) -> bool:  # noqa: ARG001
    """Return whether it has the name of an archive."""
    name = address.path if address.path is not None else address.base.partition("?")[0]
    return not address.is_scp and directory.is_archive(name)


def open_project(address: Address, request: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    from buildrun.sources.unpack import unpack

    if request.version is not None:
        raise version_refused(address)
    shown = addresses.shown(address.base)
    archive = address.path or _fetch(address.base, request)
    identity = address.path or address.base
    name = os.path.basename(identity.partition("?")[0].rstrip("/"))
    stem = os.path.splitext(name)[0].removesuffix(".tar")
    with temporary(request, identity, stem) as opened:
        unpack(archive, opened.path, shown)
        top = _top(opened.path, address.subdirectory)
        root = addresses.enter(top, address.subdirectory, f"`{shown}`")
    return Checkout(root, Origin(address.shown, subdirectory=address.subdirectory), opened)


def _fetch(url: str, request: SourceRequest) -> str:
    """Return the path of a current copy, which is kept; with `--offline`, of any copy."""
    from buildrun.sources.download import cached_copy, download, fetching
    from buildrun.sources.git_cli import patience_of

    copies = os.path.join(request.home.sources, "archives")
    if not request.offline:
        with fetching(url, request) as progress:
            return download(url, copies, progress, patience_of(request.environ))
    found = cached_copy(url, copies)
    if found is None:
        raise ProjectError(
            f"`{addresses.shown(url)}` was never fetched, and nothing is with `--offline`",
            hint="run once without `--offline`",
        )
    return found


def _top(path: str, subdirectory: str) -> str:
    """Return where the project's files begin: many archives have a directory around them."""
    names = os.listdir(path)
    inside = os.path.join(path, names[0]) if len(names) == 1 else path
    if not os.path.isdir(inside) or os.path.islink(inside):
        return path
    return path if subdirectory and os.path.lexists(os.path.join(path, subdirectory)) else inside
