"""``python -m benchmarks``: install what is missing, measure, report."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import machine, report
from benchmarks.cases import CASES
from benchmarks.process import Failed
from benchmarks.subjects import REPOSITORY, Subjects, environment
from benchmarks.workbench import Workbench

_HERE = os.path.join(REPOSITORY, "benchmarks")


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Return 0, also where a target is missed, or 1 where a case could not be measured."""
    given = _parser().parse_args(argv)
    if given.list:
        for name, case in CASES.items():
            print(f"{name:<18} {case.TITLE}")
        return 0
    work = os.path.abspath(given.work)
    variables = environment(environ)
    subjects = Subjects(os.path.join(work, "subjects"), variables)
    failed = False
    for name in given.only or CASES:
        directory = os.path.join(work, "cases", name)
        try:
            measured = _measure(name, directory, subjects, variables, given.rounds)
        except Failed as failure:
            failed = True
            print(f"{name}: {failure}", file=sys.stderr)
            continue
        print("\n".join(report.lines_of(name, measured)), flush=True)
        _publish(given.output, name, measured)
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure buildrun beside its peers."
    )
    parser.add_argument(
        "--only", metavar="NAME", action="append", choices=tuple(CASES), help="a case; repeatable"
    )
    parser.add_argument("--rounds", metavar="N", type=_count, help="instead of each case's own")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--work", metavar="DIR", default=os.path.join(_HERE, ".work"),
        help="where installations and projects lie; default: benchmarks/.work",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", default=_HERE,
        help="where results.md and results.json are renewed; default: benchmarks",
    )  # fmt: skip
    return parser


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _measure(
    name: str,
    directory: str,
    subjects: Subjects,
    environ: Mapping[str, str],
    rounds: int | None,
) -> dict[str, Any]:
    case = CASES[name]
    for subject in case.NEEDS:
        subjects.prefix(subject)
    print(f"measuring {name}", file=sys.stderr, flush=True)
    bench = Workbench(directory, subjects, environ, rounds or case.ROUNDS)
    before = machine.load()
    try:
        outcome = case.measure(bench)
        after = machine.load()
    finally:
        bench.close()
    return report.encode(
        outcome,
        title=case.TITLE,
        date=machine.today(),
        load=(before, after),
        versions=machine.versions(subjects, frozenset(case.NEEDS)),
        machine=machine.describe(environ),
    )


def _publish(directory: str, name: str, measured: Mapping[str, Any]) -> None:
    """Renew the results of one case, and leave those of the others."""
    os.makedirs(directory, exist_ok=True)
    path = os.path.join(directory, "results.json")
    found: dict[str, Any] = {}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            found = report.from_json(file.read())
    found[name] = dict(measured)
    cases = {known: found[known] for known in CASES if known in found}
    for file_name, text in (
        ("results.json", report.to_json(cases)),
        ("results.md", report.markdown(cases)),
    ):
        with open(os.path.join(directory, file_name), "w", encoding="utf-8") as sink:
            sink.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
