"""The ends of logs; and as plain text, what a step that failed has to say."""

from __future__ import annotations

import os
import re

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
    return text if len(first + last) >= size else f"[the beginning of the log is left out]\n{text}"


def ends(path: str, head: int, tail: int) -> tuple[bytes, bytes, int]:
    """Return the beginning and the end of a file, and how many bytes it has in all.

    head, tail: bytes of both at most. What is no longer than both is all in the first. Else they
    are cut between lines, or where a line is too long between words: part of a URL would not be
    known as one, and show its password. Raises OSError and ValueError.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= head + tail:
            return file.read(size), b"", size
        first = file.read(head)
        file.seek(size - tail)
        return _to_break(first), _from_break(file.read(tail)), size


def _to_break(start: bytes) -> bytes:
    """Return the whole lines that bytes begin with, or the whole words of the first."""
    return start[: start.rfind(b"\n") + 1] or b"".join(re.findall(rb"\S*\s+", start))


def _from_break(end: bytes) -> bytes:
    """Return the whole lines that bytes end with, or the whole words of the last."""
    _, _, lines = end.partition(b"\n")
    return lines or b"".join(re.findall(rb"\s+\S*", end)).lstrip()


def plain(text: str) -> str:
    """Return what a terminal would show in the end: no colours, nor lines that were overwritten."""
    lines = ESCAPE.sub("", text).split("\n")
    return redact(printable_lines("\n".join(map(last_written, lines))))
