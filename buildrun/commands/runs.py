"""``buildrun runs``: past runs, how they went, and what their steps wrote."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping

from buildrun import home, runs, table
from buildrun.commands import runs_cancel
from buildrun.commands.runs_latest import latest
from buildrun.errors import ExecutionError, StoreError, UsageError
from buildrun.kubernetes.cluster import Submitted, recorded
from buildrun.kubernetes.detached import Detached
from buildrun.printable import printable
from buildrun.runs import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    verbs = parser.add_subparsers(dest="verb", metavar="ls|show|logs|cancel", required=True)
    listing = verbs.add_parser("ls", help="the latest runs", description="the latest runs")
    listing.add_argument("-n", "--number", type=int, default=20, help="how many; default: 20")
    show = verbs.add_parser("show", help="how a run went", description="how a run went")
    logs = verbs.add_parser(
        "logs", help="what its steps wrote", description="what the steps of a run wrote"
    )
    cancel = verbs.add_parser(
        "cancel",
        help="end a run",
        description="end a run on this machine, or the Kubernetes Jobs that it has left",
    )
    for verb in (show, logs, cancel):
        verb.add_argument(
            "run",
            metavar="RUN",
            nargs="?",
            help="the beginning of its id; default: the latest submitted one of this directory, "
            "else the latest",
        )
    logs.add_argument("step", metavar="STEP", nargs="?", help="only this step")
    logs.add_argument(
        "-f", "--follow", action="store_true", help="with Kubernetes: to the end of its Jobs"
    )
    for verb in (listing, show):
        verb.add_argument("--format", choices=("text", "json"), default="text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Do one of the subcommands."""
    directory = home.locate(environ).runs
    if arguments.verb == "ls":
        return _list(runs.survey(directory)[: max(0, arguments.number)], arguments.format, environ)
    record = (
        latest(directory, cwd, is_ending=arguments.verb == "cancel")
        if arguments.run is None
        else _find(directory, arguments.run)
    )
    if arguments.verb == "show":
        return _show(directory, record, arguments.format, environ)
    if arguments.verb == "cancel":
        return runs_cancel.cancel(directory, record, environ)
    if found := _on_cluster(directory, record, arguments.step):
        return _logs_of_jobs(found, environ, follow=arguments.follow)
    return _logs(directory, record, arguments.step)


def _list(records: list[Record], form: str, environ: Mapping[str, str]) -> int:
    if form == "json":
        rows = [_to_json(record) for record in records]
        sys.stdout.write(json.dumps({"version": 1, "runs": rows}, indent=2) + "\n")
        return 0
    for record in records:
        seconds = "" if record.seconds is None else f"{record.seconds:.1f} s"
        name, project = printable(record.run_id[:12]), printable(record.project)
        cells = [name, _when(record), f"{record.status:<9}", f"{seconds:>9}", project]
        table.write([*cells, printable(record.entry_point)], environ)
    return 0


def _show(directory: str, record: Record, form: str, environ: Mapping[str, str]) -> int:
    jobs = _on_cluster(directory, record, None)
    left = Detached(jobs, environ).look() if jobs else []
    if form == "json":
        value = {"version": 1, **_to_json(record)}
        if left:
            value["jobs"] = [
                {**item.job._asdict(), "state": item.state, "exit_code": item.exit_code}
                for item in left
            ]
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        return 0
    known = record.exit_code is not None and record.status != "submitted"
    code = f", exit code {record.exit_code}" if known else ""
    seconds = "" if record.seconds is None else f", {record.seconds:.1f} s"
    lines = [
        f"run {printable(record.run_id)}",
        f"{printable(record.project)} ({printable(record.root)}), {printable(record.entry_point)}",
        f"{_when(record)}: {printable(record.status)}{code}{seconds}",
    ]
    for step in record.steps:
        reasons = "; ".join(str(reason.get("detail")) for reason in step["reasons"])
        line = f"{step['id']}: {step['state']}, {step['seconds']:.1f} s; {reasons}"
        lines.append(f"  {printable(line)}")
        if step["log"]:
            lines.append(f"    {printable(step['log'])}")
    for item in left:
        ended = "" if item.exit_code is None else f" with exit code {item.exit_code}"
        lines.append(f"  Job {item.job.namespace}/{item.job.job}: {item.state}{ended}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _on_cluster(directory: str, record: Record, step: str | None) -> list[Submitted]:
    """Return the Jobs that a run has left on a cluster, or may have when it was killed."""
    if record.status not in ("submitted", "lost"):
        return []
    jobs = recorded(runs.directory(directory, record.run_id))
    return [job for job in jobs if step in (None, job.step)]


def _logs_of_jobs(jobs: list[Submitted], environ: Mapping[str, str], *, follow: bool) -> int:
    """Write what Jobs have written so far, or with ``follow`` all that they will."""
    detached = Detached(jobs, environ)
    lost: ExecutionError | None = None

    def write(text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    for job in jobs:
        if len(jobs) > 1:
            write(f"==> {printable(job.step)} <==\n".encode())
        try:
            detached.follow(job, write, to_its_end=follow)
        except ExecutionError as error:
            lost = lost or error
    if lost is not None:
        raise lost
    return 0


def _logs(directory: str, record: Record, step: str | None) -> int:
    """Write the logs to standard output, also those of a run that has not ended or was killed."""
    found = _logs_of(directory, record, step)
    for name, path in found:
        with open(path, "rb") as file:
            if len(found) > 1:
                sys.stdout.write(f"==> {printable(name)} <==\n")
            sys.stdout.flush()
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
    return 0


def _logs_of(directory: str, record: Record, step: str | None) -> list[tuple[str, str]]:
    """Return the names of steps and the paths of their logs; raises UsageError, StoreError."""
    there = {os.path.basename(path): path for path in runs.logs(directory, record.run_id)}
    if record.status in ("running", "lost"):
        # Its steps are told at the end, but the logs grow as it goes on.
        wanted = None if step is None else runs.file_name(0, step).partition("-")[2]
        found = [item for item in there.items() if wanted in (None, item[0].partition("-")[2])]
    else:
        chosen = [item for item in record.steps if step in (None, item["id"], item["entry_point"])]
        if not chosen:
            names = ", ".join(f"`{printable(item['id'])}`" for item in record.steps) or "none"
            raise UsageError(f"the run has no step `{step}`", hint=f"its steps: {names}")
        found = [
            (item["id"], there[os.path.basename(item["log"])])
            for item in chosen
            if item["log"] and os.path.basename(item["log"]) in there
        ]
    if not found and recorded(runs.directory(directory, record.run_id)):
        raise StoreError(
            "there is no log: it went with the Jobs",
            place=f"run {printable(record.run_id)}",
            hint="`keep-jobs` in the backend config keeps them; `kubectl logs` shows what is left",
        )
    if not found:
        raise StoreError(
            "there is no log: what ran wrote straight to the terminal, or nothing had to run",
            place=f"run {printable(record.run_id)}",
            hint="with `--output stream` a log is kept on a terminal too",
        )
    return found


def _find(directory: str, start: str) -> Record:
    names = runs.find(directory, start)
    found = [
        record
        for name in ([start] if start in names else names)
        if (record := runs.load(directory, name))
    ]
    if len(found) != 1:
        fact = "there is no run" if not found else f"there are {len(found)} runs"
        raise UsageError(
            f"{fact} whose id begins with `{start}`", hint="`buildrun runs ls` lists them"
        )
    return found[0]


def _to_json(record: Record) -> dict[str, object]:
    value = record._asdict()
    del value["pid"], value["born"]
    return value


def _when(record: Record) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
