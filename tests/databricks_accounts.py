"""Who asks, and what is tracked: SCIM, OAuth, and MLflow's tracking, of a Databricks stand-in."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from databricks_http import Answer, Refused, Request

if TYPE_CHECKING:
    from databricks_workspace import Workspace


class Tracking:
    """The experiments by id with their names, and the runs as the API tells them."""

    def __init__(self) -> None:
        self.experiments = {"0": "Default"}
        self.runs: dict[str, dict[str, Any]] = {}


def me(_workspace: Workspace, _request: Request) -> Answer:
    return Answer(body={"id": "1001", "userName": "robot@example.com", "active": True})


def token(workspace: Workspace, request: Request) -> Answer:
    """Give a token for client credentials."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    expected = f"{workspace.client_id}:{workspace.client_secret}"
    if kind != "Basic" or base64.b64decode(given).decode() != expected:
        return Answer(401, {"error": "invalid_client", "error_description": "Unknown client"})
    asked = parse_qs(bytes(request.body).decode())
    if asked.get("grant_type") != ["client_credentials"] or asked.get("scope") != ["all-apis"]:
        return Answer(400, {"error": "invalid_request", "error_description": "Wrong grant"})
    made = f"oauth-{len(workspace.requests)}"
    workspace.tokens.add(made)
    said = {"access_token": made, "token_type": "Bearer", "expires_in": 3600, "scope": "all-apis"}
    return Answer(body=said)


def oidc(workspace: Workspace, _request: Request) -> Answer:
    base = f"{workspace.url}/oidc"
    endpoints = {
        "authorization_endpoint": f"{base}/v1/authorize",
        "token_endpoint": f"{base}/v1/token",
    }
    return Answer(body=endpoints)


def discovery(workspace: Workspace, _request: Request) -> Answer:
    return Answer(body={"oidc_endpoint": f"{workspace.url}/oidc", "workspace_id": "1234567890"})


def get_experiment(workspace: Workspace, request: Request) -> Answer:
    return _experiment(workspace, str(request.asked().get("experiment_id")))


def get_experiment_by_name(workspace: Workspace, request: Request) -> Answer:
    name = request.asked().get("experiment_name")
    known = workspace.tracking.experiments.items()
    return _experiment(workspace, next((number for number, each in known if each == name), ""))


def create_experiment(workspace: Workspace, request: Request) -> Answer:
    experiments = workspace.tracking.experiments
    name = request.asked()["name"]
    if name in experiments.values():
        raise Refused(400, "RESOURCE_ALREADY_EXISTS", f"Experiment '{name}' already exists.")
    experiments[str(1000 + len(experiments))] = name
    return Answer(body={"experiment_id": list(experiments)[-1]})


def _experiment(workspace: Workspace, number: str) -> Answer:
    if number not in workspace.tracking.experiments:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Experiment '{number}' does not exist.")
    experiment = {
        "experiment_id": number,
        "name": workspace.tracking.experiments[number],
        "artifact_location": f"dbfs:/databricks/mlflow-tracking/{number}",
        "lifecycle_stage": "active",
    }
    return Answer(body={"experiment": experiment})


def create_run(workspace: Workspace, request: Request) -> Answer:
    asked = request.asked()
    number = f"{len(workspace.tracking.runs) + 1:032x}"
    experiment = str(asked.get("experiment_id", "0"))
    _experiment(workspace, experiment)
    info = {
        "run_id": number,
        "run_uuid": number,
        "experiment_id": experiment,
        "user_id": asked.get("user_id", ""),
        "run_name": asked.get("run_name", ""),
        "status": "RUNNING",
        "start_time": asked.get("start_time", 0),
        "lifecycle_stage": "active",
        "artifact_uri": f"dbfs:/databricks/mlflow-tracking/{experiment}/{number}/artifacts",
    }
    tags = list(asked.get("tags", ()))
    run = {"info": info, "data": {"tags": tags, "params": [], "metrics": []}}
    workspace.tracking.runs[number] = run
    return Answer(body={"run": run})


def get_run(workspace: Workspace, request: Request) -> Answer:
    return Answer(body={"run": _tracked(workspace, request)})


def update_run(workspace: Workspace, request: Request) -> Answer:
    info = _tracked(workspace, request)["info"]
    asked = request.asked()
    info.update({name: asked[name] for name in ("status", "end_time", "run_name") if name in asked})
    return Answer(body={"run_info": info})


def log_batch(workspace: Workspace, request: Request) -> Answer:
    data = _tracked(workspace, request)["data"]
    for name in ("tags", "params", "metrics"):
        _merge(data[name], request.asked().get(name) or ())
    return Answer(body={})


def set_tag(workspace: Workspace, request: Request) -> Answer:
    asked = request.asked()
    tag = {"key": asked["key"], "value": asked["value"]}
    _merge(_tracked(workspace, request)["data"]["tags"], [tag])
    return Answer(body={})


def _merge(known: list[dict[str, Any]], new: Any) -> None:
    changed = {each["key"] for each in new}
    known[:] = [*(each for each in known if each["key"] not in changed), *new]


def _tracked(workspace: Workspace, request: Request) -> dict[str, Any]:
    number = str(request.asked().get("run_id") or request.asked().get("run_uuid"))
    if number not in workspace.tracking.runs:
        raise Refused(404, "RESOURCE_DOES_NOT_EXIST", f"Run '{number}' not found")
    return workspace.tracking.runs[number]


_MLFLOW = r"/api/2\.0/mlflow"

ROUTES = (
    ("GET", r"/api/2\.0/preview/scim/v2/Me", me),
    ("POST", "/oidc/v1/token", token),
    ("GET", r"/oidc/\.well-known/oauth-authorization-server", oidc),
    ("GET", r"/\.well-known/databricks-config", discovery),
    ("GET", f"{_MLFLOW}/experiments/get", get_experiment),
    ("GET", f"{_MLFLOW}/experiments/get-by-name", get_experiment_by_name),
    ("POST", f"{_MLFLOW}/experiments/create", create_experiment),
    ("POST", f"{_MLFLOW}/runs/create", create_run),
    ("GET", f"{_MLFLOW}/runs/get", get_run),
    ("POST", f"{_MLFLOW}/runs/update", update_run),
    ("POST", f"{_MLFLOW}/runs/log-batch", log_batch),
    ("POST", f"{_MLFLOW}/runs/set-tag", set_tag),
)
