"""The stand-in for a Databricks workspace, by MLflow's own client, Databricks' and plain HTTP.

Where one of them and the reference disagree, the reference decides. MLflow's own keys in
`new_cluster` are refused, so its form for Spark only gets through to a lenient workspace.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import mlflow_install
import pytest
from databricks_runs import BAD_LIBRARY, CLOUD_FAILURE, NO_CLUSTER, SKIPPED, TIMEOUT, Script
from databricks_workspace import CLUSTER, USER, VOLUME, Workspace
from processes import state_of
from step_helpers import Gate

CLUSTER_SPEC = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge"}

ENTRY_POINT = "entry_points:\n  main:\n    parameters: {note: {type: string, default: x}}\n"
CLASSIC = f"{ENTRY_POINT}    command: 'echo {{note}}'\n"
SPARK = (
    "databricks_spark_job: {python_libraries: ['numpy==1.26.4']}\n"
    f"{ENTRY_POINT}    command: 'python job.py --note {{note}}'\n"
)

# Prints a JSON object: what each part has come to. The profiles are of two workspaces.
PROGRAM = """
import base64, json, sys
import mlflow
from mlflow.projects.databricks import DatabricksSubmittedRun
from databricks.sdk import WorkspaceClient
from databricks.sdk.errors import DatabricksError
from databricks.sdk.service import compute, jobs, workspace

DatabricksSubmittedRun.POLL_STATUS_INTERVAL = 0
cluster, volume = json.loads(sys.argv[1]), sys.argv[2]
told = {}

def run(profile, project, config, **more):
    mlflow.set_tracking_uri(f"databricks://{profile}")
    given = {"backend": "databricks", "backend_config": config, "synchronous": False}
    return mlflow.projects.run(project, parameters={"note": "a b"}, experiment_id="0", **given)

done = run("strict", "classic", {"new_cluster": cluster})
told["classic"] = [done.wait(), done.get_status()]
cancelled = run("strict", "classic", {"new_cluster": cluster})
cancelled.cancel()
told["cancelled"] = cancelled.get_status()
skipped = run("strict", "classic", {"new_cluster": cluster})
told["skipped"] = {skipped.get_status() for _ in range(9)}.pop()
tags = mlflow.MlflowClient().get_run(done.run_id).data.tags
told["tags"] = {name: text for name, text in tags.items() if name.startswith("mlflow.databricks")}
for form in ("classic", "spark"):
    try:
        run("strict", form, cluster)
    except Exception as error:
        told[f"flat {form}"] = str(error)
done = run("lenient", "spark", cluster)
told["spark"] = [done.wait(), done.get_status()]

client = WorkspaceClient(profile="strict")
told["me"] = client.current_user.me().user_name
file = f"{volume}/code/job.py"
client.files.create_directory(f"{volume}/code")
with open("job.py", "rb") as code:
    client.files.upload(file, code, overwrite=True)
told["size"] = client.files.get_metadata(file).content_length
home = f"/Users/{told['me']}/code"
client.workspace.mkdirs(home)
content = base64.b64encode(b"\\0data").decode()
given = {"content": content, "format": workspace.ImportFormat.AUTO}
client.workspace.import_(f"{home}/data.bin", **given)
told["object"] = client.workspace.get_status(f"{home}/data.bin").object_type.value
told["exported"] = client.workspace.download(f"{home}/data.bin").read().decode()
client.workspace.delete(home, recursive=True)
try:
    client.workspace.get_status(home)
except DatabricksError as error:
    told["deleted"] = error.error_code
task = jobs.SubmitTask(
    task_key="step",
    new_cluster=compute.ClusterSpec.from_dict(cluster),
    spark_python_task=jobs.SparkPythonTask(python_file=file, parameters=["3"]),
    libraries=[compute.Library(pypi=compute.PythonPyPiLibrary(package="numpy==1.26.4"))],
)
ids = [
    client.jobs.submit(run_name="by SDK", tasks=[task], idempotency_token="t" * 64).run_id
    for _ in range(2)
]
told["same run"] = ids[0] == ids[1]
states = []
while not states or states[-1] != "TERMINATED":
    found = client.jobs.get_run(ids[0])
    if states[-1:] != [found.state.life_cycle_state.value]:
        states.append(found.state.life_cycle_state.value)
