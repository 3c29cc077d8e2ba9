"""`buildrun runs`: past and running runs, their logs, and ending them."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.commands import table
from buildrun.console import Console, printable, size
from buildrun.errors import ExecutionError, StoreError, UsageError
from buildrun.executors.detached import connect
from buildrun.executors.submitted import DatabricksRun, DetachedState, Submitted, recorded
from buildrun.store import home, runs
from buildrun.store.runs import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the subcommands."""
    verbs = parser.add_subparsers(dest="verb", metavar="ls|show|logs|report|cancel", required=True)
    listing = verbs.add_parser("ls", help="the latest runs", description="the latest runs")
    listing.add_argument("-n", "--number", type=int, default=20, help="how many; default: 20")
    show = verbs.add_parser("show", help="how a run went", description="how a run went")
    logs = verbs.add_parser(
        "logs", help="what its steps wrote", description="what the steps of a run wrote"
    )
    report = verbs.add_parser(
        "report",
        help="a run as one HTML file",
        description="a run as one HTML file, or in another form of `run --report`",
    )
    cancel = verbs.add_parser(
        "cancel",
        help="end a run",
        description="end a run on this machine, or what it has left at Kubernetes or Databricks",
    )
    for verb in (show, logs, report, cancel):
        verb.add_argument(
            "run",
            metavar="RUN",
            nargs="?",
            help="the beginning of its id; default: the latest submitted one of this directory, "
            "else the latest",
        )
    logs.add_argument("step", metavar="STEP", nargs="?", help="only this step")
    logs.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="of what is left at Kubernetes or Databricks: to its end",
    )
    report.add_argument(
        "--output",
        metavar="FILE",
        help="its ending asks for the form, as with `run --report`; default: HTML on standard "
        "output, or on a terminal in a file named for the run",
    )
    for verb in (listing, show):
        verb.add_argument("--format", choices=("text", "json"), default="text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Do one of the subcommands."""
    place = home.locate(environ)
    directory = place.runs
    if arguments.verb == "ls":
        return _list(
            runs.list_runs(directory)[: max(0, arguments.number)], arguments.format, environ
        )
    record = (
        latest(directory, cwd, is_ending=arguments.verb == "cancel")
        if arguments.run is None
        else _find(directory, arguments.run)
    )
    if arguments.verb == "show":
        return _show(directory, record, arguments.format, environ)
    if arguments.verb == "report":
        from buildrun.commands import run_report

        return run_report.write(place, record, arguments.output, cwd)
    if arguments.verb == "cancel":
        return cancel(directory, record, environ)
    if found := _on_cluster(directory, record, arguments.step):
        return _logs_of_jobs(found, environ, follow=arguments.follow)
    return _logs(directory, record, arguments.step)


def _list(records: list[Record], form: str, environ: Mapping[str, str]) -> int:
    if form == "json":
        rows = [runs.told(record) for record in records]
        table.write_json({"version": 1, "runs": rows})
        return 0
    state = Console(environ, stream=sys.stdout).state
    for record in records:
        seconds = "" if record.seconds is None else f"{record.seconds:.1f} s"
        name, project = printable(record.run_id[:12]), printable(record.project)
        cells = [name, _when(record), f"{record.status:<9}", f"{seconds:>9}", project]
        row = table.fitted([*cells, printable(record.entry_point)], table.width(environ))
        sys.stdout.write(row.replace(record.status, state(record.status), 1) + "\n")
    return 0


def _show(directory: str, record: Record, form: str, environ: Mapping[str, str]) -> int:
    jobs = _on_cluster(directory, record, None)
    left = connect(jobs, environ).look() if jobs else []
    if form == "json":
        value = {"version": 1, **runs.told(record)}
        if left:
            value["jobs"] = [
                {**item.job._asdict(), "state": item.state, "exit_code": item.exit_code}
                for item in left
            ]
        table.write_json(value)
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
        line = f"{step['id']}: {step['state']}, {step['seconds']:.1f} s{_usage(step)}; {reasons}"
        lines.append(f"  {printable(line)}")
        if step["log"]:
            lines.append(f"    {printable(step['log'])}")
    for item in left:
        ended = "" if item.exit_code is None else f" with exit code {item.exit_code}"
        lines.append(f"  {item.job.shown}: {item.state}{ended}")
    table.tell(lines, [(step["id"], step["state"]) for step in record.steps], environ)
    return 0


def _usage(step: Mapping[str, Any]) -> str:
    """Return what a step's command has used, as far as that is recorded."""
    cpu, memory = step.get("cpu_seconds"), step.get("peak_memory")
    used = "" if cpu is None else f", {cpu:.1f} s CPU"
    return used if memory is None else f"{used}, {size(memory)}"


def _on_cluster(directory: str, record: Record, step: str | None) -> list[Submitted]:
    """Return the jobs that a run has left elsewhere, or may have when it was killed."""
    if record.status not in ("submitted", "lost"):
        return []
    jobs = recorded(runs.directory(directory, record.run_id))
    return [job for job in jobs if step in (None, job.step)]


def _logs_of_jobs(jobs: list[Submitted], environ: Mapping[str, str], *, follow: bool) -> int:
    """Write what jobs have written so far, or with ``follow`` all that they will."""
    detached = connect(jobs, environ)
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
    there = runs.logs(directory, record.run_id)
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
    if not found and (jobs := recorded(runs.directory(directory, record.run_id))):
        raise _no_log(record, jobs[0])
    if not found:
        raise StoreError(
            "there is no log: what ran wrote straight to the terminal, or nothing had to run",
            place=f"run {printable(record.run_id)}",
            hint="with `--output stream` a log is kept on a terminal too",
        )
    return found


def _no_log(record: Record, job: Submitted) -> StoreError:
    """Return what is raised for a submitted run that has ended without its log being fetched."""
    fact, hint = (
        "it went with the Jobs",
        "`keep-jobs` in the backend config keeps them; `kubectl logs` shows what is left",
    )
    if isinstance(job, DatabricksRun):
        fact = "it was not fetched before the run ended"
        hint = f"the page of run {job.job} at {job.host} shows it, for 60 days"
    place = f"run {printable(record.run_id)}"
    return StoreError(f"there is no log: {fact}", place=place, hint=hint)


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


def _when(record: Record) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))


