"""A run whose environment is there, against `uv run`, `mlflow run` and the bare command."""

from __future__ import annotations

import json
import os
import platform

from benchmarks.case import Outcome, compare
from benchmarks.projects import uv_project, virtualenv_project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = "a warm `buildrun .` of `python -c pass` in a virtualenv"
ROUNDS = 40
NEEDS = ("buildrun", "uv", "mlflow")


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    python = platform.python_version()
    project = bench.write("project", virtualenv_project("warm", python, ()))
    ours = bench.write("uv-project", uv_project("warm", python))
    built = json.loads(bench.output(bench.buildrun, "build", ".", "--format", "json", cwd=project))
    rows = bench.rounds_of(
        (
            Runner("bare `bash -c`", lambda: _bare(bench, project, built["path"])),
            Runner("`buildrun .`", lambda: bench.timed(bench.buildrun, ".", cwd=project)),
            Runner("`uv run`", lambda: _uv(bench, ours)),
            Runner("`mlflow run .`", lambda: _mlflow(bench, project), every=8),
        )
    )
    claims = (
        compare(rows, "`buildrun .`", "`uv run`", 2.0),
        compare(rows, "`buildrun .`", "`mlflow run .`", 1 / 40),
        compare(rows, "`buildrun .`", "bare `bash -c`"),
    )
    return Outcome(rows, claims)


def _bare(bench: Workbench, project: str, prefix: str) -> Sample:
    return bench.timed(
        "bash", "-c", "python -c pass", cwd=project, environ={"PATH": _search(bench, prefix)}
    )


def _uv(bench: Workbench, project: str) -> Sample:
    _, variables = bench.subjects.index_settings()
    uv = bench.subjects.program("uv")
    return bench.timed(uv, "run", "python", "-c", "pass", cwd=project, environ=variables)


def _mlflow(bench: Workbench, project: str) -> Sample:
    _, variables = bench.subjects.index_settings()
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{bench.path('mlflow.db')}",
        "MLFLOW_ENV_ROOT": bench.path("mlflow-environments"),
        "PATH": _search(bench, bench.subjects.prefix("mlflow")),
    }
    program = bench.subjects.program("mlflow")
    argv = (program, "run", ".", "--env-manager", "uv")
    return bench.timed(*argv, cwd=project, environ={**variables, **own})


def _search(bench: Workbench, prefix: str) -> str:
    return os.path.join(prefix, "bin") + os.pathsep + bench.environ.get("PATH", os.defpath)
