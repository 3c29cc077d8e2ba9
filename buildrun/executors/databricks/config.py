"""The backend config for Databricks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun.console import holds_within
from buildrun.executors import backend_config
from buildrun.executors.backend_config import Source
from buildrun.project.diagnostics import Findings
from buildrun.store.memo import DependencyTracker

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


def read(source: Source) -> Config:
    """Return the config; raises ProjectError with the place. One with secrets is not remembered."""
    return Config(*backend_config.read(source, "databricks config", _read))


def _read(source: Source, reader: DependencyTracker, warnings: backend_config.Warnings) -> Config:
    # Not needed while the config is remembered.
    from buildrun.project.rules.backends import check_databricks_config, cluster_keys

    document = backend_config.load(source, reader)
    findings = Findings(document)
    check_databricks_config(findings)
    # A misspelt key says more than what is missing without it.
    backend_config.judge(findings, warnings, last="multiple-clusters")
    value: Mapping[str, Any] = document.value
    reader.untrackable = reader.untrackable or holds_within(value)
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


def _seconds(value: str | float) -> float:
    """Return the seconds of a time that the schema has let through."""
    from buildrun.project.rules.entry_points import seconds

    return float((seconds(value) if isinstance(value, str) else value) or 0)
