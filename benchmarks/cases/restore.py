"""A result that comes out of the store, against a copy of the same files."""

from __future__ import annotations

import os
import platform
import shutil

from benchmarks.case import Outcome, compare
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

SMALL_FILES, SMALL_BYTES = 10_000, 4096
LARGE_FILES, LARGE_GIGABYTES = 5, 5
TITLE = f"a restore of {SMALL_FILES:,} small files, and of {LARGE_GIGABYTES} GB"
ROUNDS = 9
NEEDS = ("buildrun",)

_OURS = "`buildrun .`"
_PEER = "`cp -r --reflink=auto`"
_BLOCK = 1 << 24


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    free = shutil.disk_usage(bench.directory).free // 10**9
    # The files, the store, the output and the copy; and room for others.
    gigabytes = max(1, min(LARGE_GIGABYTES, free // 6))
    runners: list[Runner] = []
    for size, label, every in (
        ("small", f"{SMALL_FILES:,} files", 1),
        ("large", f"{gigabytes} GB", 3),
    ):
        _make_files(bench.path(size, "seed"), size, gigabytes)
        _make_project(bench, size)
        runners += _pair(bench, size, label, every)
    rows = bench.rounds_of(runners)
    claims = [
        compare(rows, ours.name, peer.name, 1.5)
        for peer, ours in zip(runners[::2], runners[1::2], strict=True)
    ]
    notes = () if gigabytes == LARGE_GIGABYTES else (f"The disk had room for {gigabytes} GB.",)
    return Outcome(rows, claims, notes)


def _pair(bench: Workbench, size: str, label: str, every: int) -> list[Runner]:
    seed, copy = bench.path(size, "seed"), bench.path(size, "copy")
    out = bench.path(size, "project", "out")

    def copied() -> Sample:
        argv = ("cp", "-r", "--reflink=auto", seed, copy)
        return bench.timed(*argv, cwd=bench.directory)

    def restored() -> Sample:
        return bench.timed(bench.buildrun, "-q", ".", cwd=bench.path(size, "project"))

    return [
        Runner(f"{_PEER}, {label}", copied, lambda: _clear(copy, out), every),
        Runner(f"{_OURS}, {label}", restored, lambda: _clear(copy, out), every),
    ]


def _clear(*paths: str) -> None:
    """Delete what was made, since there is no room for all of it, and let the disk rest."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)
    os.sync()


def _make_files(directory: str, size: str, gigabytes: int) -> None:
    if size == "small":
        for number in range(SMALL_FILES):
            path = os.path.join(directory, f"{number // 100:03}", f"{number:05}")
            _write(path, SMALL_BYTES, SMALL_BYTES)
    else:
        for number in range(LARGE_FILES):
            _write(os.path.join(directory, str(number)), gigabytes * 10**9 // LARGE_FILES, _BLOCK)


def _write(path: str, size: int, block: int) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    data = os.urandom(block)
    with open(path, "wb") as file:
        for start in range(0, size, block):
            file.write(data[: size - start])


def _make_project(bench: Workbench, size: str) -> None:
    """Write a project whose step makes the files, and store its result."""
    project = bench.write(
        os.path.join(size, "project"),
        {
            "MLproject": (
                "name: restore\npython_env: python_env.yaml\nentry_points:\n  main:\n"
                "    inputs: [python_env.yaml]\n    outputs: [out/]\n"
                '    command: "cp -r ../seed out"\n'
            ),
            "python_env.yaml": f'python: "{platform.python_version()}"\ndependencies: []\n',
        },
    )
    bench.output(bench.buildrun, "-q", ".", cwd=project)
