"""``buildrun init``: a project's first files, from scripts, a template or a DVC pipeline."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping

from buildrun.console import Console, printable
from buildrun.errors import FAILURE, ProjectError, UsageError
from buildrun.init import new_files, templates
from buildrun.init.draft import Draft, errors


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    option = parser.add_argument
    option("directory", metavar="DIR", nargs="?", help="the project's directory; default: .")
    option("--template", choices=templates.NAMES, help="write a project to start from")
    option("--image", metavar="IMAGE", help="the base image, for `--template docker`")
    option("--from", metavar="FILE", dest="pipeline", help="take over a dvc.yaml")
    option("--dry-run", action="store_true", help="print the files and write nothing")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Write the files, or print them; return 1 where a part had to be left out."""
    directory = os.path.normpath(os.path.join(cwd, _directory(arguments)))
    if arguments.template is None and not os.path.isdir(directory):
        raise ProjectError("there is no such directory", place=printable(directory),
                           hint="name the directory that holds your scripts")  # fmt: skip
    draft = _draft(arguments, environ, cwd, directory)
    for error in errors(draft, directory):
        message = f"the MLproject would be invalid, so nothing was written: {error.message}"
        raise ProjectError(message, place=printable(directory), hint=error.hint)
    if arguments.dry_run:
        sys.stdout.writelines(f"==> {name} <==\n{text}\n" for name, text in draft.files.items())
    else:
        new_files.write(directory, draft.files)
    _tell(draft, Console(environ), directory, is_written=not arguments.dry_run)
    return 0 if draft.is_complete else FAILURE


def _directory(arguments: argparse.Namespace) -> str:
    if arguments.pipeline is not None:
        if arguments.template is not None or arguments.directory is not None:
            raise UsageError(
                "`--from` goes with neither a directory nor `--template`",
                hint="the MLproject is written beside the file",
            )
        return os.path.dirname(str(arguments.pipeline))
    if arguments.image is not None and arguments.template != "docker":
        raise UsageError("`--image` is for `--template docker` only", hint="leave it out")
    if arguments.image is None and arguments.template == "docker":
        raise UsageError(
            "`--template docker` needs a base image",
            hint="name one that has Python, such as `--image python:3.12-slim`",
        )
    return str(arguments.directory or ".")


def _draft(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, directory: str
) -> Draft:
    if arguments.template is not None:
        return templates.load(arguments.template, arguments.image)
    if not arguments.dry_run:  # told before all that is read, which may be long
        new_files.require_free(directory, ("MLproject",))
    if arguments.pipeline is not None:
        from buildrun.init import dvc

        return dvc.convert(os.path.join(cwd, arguments.pipeline), environ)
    from buildrun.init import scripts

    return scripts.propose(directory)


def _tell(draft: Draft, console: Console, directory: str, *, is_written: bool) -> None:
    for note in draft.notes:
        console.note(printable(note))
    if is_written:
        console.note(f"wrote {', '.join(draft.files)} in {printable(directory)}")
        console.note(f"entry points: {', '.join(map(printable, draft.entry_points))}")
