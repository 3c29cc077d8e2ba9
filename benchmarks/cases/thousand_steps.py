"""Many steps of which none has to run, in a chain and side by side, against DVC and Snakemake."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence

from benchmarks import graphs
from benchmarks.case import Claim, Outcome, compare
from benchmarks.graphs import Node
from benchmarks.process import Failed
from benchmarks.summary import Sample, Summary, ratio_of_differences
from benchmarks.workbench import Runner, Workbench

COUNTS = (250, 500, 1000)
TITLE = f"{COUNTS[-1]:,} steps, nothing changed"
ROUNDS = 20
NEEDS = ("buildrun", "dvc", "snakemake")

_SHAPES: Mapping[str, Callable[[int], Sequence[Node]]] = {
    "chain": graphs.chain,
    "fan": graphs.fan,
}
_PEERS = ("`dvc repro`", "`snakemake`")


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    runners = []
    for shape in _SHAPES:
        runners += [_ours(bench, shape, count) for count in COUNTS]
        runners += [_make(bench, shape), _dvc(bench, shape), _snakemake(bench, shape)]
    rows = bench.rounds_of(runners)
    claims: list[Claim] = []
    for shape in _SHAPES:
        ours = _row("`buildrun .`", shape, COUNTS[-1])
        claims += [compare(rows, ours, _row(peer, shape, COUNTS[-1]), 1 / 20) for peer in _PEERS]
        claims.append(_growth(rows, shape))
    return Outcome(rows, claims)


def _ours(bench: Workbench, shape: str, count: int) -> Runner:
    files = graphs.as_mlproject(_SHAPES[shape](count), platform.python_version())
    project = bench.write(f"buildrun-{shape}-{count}", files)
    bench.output(bench.buildrun, ".", "-j", "2", "--output=errors", cwd=project)
    # The first run without anything to do finds files that have just been written.
    bench.output(bench.buildrun, ".", cwd=project)

    def run() -> Sample:
        sample = bench.timed(bench.buildrun, ".", cwd=project)
        _expect(bench, f"{count} up to date")
        return sample

    return Runner(_row("`buildrun .`", shape, count), run)


def _make(bench: Workbench, shape: str) -> Runner:
    project = bench.write(f"make-{shape}", graphs.as_make(_SHAPES[shape](COUNTS[-1])))
    bench.output("make", "-r", cwd=project)
    return Runner(
        _row("`make -r`", shape, COUNTS[-1]), lambda: bench.timed("make", "-r", cwd=project)
    )


def _dvc(bench: Workbench, shape: str) -> Runner:
    program = bench.subjects.program("dvc")
    project = bench.write(f"dvc-{shape}", {".keep": ""})
    bench.output(program, "init", "--no-scm", cwd=project)
    bench.write(f"dvc-{shape}", graphs.as_dvc(_SHAPES[shape](COUNTS[-1])))

    def run() -> Sample:
        sample = bench.timed(program, "repro", cwd=project)
        _expect(bench, "Data and pipelines are up to date")
        return sample

    return Runner(_row("`dvc repro`", shape, COUNTS[-1]), run, every=20)


def _snakemake(bench: Workbench, shape: str) -> Runner:
    argv = (bench.subjects.program("snakemake"), "--cores", "2")
    project = bench.write(f"snakemake-{shape}", graphs.as_snakemake(_SHAPES[shape](COUNTS[-1])))
    own = {"XDG_CACHE_HOME": bench.path("snakemake-cache")}
    bench.output(*argv, "--quiet", "all", cwd=project, environ=own)

    def run() -> Sample:
        sample = bench.timed(*argv, cwd=project, environ=own)
        _expect(bench, "Nothing to be done")
        return sample

    return Runner(_row("`snakemake`", shape, COUNTS[-1]), run, every=20)


def _expect(bench: Workbench, text: str) -> None:
    """Raise Failed where the last command did not say that it had nothing to do."""
    with open(bench.log, encoding="utf-8", errors="replace") as log:
        said = log.read()
    if text not in said:
        raise Failed(f"expected `{text}`, but it said:\n{said[-2000:]}")


def _growth(rows: Mapping[str, Summary], shape: str) -> Claim:
    """Return the claim that a step costs the same among many as among few."""
    few, some, many = (rows[_row("`buildrun .`", shape, count)] for count in COUNTS)
    steps = (COUNTS[2] - COUNTS[1]) / (COUNTS[1] - COUNTS[0])
    return Claim(
        f"a step in the second half of the {shape} against one in the second quarter",
        ratio_of_differences(many.median - some.median, (some.median - few.median) * steps),
        ratio_of_differences(many.minimum - some.minimum, (some.minimum - few.minimum) * steps),
        1.25,
    )


def _row(subject: str, shape: str, count: int) -> str:
    return f"{subject}, {shape} of {count}"
