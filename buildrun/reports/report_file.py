"""The file that `--report` names."""

import json
import os
from typing import Any

from buildrun.console import Console
from buildrun.errors import UsageError
from buildrun.store.files import publish


def resolve(given: str, cwd: str) -> str:
    """Return the absolute path, links followed; raises UsageError where nothing can be written.

    Also for an ending that promises something else than JSON.
    """
    name = os.path.basename(given)
    stem, ending = os.path.splitext(name)
    if ending.lower() not in ("", ".json") or stem.lower().endswith(".trace"):
        raise UsageError(
            f"there is no report of the form `{name}`", hint="name a file that ends in `.json`"
        )
    try:
        path = os.path.join(cwd, given)
        real = os.path.realpath(path)
        if os.path.exists(real) or not os.path.exists(path):  # else a pipe, such as /dev/stdout
            path = real
        directory = os.path.dirname(path)
        there = path if os.path.exists(path) else directory
        fits = bool(name) and not os.path.isdir(path) and os.access(there, os.W_OK)
    except ValueError:
        path, fits = given, False
    if not fits:
        raise UsageError("the report cannot be written there", place=path, hint="check `--report`")
    return path


def write(path: str, report: Any, console: Console) -> None:
    """Write it; a failure is told, and changes nothing about how the run ended."""
    try:
        _write(path, report)
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else error
        console.warn(f"{path}: the report could not be written: {reason or error}")


def _write(path: str, value: Any) -> None:
    text = (json.dumps(value, indent=2) + "\n").encode()
    if not os.path.exists(path) or os.path.isfile(path):
        publish(path, text)
        return
    # A pipe or a terminal is written to, not replaced; one that nobody reads would keep us waiting.
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    os.set_blocking(descriptor, True)
    with open(descriptor, "wb") as device:
        device.write(text)
