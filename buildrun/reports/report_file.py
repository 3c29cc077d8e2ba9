"""The files that `--report` names, each in the form that its ending asks for."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from buildrun.console import Console, printable
from buildrun.errors import UsageError
from buildrun.store.files import destination, overwrite, require_replaceable

if TYPE_CHECKING:
    from buildrun.reports.model import RunReport
    from buildrun.store.home import Home

# By the ending of a name, the first that fits: the module of this package whose ``render`` returns
# the report as text. JSON is what everything else is made from; so are names without an ending.
_FORMS = {
    ".trace.json": "trace",
    ".html": "html",
    ".json": "",
    ".md": "markdown",
    ".xml": "junit",
}


def resolve(given: str, cwd: str, option: str = "--report") -> str:
    """Return the absolute path, links followed; raises UsageError where nothing can be written.

    Also for an ending that no form has, and where a file without one holds something else, such as
    an MLproject.
    """
    if _form(os.path.basename(given)) is None:
        *first, last = (f"`{ending}`" for ending in sorted(_FORMS))
        raise UsageError(
            f"there is no report of the form `{os.path.basename(given)}`",
            hint=f"name a file that ends in {', '.join(first)} or {last}",
        )
    path = destination(given, cwd, option)
    if not os.path.splitext(path)[1]:
        require_replaceable(path, b"{", option)
    return path


def resolve_provenance(given: str, cwd: str) -> str:
    """Return the absolute path for a statement of provenance, as ``resolve`` does."""
    path = destination(given, cwd, "--provenance")
    require_replaceable(path, b"{", "--provenance")
    return path


def write(path: str, report: RunReport, home: Home, console: Console) -> None:
    """Write it; a failure is told, and changes nothing about how the run ended."""
    from buildrun.store import own_files

    try:
        overwrite(path, render(path, report))
        own_files.note(home, path)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else error
        console.warn(f"{printable(path)}: the report could not be written: {reason or error}")


def render(path: str, report: RunReport) -> bytes:
    """Return the report in the form that a path asks for."""
    module = _form(os.path.basename(path))
    if not module:
        return json.dumps(report, indent=2).encode() + b"\n"
    from importlib import import_module

    text: str = import_module(f"buildrun.reports.{module}").render(report)
    return text.encode(errors="backslashreplace")


def _form(name: str) -> str | None:
    """Return the module for a name, "" for JSON itself and None where there is none."""
    found = [module for ending, module in _FORMS.items() if name.lower().endswith(ending)]
    if not found and not os.path.splitext(name)[1]:
        return ""
    return found[0] if found else None
