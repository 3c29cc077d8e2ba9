"""The first build of a virtualenv, against the bare uv commands."""

from __future__ import annotations

import platform

from benchmarks.case import Outcome, compare
from benchmarks.process import total
from benchmarks.projects import SMALL, USUAL, virtualenv_project
from benchmarks.subjects import interpreter
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = f"the first environment, uv's cache warm: usual ({', '.join(USUAL)}), small without mlflow"
ROUNDS = 15
NEEDS = ("buildrun", "uv")

_OURS = "`buildrun build .`"
_BARE = "`uv venv` + `uv pip install -r`"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    runners: list[Runner] = []
    for size, requirements in (("usual", USUAL), ("small", SMALL)):
        files = dict(virtualenv_project(size, platform.python_version(), requirements))
        files["requirements.txt"] = "".join(f"{line}\n" for line in requirements)
        runners += _pair(bench, size, bench.write(size, files))
    rows = bench.rounds_of(runners)
    return Outcome(
        rows,
        [
            compare(rows, f"{_OURS}, {size}", f"{_BARE}, {size}", 1.15)
            for size in ("usual", "small")
        ],
    )


def _pair(bench: Workbench, size: str, project: str) -> tuple[Runner, Runner]:
    return (
        Runner(
            f"{_BARE}, {size}",
            lambda: _bare(bench, project),
            lambda: bench.forget("bare"),
        ),
        Runner(
            f"{_OURS}, {size}",
            lambda: bench.timed(bench.buildrun, "build", ".", cwd=project),
            lambda: bench.forget("store"),
        ),
    )


def _bare(bench: Workbench, project: str) -> Sample:
    arguments, variables = bench.subjects.index_settings()
    uv, prefix = bench.subjects.program("uv"), bench.path("bare")
    make = ("venv", "--no-project", "--quiet", "--python", interpreter(), prefix)
    install = ("pip", "install", *arguments, "--quiet", "--python", prefix)
    return total(
        (
            bench.timed(uv, *make, cwd=project, environ=variables),
            bench.timed(uv, *install, "-r", "requirements.txt", cwd=project, environ=variables),
        )
    )
