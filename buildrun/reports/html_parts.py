"""Small parts of the HTML report: what is known of a step, each a piece of escaped HTML."""

from __future__ import annotations

import html
import re
import time
from collections.abc import Iterable, Mapping, Sequence

from buildrun.console import duration, printable, printable_lines, size
from buildrun.reports.model import OutputReport, ReasonReport, StepReport

# Outputs of one step that are told.
_MOST_OUTPUTS = 50

# By the state of a step or a run.
MARKS = {
    "failed": "✗",
    "cancelled": "⊘",
    "skipped": "–",
    "submitted": "→",
    "ok": "✓",
    "cached": "↻",
    "up-to-date": "=",
}


def css_class(state: str) -> str:
    """Return a class for a state, which may be of a later version."""
    return state if state in MARKS else "unknown"


def text(value: object) -> str:
    """Return a value on one line, with nothing in it that hides or turns text."""
    return html.escape(printable(str(value)))


def moment(seconds: float) -> str:
    """Return a time where we are; seconds: since the epoch."""
    local = time.localtime(seconds)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", local)
    return f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S%z", local)}">{shown}</time>'


def code(source: str | None) -> str:
    """Return code with its lines, "" where there is none."""
    return f"<code>{html.escape(printable_lines(source))}</code>" if source else ""


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Return names and what is known, as HTML; what is not known is left out."""
    return "".join(f"<dt>{name}<dd>{value}" for name, value in pairs if value)


def reason(told: ReasonReport) -> str:
    """Return a reason; names in it stand in backticks."""
    return re.sub("`([^`]*)`", r"<q>\1</q>", text(told.get("detail", "")))


def reasons(told: Sequence[ReasonReport]) -> str:
    """Return why a step is in its state; a lone reason is told in its line."""
    return "<br>".join(map(reason, told)) if len(told) > 1 else ""


def parameters(given: Mapping[str, str]) -> str:
    """Return parameters, a line each."""
    return "<br>".join(f"{text(name)} = {code(str(value))}" for name, value in given.items())


def resources(step: StepReport) -> str:
    """Return what a step has used and saved."""
    cpu, memory, saved = step.get("cpu_seconds"), step.get("peak_memory"), step.get("saved")
    parts = [
        f"{duration(cpu)} of CPU" if cpu is not None else "",
        f"{size(memory)} of memory" if memory else "",
        f"saved {duration(saved)}" if saved else "",
    ]
    return ", ".join(filter(None, parts))


def outputs(made: Sequence[OutputReport]) -> str:
    """Return files with their sizes, a line each, and how many more there are."""
    lines = [
        f"{text(output['path'])} <small>{size(output['bytes'])}</small>"
        for output in made[:_MOST_OUTPUTS]
    ]
    if len(made) > _MOST_OUTPUTS:
        lines.append(f"and {len(made) - _MOST_OUTPUTS:,} more")
    return "<br>".join(lines)


def surroundings(step: StepReport) -> dict[str, str]:
    """Return what a step ran in, as HTML."""
    environment: Mapping[str, object] = step.get("environment") or {}
    key = code(str(environment.get("key") or ""))
    return {
        "Backend": text(step.get("backend") or ""),
        "Environment": f"{text(environment.get('manager') or '')} {key}".strip(),
        "Image": code(step.get("image")),
    }


def shared_surroundings(steps: Sequence[StepReport]) -> dict[str, str]:
    """Return what all steps ran in, as far as it is the same."""
    every = [surroundings(step) for step in steps]
    return {
        name: value
        for name, value in (every[0].items() if every else ())
        if all(about[name] == value for about in every)
    }


def values(steps: Sequence[StepReport]) -> dict[str, dict[str, set[str]]]:
    """Return by entry point and parameter the values that are there."""
    found: dict[str, dict[str, set[str]]] = {}
    for step in steps:
        mine = found.setdefault(step["entry_point"], {})
        for name, value in (step.get("parameters") or {}).items():
            mine.setdefault(name, set()).add(value)
    return found
