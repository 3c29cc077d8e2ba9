"""A directory at an address that fsspec reads, such as one in a bucket: copied for each run."""

from __future__ import annotations

from buildrun import download
from buildrun.errors import BuildrunError, ProjectError
from buildrun.printable import printable
from buildrun.sources import address as addresses
from buildrun.sources import remote_file, workdir
from buildrun.sources.address import Address
from buildrun.sources.contract import Asked, Opened, Origin
from buildrun.sources.git import name_of


def matches(address: Address, asked: Asked) -> bool:  # noqa: ARG001
    """Return whether it is a URL; what git and archives are was asked before."""
    return address.scheme != ""


def open_project(address: Address, asked: Asked) -> Opened:
    """Return the project in a working directory of its own; raises BuildrunError."""
    if asked.version is not None:
        raise ProjectError(
            "setting a version is only supported for git project URIs", place=address.shown
        )
    shown = addresses.shown(address.base)
    if asked.offline:
        raise ProjectError(
            f"`{shown}` is a directory elsewhere, and nothing is fetched with `--offline`",
            hint="an archive of it would be kept for that",
        )
    workdir.collect(asked.home)
    opened = workdir.claim(asked.home, address.base, name_of(address.base), keep=asked.keep)
    try:
        _copy(address.base, opened.path, asked)
        root = addresses.enter(opened.path, address.subdirectory, f"`{shown}`")
    except BaseException:
        opened.discard()
        raise
    finally:
        asked.console.done()
    if asked.keep:
        asked.console.note(f"the working directory is kept: {printable(opened.path)}")
    return Opened(root, Origin(address.shown, subdirectory=address.subdirectory), opened)


def _copy(url: str, target: str, asked: Asked) -> None:
    try:
        found = download.tree_of(
            url, target, lambda label, _, __: asked.console.progress(f"fetching {label}")
        )
    except BuildrunError:
        raise
    except Exception as error:  # fsspec's file systems raise errors of every library below them
        raise remote_file.failure(url, error) from None
    if not found:
        raise ProjectError(
            f"`{addresses.shown(url)}` is a file, and a project is a directory or an archive",
            hint="give the directory, or an archive with one of the usual endings, such as .zip",
        )
