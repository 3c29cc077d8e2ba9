"""Which environment a project runs in, by MLflow's order.

docker_env, python_env, conda_env, else python_env.yaml, else conda.yaml, else plain Python.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from buildrun.memo import Reader
from buildrun.near import did_you_mean
from buildrun.project.findings import Findings
from buildrun.project.locate import CONDA_ENV, PYTHON_ENV


class EnvironmentFile(NamedTuple):
    """A file to read the environment from."""

    is_conda: bool
    path: str


def environment_files(
    findings: Findings | None, root: str, reader: Reader
) -> tuple[EnvironmentFile, ...]:
    """Return the environment files that the project names, else the one that MLflow picks.

    findings: about the MLproject, or None where there is none; a named file that is not there
    is added to them. root: absolute.
    """
    value: Any = findings.document.value if findings is not None else None
    if findings is None or not isinstance(value, dict):
        return _usual(root, reader)
    if isinstance(value.get("databricks_spark_job"), dict):
        return ()
    named = [key for key in ("python_env", "conda_env") if value.get(key)]
    if not named and not value.get("docker_env"):
        return _usual(root, reader)
    found = [_named(findings, key, root, reader) for key in named if isinstance(value[key], str)]
    return tuple(file for file in found if file is not None)


def _usual(root: str, reader: Reader) -> tuple[EnvironmentFile, ...]:
    for name in (PYTHON_ENV, CONDA_ENV):
        path = os.path.join(root, name)
        if reader.exists(path):
            return (EnvironmentFile(name == CONDA_ENV, path),)
    return ()


def _named(findings: Findings, key: str, root: str, reader: Reader) -> EnvironmentFile | None:
    name = findings.document.value[key]
    path = os.path.join(root, name)
    if ".." not in name.split("/"):
        path = os.path.normpath(path)  # never over `..`: a link may stand before it
    if not reader.exists(path):
        message = f"the environment file `{name[:200]}` does not exist"
        findings.error("missing-environment-file", message, (key,), hint=_near(path))
        return None
    if os.path.isdir(path):
        message = f"the environment file `{name[:200]}` is a directory"
        hint = "name the file in it"
        reader.executable(path)  # so that a file in its place is noticed
        findings.error("missing-environment-file", message, (key,), hint=hint)
        return None
    return EnvironmentFile(key == "conda_env", path)


def _near(path: str) -> str:
    directory, wanted = os.path.split(path)
    try:
        names = [name for name in os.listdir(directory) if name.endswith((".yaml", ".yml"))]
    except (OSError, ValueError):
        names = []
    return did_you_mean(wanted, names) or "the path is relative to the directory of MLproject"
