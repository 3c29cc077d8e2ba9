"""The first build of a conda environment, against the bare solve and install with rattler."""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from benchmarks.case import Outcome, compare
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

PACKAGES, FILES, BYTES = 30, 100, 6000
TITLE = f"the first conda environment ({PACKAGES} packages of {FILES} files), caches empty"
ROUNDS = 15
NEEDS = ("buildrun",)

_OURS = "`buildrun build .`"
_BARE = "bare rattler"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    address = _make_channel(bench.path("channel"))
    project = bench.write(
        "project",
        {
            "MLproject": "name: conda\nconda_env: conda.yaml\n",
            "conda.yaml": (
                f"channels:\n  - {address}\n  - nodefaults\n"
                "dependencies:\n  - python\n  - package-0\n"
            ),
        },
    )
    rows = bench.rounds_of(
        (
            Runner(_BARE, lambda: _bare(bench, address), lambda: bench.forget("bare", "cache")),
            Runner(
                _OURS,
                lambda: bench.timed(
                    bench.buildrun, "build", ".", cwd=project, environ=_cache(bench)
                ),
                lambda: bench.forget("store", "cache"),
            ),
        )
    )
    return Outcome(rows, (compare(rows, _OURS, _BARE, 1.3),))


def _bare(bench: Workbench, address: str) -> Sample:
    script = os.path.join(REPOSITORY, "benchmarks", "probes", "bare_rattler.py")
    python = bench.subjects.program("buildrun", "python")
    argv = (python, "-I", script, address, bench.path("bare"), bench.path("cache"))
    return bench.timed(*argv, "python", "package-0", cwd=bench.directory)


def _cache(bench: Workbench) -> dict[str, str]:
    return {"RATTLER_CACHE_DIR": bench.path("cache")}


def _make_channel(directory: str) -> str:
    """Write a channel in which each package needs the next one; return its address."""
    maker: dict[str, Any] = runpy.run_path(os.path.join(REPOSITORY, "tests", "conda_channel.py"))
    text = "# a line of a module, of no use to anyone\n" * (BYTES // 42)
    packages = [maker["python"](1)]
    for number in range(PACKAGES):
        needs = ("python", f"package-{number + 1} >=1")
        packages.append(
            maker["Package"](
                f"package-{number}",
                depends=needs if number + 1 < PACKAGES else needs[:1],
                files={
                    f"{maker['SITE']}/package_{number}/module_{file}.py": f"N = {file}\n{text}"
                    for file in range(FILES)
                },
            )
        )
    return str(maker["make"](Path(directory), packages))