# Seconds that a run of this machine may take to end, and between two looks whether it has.
_PATIENCE = 90.0
_LOOK = 0.1


def cancel(directory: str, record: Record, environ: Mapping[str, str]) -> int:
    """End a run, and return when it has ended; raises ExecutionError where it does not.

    directory: of all runs.
    """
    if record.status == "running":
        _end_process(directory, record)
        _tell(record, "ended")
        return 0
    jobs = recorded(runs.directory(directory, record.run_id))
    if record.status not in ("submitted", "lost") or not jobs:
        raise ExecutionError(
            f"the run has ended already: {printable(record.status)}",
            place=f"run {printable(record.run_id)}",
            hint="`buildrun runs ls` shows which are running or submitted",
        )
    detached = connect(jobs, environ)
    ended = detached.cancel()
    for item in ended:
        if item.state != "gone":
            how = "" if item.exit_code is None else f", which had ended: exit code {item.exit_code}"
            sys.stdout.write(f"{item.job.shown} {detached.CANCELLED}{how}\n")
    runs.write(directory, _cancelled(record, ended))
    gone = all(item.state == "gone" for item in ended)
    _tell(record, "cancelled; its Jobs were gone" if gone else "cancelled")
    return 0


def _cancelled(record: Record, ended: Sequence[DetachedState]) -> Record:
    """Return the record of a run whose jobs were ended, each as it stood then."""
    codes = {item.job.step: item.exit_code for item in ended}
    steps = []
    for step in record.steps:
        if step["state"] == "submitted":
            code = codes.get(step["id"])
            state = "cancelled" if code is None else "failed" if code else "ok"
            step = {**step, "state": state, "exit_code": code}  # noqa: PLW2901
        steps.append(step)
    return record._replace(status="cancelled", exit_code=None, seconds=None, steps=tuple(steps))


def _end_process(directory: str, record: Record) -> None:
    """Ask the process of a run to end, as Ctrl-C does, and wait for it."""
    try:
        os.kill(record.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ExecutionError(
            f"the run belongs to another user: process {record.pid}",
            place=f"run {printable(record.run_id)}",
        ) from None
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        found = runs.load(directory, record.run_id)
        if found is None or found.status != "running":
            return
        time.sleep(_LOOK)
    raise ExecutionError(
        f"the run does not end: process {record.pid}",
        place=f"run {printable(record.run_id)}",
        hint=f"its command may ignore signals; kill -KILL {record.pid} ends it in any case",
    )


def _tell(record: Record, what: str) -> None:
    sys.stdout.write(f"run {printable(record.run_id[:12])} {what}\n")


def latest(directory: str, cwd: str, *, is_ending: bool) -> Record:
    """Return the latest submitted run of a directory, else the latest; raises UsageError.

    directory: of all runs. is_ending: it is to be ended, so it must not have ended yet, and one
    that runs is as good as a submitted one.
    """
    everything = runs.list_runs(directory)
    if not everything:
        raise UsageError("no run is recorded yet", hint="`buildrun .` makes one")
    here = _nearest(everything, cwd)
    found = _outstanding(directory, here)
    if is_ending:
        found += [record for record in here if record.status == "running"]
    elif not found:
        found = here[:1]
    if not found:
        what = "is running or submitted" if is_ending else "is recorded"
        raise UsageError(
            f"no run of this directory {what}",
            hint="`buildrun runs ls` lists those of all directories; give the beginning of an id",
        )
    if len({(record.root, record.status == "running") for record in found}) > 1:
        listed = "; ".join(
            f"`{printable(record.run_id[:12])}` of {printable(record.root)}, {record.status}"
            for record in found
        )
        raise UsageError(f"several runs may be meant: {listed}", hint="give the id of one")
    return found[0]


def _nearest(everything: list[Record], cwd: str) -> list[Record]:
    """Return the runs of the project that a directory lies in, else of those beneath it.

    Projects that are fetched from elsewhere lie in no directory, so they count everywhere.
    """
    here, elsewhere = os.path.realpath(cwd), []
    around, beneath = [], []
    for record in everything:
        root = os.path.realpath(record.root) if os.path.isabs(record.root) else ""
        if not root:
            elsewhere.append(record)
        elif f"{here}/".startswith(f"{root}/"):
            around.append(record)
        elif root.startswith(f"{here}/"):
            beneath.append(record)
    found = {id(record) for record in (around or beneath) + elsewhere}
    return [record for record in everything if id(record) in found]


def _outstanding(directory: str, records: list[Record]) -> list[Record]:
    """Return the runs with jobs elsewhere that no later run has followed."""
    followed: set[Submitted] = set()
    found = []
    for record in records:
        jobs = recorded(runs.directory(directory, record.run_id))
        if record.status in ("submitted", "lost") and not followed.issuperset(jobs):
            found.append(record)
        followed.update(jobs)
    return found
