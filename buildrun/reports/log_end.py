"""The ends of logs; and as plain text, what a step that failed has to say."""

from __future__ import annotations

import os

from buildrun.console import printable, printable_lines, redact
from buildrun.reports.model import StepReport
from buildrun.reports.terminal_text import ESCAPE, last_written
from buildrun.store.files import open_regular

# Codes of reasons that tell of a failure, and not of why the step ran.
_FAILURES = ("error", "output-not-made", "timed-out", "retried")


def failure(step: StepReport) -> str:
    """Return in a word why a step has failed."""
    told = [reason["detail"] for reason in step["reasons"] if reason["code"] in _FAILURES]
    return printable("; ".join(told) or f"exit code {step['exit_code']}")


def read(step: StepReport, limit: int) -> str:
    """Return the last whole lines of a step's log, "" where there is none; limit: bytes of it."""
    path = step.get("log")
    if path is None:
        return ""
    try:
        first, last, size = ends(path, 0, limit)
    except (OSError, ValueError):
        return ""
    text = plain((first + last).decode(errors="replace"))
    if len(first + last) >= size:
        return text
    _, _, rest = text.partition("\n")
    return f"[the beginning of the log is left out]\n{rest or text}"


def ends(path: str, head: int, tail: int) -> tuple[bytes, bytes, int]:
    """Return the first and the last bytes of a file, and how many it has in all.

    What is no longer than both is all in the first. Raises OSError and ValueError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(head if size > head + tail else head + tail)
        file.seek(max(len(first), size - tail))
        return first, file.read(tail), size


def plain(text: str) -> str:
    """Return what a terminal would show in the end: no colours, nor lines that were overwritten."""
    lines = ESCAPE.sub("", text).split("\n")
    return redact(printable_lines("\n".join(map(last_written, lines))))
