"""The part of a warm run that decides whether the environment is ready."""

from __future__ import annotations

import json
import os
import platform

from benchmarks.case import Claim, Outcome
from benchmarks.projects import USUAL, virtualenv_project
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample, Summary
from benchmarks.workbench import Runner, Workbench

TITLE = f"deciding that an environment ({', '.join(USUAL)}) is ready"
ROUNDS = 25
NEEDS = ("buildrun",)

_LONG = "identify and hold, by the long way"
_SHORT = "record and hold, as a warm run does"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    files = virtualenv_project("check", platform.python_version(), USUAL)
    project = bench.write("project", files)
    bench.timed(bench.buildrun, ".", cwd=project)
    rows = bench.rounds_of(
        (
            Runner(_LONG, lambda: _probe(bench, project, "long")),
            Runner(_SHORT, lambda: _probe(bench, project, "short")),
        )
    )
    return Outcome(rows, (_claim(rows[_LONG], _LONG), _claim(rows[_SHORT], _SHORT)))


def _probe(bench: Workbench, project: str, way: str) -> Sample:
    """Return the time of the first check in a new process, as a run has it."""
    script = os.path.join(REPOSITORY, "benchmarks", "probes", "warm_check.py")
    python = bench.subjects.program("buildrun", "python")
    return Sample(*json.loads(bench.output(python, "-I", script, way, cwd=project)))


def _claim(row: Summary, name: str) -> Claim:
    return Claim(name, row.median * 1000, row.minimum * 1000, 5.0, "ms")
