"""A run as one HTML file that needs nothing else, and asks no network for anything."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
from collections.abc import Sequence

import buildrun
from buildrun.console import STATE_WORDS, duration, printable, size
from buildrun.reports import html_parts as parts
from buildrun.reports.attachments import Attachments
from buildrun.reports.model import RunReport, StepReport

# A file that begins so is such a report.
BEGINNING = "<!doctype html>\n<!-- a report of buildrun -->\n"

# In longer runs, what is told of steps that went well is packed, and needs JavaScript to be read.
_MOST_PLAIN = 200
# Characters of a key that are told in longer runs: `blake3:` and 64 bits.
_SHORT_KEY = 23

_NO_STEPS = "<p class=note>No step of it is recorded.</p>"


def render(report: RunReport) -> str:
    """Return the report as HTML.

    Logs are read where the steps name them, pictures from the run's root, as they are now.
    """
    steps = report.get("steps", ())
    page = _Page(report, steps)
    pieces = {
        "title": parts.text(f"{report.get('project', '')}: {report.get('status', '')}"),
        "style": _asset("report.css"),
        "script": _asset("report.js"),
        "head": page.head(),
        "failures": page.failures(),
        "steps": "".join(map(page.step, range(len(steps)))) or _NO_STEPS,
        "packed": page.packed(),
        "run": page.about(),
    }
    pieces["policy"] = (
        f"default-src 'none'; script-src {_digest(pieces['script'])}; "
        f"style-src {_digest(pieces['style'])}; img-src data:; base-uri 'none'; form-action 'none'"
    )
    text = _asset("report.html")
    for name, piece in pieces.items():  # none has such a comment: all data is escaped
        text = text.replace(f"<!--{name}-->", piece)
    return BEGINNING + text


class _Page:
    """The parts of the page."""

    def __init__(self, report: RunReport, steps: Sequence[StepReport]) -> None:
        self._report = report
        self._steps = steps
        self._numbers = {step["id"]: number for number, step in enumerate(steps)}
        self._is_long = len(steps) > _MOST_PLAIN
        self._packed: list[str] = []
        self._shared = parts.shared_surroundings(steps)
        self._values = parts.values(steps)
        attachments = Attachments(str(report.get("root", "")))
        # Where there is no room for all, failures come first.
        first = sorted(steps, key=lambda step: step["state"] != "failed")
        self._logs = {step["id"]: attachments.log(step) for step in first}
        self._attachments = attachments

    def head(self) -> str:
        """Return how the run went as a whole."""
        report, steps = self._report, self._steps
        status = report.get("status", "")
        ended = {"ok": "succeeded"}.get(status, printable(status))
        code = report.get("exit_code")
        known = f" with exit code {code}" if code and status in ("failed", "cancelled") else ""
        started = report.get("started")
        when = f" · {parts.moment(started)}" if started is not None else ""
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
        told = "".join(f"<div>{parts.facts([fact])}</div>" for fact in facts if fact[1])
        state = f"<i aria-hidden=true>{parts.MARKS.get(status, '…')}</i> {parts.text(ended)}{known}"
        return (
            f"<h1>{parts.text(report.get('project') or 'run')}</h1>"
            f'<p class=how><strong class="{parts.text(status)}">{state}</strong>'
            f" · {parts.text(report.get('entry_point', ''))}{when}</p><dl class=facts>{told}</dl>"
        )

    def failures(self) -> str:
        """Return what has stopped the run, and links to the steps that failed."""
        links = [self._link(step["id"]) for step in self._steps if step["state"] == "failed"]
        told = [
            parts.text(self._report.get("error", "")),
            links and f"Failed: {', '.join(links)}",
        ]
        return "".join(f"<p class=failures>{line}</p>" for line in told if line)

    def step(self, number: int) -> str:
        """Return a step: a line, and what unfolds below it."""
        step = self._steps[number]
        state = step["state"]
        mark, word = parts.MARKS.get(state, "?"), STATE_WORDS.get(state, "unknown")
        body = self._body(step)
        is_open = state == "failed" or len(self._steps) == 1
        if self._is_long and state != "failed":
            self._packed.append(f"<div data-of={number}>{body}</div>")
            body = ""
        took = duration(step["seconds"]) if step["seconds"] >= 0.005 else ""
        shown = " open" if is_open else ""
        return (
            f"<details id=s{number} class={parts.css_class(state)}{self._times(step)}{shown}>"
            f"<summary><i>{mark}</i><b>{parts.text(step['id'])}</b>"
            f"<span>{self._varied(step)}{''.join(map(parts.reason, step['reasons'][:1]))}</span>"
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
            ("Project", parts.text(report.get("root", ""))),
            ("Run", f"<code>{parts.text(report.get('run_id', ''))}</code>"),
            *self._shared.items(),
            ("buildrun", buildrun.__version__),
        ]
        return f"<dl>{parts.facts(facts)}</dl>"

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
            f"<q>{parts.text(f'{name}={value}')}</q>"
            for name, value in pairs
            if len(values[name]) > 1
        ]
        return f"{' '.join(told)} · " if told else ""

    def _body(self, step: StepReport) -> str:
        outputs = step.get("outputs") or []
        key = step.get("key") or ""
        own = [fact for fact in parts.surroundings(step).items() if fact[0] not in self._shared]
        facts = [
            ("Command", parts.code(step.get("command"))),
            ("Parameters", parts.parameters(step.get("parameters") or {})),
            ("Because", parts.reasons(step["reasons"])),
            ("Depends on", ", ".join(map(self._link, step.get("depends_on") or ()))),
            ("Exit code", str(step.get("exit_code") or "")),
            ("Resources", parts.resources(step)),
            ("Outputs", parts.outputs(outputs)),
            *own,
            ("Key", parts.code(key[:_SHORT_KEY] if self._is_long else key)),
        ]
        pictures = self._attachments.pictures(outputs)
        return f"<dl>{parts.facts(facts)}</dl>{pictures}{self._logs[step['id']]}"

    def _link(self, name: str) -> str:
        number = self._numbers.get(name)
        return parts.text(name) if number is None else f"<a href=#s{number}>{parts.text(name)}</a>"


def _asset(name: str) -> str:
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as file:
        return file.read()


def _digest(text: str) -> str:
    """Return a text's digest, as a Content-Security-Policy names what may run."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
