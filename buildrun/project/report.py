"""Findings as text for people and as JSON for programs; what services read is in ci_formats."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import Any

from buildrun.console import counted, printable, styled, wrapped
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.fix import Mended
from buildrun.project.places import Style, shown
from buildrun.project.read import Row


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
            "diagnostics": [_json(finding) for finding in row.diagnostics],
        }
        for row in rows
    ]
    valid = all(file["valid"] for file in files)
    return json.dumps({"version": 1, "valid": valid, "files": files}, indent=2) + "\n"


FORMATS = ("text", "json", "github", "sarif", "gitlab", "junit")


def render(form: str, rows: Sequence[Row], style: Style) -> str:
    """Return findings in one of FORMATS."""
    own = {"text": as_text, "json": as_json}
    if form in own:
        return own[form](rows, style)
    from buildrun.project import ci_formats

    return ci_formats.FORMATS[form](rows, style)


def diff(mended: Mended, cwd: str) -> str:
    """Return what mending changes in a file as a unified diff."""
    from difflib import unified_diff

    name = printable(shown(mended.path, cwd).lstrip("/"))
    before, after = (
        re.findall(r"[^\n]*\n|[^\n]+", content.decode())
        for content in (mended.before, mended.after)
    )
    lines = unified_diff(before, after, f"a/{name}", f"b/{name}")
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def fixes(mended: Mended, cwd: str) -> str:
    """Return a line for each finding of a file that was mended."""
    path = printable(shown(mended.path, cwd))
    return "".join(
        f"{path}:{item.line}:{item.column}: fixed[{item.code}]: "
        + ", ".join(f"`{printable(edit.old)}` is now `{printable(edit.new)}`" for edit in item.fix)
        + "\n"
        for item in mended.findings
    )


def summary(rows: Sequence[Row], *, offer: bool = True) -> str:
    """Return one line that counts files, errors and warnings; offer: and what can be fixed."""
    findings = _all(rows)
    errors = sum(finding.severity == "error" for finding in findings)
    fixable = sum(bool(finding.fix) for finding in findings) if offer else 0
    bare = len({row.path for row in rows if os.path.isdir(row.path)})
    noun = "directory" if bare == 1 else "directories"
    without = f", {bare} {noun} without an MLproject" if bare else ""
    return (
        f"{counted(len(rows) - bare, 'file')} checked{without}: "
        f"{counted(errors, 'error')}, {counted(len(findings) - errors, 'warning')}"
        + (f"; `--fix` may mend {fixable} of them" if fixable else "")
    )


def _json(finding: Diagnostic) -> dict[str, Any]:
    value = finding._asdict()
    del value["path"]
    return {**value, "fixable": True} if value.pop("fix") else value


def _all(rows: Sequence[Row]) -> list[Diagnostic]:
    return [finding for row in rows for finding in row.diagnostics]


def _text(finding: Diagnostic, style: Style) -> str:
    path = printable(shown(finding.path, style.cwd))
    label = f"{finding.severity}[{finding.code}]"
    place = f"{path}:{finding.line}:{finding.column}"
    text = wrapped(f"{place}: {label}: {printable(finding.message)}", style.columns)
    hint = wrapped(f"    hint: {printable(finding.hint)}", style.columns)
    if style.colour:
        text = text.replace(label, styled(label, finding.severity), 1)
        hint = hint.replace("hint:", styled("hint:", "hint"), 1)
    return f"{text}\n{hint}\n" if finding.hint else f"{text}\n"
