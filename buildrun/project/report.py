"""Findings as text for people, and as JSON, GitHub annotations or SARIF for programs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from buildrun import __version__
from buildrun.console import printable
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.read import Row

_COLOURS = {"error": "\x1b[1;31m", "warning": "\x1b[1;33m", "hint": "\x1b[36m"}
_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


class Style(NamedTuple):
    """How to show findings."""

    cwd: str  # paths beneath it are shown relative to it
    strict: bool = False  # warnings count as failures
    quiet: bool = False  # text without warnings, except when strict
    colour: bool = False


def shown(path: str, cwd: str) -> str:
    """Return a path relative to ``cwd`` where it lies beneath, else as it is."""
    if path == cwd:
        return "."
    prefix = cwd.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else path


def as_text(rows: Sequence[Row], style: Style) -> str:
    """Return ``path:line:column: error[code]: message`` and a hint for each finding."""
    return "".join(
        _text(finding, style)
        for finding in _all(rows)
        if finding.severity == "error" or style.strict or not style.quiet
    )


def as_json(rows: Sequence[Row], style: Style) -> str:
    """Return version 1 of the JSON shape that the command line documents."""
    files = [
        {
            "argument": row.argument,
            "path": shown(row.path, style.cwd),
            "valid": row.is_valid(strict=style.strict),
            "diagnostics": [
                {name: value for name, value in finding._asdict().items() if name != "path"}
                for finding in row.diagnostics
            ],
        }
        for row in rows
    ]
    valid = all(file["valid"] for file in files)
    return json.dumps({"version": 1, "valid": valid, "files": files}, indent=2) + "\n"


def as_github(rows: Sequence[Row], style: Style) -> str:
    """Return GitHub Actions' workflow commands, one a line."""
    return "".join(_github(finding, style) for finding in _all(rows))


def as_sarif(rows: Sequence[Row], style: Style) -> str:
    """Return a SARIF 2.1.0 log with one run."""
    findings = _all(rows)
    driver = {
        "name": "buildrun",
        "version": __version__,
        "rules": [{"id": code} for code in sorted({finding.code for finding in findings})],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_sarif(finding, style) for finding in findings],
    }
    log = {"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}
    return json.dumps(log, indent=2) + "\n"


FORMATS: Mapping[str, Callable[[Sequence[Row], Style], str]] = {
    "text": as_text,
    "json": as_json,
    "github": as_github,
    "sarif": as_sarif,
}


def summary(rows: Sequence[Row]) -> str:
    """Return one line that counts files, errors and warnings."""
    findings = _all(rows)
    errors = sum(finding.severity == "error" for finding in findings)
    return (
        f"{_count(len(rows), 'file')} checked: "
        f"{_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _all(rows: Sequence[Row]) -> list[Diagnostic]:
    return [finding for row in rows for finding in row.diagnostics]


def _text(finding: Diagnostic, style: Style) -> str:
    path = printable(shown(finding.path, style.cwd))
    label = f"{finding.severity}[{finding.code}]"
    hint = f"    {_colour('hint:', 'hint', style)} {printable(finding.hint)}\n"
    return (
        f"{path}:{finding.line}:{finding.column}: {_colour(label, finding.severity, style)}: "
        f"{printable(finding.message)}\n{hint if finding.hint else ''}"
    )


def _colour(text: str, name: str, style: Style) -> str:
    return f"{_COLOURS[name]}{text}\x1b[0m" if style.colour else text


def _github(finding: Diagnostic, style: Style) -> str:
    """Escapes: https://github.com/actions/toolkit, packages/core/src/command.ts."""
    text = finding.message + (f"\nhint: {finding.hint}" if finding.hint else "")
    properties = {
        "file": shown(finding.path, style.cwd),
        "line": str(finding.line),
        "col": str(finding.column),
        "title": f"buildrun {finding.code}",
    }
    listed = ",".join(
        f"{name}={_escape(value).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
    )
    return f"::{finding.severity} {listed}::{_escape(text)}\n"


def _escape(text: str) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return printable(text)


def _sarif(finding: Diagnostic, style: Style) -> dict[str, Any]:
    path = shown(finding.path, style.cwd)
    uri = quote(os.fsencode(path))
    place = {
        "artifactLocation": {"uri": f"file://{uri}" if path.startswith("/") else uri},
        "region": {"startLine": finding.line, "startColumn": finding.column},
    }
    text = f"{finding.message}\n{finding.hint}" if finding.hint else finding.message
    return {
        "ruleId": finding.code,
        "level": finding.severity,
        "message": {"text": text},
        "locations": [{"physicalLocation": place}],
    }
