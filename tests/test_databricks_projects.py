"""Projects at Databricks: the example, jobs as MLflow has them, packages; with a stand-in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Buildrun, Project
from databricks_workspace import VOLUME, Workspace
from step_helpers import Ran

import buildrun as api

CLUSTER = {"spark_version": "16.4.x-scala2.12", "node_type_id": "m5d.large", "num_workers": 1}
JOB = """\
name: job
databricks_spark_job:
  python_file: train.py
  parameters: ["--note", "a b"]
  python_libraries: [six, idna==3.7]
"""
PRINTS = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"


@pytest.fixture
def workspace() -> Iterator[Workspace]:
    """Yield a workspace that lives as long as the test."""
    with Workspace() as entered:
        yield entered


def submitted(workspace: Workspace) -> list[Any]:
    """Return the bodies of the runs that were submitted."""
    return [request.body for request in workspace.asked("POST", "/api/2.2/jobs/runs/submit")]


def test_example_keeps_its_report_and_runs_once(
    workspace: Workspace, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(REPOSITORY / "examples" / "databricks", tmp_path / "words"))
    config = json.loads((directory / "cluster.json").read_text())
    (directory / "cluster.json").write_text(json.dumps({**config, "volume": f"{VOLUME}/words"}))
    report = tmp_path / "report.json"
    words = ("-b", "databricks", "-c", "cluster.json", "-e", "report", "--report", report)
    for state in ("ok", "up-to-date"):
        outcome = buildrun("run", *words, cwd=directory, environ=workspace.environ)
        assert Ran.of(outcome, report).states == {"report": state}, outcome.err
    assert json.loads((directory / "words.json").read_text())["tyger"] == 2
    (body,) = submitted(workspace)
    (task,) = body["tasks"]
    assert task["new_cluster"] == config["new_cluster"]
    assert task["libraries"] == [{"pypi": {"package": "tabulate==0.9.0"}}]


def test_job_as_mlflow_has_it_runs_with_its_libraries(
    workspace: Workspace, buildrun: Buildrun, project: Project
) -> None:
    directory = project(JOB, train__py=PRINTS)
    config = json.dumps({**CLUSTER, "volume": VOLUME})
    outcome = buildrun(
        "run", directory, "-b", "databricks", "-c", config, environ=workspace.environ
    )
    assert outcome.code == 0, outcome.err
    assert json.loads(outcome.out) == ["--note", "a b"]
    (body,) = submitted(workspace)
    (task,) = body["tasks"]
    assert task["new_cluster"] == CLUSTER
    packages = [library["pypi"]["package"] for library in task["libraries"]]
    assert packages == ["six", "idna==3.7"]


def test_lock_is_what_serverless_compute_installs(
    workspace: Workspace, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = project(
        "name: p\npython_env: python_env.yaml\nentry_points: {main: {command: exit 7}}\n",
        python_env__yaml="dependencies: [numpy]\n",
    )
    package = {"name": "numpy", "version": "1", "line": "numpy==1", "hashes": [], "stage": "run"}
    inputs = {"requested": None, "build": [], "run": [{"text": "numpy"}]}
    lock = {
        "version": 1, "manager": "virtualenv", "digest": "", "inputs": inputs, "python": "3.12",
        "platforms": {"linux-x86_64": [package]},
    }  # fmt: skip
    (directory / "python_env.lock").write_text(json.dumps(lock))
    for name, value in workspace.environ.items():
        monkeypatch.setenv(name, value)
    config = {"serverless": {"environment_version": "4"}, "volume": VOLUME}
    with pytest.raises(api.ExecutionException) as info:
        api.run(directory, backend="databricks", backend_config=config)
    assert info.value.run.exit_code == 7
    (body,) = submitted(workspace)
    (environment,) = body["environments"]
    assert environment["spec"]["dependencies"] == ["numpy==1"]
