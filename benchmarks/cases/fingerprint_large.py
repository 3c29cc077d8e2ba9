"""The first fingerprint of large files, against DVC."""

from __future__ import annotations

import json
import os
import shutil

from benchmarks.case import Claim, Outcome, compare
from benchmarks.process import Failed
from benchmarks.subjects import REPOSITORY
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

FILES, SIZE = 5, 1 << 30
TITLE = f"the first fingerprint of {FILES} files of {SIZE >> 30} GiB each"
ROUNDS = 5
NEEDS = ("buildrun", "dvc")

_OURS = "fingerprint, in a process of its own"
_DVC = "`dvc status` of a stage that depends on them"
_PROBE = os.path.join(REPOSITORY, "benchmarks", "probes", "fingerprint.py")
_BLOCK = 1 << 20

_STAGE = "stages:\n  main:\n    cmd: 'true'\n    deps:\n    - data\n"
# Without a lock DVC would not look at the files at all.
_LOCK = (
    "schema: '2.0'\nstages:\n  main:\n    cmd: 'true'\n    deps:\n    - path: data\n"
    "      hash: md5\n      md5: 00000000000000000000000000000000.dir\n"
    f"      size: {FILES * SIZE}\n      nfiles: {FILES + 1}\n"
)


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    if shutil.disk_usage(bench.directory).free < 2 * FILES * SIZE:
        raise Failed(f"{bench.directory}: the disk has no room for {FILES} files")
    project = bench.write("project", {"data/.keep": "", "dvc.yaml": _STAGE, "dvc.lock": _LOCK})
    for number in range(FILES):
        _large(os.path.join(project, "data", f"{number}.bin"), number)
    dvc = bench.subjects.program("dvc")
    bench.output(dvc, "init", "--no-scm", cwd=project)
    bench.output(dvc, "config", "core.analytics", "false", cwd=project)
    bench.output(dvc, "config", "core.site_cache_dir", bench.path("site"), cwd=project)
    peaks: list[float] = []

    def ours() -> Sample:
        python = bench.subjects.program("buildrun", "python")
        sample = bench.timed(python, "-I", _PROBE, os.path.join(project, "data"), cwd=project)
        with open(bench.log, encoding="utf-8") as file:
            peaks.append(json.load(file)["peak"])
        return sample

    rows = bench.rounds_of(
        (
            Runner(_OURS, ours),
            # DVC keeps what it knows of files in these directories.
            Runner(
                _DVC,
                lambda: bench.timed(dvc, "status", cwd=project),
                lambda: bench.forget("site", os.path.join("project", ".dvc", "tmp")),
            ),
        )
    )
    return Outcome(
        rows,
        (
            compare(rows, _OURS, _DVC, 1 / 3),
            Claim("peak memory", max(peaks), min(peaks), 200.0, "MB"),
        ),
    )


def _large(path: str, number: int) -> None:
    """Write a file whose blocks all differ."""
    block = bytearray(os.urandom(_BLOCK))
    with open(path, "wb") as file:
        for at in range(SIZE // _BLOCK):
            block[:16] = number.to_bytes(8, "little") + at.to_bytes(8, "little")
            file.write(block)
