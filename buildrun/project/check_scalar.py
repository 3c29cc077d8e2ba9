"""Plain YAML scalars that are not the text they look like."""

from __future__ import annotations

import datetime
import re

from buildrun.project.compose import Path
from buildrun.project.findings import Findings
from buildrun.project.kinds import is_number

_SHORTENED = re.compile(r"[-+]?(0\d.*|\d+\.\d+)")


def check_scalar(
    findings: Findings, path: Path, value: object, what: str, *, exact: bool, kind: str = ""
) -> None:
    """Warn where a plain scalar is not the text that it looks like.

    what: the words before the text that it is instead. exact: any other text counts, not only
    one that a program would take for another value. kind: the parameter's type.
    """
    raw = findings.document.raw(path)
    if raw is None or isinstance(value, str) or raw == str(value):
        return
    if not exact and _is_as_good(raw, value, kind):
        return
    message = f"YAML reads `{raw[:60]}` as {_reading(value)}; {what} `{str(value)[:60]}`"
    findings.warning("yaml-value", message, path, hint=f'put it in quotes: `"{raw[:60]}"`')


def _is_as_good(raw: str, value: object, kind: str) -> bool:
    """Return whether a program cannot mind: ``true`` for ``True``, ``.5`` for ``0.5``."""
    if isinstance(value, bool):
        return raw.lower() == str(value).lower()
    if not isinstance(value, (int, float)):
        return False
    try:
        same = float(raw) == float(value)
    except (ValueError, OverflowError):
        return False
    return same and (is_number(kind) or not _SHORTENED.fullmatch(raw))


def _reading(value: object) -> str:
    if isinstance(value, bool):
        return "a truth value"
    if isinstance(value, (int, float)):
        return "a number"
    return "a date" if isinstance(value, datetime.date) else f"a {type(value).__name__}"
