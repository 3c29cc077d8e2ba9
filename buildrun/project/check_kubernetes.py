"""The JSON file that tells the Kubernetes backend where to run."""

from __future__ import annotations

import json
import os

from buildrun.memo import Reader
from buildrun.project.check_schema import check_schema
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.document import Document, parse, read_text
from buildrun.project.findings import Findings

KEYS = ("kube-context", "repository-uri", "kube-job-template-path")


def load_json(path: str, reader: Reader) -> Document | Diagnostic:
    """Read a JSON file, or return the one finding that says why it cannot be read.

    The verdict is that of Python's json, which MLflow uses; places come from reading it as YAML.
    """
    text = read_text(path, reader)
    if isinstance(text, Diagnostic):
        return text
    document = parse(path, text.replace("\t", " "))
    if isinstance(document, Diagnostic) and document.code == "too-deep":
        return document
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        line, column = getattr(error, "lineno", 1), getattr(error, "colno", 1)
        message = f"this is not JSON: {getattr(error, 'msg', error)}"
        hint = "check quotes, commas and brackets; JSON takes no comments"
        return Diagnostic("error", "json-syntax", message, path, line, column, hint=hint)
    if isinstance(document, Diagnostic):
        return Document(path, text, value, None, (), ())
    document.value = value
    return document


def check_kubernetes(findings: Findings, cwd: str, reader: Reader) -> None:
    """Check a backend configuration; its paths are relative to ``cwd``, as in MLflow."""
    check_schema("kubernetes_config", findings)
    value = findings.document.value
    name = value.get("kube-job-template-path") if isinstance(value, dict) else None
    if not isinstance(name, str) or not name:
        return
    folders = (cwd, os.path.dirname(findings.document.path))
    if not any(reader.exists(os.path.join(folder, name)) for folder in folders):
        message = f"there is no Job template `{name[:200]}`"
        hint = "the path is relative to the directory that buildrun is called in, or to this file"
        findings.warning("missing-job-template", message, ("kube-job-template-path",), hint=hint)
