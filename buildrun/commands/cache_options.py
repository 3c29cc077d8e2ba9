"""The options of commands that look at the results of steps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping

from buildrun.errors import UsageError
from buildrun.place import CacheSettings

_YES = frozenset({"1", "true", "yes", "on"})


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and the URI before them."""
    option = parser.add_argument
    # Not required by argparse: `--force .` means the project `.`, not a step of that name.
    option("uri", metavar="URI", nargs="?", help="a directory; `#subdirectory` may follow")
    option(
        "--force", metavar="STEP", nargs="?", const="", action="append", default=[],
        help="run the step though it is up to date; without a name, every step; repeatable",
    )  # fmt: skip
    option("--no-cache", action="store_true", help="neither look for results nor keep them")
    option(
        "--remote-cache", metavar="URL",
        help="a shared cache for results, any fsspec URL; default: $BUILDRUN_REMOTE_CACHE",
    )  # fmt: skip
    option(
        "--remote-cache-write", action="store_true",
        help="put results there as well; or set BUILDRUN_REMOTE_CACHE_WRITE=1",
    )  # fmt: skip


def read(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> CacheSettings:
    """Return the settings, and put the URI right; raises UsageError without one."""
    forced = list(arguments.force)
    if arguments.uri is None and forced and forced[-1]:
        arguments.uri, forced[-1] = forced[-1], ""
    if arguments.uri is None:
        raise UsageError("the project's URI is missing", hint="give a directory, such as `.`")
    given = arguments.remote_cache or environ.get("BUILDRUN_REMOTE_CACHE") or None
    if given is not None and "://" not in given:
        given = os.path.join(cwd, os.path.expanduser(given))
    write = environ.get("BUILDRUN_REMOTE_CACHE_WRITE", "").lower() in _YES
    return CacheSettings(
        force=None if "" in forced else tuple(forced),
        cache=not arguments.no_cache,
        remote=given,
        remote_write=arguments.remote_cache_write or write,
    )
