"""The first build of a virtualenv, against the bare uv commands."""

from __future__ import annotations

import platform
from collections.abc import Mapping

from benchmarks.case import Claim, Outcome, compare
from benchmarks.process import total
from benchmarks.projects import SMALL, virtualenv_project
from benchmarks.subjects import interpreter
from benchmarks.summary import Sample, Summary, ratio
from benchmarks.workbench import Runner, Workbench

TITLE = f"the first environment: {', '.join(SMALL)}"
ROUNDS = 15
NEEDS = ("buildrun", "uv")

# Where the file system can clone, neither of uv's ways is what it does by itself.
_LINKS, _COPIES, _OURS = "uv with hard links", "uv with copies", "`buildrun build .`"
_WARM, _COLD = "uv's cache warm", "uv's cache empty"

# Packages are downloaded in each so many-th round only.
_SELDOM = 5


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    files = dict(virtualenv_project("small", platform.python_version(), SMALL))
    files["requirements.txt"] = "".join(f"{line}\n" for line in SMALL)
    project = bench.write("small", files)
    rows = bench.rounds_of(
        [
            _runner(bench, project, name, cache)
            for cache in (_WARM, _COLD)
            for name in (_LINKS, _COPIES, _OURS)
        ]
    )
    claims = [
        claim
        for cache in (_WARM, _COLD)
        for reference, limit in ((_LINKS, 1.5), (_COPIES, 1.15))
        for claim in _claims(rows, f"{_OURS}, {cache}", f"{reference}, {cache}", limit)
    ]
    notes = (
        "uv: `uv venv`, then `uv pip install` with `--link-mode hardlink` or `copy`. With an empty "
        "cache all packages are downloaded.",
    )
    return Outcome(rows, claims, notes)


def _claims(
    rows: Mapping[str, Summary], subject: str, reference: str, limit: float
) -> tuple[Claim, Claim]:
    cpu = ratio(rows[subject].cpu, rows[reference].cpu)
    return (
        compare(rows, subject, reference, limit),
        Claim(f"processor time: {subject} against {reference}", cpu, None),
    )


def _runner(bench: Workbench, project: str, name: str, cache: str) -> Runner:
    variables = {"UV_CACHE_DIR": bench.path("cache" if cache == _WARM else "new-cache")}
    old = ("bare", "store") if cache == _WARM else ("bare", "store", "new-cache")

    def run() -> Sample:
        if name == _OURS:
            return bench.timed(bench.buildrun, "build", ".", cwd=project, environ=variables)
        return _bare(bench, project, "hardlink" if name == _LINKS else "copy", variables)

    every = 1 if cache == _WARM else _SELDOM
    return Runner(f"{name}, {cache}", run, lambda: bench.forget(*old), every)


def _bare(bench: Workbench, project: str, mode: str, environ: Mapping[str, str]) -> Sample:
    arguments, settings = bench.subjects.index_settings()
    variables = {**settings, **environ}
    uv, prefix = bench.subjects.program("uv"), bench.path("bare")
    make = ("venv", "--no-project", "--quiet", "--python", interpreter(), prefix)
    install = ("pip", "install", *arguments, "--quiet", "--link-mode", mode, "--python", prefix)
    return total(
        (
            bench.timed(uv, *make, cwd=project, environ=variables),
            bench.timed(uv, *install, "-r", "requirements.txt", cwd=project, environ=variables),
        )
    )
