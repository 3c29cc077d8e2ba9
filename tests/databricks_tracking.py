"""Runs that are tracked at a stand-in for a Databricks workspace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import Buildrun, Outcome, Project
from databricks_workspace import Workspace

EXPERIMENT = "/Users/robot@example.com/wine"


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    with Workspace() as made:
        yield made


class Tracked(NamedTuple):
    """A project whose runs are tracked; home: the user's."""

    buildrun: Buildrun
    directory: Path
    home: Path

    def __call__(self, *words: str, **environ: str | None) -> Outcome:
        """Run it with these variables and no others of Databricks."""
        others = [name for name in os.environ if name.startswith(("DATABRICKS_", "ARM_"))]
        variables = {
            **dict.fromkeys(others),
            "HOME": str(self.home),
            "MLFLOW_TRACKING_URI": "databricks",
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
            **environ,
        }
        return self.buildrun(*words, self.directory, "--env-manager=local", environ=variables)

    def profiles(self, text: str) -> Path:
        """Write the user's profiles."""
        path = self.home / ".databrickscfg"
        path.write_text(text)
        return path

    def program(self, name: str, script: str) -> str:
        """Write a program, and return a PATH on which it is the first."""
        programs = self.home / "bin"
        programs.mkdir(exist_ok=True)
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
        return f"{programs}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def track(project: Project, buildrun: Buildrun, tmp_path: Path) -> Tracked:
    directory = project("entry_points: {main: {command: 'echo $MLFLOW_TRACKING_URI'}}\n")
    home = tmp_path / "home"
    home.mkdir()
    return Tracked(buildrun, directory, home)


def statuses(workspace: Workspace) -> list[str]:
    return [run["info"]["status"] for run in workspace.tracking.runs.values()]
