"""What an MLproject file means: entry points, parameters and everything that is odd about them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.project.diagnostics import Findings
from buildrun.project.model import CondaEnv, EntryPoint, EnvironmentSpec, SparkJob
from buildrun.project.rules.entry_points import check_steps, read_entry_point
from buildrun.project.rules.values import check_scalar

# The keys of environments, and MLflow's words for them.
ENVIRONMENTS = {"docker_env": "docker", "python_env": "python", "conda_env": "conda"}


def read_name(findings: Findings, fallback: str) -> str:
    """Return the project's name, by default ``fallback``, and check that it is what was meant."""
    value = findings.document.value.get("name")
    if value is None:
        return fallback
    if isinstance(value, (dict, list)):
        hint = "write the name as one word or in quotes"
        message = f"the name is read as the text `{str(value)[:60]}`"
        findings.warning("yaml-value", message, ("name",), hint=hint)
    else:
        check_scalar(findings, ("name",), value, "the name is", exact=True)
    return str(value)


def read_entry_points(findings: Findings, reserved: Mapping[str, str]) -> tuple[EntryPoint, ...]:
    """Return the entry points that have a command, and check all of them."""
    declared = findings.document.value.get("entry_points")
    if not isinstance(declared, dict):
        return ()
    found = []
    for key, value in declared.items():
        path = ("entry_points", key)
        if not isinstance(key, str):
            message = f"the name of this entry point is read as `{key}`; MLflow never finds it"
            hint = "put the name in quotes"
            findings.warning("unreachable-entry-point", message, path, key=True, hint=hint)
        if isinstance(value, dict):
            found.append(read_entry_point(findings, path, value, reserved))
    check_steps(findings, [item for item, _ in found])
    return tuple(entry_point for _, entry_point in found if entry_point is not None)


def check_environment_keys(findings: Findings) -> None:
    """Check that there is one environment at most, and that docker has a name to go by."""
    value = findings.document.value
    given = [key for key in value if key in ENVIRONMENTS]
    if len(given) > 1:
        names = " and ".join(f"`{key}`" for key in given)
        message = f"a project has one environment at most; this one has {names}"
        hint = "keep the one that the project should run in"
        findings.error("multiple-environments", message, (given[1],), key=True, hint=hint)
    if value.get("docker_env") and value.get("name") is None:
        message = "the project has no `name`; MLflow runs no docker project without"
        hint = "add `name: …`; buildrun uses the directory's name"
        findings.warning("missing-name", message, ("docker_env",), key=True, hint=hint)


# Variables by which a run tells its command of the MLflow run; see ``buildrun.tracking``.
_OF_A_RUN = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")


def check_key_env(
    findings: Findings, environment: EnvironmentSpec, entry_points: Sequence[EntryPoint]
) -> None:
    """Refuse variables of the caller in whose place commands see other values."""
    others = dict.fromkeys(_OF_A_RUN, "buildrun")
    if isinstance(environment, CondaEnv):
        where = f"`variables` in {os.path.basename(environment.path)}"
        others.update({name: where for name, _ in environment.variables})
    for entry_point in entry_points:
        for name in (name for name in entry_point.key_env if name in others):
            path = ("entry_points", entry_point.name, "key_env")
            message = f"`{name}` is set by {others[name]} and cannot come from the caller"
            hint = "remove it here, or take a variable of another name"
            findings.error("bad-variable", message, path, hint=hint)


def read_spark_job(findings: Findings) -> SparkJob | None:
    """Return the Databricks job, None where there is none, and check it as MLflow does."""
    document = findings.document
    job = document.value.get("databricks_spark_job")
    if not isinstance(job, dict):
        return None
    if refusal := _databricks_refusal(document.value, job):
        message, hint = refusal
        path = ("databricks_spark_job",)
        findings.error("bad-databricks-job", message, path, key=True, hint=hint)
    python_file = job.get("python_file")
    return SparkJob(
        None if python_file is None else str(python_file),
        _texts(job.get("parameters")),
        _texts(job.get("python_libraries")),
    )


def entry_point_of(job: SparkJob) -> EntryPoint | None:
    """Return the entry point that stands for a job's Python file, None for a job without."""
    if job.python_file is None:
        return None
    command = shlex.join(("python", job.python_file, *job.parameters))
    return EntryPoint("main", (), command.replace("{", "{{").replace("}", "}}"))


def _texts(value: object) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _databricks_refusal(value: Mapping[Any, Any], job: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Return why MLflow refuses a Databricks job, and what to do; or None."""
    entry_points, has_file = value.get("entry_points"), job.get("python_file") is not None
    if not has_file and not entry_points:
        return "a Databricks job needs `python_file` or `entry_points`", "add `python_file: …`"
    if has_file and entry_points:
        message = "a Databricks job has `python_file` or `entry_points`, not both"
        return message, "remove one of the two"
    if "path" in _parameter_types(entry_points):
        return "a Databricks job takes no parameter of type `path`", "make it a `uri`"
    for key, name in ENVIRONMENTS.items():
        if key in value:
            return f"a Databricks job takes no {name} environment", f"remove `{key}`"
    return None


def _parameter_types(entry_points: object) -> list[object]:
    found: list[object] = []
    for entry_point in entry_points.values() if isinstance(entry_points, dict) else ():
        parameters = entry_point.get("parameters") if isinstance(entry_point, dict) else None
        for value in parameters.values() if isinstance(parameters, dict) else ():
            found.append(value.get("type") if isinstance(value, dict) else value)
    return found
