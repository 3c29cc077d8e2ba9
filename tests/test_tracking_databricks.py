"""Runs tracked at Databricks: over REST, with the workspace's credentials, without MLflow."""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest
from databricks_tracking import EXPERIMENT, Tracked, statuses, track, workspace
from databricks_workspace import TOKEN, Workspace
from source_helpers import free_port
from test_tracking_errors import certificates, tunnelling
from tracking_stub import RUN_ID, playing

__all__ = ["certificates", "track", "workspace"]

API = "/api/2.0/mlflow/"


def names(workspace: Workspace) -> list[str]:
    return [item.path.removeprefix(API) for item in workspace.requests]


def test_run_is_recorded_with_what_mlflow_records(track: Tracked, workspace: Workspace) -> None:
    assert track("-P", "a=1", **workspace.environ).printed() == "databricks --a 1\n"
    (run,) = workspace.tracking.runs.values()
    assert run["info"]["status"] == "FINISHED"
    assert workspace.tracking.experiments[run["info"]["experiment_id"]] == EXPERIMENT
    assert run["data"]["params"] == [{"key": "a", "value": "1"}]
    tags = {item["key"]: item["value"] for item in run["data"]["tags"]}
    assert tags["mlflow.project.entryPoint"] == "main"
    assert names(workspace) == [
        "experiments/get-by-name", "experiments/create", "runs/create", "runs/log-batch",
        "runs/get", "runs/update",
    ]  # fmt: skip


def test_mlflow_is_not_imported(track: Tracked, workspace: Workspace) -> None:
    site = track.home / "site"
    site.mkdir()
    (site / "mlflow.py").write_text("raise SystemExit('imported')\n")
    track(**workspace.environ, PYTHONPATH=str(site)).printed()
    assert statuses(workspace) == ["FINISHED"]


def test_failure_is_told(track: Tracked, workspace: Workspace) -> None:
    (track.directory / "MLproject").write_text("entry_points: {main: {command: 'exit 3'}}\n")
    assert track(**workspace.environ).code != 0
    assert statuses(workspace) == ["FAILED"]


def test_experiment_must_be_named(track: Tracked, workspace: Workspace) -> None:
    track(**workspace.environ, MLFLOW_EXPERIMENT_NAME=None).refused(
        "Databricks has no default experiment", "--experiment-name /Users/YOU/NAME"
    )
    assert workspace.requests == []
    track("--experiment-id=0", **workspace.environ, MLFLOW_EXPERIMENT_NAME=None).printed()


def test_wrong_host_is_told_before_the_command(track: Tracked, workspace: Workspace) -> None:
    workspace.login_page()
    done = track(**workspace.environ)
    done.refused(
        "this is no MLflow server: it answers with text/html (200)",
        "DATABRICKS_HOST must be the workspace's own address", workspace.url,
    )  # fmt: skip
    assert done.out == ""


def test_trouble_is_a_warning_where_tracking_is_optional(
    track: Tracked, workspace: Workspace
) -> None:
    done = track("--tracking=optional", DATABRICKS_HOST=workspace.url, DATABRICKS_TOKEN="dapi0")
    assert done.printed() == "databricks\n"
    assert "warning: the run is not tracked" in done.err
    assert "hint" not in track("--tracking=off").err


def test_credentials_that_are_refused_are_told(track: Tracked, workspace: Workspace) -> None:
    track(DATABRICKS_HOST=workspace.url, DATABRICKS_TOKEN="dapi0").refused(
        "the tracking server does not let you in (401): Credential was not sent",
        "it goes by DATABRICKS_TOKEN",
    )


def test_right_that_is_missing_is_told(track: Tracked, workspace: Workspace) -> None:
    body = {"error_code": "PERMISSION_DENIED", "message": "No right to the experiment"}
    workspace.fail("POST", f"{API}runs/create", status=403, body=body)
    track(**workspace.environ).refused("does not let you in (403): No right to the experiment")


def test_busy_workspace_is_asked_again(track: Tracked, workspace: Workspace) -> None:
    workspace.fail("POST", f"{API}runs/create", status=429, headers={"Retry-After": "0"})
    workspace.fail("GET", f"{API}runs/get", status=503)
    workspace.drop("POST", f"{API}runs/update")
    track(**workspace.environ).printed()
    assert statuses(workspace) == ["FINISHED"]


def test_run_that_cannot_be_ended_is_ended_by_the_next_at_the_same_host(
    track: Tracked, workspace: Workspace
) -> None:
    workspace.fail("GET", f"{API}runs/get", status=500, times=8)
    assert "the next run with the same tracking server ends it" in track(**workspace.environ).err
    assert statuses(workspace) == ["RUNNING"]
    workspace.faults.clear()
    with Workspace() as another:
        another.tracking.runs["0"] = {}  # so that its next one has another id
        track("--experiment-id=0", **another.environ).printed()
        assert names(another) == ["runs/create", "runs/get", "runs/update"]
    assert statuses(workspace) == ["RUNNING"]
    track(**workspace.environ).printed()
    assert statuses(workspace) == ["FINISHED", "FINISHED"]


def test_proxy_and_certificates_are_those_of_other_servers(
    track: Tracked, certificates: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates)
    seen: list[bytes] = []
    with playing(context) as server, tunnelling(seen, b"200 Connection established") as port:

        def call(**environ: str | None) -> int:
            given = {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": TOKEN, **environ}
            return track("--experiment-id=1", MLFLOW_EXPERIMENT_NAME=None, **given).code

        assert call() == 1
        assert call(REQUESTS_CA_BUNDLE=str(certificates)) == 0
        assert not seen
        proxied = {"HTTPS_PROXY": f"http://127.0.0.1:{port}", "NO_PROXY": None, "no_proxy": None}
        assert call(REQUESTS_CA_BUNDLE=str(certificates), **proxied) == 0
        assert seen
        track.profiles(f"[DEFAULT]\nhost = {server.uri}\ntoken = x\ninsecure = true\n")
        assert call(DATABRICKS_HOST=None, DATABRICKS_TOKEN=None) == 0
        assert server.calls[-1].headers["Authorization"] == "Bearer x"


def test_host_that_is_not_there_is_told(track: Tracked) -> None:
    host = f"127.0.0.1:{free_port()}"
    track(DATABRICKS_HOST=f"http://{host}", DATABRICKS_TOKEN="x").refused(
        host, "the tracking server cannot be reached: connection refused"
    )


def test_run_goes_on_under_its_id(track: Tracked, workspace: Workspace) -> None:
    track(**workspace.environ).printed()
    (run_id,) = workspace.tracking.runs
    track(f"--run-id={run_id}", **workspace.environ).printed()
    assert list(workspace.tracking.runs) == [run_id]
    track(f"--run-id={RUN_ID[::-1]}", **workspace.environ).refused("there is no MLflow run")


@pytest.mark.parametrize("name", ["requests", "databricks", "mlflow", "urllib3"])
def test_client_imports_nothing_heavy(name: str) -> None:
    script = (
        "import sys, buildrun.tracking.http, buildrun.executors.databricks.api\n"
        f"raise SystemExit({name!r} in sys.modules)"
    )
    assert subprocess.run((sys.executable, "-c", script), check=False, timeout=60).returncode == 0
