"""``buildrun runs cancel``: end a run, here or on a cluster."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

from buildrun import runs
from buildrun.errors import ExecutionError
from buildrun.kubernetes.cluster import recorded
from buildrun.kubernetes.detached import Detached, Left
from buildrun.printable import printable
from buildrun.runs import Record

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
    ended = Detached(jobs, environ).cancel()
    for item in ended:
        if item.state != "gone":
            how = "" if item.exit_code is None else f", which had ended: exit code {item.exit_code}"
            sys.stdout.write(f"Job {item.job.namespace}/{item.job.job} deleted{how}\n")
    runs.write(directory, _cancelled(record, ended))
    gone = all(item.state == "gone" for item in ended)
    _tell(record, "cancelled; its Jobs were gone" if gone else "cancelled")
    return 0


def _cancelled(record: Record, ended: Sequence[Left]) -> Record:
    """Return the record of a run whose Jobs were deleted, each as it stood then."""
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
