"""Projects at addresses that fsspec reads: directories and archives."""

from __future__ import annotations

import os

import xxhash

from buildrun.console import printable, redact, size
from buildrun.errors import BuildrunError, ProjectError
from buildrun.sources import address as addresses
from buildrun.sources import download, web_file, workdir
from buildrun.sources.address import Address, shown
from buildrun.sources.base import Checkout, Origin, SourceRequest
from buildrun.sources.git import name_of
from buildrun.sources.git_cli import patience_of


def matches(address: Address, asked: SourceRequest) -> bool:  # noqa: ARG001
    """Return whether it is a URL; what git and archives are was asked before."""
    return address.scheme != ""


def open_project(address: Address, asked: SourceRequest) -> Checkout:
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
    return Checkout(root, Origin(address.shown, subdirectory=address.subdirectory), opened)


def _copy(url: str, target: str, asked: SourceRequest) -> None:
    try:
        found = download.download_tree(
            url, target, lambda label, _, __: asked.console.progress(f"fetching {label}")
        )
    except BuildrunError:
        raise
    except Exception as error:  # fsspec's file systems raise errors of every library below them
        raise failure(url, error) from None
    if not found:
        raise ProjectError(
            f"`{addresses.shown(url)}` is a file, and a project is a directory or an archive",
            hint="give the directory, or an archive with one of the usual endings, such as .zip",
        )


def fetch(url: str, asked: SourceRequest) -> str:
    """Return the path of a copy that is current; raises ProjectError."""
    directory = os.path.join(asked.home.sources, "archives")
    is_web = url.lower().startswith(("http://", "https://"))
    own = os.path.join(directory, xxhash.xxh3_128_hexdigest(url.encode(errors="surrogateescape")))
    if asked.offline:
        held = web_file.held(own) if is_web else download.cached_copy(url, directory)
        if held is None:
            raise ProjectError(
                f"`{shown(url)}` was never fetched, and nothing is with `--offline`",
                hint="run once without `--offline`",
            )
        return held

    def tell(done: int, total: int | None) -> None:
        of = f" of {size(total)}" if total else ""
        asked.console.progress(f"fetching {shown(url)}: {size(done)}{of}")

    try:
        if is_web:
            return web_file.fetch(url, own, patience_of(asked.environ), tell)
        os.makedirs(directory, exist_ok=True)
        return download.download_file(url, directory, lambda _, done, total: tell(done, total))
    except BuildrunError:
        raise
    except Exception as error:  # fsspec's file systems raise errors of every library below them
        raise failure(url, error) from None
    finally:
        asked.console.done()


def failure(url: str, error: BaseException) -> ProjectError:
    """Return the error for what a server or a file system raised."""
    lines = str(error).splitlines()
    reason = web_file.reason_of(error)
    if reason is None:
        reason = printable(redact(lines[0])) if lines else type(error).__name__
    if isinstance(error, FileNotFoundError):
        reason = "there is nothing at this address"
    elif "://" in reason and "?" in reason:
        reason = type(error).__name__  # an address with a query may bear secrets
    return ProjectError(
        f"could not fetch `{shown(url)}`: {reason}", hint=download.remedy(url, error)
    )
