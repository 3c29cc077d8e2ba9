"""The check of many projects in one call, against check-jsonschema on the same files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from benchmarks.case import Claim, Outcome
from benchmarks.process import Failed
from benchmarks.projects import varied_projects
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample, Summary
from benchmarks.workbench import Runner, Workbench

COUNT = 300
TITLE = f"`buildrun validate` of {COUNT} projects of varied shape"
ROUNDS = 9
NEEDS = ("buildrun", "check-jsonschema")

_OURS = "`buildrun validate`"
_PEER = "check-jsonschema (the MLproject files alone)"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed where buildrun does."""
    roots = [bench.write(name, files) for name, files in varied_projects(COUNT).items()]
    runners = [
        Runner(f"{_OURS}, 1 project", lambda: _ours(bench, roots[:1])),
        Runner(f"{_OURS}, {COUNT} projects", lambda: _ours(bench, roots)),
    ]
    notes: tuple[str, ...] = ()
    try:
        _peer(bench, roots)
        runners += [
            Runner(f"{_PEER}, 1 file", lambda: _peer(bench, roots[:1])),
            Runner(f"{_PEER}, {COUNT} files", lambda: _peer(bench, roots)),
        ]
    except Failed as failure:
        lines = str(failure).splitlines()
        notes = (f"check-jsonschema does not take these files: {lines[-1][:200]}",)
    rows = bench.rounds_of(runners)
    claims = [_each(rows, _OURS, "project", 10.0)]
    if not notes:
        claims.append(_each(rows, _PEER, "file", None))
    return Outcome(rows, claims, notes)


def _ours(bench: Workbench, roots: Sequence[str]) -> Sample:
    return bench.timed(bench.buildrun, "validate", "--quiet", *roots, cwd=bench.directory)


def _peer(bench: Workbench, roots: Sequence[str]) -> Sample:
    schema = os.path.join(REPOSITORY, "schemas", "MLproject.schema.json")
    program = bench.subjects.program("check-jsonschema")
    files = [os.path.join(root, "MLproject") for root in roots]
    argv = (program, "--schemafile", schema, "--default-filetype", "yaml", *files)
    return bench.timed(*argv, cwd=bench.directory)


def _each(rows: Mapping[str, Summary], subject: str, noun: str, limit: float | None) -> Claim:
    one, all_ = rows[f"{subject}, 1 {noun}"], rows[f"{subject}, {COUNT} {noun}s"]
    return Claim(
        f"{subject}, each {noun} after the first",
        (all_.median - one.median) / (COUNT - 1) * 1000,
        (all_.minimum - one.minimum) / (COUNT - 1) * 1000,
        limit,
        "ms",
    )
