"""A conda environment as a virtualenv, by MLflow's rules.

``_PythonEnv.get_dependencies_from_conda_yaml`` in mlflow/utils/environment.py (3.17.2).
"""

from __future__ import annotations

import re

from buildrun.errors import ProjectError
from buildrun.project.spec import CondaEnv, PythonEnv

_PIN = re.compile(
    r"^(?P<package>python|pip|setuptools|wheel)"
    r"(?P<operator><|>|<=|>=|=|==|!=)?"
    r"(?P<version>[\d.]+)?$"
)


def as_python_env(conda: CondaEnv) -> tuple[PythonEnv, tuple[str, ...]]:
    """Return the virtualenv that MLflow makes of a conda environment, and what it leaves out.

    python is None where MLflow would take the running one. Raises ProjectError for a python
    that is listed without a version to take.
    """
    python: str | None = None
    build: list[str] = []
    dropped: list[str] = []
    for dependency in conda.dependencies:
        pin = _PIN.match(dependency)
        if pin is None:
            dropped.append(dependency)
        elif pin["package"] == "python" and not python:
            _refuse_unpinned(conda.path, dependency, pin["operator"])
            python = pin["version"]
        else:
            operator = "==" if pin["operator"] == "=" else pin["operator"] or ""
            build.append(pin["package"] + operator + (pin["version"] or ""))
    return PythonEnv(conda.path, python, tuple(build), conda.pip), tuple(dropped)


def _refuse_unpinned(path: str, dependency: str, operator: str | None) -> None:
    if operator is None:
        message = f"`{dependency}` names no version, which a virtualenv needs"
    elif operator in ("<", ">", "!="):
        message = f"`{dependency}` names no version to take: `{operator}` only excludes some"
    else:
        return
    raise ProjectError(message, place=path, hint="pin it, such as `python=3.12`")