told["states"] = states
told["result"] = found.state.result_state.value
details = found.status.termination_details
told["details"] = [details.code.value, details.type.value, details.message]
output = client.jobs.get_run_output(found.tasks[0].run_id)
told["output"] = [output.logs, output.logs_truncated, output.error]
told["written"] = client.files.download(f"{volume}/code/out.txt").contents.read().decode()
told["listed"] = ids[0] in [each.run_id for each in client.jobs.list_runs(completed_only=True)]
try:
    client.jobs.get_run_output(ids[0])
except DatabricksError as error:
    told["whole run's output"] = error.error_code
print(json.dumps(told))
"""

# Says what it is given, and writes beside itself in the volume.
JOB = f"""
import os, sys
print("argv", sys.argv, "__file__" in vars(), flush=True)
os.system("echo hidden")
with open(os.environ["BUILDRUN_DRIVER_ROOT"] + "{VOLUME}/code/out.txt", "w") as file:
    file.write("written")
sys.exit(int(sys.argv[1]))
"""


class Both(NamedTuple):
    """What the program has told, and the two workspaces afterwards."""

    told: dict[str, Any]
    strict: Workspace
    lenient: Workspace


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Have MLflow and the SDK do all they can at two workspaces."""
    home = tmp_path_factory.mktemp("databricks")
    for name, text in (("classic", CLASSIC), ("spark", SPARK)):
        (home / name).mkdir()
        (home / name / "MLproject").write_text(text)
    (home / "spark" / "job.py").write_text("print('hi')\n")
    (home / "job.py").write_text(JOB)
    python = mlflow_install.prefix() / "bin" / "python"
    with Workspace() as strict, Workspace() as lenient:
        lenient.lenient = True
        strict.play(Script(), Script(), SKIPPED)
        (home / ".databrickscfg").write_text(
            f"[strict]\nhost = {strict.url}\ntoken = {strict.token}\n"
            f"[lenient]\nhost = {lenient.url}\nclient_id = {lenient.client_id}\n"
            f"client_secret = {lenient.client_secret}\n"
        )
        environ = mlflow_install.environ_of(python, home / "store", "databricks")
        done = subprocess.run(
            (python, "-c", PROGRAM, json.dumps(CLUSTER_SPEC), VOLUME),
            cwd=home, env={**environ, "HOME": str(home)}, capture_output=True, text=True,
            timeout=mlflow_install.LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield Both(json.loads(done.stdout.splitlines()[-1]), strict, lenient)


def test_mlflow_runs_a_classic_project(both: Both) -> None:
    assert both.told["classic"] == [True, "FINISHED"]
    assert both.told["cancelled"] == "FAILED"
    body = both.strict.asked("POST", "/api/2.0/jobs/runs/submit")[0].body
    assert body["new_cluster"] == CLUSTER_SPEC
    assert body["libraries"] == [{"pypi": {"package": f"mlflow=={mlflow_install.VERSION}"}}]
    assert set(body["shell_command_task"]["env_vars"]) == {
        "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID",
    }  # fmt: skip


def test_mlflow_waits_for_a_run_that_was_skipped(both: Both) -> None:
    # It has ended long since, without the result state that MLflow waits for.
    (skipped,) = (run for run in both.strict.runs.values() if run.state == "SKIPPED")
    assert "result_state" not in skipped.state_told()
    assert both.told["skipped"] == "RUNNING"


def test_mlflow_makes_the_requests_of_the_reference(both: Both) -> None:
    asked = [(each.method, each.path.rpartition("/")[2]) for each in both.strict.requests]
    own = [each for each in asked if each[1] != "databricks-config"]
    assert own[3][1] == "get-status"
    assert own[4][1].endswith(".tar.gz")
    assert [*own[:4], *own[5:11]] == [
        ("POST", "create"), ("POST", "log-batch"), ("POST", "set-tag"), ("GET", "get-status"),
        ("POST", "submit"), ("GET", "get"), *[("POST", "set-tag")] * 4,
    ]  # fmt: skip


def test_mlflow_finds_a_projects_archive_again(both: Both) -> None:
    sent = [
        each.path for each in both.strict.asked("POST", "/dbfs/") if each.path.endswith(".tar.gz")
    ]
    # Of each of the two projects, whose archives are as often asked for as they are submitted.
    assert len(set(sent)) == len(sent) == 2


def test_mlflow_tags_its_run_with_the_page_of_the_databricks_run(both: Both) -> None:
    tags = both.told["tags"]
    number = min(both.strict.runs)
    assert tags["mlflow.databricks.shellJobRunID"] == str(number)
    assert tags["mlflow.databricks.runURL"].startswith(both.strict.url)
    assert tags["mlflow.databricks.runURL"].endswith(f"/run/{number}")
    assert tags["mlflow.databricks.webappURL"] == both.strict.url


def test_mlflows_own_keys_are_no_keys_of_a_cluster(both: Both) -> None:
    for form in ("classic", "spark"):
        said = both.told[f"flat {form}"]
        assert said == "INVALID_PARAMETER_VALUE: Unknown field: new_cluster.DOCKER_ARGS"


def test_mlflow_runs_a_spark_job_where_unknown_keys_are_passed_over(both: Both) -> None:
    assert both.told["spark"] == [True, "FINISHED"]
    (submitted,) = both.lenient.asked("POST", "/api/2.0/jobs/runs/submit")
    task = submitted.body["spark_python_task"]
    assert task["parameters"] == ["--note", "'a", "b'"]
    assert submitted.body["libraries"] == [{"pypi": {"package": "numpy==1.26.4"}}]
    assert "docker_auth" in submitted.body["new_cluster"]
    code = both.lenient.local(task["python_file"].replace("dbfs:", "/dbfs")).read_text()
    assert code.endswith("\nprint('hi')\n\n")


def test_sdk_gets_a_token_for_client_credentials(both: Both) -> None:
    assert both.lenient.asked("POST", "/oidc/v1/token")
    for request in both.lenient.asked("POST", "/api/2.0/jobs/"):
        assert request.headers["Authorization"].startswith("Bearer oauth-")


def test_sdk_keeps_files_in_a_volume_and_in_the_workspace(both: Both) -> None:
    told = both.told
    assert told["me"] == USER
    assert told["size"] == len(JOB)
    assert (told["object"], told["exported"]) == ("FILE", "\0data")
    assert told["deleted"] == "RESOURCE_DOES_NOT_EXIST"


def test_sdk_sees_a_task_run_and_fail(both: Both) -> None:
    told = both.told
    assert told["same run"]
    assert told["states"] == ["PENDING", "RUNNING", "TERMINATING", "TERMINATED"]
    assert told["result"] == "FAILED"
    assert told["details"] == ["RUN_EXECUTION_ERROR", "CLIENT_ERROR", "SystemExit: 3"]
    assert told["written"] == "written"
    assert told["listed"]


def test_log_is_what_python_has_printed(both: Both) -> None:
    log, truncated, error = both.told["output"]
    assert log == f"argv ['{both.strict.local(VOLUME)}/code/job.py', '3'] False\n"
    assert (truncated, error) == (False, "SystemExit: 3")


def test_output_is_of_a_task_and_not_of_a_run(both: Both) -> None:
    assert both.told["whole run's output"] == "INVALID_PARAMETER_VALUE"


class Said(NamedTuple):
    """An answer; body: JSON where it is some."""

    status: int
    body: Any
    headers: dict[str, str]


@pytest.fixture
def site() -> Iterator[Workspace]:
    with Workspace() as workspace:
        yield workspace


def ask(site: Workspace, method: str, path: str, body: Any = None, **headers: str) -> Said:
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"Authorization": f"Bearer {site.token}", **headers}
    request = urllib.request.Request(site.url + path, data, sent, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return _said(answer.status, answer.read(), answer.headers)
    except urllib.error.HTTPError as error:
        return _said(error.code, error.read(), error.headers)


def _said(status: int, data: bytes, headers: Any) -> Said:
    is_json = headers.get("Content-Type") == "application/json" and data
    return Said(status, json.loads(data) if is_json else data, dict(headers))


def body_of(site: Workspace, code: str = "", **more: Any) -> dict[str, Any]:
    """Return a body to submit, for code that is put into the volume."""
    site.local(f"{VOLUME}/job.py").write_text(code)
    task = {
        "task_key": "step",
        "existing_cluster_id": CLUSTER,
        "spark_python_task": {"python_file": f"{VOLUME}/job.py"},
    }
    return {"run_name": "run", "tasks": [task], **more}


def submit(site: Workspace, code: str = "", **more: Any) -> int:
    answer = ask(site, "POST", "/api/2.2/jobs/runs/submit", body_of(site, code, **more))
    assert answer.status == 200, answer
    return int(answer.body["run_id"])


def ended(site: Workspace, number: int) -> Any:
    """Return the run as it is told when it has ended."""
    while True:
        told = ask(site, "GET", f"/api/2.2/jobs/runs/get?run_id={number}").body
        if told["status"]["state"] == "TERMINATED":
            return told
        site.finish(number)


@pytest.mark.parametrize(
    ("script", "life_cycle", "code"),
    [
        (SKIPPED, "SKIPPED", "SKIPPED"),
        (CLOUD_FAILURE, "INTERNAL_ERROR", "CLOUD_FAILURE"),
    ],
)
def test_run_may_end_without_a_result(
    site: Workspace, script: Script, life_cycle: str, code: str
) -> None:
    site.play(script)
    told = ended(site, submit(site, "print('ran')"))
    assert told["state"]["life_cycle_state"] == life_cycle
    assert "result_state" not in told["state"]
    assert told["status"]["termination_details"]["code"] == code
    output = ask(site, "GET", f"/api/2.2/jobs/runs/get-output?run_id={told['tasks'][0]['run_id']}")
    assert "logs" not in output.body
    assert output.body["error"] == told["state"]["state_message"]


def test_library_that_does_not_install_fails_the_run(site: Workspace) -> None:
    site.play(BAD_LIBRARY)
    told = ended(site, submit(site))
    assert told["state"]["result_state"] == "FAILED"
    assert told["status"]["termination_details"]["code"] == "LIBRARY_INSTALLATION_ERROR"


def test_run_without_a_cluster_waits_until_it_is_cancelled(site: Workspace) -> None:
    site.play(NO_CLUSTER)
    number = submit(site)
    for _ in range(5):
        told = ask(site, "GET", f"/api/2.2/jobs/runs/get?run_id={number}").body
        assert told["state"]["life_cycle_state"] == "PENDING"
    assert ask(site, "POST", "/api/2.2/jobs/runs/cancel", {"run_id": number}).body == {}
    assert ended(site, number)["state"]["result_state"] == "CANCELED"


def test_cancelling_kills_all_that_a_task_has_started(site: Workspace, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    command = f"setsid bash -c 'echo $$ > {gate.environ['UP']}; exec sleep 600'"
    number = submit(site, f"import subprocess\nsubprocess.run([{command!r}], shell=True)")
    site.step()
    child = int(gate.wait())
    ask(site, "POST", "/api/2.2/jobs/runs/cancel", {"run_id": number})
    assert state_of(child)[:1] in ("", "Z")
    assert ended(site, number)["state"]["user_cancelled_or_timedout"]
    assert site.left_running() == []


def test_run_times_out_by_the_clock(site: Workspace) -> None:
    site.looks_advance = False
    number = submit(site, "import time; time.sleep(600)", timeout_seconds=60)
    for seconds in (1, 1, 60, 1):
        site.step(seconds)
    assert ended(site, number)["state"]["result_state"] == "TIMEDOUT"
    site.play(TIMEOUT)
    site.looks_advance = True
    assert ended(site, submit(site))["state"]["result_state"] == "TIMEDOUT"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("raise SystemExit(0)", ""),
        ("raise SystemExit('no')", "SystemExit: no"),
        ("traceback", "NameError: name 'traceback' is not defined"),
        ("import os; os._exit(0)", "The Python process exited unexpectedly."),
        (
            "import sys; sys.stdout.buffer",
            "AttributeError: 'Console' object has no attribute 'buffer'",
        ),
        ("import sys; sys.stdout.fileno()", "UnsupportedOperation: fileno"),
    ],
)
def test_python_file_has_a_clean_start(site: Workspace, code: str, error: str) -> None:
    told = ended(site, submit(site, code))
    assert told["state"]["result_state"] == ("FAILED" if error else "SUCCESS")
    assert told["state"]["state_message"].removeprefix("io.") == error


