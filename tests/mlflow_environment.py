"""A virtualenv with MLflow and this buildrun side by side, as a team has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import mlflow_install
import uv
from conftest import REPOSITORY
from docker_helpers import missing


def install(directory: Path) -> Path:
    """Make the virtualenv in a directory, and return its Python.

    MLflow is that of `mlflow_install`, which takes a while to install, seen through a path file.
    """
    (packages,) = mlflow_install.prefix().glob("lib/python*/site-packages")
    python = directory / "bin" / "python"
    commands = (
        ("venv", "--quiet", "--python", sys.executable, directory),
        ("pip", "install", "--quiet", "--python", python, REPOSITORY),
    )
    for command in commands:
        done = subprocess.run(
            (uv.find_uv_bin(), *command), capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            missing(f"buildrun cannot be installed: {done.stderr}")
    (own,) = directory.glob("lib/python*/site-packages")
    (own / "mlflow.pth").write_text(f"{packages}\n")
    return python


def environ(python: Path, store: Path, tracking_uri: str) -> Mapping[str, str]:
    """Return the variables for a program of the virtualenv."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PYTHON", "MLFLOW_"))
    }
    path = f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"
    changed = {"PATH": path, "BUILDRUN_HOME": str(store), "MLFLOW_TRACKING_URI": tracking_uri}
    return {**kept, **changed}
