"""The results as text: tables for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.case import Claim, Outcome

VERSION = 1

_INTRODUCTION = """\
# Measurements

Made by `python -m benchmarks`; do not edit. Each subject is installed in a virtualenv of its own
and compiled to bytecode; the subjects of a case take turns, after one round to warm up. The
quartiles enclose half of all measurements. CPU is the median processor time of all processes that
the subject started; other load on the machine raises it less than the time. A target is met by
the ratio of medians; the ratio of minima stands beside it.
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns are aligned, numbers to the right."""
    widths = [max(len(row[place]) for row in (header, *rows)) for place in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *rest = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = [("-" * width if place == 0 else "-" * (width - 1) + ":")
            for place, width in enumerate(widths)]  # fmt: skip
    return [line(header), line(rule), *(line(row) for row in rows)]


def encode(
    outcome: Outcome,
    *,
    title: str,
    date: str,
    load: Sequence[float],
    versions: Mapping[str, str],
    machine: Mapping[str, str],
) -> dict[str, Any]:
    """Return a case's outcome as JSON values; load: before and after."""
    return {
        "title": title,
        "date": date,
        "machine": dict(machine),
        "load": [round(value, 2) for value in load],
        "versions": dict(versions),
        "seconds": {name: row._asdict() for name, row in outcome.rows.items()},
        "claims": [{**claim._asdict(), "met": claim.met} for claim in outcome.claims],
        "notes": list(outcome.notes),
    }


def lines_of(name: str, case: Mapping[str, Any]) -> list[str]:
    """Return a section on one case, from its JSON values."""
    versions = ", ".join(f"{subject} {version}" for subject, version in case["versions"].items())
    before, after = case["load"]
    measured = [
        [subject, str(row["rounds"]), *(_time(row[field]) for field in _FIELDS)]
        for subject, row in case["seconds"].items()
    ]
    claims = [_claim_cells(claim) for claim in case["claims"]]
    header = ("subject", "rounds", "median", "minimum", "quartiles from", "to", "CPU")
    lines = [f"## {name}: {case['title']}", "", *table(header, measured), ""]
    lines += table(("claim", "of medians", "of minima", "target", "verdict"), claims)
    lines += ["", f"{case['date']}; {versions}; load average {before} before, {after} after."]
    lines += ["; ".join(f"{key}: {text}" for key, text in case["machine"].items()) + "."]
    return [*lines, *case["notes"], ""]


def markdown(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page of all cases."""
    lines = [_INTRODUCTION]
    for name, case in cases.items():
        lines += lines_of(name, case)
    return "\n".join(lines)


def to_json(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the file of all cases."""
    return json.dumps({"version": VERSION, "cases": dict(cases)}, indent=2) + "\n"


def from_json(text: str) -> dict[str, Any]:
    """Return the cases of an earlier file; none where it cannot be understood."""
    try:
        found = json.loads(text)
        return dict(found["cases"]) if found["version"] == VERSION else {}
    except (ValueError, KeyError, TypeError):
        return {}


_FIELDS = ("median", "minimum", "low", "high", "cpu")


def _claim_cells(claim: Mapping[str, Any]) -> list[str]:
    met = Claim(claim["text"], claim["value"], claim["best"], claim["limit"], claim["unit"]).met
    verdict = "" if met is None else "met" if met else "MISSED"
    if claim["value"] is None:
        verdict = "hidden by noise: measure more rounds"
    target = "" if claim["limit"] is None else f"≤ {_number(claim['limit'], claim['unit'])}"
    values = (_number(claim[field], claim["unit"]) for field in ("value", "best"))
    return [claim["text"], *values, target, verdict]


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "ms":
        return f"{value:.2f} ms"
    if unit == "MB":
        return f"{value:.0f} MB"
    if unit in ("builds", "requests"):
        return f"{value:.0f}"
    return f"1/{1 / value:.1f}" if 0 < value < 0.1 else f"{value:.2f}×"


def _time(seconds: float) -> str:
    if seconds < 0.01:
        return f"{seconds * 1000:.2f} ms"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
