"""`buildrun runs report`: a past run as one HTML file, or in another form."""

from __future__ import annotations

import os
import sys
from typing import cast

from buildrun.console import printable
from buildrun.errors import UsageError
from buildrun.reports import html, report_file
from buildrun.reports.model import RunReport
from buildrun.store import files, own_files, runs
from buildrun.store.home import Home
from buildrun.store.runs import Record


def write(place: Home, record: Record, output: str | None, cwd: str) -> int:
    """Write the report to a file, and its path to standard output.

    place: the store. output: a path, whose ending asks for the form; None: standard output
    itself, or where that is a terminal, a file that is named for the run. Raises UsageError.
    """
    directory = place.runs
    report = report_of(directory, record)
    if output is None and not sys.stdout.isatty():
        sys.stdout.buffer.write(html.render(report).encode())
        return 0
    name = os.path.basename(runs.directory(directory, record.run_id))[:12]
    path = report_file.resolve(output or f"report-{name}.html", cwd, "--output")
    if not own_files.is_ours(place, path):
        files.require_replaceable(path, html.BEGINNING.encode(), "--output")
    try:
        files.overwrite(path, report_file.render(path, report))
        own_files.note(place, path)
    except OSError as error:
        raise UsageError(f"the report cannot be written: {error.strerror}", place=path) from None
    sys.stdout.write(f"{printable(path)}\n")
    return 0


def report_of(directory: str, record: Record) -> RunReport:
    """Return what is recorded of a run, with its logs where they are now."""
    there = runs.logs(directory, record.run_id)
    steps = [
        {**step, "log": there.get(os.path.basename(step["log"] or ""), step["log"])}
        for step in record.steps
    ]
    return cast("RunReport", {"version": 1, **runs.told(record), "steps": steps})
