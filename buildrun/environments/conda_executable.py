"""Conda itself, where MLflow's variables name one.

Source: MLflow's ``get_conda_bin_executable`` and ``_get_conda_executable_for_create_env``.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Request
    from buildrun.memo import Reader
    from buildrun.project.spec import CondaEnv


class Executable(NamedTuple):
    """The program that makes environments, and the variable that named it."""

    path: str
    variable: str


def find(reader: Reader) -> Executable | None:
    """Return the program that MLFLOW_CONDA_HOME, CONDA_EXE or MLFLOW_CONDA_CREATE_ENV_CMD name.

    MLFLOW_CONDA_CREATE_ENV_CMD is another program of the same installation, such as ``mamba``, or
    one on PATH where neither of the others is set. None where no variable says anything.
    """
    chosen = reader.variable("MLFLOW_CONDA_CREATE_ENV_CMD")
    name = chosen or "conda"
    if home := reader.variable("MLFLOW_CONDA_HOME"):
        return Executable(os.path.join(home, "bin", name), "MLFLOW_CONDA_HOME")
    if conda := reader.variable("CONDA_EXE"):
        path = os.path.join(os.path.dirname(conda), name) if chosen else conda
        return Executable(path, "CONDA_EXE")
    if chosen is None:
        return None
    found = shutil.which(chosen, path=reader.variable("PATH"))
    return Executable(found or chosen, "MLFLOW_CONDA_CREATE_ENV_CMD")


def create(
    executable: Executable,
    declared: CondaEnv,
    prefix: str,
    request: Request,
    console: Console,
    lock: int,
) -> None:
    """Let the program make the environment at ``prefix``; raises EnvironmentFailure."""
    from buildrun.environments import conda_failure, uv

    if not os.access(executable.path, os.X_OK):
        raise EnvironmentFailure(
            f"there is no program `{executable.path}`, which {executable.variable} asks for",
            hint=f"correct or unset {executable.variable}; without it buildrun needs no conda",
        )
    unasked = {"CONDA_ALWAYS_YES": "true", "MAMBA_ALWAYS_YES": "true"}
    if request.offline:
        unasked |= {"CONDA_OFFLINE": "true", "MAMBA_OFFLINE": "true"}
    try:
        uv.call(
            (executable.path, "env", "create", "-p", prefix, "--file", declared.path),
            cwd=os.path.dirname(declared.path),
            environ=uv.environment(request.environ, unasked),
            console=console,
            lock=lock,
        )
    except uv.ToolFailure as failure:
        who = os.path.basename(executable.path)
        raise conda_failure.explain("", failure.output, declared, who) from None
