"""A run of a docker project that has not changed, against `docker run` and `mlflow run`."""

from __future__ import annotations

import os
from collections.abc import Mapping

from benchmarks.case import Claim, Outcome, compare
from benchmarks.summary import Sample, Summary
from benchmarks.workbench import Runner, Workbench

TITLE = "an unchanged docker project, its code in the image"
ROUNDS = 15
NEEDS = ("buildrun", "mlflow")

_BASE = "buildrun-base:bookworm"
_DOCKER = "`docker run --rm`"
_AS_IS = "`buildrun .`"
_BUILT = "`buildrun . --build-image`"
_MLFLOW = "`mlflow run . --build-image`"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed, also where there is no engine."""
    project = bench.write(
        "project",
        {
            "MLproject": f"name: benchmark\ndocker_env: {{image: '{_BASE}'}}\n"
            "entry_points: {main: {command: python3 -c pass}}\n",
            **{f"module_{number:03}.py": f"x = {number}\n" * 20 for number in range(200)},
        },
    )
    rows = bench.rounds_of(
        (
            Runner(_DOCKER, lambda: _docker(bench, project)),
            Runner(_AS_IS, lambda: bench.timed(bench.buildrun, ".", cwd=project)),
            Runner(_BUILT, lambda: bench.timed(bench.buildrun, ".", "--build-image", cwd=project)),
            Runner(_MLFLOW, lambda: _mlflow(bench, project), every=5),
        )
    )
    bench.output(bench.buildrun, "cache", "clear", cwd=project)
    claims = [
        compare(rows, _AS_IS, _DOCKER, 1.3),
        compare(rows, _BUILT, _DOCKER, 1.3),
        compare(rows, _BUILT, _MLFLOW, 1 / 8),
        *(_added(rows, name) for name in (_AS_IS, _BUILT)),
    ]
    return Outcome(rows, claims)


def _added(rows: Mapping[str, Summary], name: str) -> Claim:
    ours, docker = rows[name], rows[_DOCKER]
    median, best = ours.median - docker.median, ours.minimum - docker.minimum
    return Claim(f"{name} beyond {_DOCKER}", median * 1000, best * 1000, 150, "ms")


def _docker(bench: Workbench, project: str) -> Sample:
    return bench.timed("docker", "run", "--rm", _BASE, "python3", "-c", "pass", cwd=project)


def _mlflow(bench: Workbench, project: str) -> Sample:
    own = {
        "MLFLOW_TRACKING_URI": f"sqlite:///{bench.path('mlflow.db')}",
        "PATH": os.path.join(bench.subjects.prefix("mlflow"), "bin")
        + os.pathsep
        + bench.environ.get("PATH", os.defpath),
    }
    program = bench.subjects.program("mlflow")
    return bench.timed(program, "run", ".", "--build-image", cwd=project, environ=own)
