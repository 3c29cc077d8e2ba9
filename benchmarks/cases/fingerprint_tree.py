"""The fingerprint of a tree of many small files of which none has changed, against git."""

from __future__ import annotations

import json
import os

from benchmarks.case import Claim, Outcome, compare
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

DIRECTORIES, EACH = 400, 250
TITLE = f"a fingerprint of {DIRECTORIES * EACH:,} small files, nothing changed"
ROUNDS = 20
NEEDS = ("buildrun",)

_OURS = "fingerprint, in a process of its own"
_GIT = "`git status`"
_PROBE = os.path.join(REPOSITORY, "benchmarks", "probes", "fingerprint.py")


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    tree = _tree(bench)
    peaks: list[float] = []

    def ours() -> Sample:
        python = bench.subjects.program("buildrun", "python")
        sample = bench.timed(python, "-I", _PROBE, tree, bench.path("index"), cwd=tree)
        with open(bench.log, encoding="utf-8") as file:
            peaks.append(json.load(file)["peak"])
        return sample

    rows = bench.rounds_of(
        (
            Runner(_GIT, lambda: bench.timed("git", "status", "--porcelain", cwd=tree)),
            Runner(_OURS, ours),
        )
    )
    claims = (
        compare(rows, _OURS, _GIT, 3.0),
        Claim("peak memory, at first", peaks[0], peaks[0], 200.0, "MB"),
        Claim("peak memory, nothing changed", max(peaks[1:]), min(peaks[1:]), 200.0, "MB"),
    )
    return Outcome(rows, claims, (bench.output("git", "--version", cwd=tree).strip() + ".",))


def _tree(bench: Workbench) -> str:
    files = {
        f"package{number % 20:02}/module{number:03}/file{each:03}.py": f"x = {number}, {each}\n"
        for number in range(DIRECTORIES)
        for each in range(EACH)
    }
    tree = bench.write("tree", {".gitignore": "*.pyc\n/build/\n.env\n*.egg-info/\n", **files})
    who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
    for arguments in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "files")):
        bench.output("git", *arguments, cwd=tree)
    os.sync()
    return tree
