"""Backend configs: of a file or of JSON text, checked, and remembered while they are unchanged."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic, Findings
from buildrun.store.memo import DependencyTracker, Memo, frozen, memoize

if TYPE_CHECKING:
    from buildrun.executors.base import ExecutorContext
    from buildrun.project.yaml_loader import Document

Found = TypeVar("Found")
Warnings = list[tuple[str, str]]


class Source(NamedTuple):
    """What a config is read from. given: the path of a file that ends in ``.json``, or JSON text.

    cwd: where paths begin. memory: keeps a config while all that it was made from is unchanged.
    warn: gets a message and a hint.
    """

    given: str
    environ: Mapping[str, str]
    cwd: str
    memory: Memo
    warn: Callable[[str, str], None]


def source_of(context: ExecutorContext) -> Source:
    """Return what the user has given for an executor."""
    memory = Memo(context.home.memo)
    given = context.config_given or "{}"
    return Source(given, context.environ, context.cwd, memory, context.console.warn)


def read(
    source: Source, kind: str, make: Callable[[Source, DependencyTracker, Warnings], Any]
) -> Sequence[Any]:
    """Return the fields of a config; raises ProjectError with the place.

    kind: of config. make: returns it where none is remembered; it notes what it reads, and what is
    to be warned of.
    """
    warnings: Warnings = []

    def compute(reader: DependencyTracker) -> Any:
        return {"config": make(source, reader, warnings), "warnings": warnings}

    try:
        found = memoize(
            source.memory, f"{kind} {source.cwd} {source.given}", source.environ, compute
        )
    except ProjectError:
        for text, hint in warnings:
            source.warn(text, hint)
        raise
    for text, hint in found["warnings"]:
        source.warn(text, hint)
    return [frozen(field) for field in found["config"]]


def load(source: Source, reader: DependencyTracker) -> Document:
    """Return the JSON of a config; raises ProjectError."""
    # Not needed while the config is remembered.
    from buildrun.project.rules.backends import load_json
    from buildrun.project.yaml_loader import parse

    if source.given.endswith(".json"):
        return sound(load_json(os.path.join(source.cwd, source.given), reader))
    return sound(parse("--backend-config", source.given))


def sound(found: Found | Diagnostic) -> Found:
    """Return what was read; raises ProjectError for what keeps it from being read."""
    if isinstance(found, Diagnostic):
        raise error_of(found)
    return found


def judge(
    findings: Findings, warnings: Warnings, fatal: Collection[str] = (), *, last: str = ""
) -> None:
    """Add what is warned of; raises ProjectError for an error, and for a code that is fatal.

    last: a code that is told where there is nothing else.
    """
    found = sorted(findings.sorted(), key=lambda each: each.code == last)
    for finding in found:
        if finding.severity == "error" or finding.code in fatal:
            raise error_of(finding)
    for finding in found:
        warnings.append((f"{finding.place}: {finding.message} [{finding.code}]", finding.hint))


def error_of(finding: Diagnostic) -> ProjectError:
    """Return the error that a finding is."""
    return ProjectError(
        f"{finding.message} [{finding.code}]", place=finding.place, hint=finding.hint or None
    )
