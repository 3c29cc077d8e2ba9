"""`buildrun runs report`: a past run as one HTML file."""

from __future__ import annotations

import os
import sys
from typing import Any, cast

from buildrun.console import printable
from buildrun.errors import UsageError
from buildrun.reports import html
from buildrun.reports.model import RunReport
from buildrun.store import files, runs
from buildrun.store.runs import Record


def write(directory: str, record: Record, output: str | None, cwd: str) -> int:
    """Write the report to a file, and its path to standard output.

    directory: of all runs. output: a path; None: standard output itself, or where that is a
    terminal, a file that is named for the run. Raises UsageError.
    """
    content = html.render(report_of(directory, record)).encode()
    if output is None and not sys.stdout.isatty():
        sys.stdout.buffer.write(content)
        return 0
    name = runs.file_name(0, record.run_id[:12]).removesuffix(".log")
    path = os.path.join(cwd, output or f"report-{name[4:]}.html")
    _require_replaceable(path)
    try:
        files.publish(path, content)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"the report cannot be written there: {reason}", place=path, hint="check `--output`"
        ) from None
    sys.stdout.write(f"{printable(path)}\n")
    return 0


def report_of(directory: str, record: Record) -> RunReport:
    """Return what is recorded of a run; its logs are where they are now."""
    there = {os.path.basename(path): path for path in runs.logs(directory, record.run_id)}
    steps = []
    for step in record.steps:
        log = step["log"]
        steps.append({**step, "log": log and there.get(os.path.basename(log), log)})
    told: dict[str, Any] = {"version": 1, **record._asdict(), "steps": steps}
    return cast("RunReport", told)


def _require_replaceable(path: str) -> None:
    """Raise UsageError where another file would be lost."""
    try:
        with files.open_regular(path) as file:
            beginning = file.read(len(html.BEGINNING))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        beginning = b""
    if beginning != html.BEGINNING.encode():
        raise UsageError(
            "something else is there, which the report would replace",
            place=path,
            hint="name another file with `--output`, or remove this one",
        )
