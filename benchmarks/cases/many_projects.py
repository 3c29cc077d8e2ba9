"""What a repository of many projects costs in which nothing, or one file, has changed."""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Mapping

from benchmarks.case import Claim, Outcome
from benchmarks.summary import Sample, Summary
from benchmarks.workbench import Runner, Workbench

COUNT = 300
TITLE = f"a repository of {COUNT} projects, each with a step that is up to date"
ROUNDS = 15
NEEDS = ("buildrun",)

_ALL = "`buildrun run --all`, nothing changed"
_SINCE = "`buildrun run --all --since HEAD`, one project changed"
_CHECK = "`buildrun validate --of-projects`, one file changed, as the pre-commit hook calls it"
# Milliseconds; of the last one the hook, beyond what pre-commit takes itself.
_LIMITS = {_ALL: 2000.0, _SINCE: None, _CHECK: 250.0}


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    for number in range(COUNT):
        bench.write(f"repository/project-{number:03}", _project(number))
    top = bench.path("repository")
    for words in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "all")):
        bench.output("git", "-c", "user.name=a", "-c", "user.email=a@b.c", *words, cwd=top)
    numbers = itertools.count()

    def change(name: str, text: str) -> None:
        with open(os.path.join(top, "project-000", name), "w", encoding="utf-8") as file:
            file.write(f"{text}# {next(numbers)}\n")

    def run(*words: str) -> Sample:
        return bench.timed(bench.buildrun, "-q", "--all", *words, cwd=top)

    def check() -> Sample:
        words = ("validate", "--of-projects", "project-000/MLproject")
        return bench.timed(bench.buildrun, *words, cwd=top)

    def settle() -> None:
        run()
        run()

    rows = bench.rounds_of(
        (
            Runner(_ALL, run, settle),
            Runner(_SINCE, lambda: run("--since", "HEAD"), lambda: change("in.txt", "")),
            Runner(_CHECK, check, lambda: change("MLproject", _project(0)["MLproject"])),
        )
    )
    return Outcome(rows, [_claim(rows, name, limit) for name, limit in _LIMITS.items()])


def _claim(rows: Mapping[str, Summary], name: str, limit: float | None) -> Claim:
    return Claim(name, rows[name].median * 1000, rows[name].minimum * 1000, limit, "ms")


def _project(number: int) -> Mapping[str, str]:
    environment = f'python: "{platform.python_version()}"\ndependencies: []\n'
    text = (
        f"name: project-{number}\npython_env: python_env.yaml\nentry_points:\n  main:\n"
        "    inputs: [in.txt]\n    outputs: [out.txt]\n    command: cp in.txt out.txt\n"
    )
    return {"MLproject": text, "python_env.yaml": environment, "in.txt": f"{number}\n"}
