"""`databricks_spark_job` of an MLproject: what runs, what it needs, and what is not heeded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun, Project
from test_remote_packages import Cluster, cluster  # noqa: F401

JOB = """\
name: job
databricks_spark_job:
  python_file: jobs/train it.py
  parameters: ["--note", "a 'b' {c}; $HOME", 100]
  python_libraries: ["no-such-package==1.0"]
"""
POINTS = """\
name: job
databricks_spark_job: {python_libraries: [no-such-package]}
entry_points:
  main: {parameters: {rows: {type: string, default: "5"}}, command: "echo {rows} && echo end"}
"""


@pytest.fixture
def job(project: Project) -> Path:
    """Return a project with a Python file that prints its arguments as JSON."""
    directory = project(JOB)
    (directory / "jobs").mkdir()
    text = "import json, sys\nprint(json.dumps(sys.argv[1:]))\n"
    (directory / "jobs" / "train it.py").write_text(text)
    return directory


def test_file_runs_with_its_parameters_as_data_and_its_libraries(
    job: Path,
    cluster: Cluster,  # noqa: F811
) -> None:
    for _ in range(2):  # the second is remembered
        outcome = cluster("run", job, "-q")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out) == ["--note", "a 'b' {c}; $HOME", "100"]
        assert cluster.told == ["no-such-package==1.0"]


def test_entry_point_and_parameters_of_the_command_line_are_not_heeded(
    job: Path,
    cluster: Cluster,  # noqa: F811
) -> None:
    outcome = cluster("run", job, "-e", "other", "-P", "rows=1")
    assert "so there is no use for -e and -P" in outcome.err
    assert json.loads(outcome.out)[-1] == "100"


def test_file_that_is_not_there_is_told_before_anything_is_opened(
    project: Project,
    cluster: Cluster,  # noqa: F811
) -> None:
    directory = project("databricks_spark_job: {python_file: 'dbfs:/train.py'}\n")
    outcome = cluster("run", directory)
    assert outcome.code == 1
    assert f"there is no script `dbfs:/train.py` in {directory}" in outcome.err
    assert "`python_file`" in outcome.err
    with pytest.raises(FileNotFoundError):
        cluster.told.clear()


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_file_runs_on_databricks_alone(job: Path, buildrun: Buildrun, verb: str) -> None:
    outcome = buildrun(verb, job, "--env-manager", "local")
    assert outcome.code == 2
    assert f"{job}/MLproject: the project is a job of Databricks alone" in outcome.err
    assert "`-b databricks -c cluster.json`" in outcome.err


def test_entry_points_of_a_job_run_there_with_its_libraries_and_here_too(
    project: Project,
    cluster: Cluster,  # noqa: F811
    buildrun: Buildrun,
) -> None:
    directory = project(POINTS)
    outcome = cluster("run", directory, "-q", "-P", "rows=a b")
    assert (outcome.code, outcome.out) == (0, "a b\nend\n"), outcome.err
    assert cluster.told == ["no-such-package"]
    assert buildrun("run", directory, "-q", "--env-manager", "local").out == "5\nend\n"


def test_listing_shows_the_command(job: Path, buildrun: Buildrun) -> None:
    (point,) = buildrun("ls", job, "--format", "json").data["entry_points"]
    assert point["name"] == "main"
    assert point["command"].startswith("python 'jobs/train it.py' --note ")


def test_example_runs_with_its_library_and_keeps_its_report(
    tmp_path: Path,
    buildrun: Buildrun,
    cluster: Cluster,  # noqa: F811
) -> None:
    directory = Path(shutil.copytree(REPOSITORY / "examples" / "databricks", tmp_path / "words"))
    checked = buildrun("validate", "--strict", directory / "cluster.json")
    assert (checked.code, checked.out) == (0, "")
    config = json.loads((directory / "cluster.json").read_text())
    for state in ("ok", "up-to-date"):
        assert cluster.run(directory, "-e", "report", **config).states == {"report": state}
    assert cluster.told == ["tabulate==0.9.0"]
    assert json.loads((directory / "words.json").read_text())["tyger"] == 2