def test_log_may_be_cut(site: Workspace) -> None:
    site.play(Script(log_limit=4))
    told = ended(site, submit(site, "print('one two')"))
    path = f"/api/2.2/jobs/runs/get-output?run_id={told['tasks'][0]['run_id']}"
    output = ask(site, "GET", path).body
    assert (output["logs"], output["logs_truncated"]) == ("two\n", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nonsense": 1}, "Unknown field: nonsense"),
        ({"tasks": []}, "At least one task must be specified"),
        ({"idempotency_token": "t" * 65}, "idempotency_token must have at most 64 characters"),
        (
            {"tasks": [{"task_key": "a", "spark_python_task": {"python_file": "/Volumes/a"}}]},
            "One of job_cluster_key, new_cluster, or existing_cluster_id is required",
        ),
    ],
)
def test_bodies_out_of_the_api_are_refused(
    site: Workspace, change: dict[str, Any], message: str
) -> None:
    answer = ask(site, "POST", "/api/2.2/jobs/runs/submit", body_of(site, **change))
    assert (answer.status, answer.body["message"]) == (400, message)
    assert site.runs == {}


def test_request_whose_answer_is_lost_was_carried_out(site: Workspace) -> None:
    site.drop("POST", "/api/2.2/jobs/runs/submit")
    with pytest.raises((http.client.HTTPException, ConnectionError, urllib.error.URLError)):
        submit(site, idempotency_token="token")
    assert submit(site, idempotency_token="token") in site.runs
    assert len(site.runs) == 1


