"""A virtualenv with MLflow and this buildrun side by side, as a team has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from conftest import REPOSITORY
from docker_helpers import missing

MLFLOW = "mlflow==3.17.2"


def install(directory: Path) -> Path:
    """Make the virtualenv in a directory, and return that of its programs.

    Skips the test where no package index answers; in continuous integration it fails.
    """
    commands = (
        ("venv", "--quiet", "--python", sys.executable, directory),
        ("pip", "install", "--quiet", "--python", directory, MLFLOW, REPOSITORY),
    )
    for command in commands:
        done = subprocess.run(
            ("uv", *command), capture_output=True, text=True, check=False, timeout=600
        )
        if done.returncode != 0:
            missing(f"MLflow cannot be installed: {done.stderr}")
    return directory / "bin"


def environ(programs: Path, store: Path, tracking_uri: str) -> Mapping[str, str]:
    """Return the variables for a program of the virtualenv."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    path = f"{programs}{os.pathsep}{kept.get('PATH', '')}"
    changed = {"PATH": path, "BUILDRUN_HOME": str(store), "MLFLOW_TRACKING_URI": tracking_uri}
    return {**kept, **changed}
