"""An archive elsewhere, kept in the store and asked about once a run."""

from __future__ import annotations

import os
from typing import Any

from buildrun import download
from buildrun.console import size
from buildrun.errors import BuildrunError, ProjectError
from buildrun.printable import printable
from buildrun.secrets import redact
from buildrun.sources.address import shown
from buildrun.sources.contract import Asked
from buildrun.sources.git_command import patience_of

# Seconds in which a connection must be there.
_CONNECT = 30.0


def fetch(url: str, asked: Asked) -> str:
    """Return the path of a copy that is current; raises ProjectError."""
    directory = os.path.join(asked.home.sources, "archives")
    if asked.offline:
        held = download.held(url, directory)
        if held is None:
            raise ProjectError(
                f"`{shown(url)}` was never fetched, and nothing is with `--offline`",
                hint="run once without `--offline`",
            )
        return held

    def tell(_: str, done: int, total: int | None) -> None:
        of = f" of {size(total)}" if total else ""
        asked.console.progress(f"fetching {shown(url)}: {size(done)}{of}")

    try:
        os.makedirs(directory, exist_ok=True)
        return download.copy_of(url, directory, tell, options(url, asked))
    except BuildrunError:
        raise
    except Exception as error:  # fsspec's file systems raise errors of every library below them
        raise failure(url, error) from None
    finally:
        asked.console.done()


def options(url: str, asked: Asked) -> dict[str, Any]:
    """Return what the file system is to be opened with, so that it does not wait for ever."""
    if not url.lower().startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    patience = patience_of(asked.environ)
    timeout = ClientTimeout(total=None, sock_connect=min(_CONNECT, patience), sock_read=patience)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}


def failure(url: str, error: BaseException) -> ProjectError:
    """Return the error for what a file system raised."""
    lines = str(error).splitlines()
    reason = printable(redact(lines[0])) if lines else type(error).__name__
    if isinstance(error, FileNotFoundError):
        reason = "there is nothing at this address"
    elif isinstance(error, TimeoutError) or "imeout" in type(error).__name__:
        reason = "it does not answer"
    elif getattr(error, "status", None) in (401, 403) or isinstance(error, PermissionError):
        reason = "you may not read it"
    elif "://" in reason and "?" in reason:
        reason = type(error).__name__  # an address with a query may bear secrets
    return ProjectError(
        f"could not fetch `{shown(url)}`: {reason}", hint=download.remedy(url, error)
    )
