"""Commands on all projects below a directory, one after the other."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from buildrun import runner
from buildrun.commands import options as command_options
from buildrun.commands.parser import group
from buildrun.console import Console, counted, listed, near_path, printable, redact
from buildrun.errors import BuildrunError, Interrupted, NoEntryPoint, ProjectError, UsageError
from buildrun.store import runs

if TYPE_CHECKING:
    from buildrun.planning.context import CacheSettings, ProjectOptions
    from buildrun.planning.plan_cache import PlanLease

# Projects that failed of which the last line names this many.
_LISTED = 10

# Options of one run or one project.
_ALONE = ("watch", "report", "provenance", "run_id", "version", "export")
# Those that decide nothing of how a single project is run.
_CHOOSING = frozenset({"uri", "all", "since", "shard", "command_line", "debug"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that choose several projects."""
    option = group(parser, command_options.PROJECT).add_argument
    option(
        "--all", action="store_true",
        help="every project in a directory and below; URI is that directory, default: .",
    )  # fmt: skip
    option(
        "--since", metavar="REV",
        help="of all, those of which a file has changed since the branch left this revision",
    )  # fmt: skip
    option("--shard", metavar="I/N", help="of these, only the I-th of N shares, such as 1/4")


def asked_for(arguments: argparse.Namespace) -> bool:
    """Return whether all projects are meant; raises UsageError for what does not go together."""
    if not arguments.all and (arguments.since is not None or arguments.shard is not None):
        raise UsageError("`--since` and `--shard` choose among projects", hint="add `--all`")
    for name in _ALONE if arguments.all else ():
        if getattr(arguments, name, None):
            option = f"--{name.replace('_', '-')}"
            raise UsageError(f"`{option}` is for one project, not for `--all`", hint="leave it out")
    return bool(arguments.all)


def select(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, *, write: bool
) -> list[str]:
    """Return the directories of the projects, and say how many of all these are.

    write: False leaves the store alone. Raises ProjectError where there is no project at all.
    """
    from buildrun.project import discover
    from buildrun.workspace.changes import changed_since

    share, shares = _shard(arguments.shard)
    directory = os.path.normpath(os.path.join(cwd, arguments.uri or "."))
    if not os.path.isdir(directory):
        raise ProjectError(
            "with `--all` this must be a directory, and it is none",
            place=printable(redact(arguments.uri)),
            hint=near_path(arguments.uri, cwd) or "give a directory with projects below",
        )
    found = discover.find_projects(directory, environ)
    if not found:
        raise discover.none_below(directory)
    said = counted(len(found), "project")
    if arguments.since is not None:
        changes = changed_since(directory, arguments.since, environ)
        found = discover.concerned(found, changes, environ, write=write)
        said = f"{len(found)} of {said} changed since `{printable(arguments.since)}`"
    if shares > 1:
        count, found = len(found), found[share - 1 :: shares]
        said += f"; share {share} of {shares} has {len(found)} of {count}"
    Console(environ, quiet=getattr(arguments, "quiet", False)).note(said)
    return found


def _shard(given: str | None) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if given is None else given)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(
            f"`{printable(given or '')}` is not a share",
            hint="give its number and how many there are, such as `--shard 1/4`",
        )
    return int(match[1]), int(match[2])


def alone(arguments: argparse.Namespace, root: str) -> argparse.Namespace:
    """Return the arguments for one of the projects."""
    one = {"uri": uri_of(root), "all": False, "since": None, "shard": None}
    return argparse.Namespace(**{**vars(arguments), **one})


def uri_of(directory: str) -> str:
    """Return a directory as a URI, in which `#` and quotes at the ends mean something else."""
    plain = "#" not in directory and not directory.endswith(("'", '"'))
    return directory if plain else "file://" + quote(os.fsencode(directory))


def run(
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    cwd: str,
    execute: Callable[[argparse.Namespace, Mapping[str, str], str, PlanLease], int],
) -> int:
    """Run each project as `buildrun run` would, and return the first code that is not 0.

    execute: runs one. A project that fails does not stop the others; what interrupts one does.
    """
    check_options(arguments, environ, cwd)
    given = {name: value for name, value in vars(arguments).items() if name not in _CHOOSING}
    key = json.dumps(given, sort_keys=True)
    records: list[runs.Record] = []
    runs.listeners.append(records.append)

    def run_one(root: str) -> int:
        def make(lease: PlanLease) -> int:
            return execute(alone(arguments, root), environ, cwd, lease)

        code = runner.run(("run", root, key), environ, cwd, make)
        interrupted = bool(records) and records[-1].status == "cancelled"
        records.clear()
        if interrupted:
            raise Interrupted(code - 128 if code > 128 else signal.SIGINT)
        return code

    console = Console(environ, quiet=arguments.quiet)
    return each(select(arguments, environ, cwd, write=True), run_one, cwd, console)


def check_options(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str
) -> tuple[ProjectOptions, CacheSettings]:
    """Return the options, with the URI put right; raises UsageError once for all projects."""
    settings = command_options.read_cache_options(arguments, environ, cwd)
    arguments.uri = arguments.uri or "."
    return command_options.read_project_options(arguments, environ, cwd), settings


def each(projects: Sequence[str], act: Callable[[str], int], cwd: str, console: Console) -> int:
    """Call a function with each project, and return the first code that is not 0.

    An error is said, and counts as its code; a project without the entry point is passed over.
    Raises ProjectError where none has it.
    """
    began, code, skipped = time.monotonic(), 0, 0
    failed: list[str] = []
    for number, root in enumerate(projects, 1):
        name = printable(os.path.relpath(root, cwd))
        console.note(console.style(f"[{number}/{len(projects)}] {name}", "dim"))
        try:
            ended = act(root)
        except NoEntryPoint as error:
            console.note(f"skipped: {error.message}")
            skipped += 1
            continue
        except Interrupted:
            raise
        except BuildrunError as error:
            place = f"{error.place}: " if error.place else ""
            console.error(place + error.message, error.hint or "")
            ended = error.exit_code
        if ended:
            failed.append(name)
            code = code or ended
    if skipped and skipped == len(projects):
        raise NoEntryPoint(
            f"of {counted(skipped, 'project')} none has this entry point",
            hint="check the name given with `-e`",
        )
    _tell(len(projects), failed, skipped, time.monotonic() - began, console)
    return code


def _tell(
    count: int, failed: Sequence[str], skipped: int, seconds: float, console: Console
) -> None:
    counts = {"ok": count - len(failed) - skipped, "failed": len(failed), "skipped": skipped}
    told = ", ".join(
        console.state(word, f"{number} {word}") for word, number in counts.items() if number
    )
    if count:
        console.note(f"{counted(count, 'project')}: {told} in {seconds:.1f} s")
    if failed:
        names = listed(failed, _LISTED)
        console.error(f"{len(failed)} of {counted(count, 'project')} failed: {names}")
