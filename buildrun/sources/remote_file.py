"""An archive elsewhere, kept in the store and asked about once a run."""

from __future__ import annotations

import os

import xxhash

from buildrun import download
from buildrun.console import size
from buildrun.errors import BuildrunError, ProjectError
from buildrun.printable import printable
from buildrun.secrets import redact
from buildrun.sources import web_file
from buildrun.sources.address import shown
from buildrun.sources.contract import Asked
from buildrun.sources.git_command import patience_of


def fetch(url: str, asked: Asked) -> str:
    """Return the path of a copy that is current; raises ProjectError."""
    directory = os.path.join(asked.home.sources, "archives")
    is_web = url.lower().startswith(("http://", "https://"))
    own = os.path.join(directory, xxhash.xxh3_128_hexdigest(url.encode(errors="surrogateescape")))
    if asked.offline:
        held = web_file.held(own) if is_web else download.held(url, directory)
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
        return download.copy_of(url, directory, lambda _, done, total: tell(done, total))
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
