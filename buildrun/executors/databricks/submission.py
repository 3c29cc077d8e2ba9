"""What is submitted as a run at Databricks, as the Jobs API takes it; nothing of it is secret."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildrun.executors.databricks.config import Config

_ENVIRONMENT = "default"


def body(
    config: Config, packages: Sequence[str], name: str, program: tuple[str, str]
) -> Mapping[str, Any]:
    """Return the body of a request for a run.

    packages: requirements that are to be installed. name: of the run, for people. program: the path
    of a Python file, and its parameter.
    """
    file, parameter = program
    python = {"python_file": file, "parameters": [parameter]}
    task = {"task_key": "step", "spark_python_task": python, **compute(config, packages)}
    found: dict[str, Any] = {"run_name": name, "tasks": [task]}
    if config.timeout is not None:
        found["timeout_seconds"] = max(1, round(config.timeout))
    if config.run_as is not None:
        found["run_as"] = dict(config.run_as)
    if config.serverless:
        own = [library["pypi"]["package"] for library in config.libraries if "pypi" in library]
        spec = {
            "environment_version": config.environment_version,
            "dependencies": [*packages, *own],
        }
        found["environments"] = [{"environment_key": _ENVIRONMENT, "spec": spec}]
    return found


def compute(config: Config, packages: Sequence[str]) -> Mapping[str, Any]:
    """Return what a task says of where it runs, and on clusters with which packages."""
    if config.serverless:
        # Or serverless compute runs a command that has failed again by itself.
        return {"environment_key": _ENVIRONMENT, "disable_auto_optimization": True}
    libraries = [{"pypi": {"package": package}} for package in packages]
    installed = {"libraries": [*libraries, *config.libraries]}
    if config.existing_cluster_id is not None:
        return {"existing_cluster_id": config.existing_cluster_id, **installed}
    cluster = dict(config.new_cluster or {})
    if config.tags:
        cluster["custom_tags"] = {**(cluster.get("custom_tags") or {}), **config.tags}
    return {"new_cluster": cluster, **installed}
