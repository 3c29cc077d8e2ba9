"""Jobs that a run has submitted elsewhere, as they are recorded."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from typing import NamedTuple

# In a run's directory: the jobs that it submitted, a JSON object a line.
_JOBS = "jobs.jsonl"


class KubernetesJob(NamedTuple):
    """A Job on a cluster.

    context, kubeconfig: how the cluster was found; None and "" for what is so by default.
    """

    step: str
    job: str
    namespace: str
    context: str | None
    kubeconfig: str

    @property
    def shown(self) -> str:
        """Return what it is, for people."""
        return f"Job {self.namespace}/{self.job}"


class DatabricksRun(NamedTuple):
    """A job run at Databricks.

    job: its id. profile: by which the workspace was found, else None. files: what goes with it, by
    names below the directory ``place``.
    """

    step: str
    job: str
    host: str
    profile: str | None
    place: str
    files: tuple[str, ...]

    @property
    def shown(self) -> str:
        """Return what it is, for people."""
        return f"Databricks run {self.job}"


Submitted = KubernetesJob | DatabricksRun


class DetachedState(NamedTuple):
    """A job that a run has submitted, and how it stands now.

    state: ``waiting``, ``running``, ``ended`` or ``gone``. exit_code: of one that has ended.
    """

    job: Submitted
    state: str
    exit_code: int | None = None


def record(directory: str, made: Submitted) -> None:
    """Note that a run has submitted a job; a full disk costs `runs` only its memory."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(os.path.join(directory, _JOBS), flags, 0o600)
        try:
            os.write(descriptor, json.dumps(made._asdict()).encode() + b"\n")
        finally:
            os.close(descriptor)
    except OSError:
        pass


def recorded(directory: str) -> list[Submitted]:
    """Return the jobs that a run has submitted, each once."""
    try:
        with open(os.path.join(directory, _JOBS), "rb") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    found: dict[Submitted, None] = {}
    for line in lines:
        try:
            found[_submitted(json.loads(line))] = None
        except (ValueError, TypeError, KeyError):
            continue  # cut off
    return list(found)


def _submitted(value: dict[str, object]) -> Submitted:
    if "namespace" in value:
        return KubernetesJob(**value)  # type: ignore[arg-type]
    files = value["files"]
    return DatabricksRun(**{**value, "files": tuple(files)})  # type: ignore[arg-type]


def owner(environ: Mapping[str, str]) -> str:
    """Return whose jobs a run makes and attaches to: BUILDRUN_OWNER, else the user's name."""
    try:
        return environ.get("BUILDRUN_OWNER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())
