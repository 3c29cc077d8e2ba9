"""The shapes of what the API returns."""

from __future__ import annotations

from typing import Literal, TypedDict

from buildrun.reports.model import ReasonReport, RunReport

__all__ = ["PlanReport", "RunReport", "Status", "ValidationReport"]

# MLflow's words for how a run stands.
Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]


class ProjectReport(TypedDict):
    """A project's name and absolute directory."""

    name: str
    root: str


class EnvironmentReport(TypedDict):
    """The environment of a step; key: None where it cannot be known yet."""

    manager: str
    key: str | None
    ready: bool
    lock: str | None


class CacheReport(TypedDict):
    """How a step's result stands; assurance: None where there is none."""

    key: str | None
    state: Literal["uncached", "up-to-date", "hit", "miss"]
    reasons: list[ReasonReport]
    assurance: Literal["declared", "checked", "sandboxed"] | None


class PlanStep(TypedDict):
    """A step that would run; check_inputs, sandbox: whether its command is watched, or kept in."""

    id: str
    entry_point: str
    parameters: dict[str, str]
    command: str
    depends_on: list[str]
    backend: str
    environment: EnvironmentReport
    image: str | None
    check_inputs: bool
    sandbox: bool
    cache: CacheReport


class PlanReport(TypedDict):
    """What would run and why, as ``plan --format json`` writes it; the requested step is last."""

    version: int
    project: ProjectReport
    steps: list[PlanStep]


class _Fixable(TypedDict, total=False):
    fixable: bool  # there, and true, where `validate --fix` mends it


class Finding(_Fixable):
    """A finding about a file; line and column count from 1, pointer is a JSON pointer."""

    severity: Literal["error", "warning"]
    code: str
    message: str
    line: int
    column: int
    pointer: str
    hint: str


class FileReport(TypedDict):
    """The verdict on one file; argument: what was asked about."""

    argument: str
    path: str
    valid: bool
    diagnostics: list[Finding]


class ValidationReport(TypedDict):
    """The verdict on all files, as ``validate --format json`` writes it."""

    version: int
    valid: bool
    files: list[FileReport]
