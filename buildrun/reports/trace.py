"""A report for Perfetto and other viewers of traces: Chrome's Trace Event Format, as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from buildrun.console import printable
from buildrun.reports.model import RunReport, StepReport

_PROCESS = 1


def render(report: RunReport) -> str:
    """Return the steps as complete events, those that ran at once on tracks of their own.

    Times count from the run's beginning; a step that did not start is not shown.
    """
    began = report.get("started", 0.0)
    started = [step for step in report["steps"] if step.get("started") is not None]
    lanes = _lanes([_span(step, began) for step in started])
    events = [_name("process_name", 0, f"{report.get('project', '')}: {report['run_id']}")]
    for lane in sorted({lane for lane, _, _ in lanes}):
        events.append(_name("thread_name", lane, f"slot {lane}"))
    for step, (lane, start, length) in zip(started, lanes, strict=True):
        events.append(_event(step, lane, start, length))
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, indent=1) + "\n"


def _span(step: StepReport, began: float) -> tuple[int, int]:
    """Return when a step began and ended, in microseconds of the run."""
    start = max(0, round(((step.get("started") or 0.0) - began) * 1e6))
    return start, start + round(step["seconds"] * 1e6)


def _lanes(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return each span's track, from 1, start and length; those of one track do not overlap."""
    ends: list[int] = []
    placed = [(0, 0, 0)] * len(spans)
    for index in sorted(range(len(spans)), key=lambda index: spans[index]):
        start, end = spans[index]
        # Times are told by the millisecond: one may seem to begin before its predecessor ends.
        lane = next((lane for lane, last in enumerate(ends) if last <= start + 1000), len(ends))
        if lane == len(ends):
            ends.append(start)
        start = max(start, ends[lane])
        ends[lane] = end = max(start, end)
        placed[index] = (lane + 1, start, end - start)
    return placed


def _event(step: StepReport, lane: int, start: int, length: int) -> dict[str, Any]:
    told = ("state", "exit_code", "parameters", "command", "cpu_seconds", "peak_memory", "key")
    arguments = {name: step.get(name) for name in told if step.get(name) not in (None, {})}
    arguments["reasons"] = "; ".join(reason["detail"] for reason in step["reasons"])
    return {
        "name": printable(step["id"]),
        "cat": step["state"],
        "ph": "X",
        "ts": start,
        "dur": length,
        "pid": _PROCESS,
        "tid": lane,
        "args": arguments,
    }


def _name(kind: str, lane: int, name: str) -> dict[str, Any]:
    """Return the event that names the process or a track."""
    given = {"name": printable(name)}
    return {"name": kind, "ph": "M", "pid": _PROCESS, "tid": lane, "ts": 0, "args": given}