def test_faults_are_played_as_often_as_they_are_wanted(site: Workspace) -> None:
    site.fail("GET", "/api/2.0/preview", times=2, status=429, headers={"Retry-After": "7"})
    answers = [ask(site, "GET", "/api/2.0/preview/scim/v2/Me") for _ in range(3)]
    assert [each.status for each in answers] == [429, 429, 200]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[0].body["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_tokens_expire_in_the_middle(site: Workspace) -> None:
    site.expire_tokens(after=1)
    answers = [ask(site, "GET", "/api/2.0/preview/scim/v2/Me") for _ in range(3)]
    assert [each.status for each in answers] == [200, 401, 401]
    assert ask(site, "POST", "/oidc/v1/token", b"").status == 401


def test_wrong_host_has_a_page_to_log_in(site: Workspace) -> None:
    site.login_page()
    answer = ask(site, "GET", "/api/2.0/preview/scim/v2/Me")
    assert answer.status == 200
    assert answer.body.startswith(b"<!DOCTYPE html>")


def test_files_have_limits_and_directories(site: Workspace) -> None:
    path = f"/api/2.0/fs/files{VOLUME}/new/file"
    assert ask(site, "PUT", path, b"data").status == 404
    assert ask(site, "PUT", f"/api/2.0/fs/directories{VOLUME}/new").status == 204
    assert ask(site, "PUT", path, b"data").status == 204
    assert ask(site, "PUT", f"{path}?overwrite=false", b"data").status == 409
    assert ask(site, "HEAD", path).headers["Content-Length"] == "4"
    part = ask(site, "GET", path, Range="bytes=1-2")
    assert (part.status, part.body) == (206, b"at")
    site.file_limit = 3
    assert ask(site, "PUT", path, b"data").status == 413
    assert ask(site, "DELETE", path).status == 204
    assert ask(site, "GET", path).status == 404
    assert ask(site, "PUT", "/api/2.0/fs/files/Volumes/a/b/c/d", b"").body["message"] == (
        "Volume 'a.b.c' does not exist."
    )


def test_new_workspaces_have_no_dbfs(site: Workspace) -> None:
    site.dbfs_root = False
    answer = ask(site, "GET", "/api/2.0/dbfs/get-status?path=/a")
    assert (answer.status, answer.body["error_code"]) == (403, "PERMISSION_DENIED")
