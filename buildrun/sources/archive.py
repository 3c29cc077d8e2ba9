"""A project in an archive: a file here, or at any address that fsspec reads."""

from __future__ import annotations

import os

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources import directory, remote, workdir
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest
from buildrun.sources.unpack import unpack


def matches(address: Address, asked: SourceRequest) -> bool:  # noqa: ARG001
    """Return whether it has the name of an archive."""
    name = address.path if address.path is not None else address.base.partition("?")[0]
    return not address.is_scp and directory.is_archive(name)


def open_project(address: Address, asked: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    if asked.version is not None:
        raise ProjectError(
            "setting a version is only supported for git project URIs", place=address.shown
        )
    shown = addresses.shown(address.base)
    archive = address.path or remote.fetch(address.base, asked)
    workdir.collect(asked.home)
    identity = address.path or address.base
    opened = workdir.claim(asked.home, identity, _stem(identity), keep=asked.keep)
    try:
        unpack(archive, opened.path, shown)
        top = _top(opened.path, address.subdirectory)
        root = addresses.enter(top, address.subdirectory, f"`{shown}`")
    except BaseException:
        opened.discard()
        raise
    if asked.keep:
        asked.console.note(f"the working directory is kept: {printable(opened.path)}")
    return Checkout(root, Origin(address.shown, subdirectory=address.subdirectory), opened)


def _stem(name: str) -> str:
    """Return what the archive is called, without its endings."""
    name = os.path.basename(name.partition("?")[0].rstrip("/"))
    stem, _ = os.path.splitext(name)
    return stem.removesuffix(".tar")


def _top(path: str, subdirectory: str) -> str:
    """Return where the project's files begin: many archives have a directory around them."""
    names = os.listdir(path)
    inside = os.path.join(path, names[0]) if len(names) == 1 else path
    if not os.path.isdir(inside) or os.path.islink(inside):
        return path
    return path if subdirectory and os.path.lexists(os.path.join(path, subdirectory)) else inside
