"""How long an entry point's command may take and how often it is tried again."""

from __future__ import annotations

import re

from buildrun.project.check_scalar import check_scalar
from buildrun.project.compose import Path
from buildrun.project.findings import Findings

LONGEST = 366 * 86_400  # seconds

_TIME = re.compile(r"(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s?)?")
_UNITS = (86_400, 3_600, 60, 1)
_MOST_RETRIES = 100


def seconds(text: str) -> float | None:
    """Return the seconds that a text such as ``1h30m`` stands for, None if it is no time."""
    match = _TIME.fullmatch(text) if len(text) < 100 else None
    if match is None:
        return None
    parts = zip(match.groups(), _UNITS, strict=True)
    return float(sum(int(number or 0) * unit for number, unit in parts))


def read_timeout(findings: Findings, path: Path, value: object) -> float | None:
    """Return the timeout in seconds, or None where there is none or it is no time."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None  # the schema says so
    number = seconds(value) if isinstance(value, str) else value
    if number is not None and 0 < number <= LONGEST:
        _check_number(findings, path, value)
        return float(number)
    message = f"`{str(value)[:60]}` is no time between 0 seconds and 366 days"
    hint = "write a time such as `90s`, `15m`, `2h`, `1h30m` or `1d`; without the key there is none"
    findings.error("bad-timeout", message, path, hint=hint)
    return None


def _check_number(findings: Findings, path: Path, value: str | float) -> None:
    raw = findings.document.raw(path) or ""
    if isinstance(value, str) or ":" not in raw:
        check_scalar(findings, path, value, "the seconds are", exact=False, kind="float")
        return
    message = f"YAML reads `{raw[:60]}` as a number; the seconds are `{value}`"
    findings.warning("yaml-value", message, path, hint="write a time such as `1h30m` or `1m30s`")


def read_retries(value: object) -> int:
    """Return how often to try again; 0 for what the schema refuses."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return 0
    return int(value) if value in range(_MOST_RETRIES + 1) else 0
