"""``buildrun lock --export``: the lock that is there, for other tools."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from buildrun.environments import base, lock_export, lockfile
from buildrun.environments.base import EnvironmentRequest, here
from buildrun.environments.export_request import ExportRequest
from buildrun.environments.lockfile import Lock
from buildrun.errors import EnvironmentFailure, StoreError, UsageError
from buildrun.planning.context import RunContext
from buildrun.project.locate import lock_path
from buildrun.store.files import destination, is_descriptor, overwrite


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    option = parser.add_argument
    option(
        "--export", choices=lock_export.FORMATS,
        help="print the lock that is there in a form of others: PEP 751, pip's or CycloneDX",
    )  # fmt: skip
    option("--output", metavar="FILE", help="where the export is written; default: standard output")


def check_options(arguments: argparse.Namespace) -> None:
    """Raise UsageError for options that do not go together."""
    form = arguments.export
    if form is None and arguments.output is not None:
        raise UsageError("`--output` is for `--export`", hint="add `--export pylock`, for example")
    if form and (arguments.check or arguments.update or arguments.dry_run):
        raise UsageError(
            "`--export` takes the lock as it is, without `--check`, `--update` and `--dry-run`",
            hint="call `buildrun lock` twice",
        )
    if form and arguments.of_projects:
        raise UsageError("`--export` is for one project", hint="call it for each")
    if form in ("requirements", "cyclonedx") and len(set(arguments.platform)) > 1:
        raise UsageError(
            f"`--export {form}` holds one platform", hint="call it for each, or export `pylock`"
        )


def write(
    context: RunContext,
    request: EnvironmentRequest,
    path: str,
    lock: Lock | None,
    reasons: Sequence[str],
    arguments: argparse.Namespace,
) -> int:
    """Write the lock as `--export` asks for, and return the exit code.

    path: of the environment file. lock: None where there is none. reasons: why it does not serve.
    Raises EnvironmentFailure, UsageError and StoreError.
    """
    form, place = arguments.export, lock_path(path)
    every = list(lock.platforms) if lock is not None and form == "pylock" else [here()]
    platforms = list(map(base.require_platform, dict.fromkeys(arguments.platform))) or every
    # What the lock lacks for this machine does not matter for another one.
    reasons = [reason for reason in reasons if lock is None or reason != lockfile.lacks(here())]
    if lock is not None:
        reasons += [lockfile.lacks(name) for name in platforms if name not in lock.platforms]
    if lock is None or reasons:
        fact = f"only a fresh lock is exported: {'; '.join(reasons)}"
        words = ["buildrun lock", *(f"--platform={name}" for name in arguments.platform)]
        raise EnvironmentFailure(fact, place=place, hint=f"run `{' '.join(words)}`")
    output, directory = arguments.output, request.project.root
    if output is not None:
        output = destination(output, context.cwd, "--output")
        if output in map(os.path.realpath, filter(None, (place, path, request.project.file))):
            raise UsageError(
                "this is the project's own, which the export would replace",
                place=output,
                hint="name another file with `--output`",
            )
        directory = directory if is_descriptor(output) else os.path.dirname(output)
    wanted = ExportRequest(request, lock, place, platforms, directory, context.console)
    content = lock_export.export(form, wanted)
    if output is None:
        sys.stdout.buffer.write(content)
        return 0
    try:
        overwrite(output, content)
    except OSError as error:
        raise StoreError(f"cannot be written: {error.strerror}", place=output) from None
    return 0
