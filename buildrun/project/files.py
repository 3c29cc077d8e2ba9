"""The files that `buildrun validate` is given, each with its findings."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from buildrun.project.diagnostics import Diagnostic
from buildrun.project.findings import Findings
from buildrun.project.read import (
    EnvironmentFile,
    FileReading,
    Survey,
    is_misnamed,
    read_environment,
    survey,
)
from buildrun.project.rules.backends import KEYS, check_kubernetes, load_json
from buildrun.project.rules.inputs import unmatched
from buildrun.project.yaml_loader import Document, load
from buildrun.store.memo import DependencyTracker

Kind = Literal["mlproject", "python_env", "conda", "kubernetes"]

_NAMES: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"mlproject(\.ya?ml)?", re.IGNORECASE), "mlproject"),
    (re.compile(r"python_env.*\.ya?ml", re.IGNORECASE | re.DOTALL), "python_env"),
    (re.compile(r"(conda|environment).*\.ya?ml", re.IGNORECASE | re.DOTALL), "conda"),
)
_KEYS: tuple[tuple[frozenset[str], Kind], ...] = (
    (frozenset(KEYS), "kubernetes"),
    (
        frozenset(
            ("entry_points", "python_env", "conda_env", "docker_env", "databricks_spark_job")
        ),
        "mlproject",
    ),
    (frozenset(("channels", "prefix")), "conda"),
    (frozenset(("python", "build_dependencies")), "python_env"),
    (frozenset(("dependencies",)), "conda"),
)


class Row(NamedTuple):
    """The verdict on one file, or on a directory without an MLproject.

    argument: what was asked about. path: absolute.
    """

    argument: str
    path: str
    diagnostics: tuple[Diagnostic, ...]

    def is_valid(self, *, strict: bool = False) -> bool:
        """Return whether there is no error and, when strict, no warning either."""
        return not any(strict or found.severity == "error" for found in self.diagnostics)


def check_files(arguments: Sequence[str], cwd: str, reader: DependencyTracker) -> tuple[Row, ...]:
    """Check files and projects; never raises for what they hold.

    A directory gives a row for its MLproject, or for itself where it has none, and one for each
    environment file that it names or that MLflow picks. A file gives one row.
    """
    rows: list[Row] = []
    for argument in arguments:
        path = os.path.normpath(os.path.join(cwd, argument)) if argument else cwd
        if not argument:
            missing = Diagnostic("error", "missing-file", "the path is empty", cwd)
            rows.append(Row(argument, cwd, (missing,)))
        elif os.path.isdir(path):
            rows += [Row(argument, *file) for file in _surveyed(survey(path, reader))]
        else:
            rows.append(Row(argument, path, _check_file(path, cwd, reader)))
    return tuple(rows)


def _check_file(path: str, cwd: str, reader: DependencyTracker) -> tuple[Diagnostic, ...]:
    name = os.path.basename(path)
    kind = next((kind for pattern, kind in _NAMES if pattern.fullmatch(name)), None)
    document: Document | Diagnostic | None = None
    if kind is None:
        document = (load_json if name.lower().endswith(".json") else load)(path, reader)
        if isinstance(document, Diagnostic):
            return (document,)
        kind = _kind_by_content(document)
    if kind is None:
        message = "this is neither an MLproject nor an environment file"
        hint = "name the project's directory, its MLproject or its environment file"
        return (Diagnostic("error", "unknown-file", message, path, hint=hint),)
    if kind == "mlproject":
        return _check_mlproject(path, reader)
    if kind == "kubernetes" and isinstance(document, Document):
        findings = Findings(document)
        check_kubernetes(findings, cwd, reader)
        return findings.sorted()
    return read_environment(EnvironmentFile(kind == "conda", path), None, reader)[1].diagnostics


def _check_mlproject(path: str, reader: DependencyTracker) -> tuple[Diagnostic, ...]:
    found = _surveyed(survey(os.path.dirname(path), reader, path))[0].diagnostics
    if not is_misnamed(os.path.basename(path)):
        return found
    message = "MLflow ignores this file: it must be called `MLproject`"
    hint = "rename it to `MLproject`"
    return (Diagnostic("warning", "misnamed-file", message, path, hint=hint), *found)


def _surveyed(found: Survey) -> tuple[FileReading, ...]:
    """Return the findings file by file, with those that only a look at the disk brings."""
    spec = found.spec
    if spec is None or spec.file is None or not any(item.inputs for item in spec.entry_points):
        return found.files
    first, *rest = found.files
    told = {(item.line, item.column) for item in first.diagnostics if item.severity == "error"}
    more = [item for item in unmatched(spec) if (item.line, item.column) not in told]
    every = sorted((*first.diagnostics, *more), key=lambda item: (item.line, item.column))
    return FileReading(first.path, tuple(every)), *rest


def _kind_by_content(document: Document) -> Kind | None:
    value = document.value
    if not isinstance(value, dict):
        return None
    return next((kind for keys, kind in _KEYS if keys.intersection(value)), None)
