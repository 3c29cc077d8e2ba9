"""A step with many inputs of which none has changed, against DVC and make."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from benchmarks.case import Outcome, compare
from benchmarks.process import Failed
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

COUNT = 1000
TITLE = f"a step with {COUNT:,} input files, nothing changed"
ROUNDS = 40
NEEDS = ("buildrun", "dvc")

_OURS = "`buildrun .`"
_ALL = "`buildrun .`, inputs not declared"
# Else it looks for sources of each file that it might know how to make.
_WITHOUT_RULES = "`make -r` goes without make's built-in rules, which makes it faster."
_COMMAND = "cat data/*.csv > all.csv"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    declared = bench.write("declared", _mlproject("    inputs: [data]\n"))
    whole = bench.write("whole", _mlproject(""))
    dvc = bench.write("dvc", _dvc())
    make = bench.write("make", _make())
    bench.output(bench.subjects.program("dvc"), "init", "--no-scm", cwd=dvc)
    rows = bench.rounds_of(
        (
            Runner("`make -r`", lambda: bench.timed("make", "-r", cwd=make)),
            Runner(_OURS, lambda: _buildrun(bench, declared)),
            Runner(_ALL, lambda: _buildrun(bench, whole)),
            Runner("`dvc repro`", lambda: _repro(bench, dvc), every=4),
        )
    )
    claims = [
        compare(rows, subject, peer, limit)
        for subject in (_OURS, _ALL)
        for peer, limit in (("`dvc repro`", 1 / 10), ("`make -r`", 30.0))
    ]
    return Outcome(rows, claims, (_version_of_make(bench), _WITHOUT_RULES))


def _buildrun(bench: Workbench, project: str) -> Sample:
    return bench.timed(bench.buildrun, ".", cwd=project)


def _repro(bench: Workbench, project: str) -> Sample:
    return bench.timed(bench.subjects.program("dvc"), "repro", cwd=project)


def _version_of_make(bench: Workbench) -> str:
    try:
        return bench.output("make", "--version", cwd=bench.directory).splitlines()[0] + "."
    except (Failed, OSError) as error:
        raise Failed(f"make: {error}") from None


def _data() -> Mapping[str, str]:
    return {
        f"data/part-{number:04}.csv": f"{number},{number + 1},{number + 2}\n" * 100
        for number in range(COUNT)
    }


def _mlproject(inputs: str) -> Mapping[str, str]:
    environment = f'python: "{platform.python_version()}"\ndependencies: []\n'
    text = (
        "name: one-step\npython_env: python_env.yaml\nentry_points:\n  main:\n"
        f'{inputs}    outputs: [all.csv]\n    command: "{_COMMAND}"\n'
    )
    return {"MLproject": text, "python_env.yaml": environment, **_data()}


def _dvc() -> Mapping[str, str]:
    stage = f"  main:\n    cmd: {_COMMAND}\n    deps:\n    - data\n    outs:\n    - all.csv\n"
    return {"dvc.yaml": "stages:\n" + stage, **_data()}


def _make() -> Mapping[str, str]:
    return {"Makefile": f"all.csv: $(wildcard data/*.csv)\n\t{_COMMAND}\n", **_data()}
