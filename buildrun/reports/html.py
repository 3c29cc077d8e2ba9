"""A run as one HTML file that needs nothing else, and asks no network for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence

import buildrun
from buildrun.console import printable, size
from buildrun.reports import terminal_text
from buildrun.reports.attachments import Attachments
from buildrun.reports.model import Output, RunReport, StepReport

# A file that begins so is such a report.
BEGINNING = "<!doctype html>\n<!-- a report of buildrun -->\n"

# In longer runs, what is told of steps that went well is packed, and needs JavaScript to be read.
_MOST_PLAIN = 200
# Outputs of one step that are told.
_MOST_OUTPUTS = 50
# Characters of a key that are told in longer runs: `blake3:` and 64 bits.
_SHORT_KEY = 23

# By the state of a step: its mark, and its word.
STATES = {
    "failed": ("✗", "failed"),
    "cancelled": ("⊘", "cancelled"),
    "skipped": ("–", "skipped"),
    "submitted": ("→", "submitted"),
    "ok": ("✓", "ran"),
    "cached": ("↻", "from the cache"),
    "up-to-date": ("=", "up to date"),
}
_UNKNOWN = ("?", "unknown")
_NO_STEPS = "<p class=note>No step of it is recorded.</p>"


def render(report: RunReport) -> str:
    """Return the report as HTML.

    Logs are read where the steps name them, pictures from the run's root, as they are now.
    """
    steps = report.get("steps", ())
    page = _Page(report, steps)
    parts = {
        "title": _text(f"{report.get('project', '')}: {report.get('status', '')}"),
        "style": _asset("report.css"),
        "script": _asset("report.js"),
        "head": page.head(),
        "failures": page.failures(),
        "steps": "".join(map(page.step, range(len(steps)))) or _NO_STEPS,
        "run": page.about(),
    }
    parts["packed"] = page.packed()
    parts["policy"] = (
        f"default-src 'none'; script-src {_digest(parts['script'])}; "
        f"style-src {_digest(parts['style'])}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    text = _asset("report.html")
    for name, part in parts.items():  # no part has such a comment: all data is escaped
        text = text.replace(f"<!--{name}-->", part)
    return BEGINNING + text


class _Page:
    """The parts of the page."""

    def __init__(self, report: RunReport, steps: Sequence[StepReport]) -> None:
        self._report = report
        self._steps = steps
        self._numbers = {step["id"]: number for number, step in enumerate(steps)}
        self._is_long = len(steps) > _MOST_PLAIN
        self._packed: list[str] = []
        self._shared = _shared(steps)
        self._values = _values(steps)
        attachments = Attachments(str(report.get("root", "")))
        # Where there is no room for all, failures come first.
        first = sorted(steps, key=lambda step: step["state"] != "failed")
        self._logs = {step["id"]: attachments.log(step) for step in first}
        self._attachments = attachments

    def head(self) -> str:
        """Return how the run went as a whole."""
        report, steps = self._report, self._steps
        status = report.get("status", "")
        mark, _ = STATES.get(status, ("…", ""))
        ended = {"ok": "succeeded"}.get(status, printable(status))
        code = report.get("exit_code")
        known = f" with exit code {code}" if code and status in ("failed", "cancelled") else ""
        started = report.get("started")
        when = f" · {_time(started)}" if started is not None else ""
        memory = max((step.get("peak_memory") or 0 for step in steps), default=0)
        cpu = sum(step.get("cpu_seconds") or 0 for step in steps)
        saved = sum(step.get("saved") or 0 for step in steps)
        seconds = report.get("seconds")
        facts = [
            ("duration", "" if seconds is None else duration(seconds)),
            ("step" if len(steps) == 1 else "steps", f"{len(steps):,}"),
            ("saved by the cache", duration(saved) if saved else ""),
            ("CPU time", duration(cpu) if cpu else ""),
            ("peak memory", size(memory) if memory else ""),
        ]
        told = "".join(f"<div>{_facts([fact])}</div>" for fact in facts if fact[1])
        state = f"<i aria-hidden=true>{mark}</i> {_text(ended)}{known}"
        return (
            f"<h1>{_text(report.get('project') or 'run')}</h1>"
            f'<p class=how><strong class="{_text(status)}">{state}</strong>'
            f" · {_text(report.get('entry_point', ''))}{when}</p><dl class=facts>{told}</dl>"
        )

    def failures(self) -> str:
        """Return what has stopped the run, and links to the steps that failed."""
        links = [self._link(step["id"]) for step in self._steps if step["state"] == "failed"]
        told = [_text(self._report.get("error", "")), links and f"Failed: {', '.join(links)}"]
        return "".join(f"<p class=failures>{line}</p>" for line in told if line)

    def step(self, number: int) -> str:
        """Return a step: a line, and what unfolds below it."""
        step = self._steps[number]
        state = step["state"]
        mark, word = STATES.get(state, _UNKNOWN)
        reasons = step.get("reasons") or [{}]
        body = self._body(step)
        is_open = state == "failed" or len(self._steps) == 1
        if self._is_long and state != "failed":
            self._packed.append(f"<div data-of={number}>{body}</div>")
            body = ""
        took = duration(step["seconds"]) if step["seconds"] >= 0.005 else ""
        shown = " open" if is_open else ""
        return (
            f"<details id=s{number} class={_class(state)}{self._times(step)}{shown}>"
            f"<summary><i>{mark}</i><b>{_text(step['id'])}</b>"
            f"<span>{self._varied(step)}{_reason(reasons[0])}</span>"
            f"<em>{word}</em><u>{took}</u></summary>{body}</details>\n"
        )

    def packed(self) -> str:
        """Return what was packed of the steps."""
        data = gzip.compress("".join(self._packed).encode(), mtime=0)
        return base64.b64encode(data).decode() if self._packed else ""

    def about(self) -> str:
        """Return what is the same for the whole run."""
        report = self._report
        facts = [
            ("Project", _text(report.get("root", ""))),
            ("Run", f"<code>{_text(report.get('run_id', ''))}</code>"),
            *self._shared.items(),
            ("buildrun", buildrun.__version__),
        ]
        return f"<dl>{_facts(facts)}</dl>"

    def _times(self, step: StepReport) -> str:
        """Return when a step began, in seconds since the run did, and what it took."""
        began, run_began = step.get("started"), self._report.get("started")
        if began is None or run_began is None:
            return ""
        return f' data-t="{max(0.0, began - run_began):.3f} {step["seconds"]:.3f}"'

    def _varied(self, step: StepReport) -> str:
        """Return the parameters in which steps of one entry point differ."""
        pairs = (step.get("parameters") or {}).items()
        values = self._values[step["entry_point"]]
        told = [
            f"<q>{_text(f'{name}={value}')}</q>" for name, value in pairs if len(values[name]) > 1
        ]
        return f"{' '.join(told)} · " if told else ""

    def _body(self, step: StepReport) -> str:
        outputs = step.get("outputs") or []
        facts = [
            ("Command", _code(step.get("command"))),
            ("Parameters", _parameters(step.get("parameters") or {})),
            ("Because", _reasons(step.get("reasons") or [])),
            ("Depends on", ", ".join(map(self._link, step.get("depends_on") or ()))),
            ("Exit code", str(step.get("exit_code") or "")),
            ("Resources", _used(step)),
            ("Outputs", _outputs(outputs)),
            *((name, value) for name, value in _about(step).items() if name not in self._shared),
            ("Key", _code((step.get("key") or "")[: _SHORT_KEY if self._is_long else None])),
        ]
        return (
            f"<dl>{_facts(facts)}</dl>{self._attachments.pictures(outputs)}{self._logs[step['id']]}"
        )

    def _link(self, name: str) -> str:
        number = self._numbers.get(name)
        return _text(name) if number is None else f"<a href=#s{number}>{_text(name)}</a>"


def duration(seconds: float) -> str:
    """Return seconds for people, such as ``3 min 12 s``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _class(state: str) -> str:
    return state if state in STATES else "unknown"


