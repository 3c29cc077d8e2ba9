"""A report for people, such as a GitHub summary: Markdown with tables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildrun.console import printable, size
from buildrun.reports import log_end
from buildrun.reports.model import RunReport, StepReport

# Of the log of a step that failed: lines, and bytes of these.
_LINES, _LOG = 40, 8192

# By the state of a step or a run: its mark, and its word.
_STATES = {
    "ok": ("✅", "ran"),
    "cached": ("✅", "from the cache"),
    "up-to-date": ("✅", "up to date"),
    "failed": ("❌", "failed"),
    "skipped": ("⏭️", "skipped"),
    "cancelled": ("🚫", "cancelled"),
    "submitted": ("⏳", "submitted"),
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
    mark = _STATES.get(status, ("", ""))[0]
    code = "" if status == "ok" else f" (exit code {report['exit_code']})"
    told = [report.get("project", ""), report.get("entry_point", "")]
    name = ", ".join(escape(text) for text in told if text) or "buildrun"
    yield f"### {mark} {name}: {status}{code}\n\n{_summary(report)}\n"
    if "error" in report:
        yield f"\n{escape(report['error'])}\n"
    if steps:
        yield "\n| | Step | State | Duration | CPU | Memory | Why |\n"
        yield "|---|---|---|--:|--:|--:|---|\n"
        yield from map(_row, steps)
    for step in steps:
        if step["state"] == "failed":
            yield _failure(step)


def _summary(report: RunReport) -> str:
    states = [step["state"] for step in report["steps"]]
    counts = [f"{states.count(name)} {word}" for name, (_, word) in _STATES.items()
              if name in states]  # fmt: skip
    saved = sum(step.get("saved", 0.0) for step in report["steps"])
    facts = [", ".join(counts), duration(report.get("seconds", 0.0))]
    facts += [f"{duration(saved)} saved"] if saved >= 0.05 else []
    facts.append(f"run {escape(report['run_id'][:12])}")
    return " · ".join(filter(None, facts))


def _row(step: StepReport) -> str:
    mark, word = _STATES.get(step["state"], ("", step["state"]))
    cpu, memory = step.get("cpu_seconds"), step.get("peak_memory")
    cells = [
        mark,
        escape(step["id"]),
        word,
        duration(step["seconds"]) if step["exit_code"] is not None else "",
        "" if cpu is None else duration(cpu),
        "" if memory is None else size(memory),
        escape("; ".join(reason["detail"] for reason in step["reasons"])),
    ]
    return f"| {' | '.join(cells)} |\n"


def _failure(step: StepReport) -> str:
    title = f"\n#### {escape(step['id'])} failed: {escape(log_end.failure(step))}\n"
    lines = log_end.read(step, _LOG).splitlines()[-_LINES:]
    return f"{title}\n{fence(lines)}" if lines else title


def fence(lines: list[str]) -> str:
    """Return lines as they are, within more backticks than stand anywhere in them."""
    text = "\n".join(lines)
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * max(3, longest + 1)
    return f"{ticks}text\n{text}\n{ticks}\n"


def escape(text: str) -> str:
    """Return text on one line that means nothing to Markdown, to its tables or to HTML."""
    return re.sub(r"[^\w\s.,;:/=+%'()-]|_", lambda found: f"&#{ord(found[0])};", printable(text))


def duration(seconds: float) -> str:
    """Return a time for people, such as ``2 min 05 s``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"
