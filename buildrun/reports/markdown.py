"""A report for people, such as a GitHub summary: Markdown with tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildrun.console import STATE_WORDS, duration, printable, size, state_counts
from buildrun.reports import log_end
from buildrun.reports.model import RunReport, StepReport

# Of the log of a step that failed: lines, and bytes of these.
_LINES, _LOG = 40, 8192

# By the state of a step or a run.
_MARKS = {
    **dict.fromkeys(("ok", "cached", "up-to-date"), "✅"),
    "failed": "❌",
    "skipped": "⏭️",
    "cancelled": "🚫",
    "submitted": "⏳",
}

_CUT = "\n*The rest is left out: a summary may have no more.*\n"


def render(report: RunReport, limit: int | None = None) -> str:
    """Return the report as Markdown; limit: bytes that it may have, the most of what fits."""
    parts = list(_parts(report))
    text = "".join(parts)
    if limit is None or len(text.encode(errors="backslashreplace")) <= limit:
        return text
    kept, left = [], limit - len(_CUT.encode())
    for part in parts:
        left -= len(part.encode(errors="backslashreplace"))
        if left < 0:
            break
        kept.append(part)
    return "".join(kept) + _CUT if kept else ""


def _parts(report: RunReport) -> Iterator[str]:
    """Yield pieces at whose ends the text may be cut."""
    status, steps = report["status"], report["steps"]
    code = "" if status == "ok" else f" (exit code {report['exit_code']})"
    told = [report.get("project", ""), report.get("entry_point", "")]
    name = ", ".join(_escape(text) for text in told if text) or "buildrun"
    yield f"### {_MARKS.get(status, '')} {name}: {status}{code}\n\n{_summary(report)}\n"
    if "error" in report:
        yield f"\n{_escape(report['error'])}\n"
    if steps:
        yield "\n| | Step | State | Duration | CPU | Memory | Why |\n"
        yield "|---|---|---|--:|--:|--:|---|\n"
        yield from map(_row, steps)
    for step in steps:
        if step["state"] == "failed":
            yield _failure(step)


def _summary(report: RunReport) -> str:
    counts = [text for _, text in state_counts([step["state"] for step in report["steps"]])]
    saved = sum(step.get("saved", 0.0) for step in report["steps"])
    facts = [", ".join(counts), duration(report.get("seconds", 0.0))]
    facts += [f"{duration(saved)} saved"] if saved >= 0.05 else []
    facts.append(f"run {_escape(report['run_id'][:12])}")
    return " · ".join(filter(None, facts))


def _row(step: StepReport) -> str:
    state = step["state"]
    cpu, memory = step.get("cpu_seconds"), step.get("peak_memory")
    cells = [
        _MARKS.get(state, ""),
        _escape(step["id"]),
        STATE_WORDS.get(state, state),
        duration(step["seconds"]) if step["exit_code"] is not None else "",
        "" if cpu is None else duration(cpu),
        "" if memory is None else size(memory),
        _escape("; ".join(reason["detail"] for reason in step["reasons"])),
    ]
    return f"| {' | '.join(cells)} |\n"


def _failure(step: StepReport) -> str:
    title = f"\n#### {_escape(step['id'])} failed: {_escape(log_end.failure(step))}\n"
    lines = log_end.read(step, _LOG).splitlines()[-_LINES:]
    return f"{title}\n{_fence(lines)}" if lines else title


def _fence(lines: list[str]) -> str:
    """Return lines as they are, within more backticks than stand anywhere in them."""
    text = "\n".join(lines)
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}\n"


def _escape(text: str) -> str:
    """Return text on one line that means nothing to Markdown, to its tables or to HTML."""
    return re.sub(r"[^\w\s.,;:/=+%'()-]|_", lambda found: f"&#{ord(found[0])};", printable(text))
