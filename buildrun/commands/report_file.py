"""The file that `run --report` names."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from buildrun.errors import UsageError
from buildrun.files import publish

if TYPE_CHECKING:
    from buildrun.console import Console


def report_path(given: str | None, cwd: str) -> str | None:
    """Return the absolute path, links followed; raises UsageError where nothing can be written."""
    if given is None:
        return None
    path = os.path.realpath(os.path.join(cwd, given))
    directory = os.path.dirname(path)
    if os.path.isdir(path) or not os.access(path if os.path.exists(path) else directory, os.W_OK):
        raise UsageError("the report cannot be written there", place=path, hint="check `--report`")
    return path


def write_report(path: str, value: object, console: Console) -> None:
    """Write it; a failure is told, and changes nothing about how the run ended."""
    text = (json.dumps(value, indent=2) + "\n").encode()
    try:
        if os.path.exists(path) and not os.path.isfile(path):
            with open(path, "wb") as device:  # a pipe or a terminal is written to, not replaced
                device.write(text)
        else:
            publish(path, text)
    except OSError as error:
        console.warn(f"{path}: the report could not be written: {error.strerror}")
