"""Findings for services: GitHub annotations, SARIF, GitLab code quality and JUnit."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun import __version__
from buildrun.console import printable
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.finding_codes import MEANINGS
from buildrun.project.places import Style, below, from_root, root_of
from buildrun.project.read import Row
from buildrun.reports import ci

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

_SARIF_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_HINT = "\n    hint: "
_SRCROOT = "%SRCROOT%"
_SEVERITIES = {"error": "major", "warning": "minor"}


def as_github(rows: Sequence[Row], style: Style) -> str:
    """Return GitHub Actions' workflow commands, one a line."""
    return "".join(_annotation(finding, style) for row in rows for finding in row.diagnostics)


def as_sarif(rows: Sequence[Row], style: Style) -> str:
    """Return a SARIF 2.1.0 log with one run; paths are relative to the first file's root."""
    root = root_of(rows[0].path, style) if rows else style.cwd
    codes = sorted({finding.code for row in rows for finding in row.diagnostics})
    driver = {"name": "buildrun", "version": __version__, "rules": [_rule(code) for code in codes]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {_SRCROOT: {"uri": _uri(os.path.join(root, ""))}},
        "results": [
            {**_result(finding, root), "partialFingerprints": {"buildrun/v1": digest}}
            for finding, digest in _fingerprinted(rows, style)
        ],
    }
    return _json({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]})


def as_gitlab(rows: Sequence[Row], style: Style) -> str:
    """Return GitLab's code quality report."""
    return _json(
        [
            {
                "description": _told(finding, "; "),
                "check_name": finding.code,
                "fingerprint": digest,
                "severity": _SEVERITIES[finding.severity],
                "location": {
                    "path": printable(from_root(finding.path, style)),
                    "lines": {"begin": finding.line},
                },
            }
            for finding, digest in _fingerprinted(rows, style)
        ]
    )


def as_junit(rows: Sequence[Row], style: Style) -> str:
    """Return JUnit XML with a test case for each file; warnings that do not fail are its output."""
    from xml.etree.ElementTree import Element

    from buildrun.reports import junit

    suite = Element("testsuite", name="buildrun validate")
    for row in rows:
        _case(suite, row, style)
    return junit.document(suite, "buildrun validate")


FORMATS: Mapping[str, Callable[[Sequence[Row], Style], str]] = {
    "github": as_github,
    "sarif": as_sarif,
    "gitlab": as_gitlab,
    "junit": as_junit,
}


def _json(value: object) -> str:
    return json.dumps(value, indent=2) + "\n"


def _told(finding: Diagnostic, joint: str) -> str:
    message, hint = printable(finding.message), printable(finding.hint)
    return f"{message}{joint}{hint}" if hint else message


def _annotation(finding: Diagnostic, style: Style) -> str:
    properties = {
        "file": from_root(finding.path, style),
        "line": str(finding.line),
        "col": str(finding.column),
        "title": f"buildrun {finding.code}",
    }
    return ci.annotation(finding.severity, _told(finding, "\nhint: "), properties)


def _fingerprinted(rows: Sequence[Row], style: Style) -> Iterator[tuple[Diagnostic, str]]:
    """Yield findings with digests that stay when lines move: of file, code and JSON pointer."""
    seen: Counter[tuple[str, ...]] = Counter()
    for finding in (finding for row in rows for finding in row.diagnostics):
        identity = (from_root(finding.path, style), finding.code, finding.pointer)
        text = "\0".join((*identity, str(seen[identity])))
        seen[identity] += 1
        yield finding, hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _rule(code: str) -> dict[str, Any]:
    text = {"text": MEANINGS[code][:1].upper() + MEANINGS[code][1:]}
    return {"id": code, "shortDescription": text, "fullDescription": text, "help": text}


def _uri(path: str) -> str:
    from urllib.parse import quote

    uri = quote(os.fsencode(path))
    return f"file://{uri}" if path.startswith("/") else uri


def _result(finding: Diagnostic, root: str) -> dict[str, Any]:
    path = below(finding.path, root)
    base = {} if path.startswith("/") else {"uriBaseId": _SRCROOT}
    place = {
        "artifactLocation": {"uri": _uri(path), **base},
        "region": {"startLine": finding.line, "startColumn": finding.column},
    }
    return {
        "ruleId": finding.code,
        "level": finding.severity,
        "message": {"text": _told(finding, "\n")},
        "locations": [{"physicalLocation": place}],
    }


def _case(suite: Element, row: Row, style: Style) -> None:
    from xml.etree.ElementTree import SubElement

    path = printable(from_root(row.path, style))
    case = SubElement(
        suite, "testcase", {"classname": "buildrun", "name": path, "file": path, "time": "0"}
    )
    failing = [item for item in row.diagnostics if style.strict or item.severity == "error"]
    others = [item for item in row.diagnostics if item not in failing]
    if failing:
        more = f" and {len(failing) - 1} more" if len(failing) > 1 else ""
        why = {"message": printable(failing[0].message) + more, "type": failing[0].severity}
        SubElement(case, "failure", why).text = _lines(failing, style)
    if others:
        SubElement(case, "system-out").text = _lines(others, style)


def _lines(findings: Sequence[Diagnostic], style: Style) -> str:
    return "".join(
        f"{printable(from_root(item.path, style))}:{item.line}:{item.column}: "
        f"{item.severity}[{item.code}]: {_told(item, _HINT)}\n"
        for item in findings
    )
