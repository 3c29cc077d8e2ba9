"""An image of a project with much data that git ignores, when its code changes or nothing does."""

from __future__ import annotations

import json
import os
import subprocess

from benchmarks.case import Claim, Outcome, compare
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

COUNT, GIGABYTES = 200, 2
TITLE = f"the image of {COUNT} files of code beside {GIGABYTES} GB of ignored data"
ROUNDS = 10
NEEDS = ("buildrun",)

_BASE = "buildrun-base:bookworm"
_CHANGED = "image of buildrun, code changed"
_UNCHANGED = "image of buildrun, nothing changed"
_BUILD = "`docker build`, code changed"
# On all images of this case, those of the peer too.
_LABEL = "buildrun.project=benchmark"
_TAG = "buildrun-benchmark:peer"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed, also where there is no engine."""
    ours = bench.write("ours", {**_code(), ".gitignore": "data/\n"})
    dockerfile = f"FROM {_BASE}\nCOPY . /mlflow/projects/code\nWORKDIR /mlflow/projects/code\n"
    peer = bench.write("peer", {**_code(), "Dockerfile": dockerfile, ".dockerignore": "data\n"})
    bench.output("git", "init", "-q", cwd=ours)
    for project in (ours, peer):
        os.makedirs(os.path.join(project, "data"))
        with open(os.path.join(project, "data", "large"), "wb") as file:
            file.truncate(GIGABYTES << 30)
    edits = iter(range(1 << 30))
    try:
        rows = bench.rounds_of(
            (
                Runner(_UNCHANGED, lambda: _probe(bench, ours)),
                Runner(_CHANGED, lambda: _probe(bench, ours), lambda: _edit(ours, next(edits))),
                Runner(_BUILD, lambda: _build(bench, peer), lambda: _edit(peer, next(edits))),
            )
        )
        peak = float(json.loads(bench.output(*_probe_argv(bench, ours), cwd=ours))["peak"])
    finally:
        _remove_images()
    claims = [
        compare(rows, _CHANGED, _BUILD, 1.3),
        Claim(
            _UNCHANGED, rows[_UNCHANGED].median * 1000, rows[_UNCHANGED].minimum * 1000, None, "ms"
        ),
    ]
    return Outcome(rows, claims, (f"Peak memory of a build: {peak:.0f} MB.",))


def _code() -> dict[str, str]:
    return {f"module_{number:03}.py": f"x = {number}\n" * 20 for number in range(COUNT)}


def _edit(project: str, number: int) -> None:
    with open(os.path.join(project, "module_000.py"), "w", encoding="utf-8") as file:
        file.write(f"edited = {number}\n")


def _probe_argv(bench: Workbench, project: str) -> tuple[str, ...]:
    script = os.path.join(REPOSITORY, "benchmarks", "probes", "docker_context.py")
    python = bench.subjects.program("buildrun", "python")
    return (python, "-I", script, project, _BASE, bench.path("store"))


def _probe(bench: Workbench, project: str) -> Sample:
    return bench.timed(*_probe_argv(bench, project), cwd=project)


def _build(bench: Workbench, project: str) -> Sample:
    return bench.timed("docker", "build", "-q", "--label", _LABEL, "-t", _TAG, ".", cwd=project)


def _remove_images() -> None:
    listed = subprocess.run(
        ("docker", "images", "-aq", "--no-trunc", "--filter", f"label={_LABEL}"),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    names = (*sorted(set(listed.stdout.split())), _TAG)
    subprocess.run(
        ("docker", "rmi", "--force", *names), capture_output=True, check=False, timeout=300
    )
