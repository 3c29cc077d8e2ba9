"""The Jobs API of a Databricks stand-in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from databricks_http import Answer, Request
from databricks_rules import check_submitted, invalid
from databricks_runs import Run, Script

if TYPE_CHECKING:
    from databricks_workspace import Workspace

# As on Databricks, more than 32 bits.
_FIRST = 900_000_000_000_000


def submit(workspace: Workspace, request: Request) -> Answer:
    check_submitted(workspace, request.body, request.path.split("/")[2])
    token = request.body.get("idempotency_token")
    for run in workspace.runs.values():
        if token and run.body.get("idempotency_token") == token:
            if run.deleted:
                raise invalid(f"The run with the idempotency token {token} was deleted")
            return Answer(body={"run_id": run.number})
    number = _FIRST + 10 * len(workspace.runs)
    script = workspace.scripts.pop(0) if workspace.scripts else Script()
    workspace.runs[number] = Run(workspace, number, request, script)
    return Answer(body={"run_id": number})


def get(workspace: Workspace, request: Request) -> Answer:
    run = _asked(workspace, request)
    told = _told(workspace, run, old=request.path.startswith("/api/2.0/"))
    run.look(workspace)
    return Answer(body=told)


def get_output(workspace: Workspace, request: Request) -> Answer:
    run = _asked(workspace, request)
    old = request.path.startswith("/api/2.0/")
    if not old and int(request.asked()["run_id"]) != run.task_number:
        raise invalid(
            "Retrieving the output of runs with multiple tasks is not supported. Please retrieve"
            " the output of each individual task run instead."
        )
    output: dict[str, Any] = {"metadata": _told(workspace, run, old=old)}
    if run.ended and (run.driver.started or run.script.log is not None):
        output["logs"], output["logs_truncated"] = run.driver.log(run.script.log_limit)
    if run.ended and run.ending is not None and run.ending.result != "SUCCESS":
        output["error"] = run.error or run.ending.message
        output["error_trace"] = run.trace
    return Answer(body=output)


def cancel(workspace: Workspace, request: Request) -> Answer:
    _asked(workspace, request).cancel()
    return Answer(body={})


def delete(workspace: Workspace, request: Request) -> Answer:
    run = _asked(workspace, request)
    if not run.ended:
        raise invalid(f"Run {run.number} is active")
    run.deleted = True
    return Answer(body={})


def list_(workspace: Workspace, request: Request) -> Answer:
    asked = request.asked()
    limit, start = int(asked.get("limit", 20)), int(asked.get("page_token") or 0)
    if not 0 < limit <= 25:
        raise invalid("limit must be between 1 and 25")
    found = [
        run
        for run in reversed(workspace.runs.values())
        if not run.deleted
        and not (run.ended and asked.get("active_only") == "true")
        and (run.ended or asked.get("completed_only") != "true")
    ]
    told = [_told(workspace, run, old=True) for run in found[start : start + limit]]
    more = len(found) > start + limit
    page = {"next_page_token": str(start + limit)} if more else {}
    return Answer(body={"runs": told, "has_more": more, **page})


def _asked(workspace: Workspace, request: Request) -> Run:
    given = request.asked().get("run_id")
    for run in workspace.runs.values():
        if str(given) in (str(run.number), str(run.task_number)) and not run.deleted:
            return run
    raise invalid(f"Run {given} does not exist.")


def _told(workspace: Workspace, run: Run, *, old: bool) -> dict[str, Any]:
    job = run.number + 2
    shared = {
        "state": run.state_told(),
        "status": run.status_told(),
        "run_page_url": f"{workspace.url}/?o=1234567890#job/{job}/run/{run.number}",
        "start_time": int(1000 * run.started),
    }
    told = {
        **shared,
        "run_id": run.number,
        "job_id": job,
        "number_in_job": run.number,
        "run_name": run.body.get("run_name", "Untitled"),
        "run_type": "SUBMIT_RUN",
        "creator_user_name": "robot@example.com",
    }
    return told if old else {**told, "format": "MULTI_TASK", "tasks": [_task_told(run, shared)]}


def _task_told(run: Run, shared: Mapping[str, Any]) -> dict[str, Any]:
    instance = {"cluster_id": "1129-000000-abcdefgh", "spark_context_id": str(run.number)}
    has_cluster = run.state == "RUNNING" or run.driver.started
    return {
        **run.task,
        **shared,
        "run_id": run.task_number,
        "attempt_number": 0,
        **({"cluster_instance": instance} if has_cluster else {}),
    }


_RUNS = r"/api/2\.[0-2]/jobs/runs"

ROUTES = (
    ("POST", f"{_RUNS}/submit", submit),
    ("GET", f"{_RUNS}/get", get),
    ("GET", f"{_RUNS}/get-output", get_output),
    ("POST", f"{_RUNS}/cancel", cancel),
    ("POST", f"{_RUNS}/delete", delete),
    ("GET", f"{_RUNS}/list", list_),
)