def _text(text: object) -> str:
    return html.escape(printable(str(text)))


def _time(seconds: float) -> str:
    moment = time.localtime(seconds)
    shown = time.strftime("%Y-%m-%d %H:%M:%S", moment)
    return f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S%z", moment)}">{shown}</time>'


def _code(text: str | None) -> str:
    return f"<code>{html.escape(terminal_text.plain(text))}</code>" if text else ""


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and what is known, as HTML; what is not known is left out."""
    return "".join(f"<dt>{name}<dd>{value}" for name, value in facts if value)


def _reason(reason: Mapping[str, str]) -> str:
    """Return a reason; names in it stand in backticks."""
    return re.sub("`([^`]*)`", r"<q>\1</q>", _text(reason.get("detail", "")))


def _reasons(reasons: Sequence[Mapping[str, str]]) -> str:
    """Return why a step is in its state; a lone reason is told in its line."""
    lines = (_reason(reason) for reason in reasons)
    return "<br>".join(lines) if len(reasons) > 1 else ""


def _parameters(parameters: Mapping[str, str]) -> str:
    return "<br>".join(f"{_text(name)} = {_code(str(value))}" for name, value in parameters.items())


def _used(step: StepReport) -> str:
    cpu, memory, saved = step.get("cpu_seconds"), step.get("peak_memory"), step.get("saved")
    parts = [
        f"{duration(cpu)} of CPU" if cpu is not None else "",
        f"{size(memory)} of memory" if memory else "",
        f"saved {duration(saved)}" if saved else "",
    ]
    return ", ".join(filter(None, parts))


def _outputs(outputs: Sequence[Output]) -> str:
    lines = [
        f"{_text(output['path'])} <small>{size(output['bytes'])}</small>"
        for output in outputs[:_MOST_OUTPUTS]
    ]
    if len(outputs) > _MOST_OUTPUTS:
        lines.append(f"and {len(outputs) - _MOST_OUTPUTS:,} more")
    return "<br>".join(lines)


def _about(step: StepReport) -> dict[str, str]:
    """Return what a step ran in, as HTML."""
    environment = step.get("environment") or {}
    key = _code(environment.get("key"))
    return {
        "Backend": _text(step.get("backend") or ""),
        "Environment": f"{_text(environment.get('manager') or '')} {key}".strip(),
        "Image": _code(step.get("image")),
    }


def _shared(steps: Sequence[StepReport]) -> dict[str, str]:
    """Return what all steps ran in, as far as it is the same."""
    every = [_about(step) for step in steps]
    return {
        name: value
        for name, value in (every[0].items() if every else ())
        if all(about[name] == value for about in every)
    }


def _values(steps: Sequence[StepReport]) -> dict[str, dict[str, set[str]]]:
    """Return by entry point and parameter the values that are there."""
    found: dict[str, dict[str, set[str]]] = {}
    for step in steps:
        mine = found.setdefault(step["entry_point"], {})
        for name, value in (step.get("parameters") or {}).items():
            mine.setdefault(name, set()).add(value)
    return found


def _asset(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    """Return a text's digest, as a Content-Security-Policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
