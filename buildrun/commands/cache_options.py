"""The options of commands that look at the results of steps."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise

from buildrun.commands.project_options import URI_HELP
from buildrun.errors import UsageError
from buildrun.place import CacheSettings
from buildrun.planning import Plan
from buildrun.printable import printable
from buildrun.project.locate import find_mlproject

_YES = frozenset({"1", "true", "yes", "on"})


def add(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and the URI before them."""
    option = parser.add_argument
    # Not required by argparse: `--force .` means the project `.`, not a step of that name.
    option("uri", metavar="URI", nargs="?", help=URI_HELP)
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
    """Return the settings, and put the URI right."""
    forced = list(arguments.force)
    if arguments.uri is None and (taken := _taken_for_a_step(arguments.command_line, cwd)):
        arguments.uri = taken
        forced[forced.index(taken)] = ""
    given = arguments.remote_cache or environ.get("BUILDRUN_REMOTE_CACHE") or None
    if given is not None and "://" not in given:
        given = os.path.join(cwd, os.path.expanduser(given))
    if arguments.remote_cache_write and given is None:
        raise UsageError(
            "`--remote-cache-write` has nowhere to write to",
            hint="give `--remote-cache URL`, or set BUILDRUN_REMOTE_CACHE",
        )
    write = environ.get("BUILDRUN_REMOTE_CACHE_WRITE", "").lower() in _YES
    return CacheSettings(
        force=None if "" in forced else tuple(forced),
        cache=not arguments.no_cache,
        remote=given,
        remote_write=arguments.remote_cache_write or write,
    )


def refuse_unknown(settings: CacheSettings, made: Plan) -> None:
    """Raise UsageError where a step is to be forced that the plan does not have."""
    there = {name: None for step in made.steps for name in (step.id, step.entry_point)}
    for name in settings.force or ():
        if name not in there:
            names = ", ".join(f"`{printable(known)}`" for known in there)
            raise UsageError(f"there is no step `{name}` to be forced", hint=f"steps: {names}")


def _taken_for_a_step(argv: Sequence[str], cwd: str) -> str:
    """Return the URI where argparse has taken it for the value of `--force`, or "".

    In `--force . --force=train` it is the word behind an option without `=`; of several such
    words it is the one that names a directory or a URL, else the last, unless the current directory
    is a project.
    """
    words = [
        word for option, word in pairwise(argv) if option == "--force" and not word.startswith("-")
    ]
    uris = [
        word
        for word in words
        if ":" in word or os.path.isdir(os.path.join(cwd, word.partition("#")[0]))
    ]
    if not uris and find_mlproject(cwd) is None:
        uris = words
    return uris[-1] if uris else ""
