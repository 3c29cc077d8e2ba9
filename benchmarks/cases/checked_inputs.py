"""What it costs to watch a command for what it reads, and to keep it to what it declares."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial

from benchmarks.case import Claim, Outcome
from benchmarks.summary import Sample, ratio
from benchmarks.workbench import Runner, Workbench

FILES = 5000
TITLE = (
    f"an import of scikit-learn and pandas, make with {FILES:,} opens, {FILES:,} inputs; watched"
)
ROUNDS = 11
NEEDS = ("buildrun", "scikit-learn")

_IMPORT = "import of scikit-learn and pandas"
_MAKE = f"make, {FILES:,} opens"
_START = f"`true` with {FILES:,} inputs"
_PLAIN, _CHECKED, _SANDBOX = "plain", "`--check-inputs`", "`--sandbox`"
_STEPS = {_IMPORT: "import", _MAKE: "make", _START: "start"}
_WAYS: Mapping[str, Sequence[str]] = {
    _PLAIN: (),
    _CHECKED: ("--check-inputs",),
    _SANDBOX: ("--sandbox",),
}
_LIMIT = 1.1
# Milliseconds beyond the start of the same step without one.
_START_LIMIT = 30.0
_STRACE = "strace -f --seccomp-bpf -e trace=%file,getdents64"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    project = bench.write("project", _files())
    programs = os.path.join(bench.subjects.prefix("scikit-learn"), "bin")
    environ = {"PATH": programs + os.pathsep + bench.environ["PATH"]}

    def run(entry_point: str, words: Sequence[str]) -> Sample:
        argv = (bench.buildrun, "run", "-q", ".", "-e", entry_point, "--force", *words)
        # A command that was watched in a store is watched there again.
        store = bench.path(f"store{''.join(words)}")
        given = {**environ, "BUILDRUN_HOME": store}
        return bench.timed(*argv, "--env-manager", "local", cwd=project, environ=given)

    runners = [
        Runner(f"{name}, {way}", partial(run, point, words))
        for name, point in _STEPS.items()
        for way, words in _WAYS.items()
    ]
    if shutil.which("strace"):
        argv = (*_STRACE.split(), "-o", bench.path("trace"), "make", "-s")
        runners.append(Runner(f"{_MAKE}, {_STRACE}", lambda: bench.timed(*argv, cwd=project)))
    rows = bench.rounds_of(runners)
    claims = []
    for name in (_IMPORT, _MAKE):
        one, other = rows[f"{name}, {_CHECKED}"], rows[f"{name}, {_PLAIN}"]
        text = f"{name}, {_CHECKED}, CPU time against {_PLAIN}"
        claims.append(Claim(text, ratio(one.cpu, other.cpu), None, _LIMIT))
    for way, limit in ((_CHECKED, None), (_SANDBOX, _START_LIMIT)):
        one, other = rows[f"{_START}, {way}"], rows[f"{_START}, {_PLAIN}"]
        beyond = (one.median - other.median) * 1000
        best = (one.minimum - other.minimum) * 1000
        claims.append(Claim(f"{_START}, {way}, beyond {_PLAIN}", beyond, best, limit, "ms"))
    return Outcome(rows, claims)


def _files() -> dict[str, str]:
    """Return a project with three steps, and a Makefile that reads its files in groups."""
    files = {f"files/{number:04}": f"{number}\n" for number in range(FILES)}
    groups = "".join(
        f"g{group}:\n\t@cat files/{group:02}* > /dev/null\n" for group in range(FILES // 100)
    )
    names = " ".join(f"g{group}" for group in range(FILES // 100))
    return {
        **files,
        "Makefile": f"all: {names}\n{groups}",
        "MLproject": """\
name: watched
entry_points:
  import:
    command: "python -c 'import sklearn.linear_model, pandas' && touch import.txt"
    inputs: [Makefile]
    outputs: [import.txt]
  make:
    command: "make -s && touch make.txt"
    inputs: [Makefile, "files/**"]
    outputs: [make.txt]
  start:
    command: "touch start.txt"
    inputs: [Makefile, "files/**"]
    outputs: [start.txt]
""",
    }
