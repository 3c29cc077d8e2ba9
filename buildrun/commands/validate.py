"""``buildrun validate``: projects and their files, checked without running anything."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import TextIO

from buildrun.commands import validate_targets
from buildrun.console import Console
from buildrun.errors import UsageError
from buildrun.project import fix, report
from buildrun.project.places import Style
from buildrun.project.read import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    validate_targets.add_arguments(parser)
    parser.add_argument("--format", choices=report.FORMATS, default="text", help="default: text")
    parser.add_argument("--strict", action="store_true", help="make warnings fail")
    parser.add_argument(
        "--fix", action="store_true", help="mend in the files what certainly can be"
    )
    parser.add_argument(
        "--diff", action="store_true", help="write what --fix would change, and change nothing"
    )
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="show errors only, and no summary"
    )


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Write the findings to standard output; return 0 where all is valid, else 1."""
    if arguments.fix or arguments.diff:
        _require_files(arguments)
    rows = validate_targets.check(arguments, environ, cwd)
    if arguments.fix or arguments.diff:
        _mend(rows, arguments, environ, cwd)
    if arguments.fix and not arguments.diff:
        rows = validate_targets.check(arguments, environ, cwd)
    console = Console(environ, stream=sys.stdout)
    workspace = environ.get("GITHUB_WORKSPACE") or environ.get("CI_PROJECT_DIR") or ""
    style = Style(
        cwd, arguments.strict, arguments.quiet, console.colour, workspace, console.columns
    )
    if not arguments.diff:
        _write(sys.stdout, report.render(arguments.format, rows, style))
    if rows and arguments.format == "text" and not arguments.quiet:
        _write(sys.stderr, report.summary(rows, offer=not arguments.fix) + "\n")
    return 0 if all(row.is_valid(strict=arguments.strict) for row in rows) else 1


def _require_files(arguments: argparse.Namespace) -> None:
    """Raise UsageError for what goes with neither `--fix` nor `--diff`."""
    if arguments.paths == ["-"]:
        raise UsageError(
            "`--fix` and `--diff` are for files, not for standard input", hint="name the file"
        )
    if arguments.diff and arguments.format != "text":
        raise UsageError(f"`--diff` writes a diff, not `{arguments.format}`")


def _mend(
    rows: Sequence[Row], arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str
) -> None:
    """Mend the files, or show what that would change."""
    for mended in fix.mend(rows, cwd, environ):
        if arguments.diff:
            _write(sys.stdout, report.diff(mended, cwd))
            continue
        fix.write(mended)
        if not arguments.quiet:
            _write(sys.stderr, report.fixes(mended, cwd))


def _write(stream: TextIO, text: str) -> None:
    """Write what the stream's encoding can hold, and escapes for the rest."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()
