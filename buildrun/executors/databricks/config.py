"""The backend config for Databricks."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import is_named
from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic, Findings
from buildrun.store.memo import DependencyTracker, Memo, frozen, memoize

# A config that is remembered needs no parser and no schema.
if TYPE_CHECKING:
    from buildrun.project.yaml_loader import Document

# The environment of serverless compute for whoever only says that he wants it.
_ENVIRONMENT = "4"
# How often states are asked for.
_POLL = "5s"


class Config(NamedTuple):
    """Where commands run at Databricks, and how; JSON values.

    new_cluster, existing_cluster_id, environment_version: one of these, the last for serverless
    compute; the others are None. libraries: as in the Jobs API. place: the directory below
    ``/Volumes`` or ``/Workspace`` that files travel through, None for ``.buildrun`` in the user's
    home. profile: None for what variables say. tags: of the run. timeout: of the run in seconds,
    None for none. poll: seconds. run_as: as in the Jobs API, None for the caller.
    """

    new_cluster: Mapping[str, Any] | None
    existing_cluster_id: str | None
    environment_version: str | None
    libraries: tuple[Mapping[str, Any], ...]
    place: str | None
    profile: str | None
    tags: Mapping[str, str]
    timeout: float | None
    poll: float
    run_as: Mapping[str, str] | None

    @property
    def serverless(self) -> bool:
        """Return whether commands run on serverless compute."""
        return self.environment_version is not None


def read(
    given: str,
    environ: Mapping[str, str],
    cwd: str,
    memory: Memo,
    warn: Callable[[str, str], None],
) -> Config:
    """Return the config of a file, or of JSON text; raises ProjectError with the place.

    memory: keeps it while all that it was made from is unchanged, unless it holds secrets. warn:
    gets a message and a hint.
    """
    warnings: list[tuple[str, str]] = []

    def compute(tracker: DependencyTracker) -> Any:
        return {"config": _read(given, cwd, tracker, warnings), "warnings": warnings}

    found = memoize(memory, f"databricks config {cwd} {given}", environ, compute)
    for text, hint in found["warnings"]:
        warn(text, hint)
    return Config(*map(frozen, found["config"]))


def _read(
    given: str, cwd: str, reader: DependencyTracker, warnings: list[tuple[str, str]]
) -> Config:
    from buildrun.project.rules.backends import check_databricks_config, cluster_keys

    # Not needed while the config is remembered.

    document = _document(given, cwd, reader)
    findings = Findings(document)
    check_databricks_config(findings)
    for finding in findings.sorted():
        if finding.severity == "error":
            raise _error(finding)
        warnings.append((f"{finding.place}: {finding.message} [{finding.code}]", finding.hint))
    value: Mapping[str, Any] = document.value
    reader.untrackable = reader.untrackable or _has_secret(value)
    cluster = value.get("new_cluster")
    if "spark_version" in value:
        known = cluster_keys()
        cluster = {key: item for key, item in value.items() if key in known}
    serverless = value.get("serverless") or None
    if serverless is not None:
        serverless = _ENVIRONMENT if serverless is True else serverless["environment_version"]
    place = value.get("volume") or value.get("workspace")
    timeout = value.get("timeout")
    return Config(
        new_cluster=cluster,
        existing_cluster_id=value.get("existing_cluster_id"),
        environment_version=serverless,
        libraries=tuple(value.get("libraries") or ()),
        place=os.path.normpath(place.removeprefix("dbfs:")) if place else None,
        profile=value.get("profile"),
        tags=value.get("tags") or {},
        timeout=None if timeout is None else _seconds(timeout),
        poll=_seconds(value.get("poll", _POLL)),
        run_as=value.get("run_as"),
    )


def _document(given: str, cwd: str, reader: DependencyTracker) -> Document:
    from buildrun.project.diagnostics import Diagnostic
    from buildrun.project.rules.backends import load_json
    from buildrun.project.yaml_loader import parse

    if given.endswith(".json"):
        found = load_json(os.path.join(cwd, given), reader)
    else:
        found = parse("--backend-config", given)
    if isinstance(found, Diagnostic):
        raise _error(found)
    return found


def _seconds(value: str | float) -> float:
    """Return the seconds of a time that the schema has let through."""
    from buildrun.project.rules.entry_points import seconds

    return float((seconds(value) if isinstance(value, str) else value) or 0)


def _has_secret(value: Any) -> bool:
    """Return whether a value holds what looks like a secret, other than by its name alone."""
    if isinstance(value, list):
        return any(map(_has_secret, value))
    if not isinstance(value, dict):
        return False
    return any(
        _has_secret(item)
        or (is_named(str(name)) and isinstance(item, str) and not item.startswith("{{secrets/"))
        for name, item in value.items()
    )


def _error(finding: Diagnostic) -> ProjectError:
    return ProjectError(
        f"{finding.message} [{finding.code}]", place=finding.place, hint=finding.hint or None
    )
