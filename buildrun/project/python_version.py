"""Versions of Python as projects ask for them.

Forms: ``3``, ``3.11``, ``3.11.7``, ``3.11.*``, and clauses such as ``>=3.10,<3.13`` with the
operators of PEP 440.
"""

from __future__ import annotations

import re

Version = tuple[int, ...]

_CLAUSE = re.compile(r"^(===|==|~=|!=|<=|>=|<|>|=)?\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?$")


def fits(version: str, request: str) -> bool:
    """Return whether a full version satisfies a request; an unreadable request fits nothing."""
    have = parse(version)
    return all(_satisfies(have, clause.strip()) for clause in request.split(","))


def is_readable(request: str) -> bool:
    """Return whether a request has a form that ``fits`` understands."""
    return all(_CLAUSE.match(clause.strip()) for clause in request.split(","))


def _satisfies(have: Version, clause: str) -> bool:
    match = _CLAUSE.match(clause)
    if match is None:
        return False
    operator, want = match.group(1) or "", parse(match.group(2))
    head = have[: len(want)]
    if operator in ("", "=", "==", "==="):
        return head == want
    if operator == "!=":
        return head != want
    if operator == "~=":
        return head >= want and have[: len(want) - 1] == want[:-1]
    return {
        "<": have < want,
        "<=": head <= want,
        ">": head > want,
        ">=": have >= want,
    }[operator]


def parse(version: str) -> Version:
    """Return the numbers of a version such as ``3.11.7``."""
    return tuple(int(part) for part in version.split("."))
