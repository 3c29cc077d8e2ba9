"""Twenty runs of a new project at the same time, against one such run."""

from __future__ import annotations

import platform

from benchmarks.case import Claim, Outcome, compare
from benchmarks.projects import USUAL, virtualenv_project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

COUNT = 20
TITLE = f"{COUNT} `buildrun .` at once on a new project ({', '.join(USUAL)})"
ROUNDS = 9
NEEDS = ("buildrun",)

_ONE = "1 cold run"
_ALL = f"{COUNT} cold runs at once"
# What the same number of runs costs where there is nothing to build.
_WARM = f"{COUNT} warm runs at once"
_BUILDING = "building the virtualenv environment"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    files = virtualenv_project("new", platform.python_version(), USUAL)
    project = bench.write("project", files)
    builds: list[int] = []

    def run(count: int, *, cold: bool) -> Sample:
        sample = bench.timed(bench.buildrun, ".", cwd=project, count=count)
        if cold:
            with open(bench.log, encoding="utf-8", errors="replace") as log:
                builds.append(log.read().count(_BUILDING))
        return sample

    def forget() -> None:
        bench.forget("store")

    rows = bench.rounds_of(
        (
            Runner(_ONE, lambda: run(1, cold=True), forget),
            Runner(_ALL, lambda: run(COUNT, cold=True), forget),
            Runner(_WARM, lambda: run(COUNT, cold=False)),
        )
    )
    counted = Claim("most builds of one cold start", max(builds), min(builds), 1, "builds")
    return Outcome(rows, (compare(rows, _ALL, _ONE, 1.3), counted))
