"""``buildrun runs``: past runs, how they went, and what their steps wrote."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping

from buildrun import home, runs
from buildrun.errors import UsageError
from buildrun.keys import printable
from buildrun.runs import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    verbs = parser.add_subparsers(dest="verb", metavar="ls|show|logs", required=True)
    listing = verbs.add_parser("ls", help="the latest runs", description="the latest runs")
    listing.add_argument("-n", "--number", type=int, default=20, help="how many; default: 20")
    show = verbs.add_parser("show", help="how a run went", description="how a run went")
    logs = verbs.add_parser(
        "logs", help="what its steps wrote", description="what the steps of a run wrote"
    )
    for verb in (show, logs):
        verb.add_argument(
            "run", metavar="RUN", nargs="?", help="the beginning of its id; default: the latest"
        )
    logs.add_argument("step", metavar="STEP", nargs="?", help="only this step")
    for verb in (listing, show):
        verb.add_argument("--format", choices=("text", "json"), default="text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Do one of the subcommands."""
    directory = home.locate(environ).runs
    if arguments.verb == "ls":
        return _list(runs.survey(directory)[: max(0, arguments.number)], arguments.format)
    record = _find(directory, arguments.run)
    if arguments.verb == "show":
        return _show(record, arguments.format)
    return _logs(record, arguments.step)


def _list(records: list[Record], form: str) -> int:
    if form == "json":
        rows = [_to_json(record) for record in records]
        sys.stdout.write(json.dumps({"version": 1, "runs": rows}, indent=2) + "\n")
        return 0
    for record in records:
        seconds = "" if record.seconds is None else f"{record.seconds:.1f} s"
        sys.stdout.write(
            f"{record.run_id[:12]}  {_when(record)}  {record.status:<9}  {seconds:>9}  "
            f"{printable(record.project)}  {printable(record.entry_point)}\n"
        )
    return 0


def _show(record: Record, form: str) -> int:
    if form == "json":
        sys.stdout.write(json.dumps({"version": 1, **_to_json(record)}, indent=2) + "\n")
        return 0
    code = "" if record.exit_code is None else f", exit code {record.exit_code}"
    seconds = "" if record.seconds is None else f", {record.seconds:.1f} s"
    lines = [
        f"run {record.run_id}",
        f"{printable(record.project)} ({printable(record.root)}), {record.entry_point}",
        f"{_when(record)}: {record.status}{code}{seconds}",
    ]
    for step in record.steps:
        reasons = "; ".join(reason["detail"] for reason in step["reasons"])
        lines.append(f"  {step['id']}: {step['state']}, {step['seconds']:.1f} s; {reasons}")
        if step["log"]:
            lines.append(f"    {step['log']}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _logs(record: Record, step: str | None) -> int:
    found = [item for item in record.steps if step in (None, item["id"], item["entry_point"])]
    if not found:
        names = ", ".join(f"`{item['id']}`" for item in record.steps) or "none"
        raise UsageError(f"the run has no step `{step}`", hint=f"its steps: {names}")
    for item in found:
        if not item["log"] or not os.path.exists(item["log"]):
            continue
        if len(found) > 1:
            sys.stdout.write(f"==> {item['id']} <==\n")
        sys.stdout.flush()
        with open(item["log"], "rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    return 0


def _find(directory: str, start: str | None) -> Record:
    if start is None:
        latest = runs.survey(directory)
        if not latest:
            raise UsageError("no run is recorded yet", hint="`buildrun .` makes one")
        return latest[0]
    found = [
        record for name in runs.find(directory, start) if (record := runs.load(directory, name))
    ]
    if len(found) != 1:
        fact = "there is no run" if not found else f"there are {len(found)} runs"
        raise UsageError(
            f"{fact} whose id begins with `{start}`", hint="`buildrun runs ls` lists them"
        )
    return found[0]


def _to_json(record: Record) -> dict[str, object]:
    value = record._asdict()
    del value["pid"]
    return value


def _when(record: Record) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
