"""Runs at a real tracking server, beside those of MLflow; and in stores that only MLflow knows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import mlflow_install
import pytest
from conftest import Buildrun, Outcome, Project
from wheels import write_wheel

LOCAL = "--env-manager=local"
GIT = {
    "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull,
}  # fmt: skip


class Seen(NamedTuple):
    """A run as a server tells of it."""

    run_id: str
    experiment: str
    name: str
    status: str
    tags: dict[str, str]
    params: dict[str, str]


class Server:
    """A tracking server."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def call(self, name: str, values: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(
            f"{self.uri}/api/2.0/mlflow/{name}",
            json.dumps(values).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def run(self, run_id: str) -> Seen:
        url = f"{self.uri}/api/2.0/mlflow/runs/get?run_id={urllib.parse.quote(run_id)}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return seen(json.load(answer)["run"])

    def runs(self, experiment: str) -> list[Seen]:
        """Return the runs of an experiment, the latest first."""
        order = ["attribute.start_time DESC"]
        wanted = {"experiment_ids": [experiment], "order_by": order}
        found = self.call("runs/search", wanted)
        return [seen(run) for run in found.get("runs", ())]


def seen(run: Any) -> Seen:
    info, data = run["info"], run["data"]
    return Seen(
        info["run_id"], info["experiment_id"], info["run_name"], info["status"],
        {item["key"]: item["value"] for item in data.get("tags", ())},
        {item["key"]: item.get("value", "") for item in data.get("params", ())},
    )  # fmt: skip


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    with mlflow_install.serving(directory, clean(os.environ)) as uri:
        yield Server(uri)


def clean(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: text for name, text in environ.items() if not name.startswith("MLFLOW_")}


class Experiment(NamedTuple):
    """An experiment of a test's own."""

    server: Server
    id: str
    buildrun: Buildrun

    @property
    def environ(self) -> dict[str, str]:
        return {"MLFLOW_TRACKING_URI": self.server.uri, "MLFLOW_EXPERIMENT_ID": self.id}

    def run(self, *words: str | Path) -> Outcome:
        """Call buildrun with the server and the experiment."""
        return self.buildrun("-q", *words, LOCAL, environ=self.environ)

    def runs(self) -> list[Seen]:
        return self.server.runs(self.id)

    def statuses(self) -> list[str]:
        return [run.status for run in self.runs()]


@pytest.fixture
def experiment(
    server: Server, request: pytest.FixtureRequest, tmp_path: Path, buildrun: Buildrun
) -> Experiment:
    name = f"{request.node.name} {tmp_path}"
    made = server.call("experiments/create", {"name": name})
    return Experiment(server, str(made["experiment_id"]), buildrun)


@contextmanager
def started(directory: Path, environ: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a project beside us, from when its command has written `up` to standard error."""
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory, LOCAL),
        env={**os.environ, **environ}, cwd=directory.parent,
        stdin=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stderr is not None
    while b"up" not in child.stderr.readline():
        pass
    yield child
    child.communicate(timeout=60)


def git(directory: Path, *words: str) -> str:
    done = subprocess.run(
        ("git", *words), cwd=directory, env={**os.environ, **GIT}, check=True,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return done.stdout.strip()


def commit(directory: Path) -> str:
    """Commit all files of a repository, and return the commit."""
    git(directory, "add", "-A")
    git(directory, "commit", "-qm", "one")
    return git(directory, "rev-parse", "HEAD")


def repository(directory: Path) -> str:
    """Make the directory a repository with a remote, and return its commit."""
    git(directory, "init", "-q", "-b", "trunk")
    git(directory, "remote", "add", "origin", "https://me:s3cret@example.org/some/where.git")
    return commit(directory)


PARAMETERS = (
    "name: tagged\nentry_points:\n  main:\n    parameters:\n"
    "      alpha: {type: float, default: 0.5}\n      text: {default: 'x y'}\n"
    "      file: {type: path, default: MLproject}\n"
    "    command: 'true {alpha} {text} {file}'\n"
)


@pytest.mark.parametrize("place", ["", "sub"])
def test_tags_and_parameters_are_those_of_mlflow_run(
    place: str, experiment: Experiment, tmp_path: Path
) -> None:
    top = tmp_path / "repository"
    directory = top / place
    directory.mkdir(parents=True)
    (directory / "MLproject").write_text(PARAMETERS)
    made = repository(top)
    words = ("-P", f"file={directory}/MLproject", "-P", "more=it's", "-P", "empty=")
    bin_directory = mlflow_install.prefix() / "bin"
    environ = {
        **clean(os.environ), "MLFLOW_TRACKING_URI": experiment.server.uri,
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    subprocess.run(
        (bin_directory / "mlflow", "run", directory, LOCAL, "--experiment-id", experiment.id,
         "--run-name", "same", *words),
        cwd=tmp_path, env=environ, check=True, timeout=300, capture_output=True,
    )  # fmt: skip
    assert experiment.run(directory, "--run-name", "same", *words).code == 0
    ours, theirs = experiment.runs()
    assert ours.tags == theirs.tags
    assert ours.tags["mlflow.source.git.commit"] == made
    assert ours.tags["mlflow.source.git.repoURL"] == "https://example.org/some/where.git"
    assert (ours.name, ours.status) == (theirs.name, theirs.status) == ("same", "FINISHED")
    # MLflow logs values as its shell gets them, and buildrun as the user gave them.
    assert theirs.params.keys() == ours.params.keys()
    assert theirs.params["text"] == "'x y'"
    assert ours.params == {
        "alpha": "0.5", "text": "x y", "file": f"{directory}/MLproject", "more": "it's",
        "empty": "",
    }  # fmt: skip


def test_command_sees_its_run(project: Project, experiment: Experiment) -> None:
    directory = project(
        "entry_points: {main: {command: 'echo $MLFLOW_RUN_ID $MLFLOW_EXPERIMENT_ID "
        "$MLFLOW_TRACKING_URI'}}\n"
    )
    for _ in range(2):
        told = experiment.run(directory).out.split()
        assert experiment.runs()[0].run_id == told[0]
        assert told[1:] == [experiment.id, experiment.server.uri]
    assert len(experiment.runs()) == 2


def test_run_has_the_same_id_in_the_report_and_among_the_runs(
    project: Project, buildrun: Buildrun, experiment: Experiment, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    experiment.run(directory, "--report", tmp_path / "r.json")
    experiment.run(directory)
    ids = [seen.run_id for seen in experiment.runs()]
    assert json.loads((tmp_path / "r.json").read_text())["run_id"] == ids[1]
    listed = buildrun("runs", "ls", "--format", "json").data
    assert ids == [item["run_id"] for item in listed["runs"]]


def test_failure_is_told_cold_and_warm(project: Project, experiment: Experiment) -> None:
    directory = project("entry_points: {main: {command: 'exit 7'}}\n")
    for _ in range(2):
        assert experiment.run(directory).code == 7
    assert experiment.statuses() == ["FAILED", "FAILED"]


@pytest.mark.parametrize(
    ("program", "code"),
    [("with mlflow.start_run():\n    mlflow.log_metric('m', 1)\n", 3),
     ("mlflow.start_run()\nmlflow.end_run('FAILED')\n", 0)],
)  # fmt: skip
def test_run_that_its_command_has_ended_fails_if_either_did(
    project: Project, experiment: Experiment, program: str, code: int
) -> None:
    python = mlflow_install.prefix() / "bin" / "python"
    directory = project(
        f"entry_points: {{main: {{command: '{python} main.py; exit {code}'}}}}\n",
        main__py="import mlflow\n" + program,
    )
    assert experiment.run(directory).code == code
    assert experiment.statuses() == ["FAILED"]


def test_crash_before_the_command_is_told(
    project: Project, buildrun: Buildrun, experiment: Experiment
) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n",
        python_env__yaml="dependencies: ['./absent-directory']\n",
    )
    outcome = buildrun(
        directory,
        environ=experiment.environ,
    )
    assert outcome.code == 1
    assert experiment.statuses() == ["FAILED"]


def test_mistake_in_the_project_leaves_no_run(project: Project, experiment: Experiment) -> None:
    directory = project("entry_points: {main: {parameters: {a: string}, command: 'echo {a}'}}\n")
    assert experiment.run(directory).code == 1
    assert experiment.runs() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interruption_is_told_cold_and_warm(
    number: signal.Signals, project: Project, experiment: Experiment
) -> None:
    directory = project("entry_points: {main: {command: 'echo up >&2; read line'}}\n")
    for _ in range(2):
        with started(directory, experiment.environ) as child:
            child.send_signal(number)
            assert child.wait(60) == 128 + number
    assert experiment.statuses() == ["KILLED", "KILLED"]


def test_run_goes_on_under_its_id(project: Project, experiment: Experiment) -> None:
    directory = project(PARAMETERS)
    made = experiment.server.call("runs/create", {"experiment_id": experiment.id, "start_time": 1})
    run_id = made["run"]["info"]["run_id"]
    experiment.server.call(
        "runs/log-batch", {"run_id": run_id, "params": [{"key": "text", "value": "'x y'"}]}
    )
    experiment.server.call("runs/update", {"run_id": run_id, "status": "FINISHED", "end_time": 2})
    outcome = experiment.run(
        directory, "-P", f"file={directory}/MLproject", "--run-id", run_id, "--run-name", "again"
    )
    assert outcome.code == 0, outcome.err
    (found,) = experiment.runs()
    assert (found.run_id, found.name, found.status) == (run_id, "again", "FINISHED")
    assert found.tags["mlflow.project.entryPoint"] == "main"
    assert (found.params["alpha"], found.params["text"]) == ("0.5", "'x y'")


def test_experiment_is_made_by_its_name_once(
    project: Project, buildrun: Buildrun, server: Server, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'echo $MLFLOW_EXPERIMENT_ID'}}\n")
    environ = {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_EXPERIMENT_NAME": f"named {tmp_path}"}
    first = buildrun("-q", directory, LOCAL, environ=environ)
    second = buildrun("-q", directory, LOCAL, environ=environ)
    assert first.out == second.out
    assert len(server.runs(first.out.strip())) == 2
    server.call("experiments/delete", {"experiment_id": first.out.strip()})
    third = buildrun("-q", directory, LOCAL, environ=environ)
    assert (third.code, "is deleted" in third.err) == (1, True)


def test_run_inside_of_a_run_is_nested(project: Project, experiment: Experiment) -> None:
    inner = project("entry_points: {main: {command: 'true'}}\n", name="inner")
    call = f"{sys.executable} -m buildrun -q {inner} {LOCAL}"
    outer = project(f"entry_points: {{main: {{command: '{call} && {call}'}}}}\n", name="outer")
    outcome = experiment.run(outer)
    assert outcome.code == 0, outcome.err
    *below, above = experiment.runs()
    assert [seen.tags.get("mlflow.parentRunId") for seen in below] == [above.run_id] * 2
    assert "mlflow.parentRunId" not in above.tags


def test_mlflow_run_inside_of_a_run_works(project: Project, experiment: Experiment) -> None:
    inner = project("entry_points: {main: {command: 'true'}}\n", name="inner")
    mlflow = mlflow_install.prefix() / "bin" / "mlflow"
    outer = project(
        f"entry_points: {{main: {{command: '{mlflow} run {inner} {LOCAL}'}}}}\n", name="outer"
    )
    outcome = experiment.run(outer)
    assert outcome.code == 0, outcome.err
    assert experiment.statuses() == ["FINISHED"] * 2


STEPS = """
entry_points:
  prepare:
    parameters: {rows: {default: "3"}}
    inputs: [MLproject]
    outputs: [data.txt]
    command: "echo $MLFLOW_RUN_ID > prepare.id; seq {rows} > data.txt"
  main:
    depends_on: [prepare]
    parameters: {rows: {default: "7"}}
    inputs: [data.txt]
    outputs: [model.txt]
    command: "echo $MLFLOW_RUN_ID > main.id; wc -l < data.txt > model.txt"
"""


def test_each_step_has_a_run_and_results_are_linked_to_theirs(
    project: Project, experiment: Experiment
) -> None:
    directory = project(STEPS)
    assert experiment.run(directory).code == 0
    prepare, main = experiment.runs()
    assert (directory / "main.id").read_text().strip() == main.run_id
    assert (directory / "prepare.id").read_text().strip() == prepare.run_id
    assert prepare.tags["mlflow.parentRunId"] == main.run_id
    assert prepare.tags["mlflow.project.entryPoint"] == "prepare"
    assert (prepare.params, main.params) == ({"rows": "3"}, {"rows": "7"})
    assert "buildrun.cache" not in main.tags
    for number in range(3):  # the last on the short way
        assert experiment.run(directory).code == 0
        found = experiment.runs()
        assert len(found) == 3 + number
        assert found[0].status == "FINISHED"
        assert found[0].tags["buildrun.cache"] == "up-to-date"
        assert found[0].tags["buildrun.madeBy"] == main.run_id
        assert json.loads(found[0].tags["buildrun.steps"]) == {
            "prepare": {"state": "up-to-date", "run_id": prepare.run_id}
        }
    (directory / "model.txt").unlink()
    assert experiment.run(directory).code == 0
    found = experiment.runs()
    assert found[0].tags["buildrun.cache"] == "cached"
    assert found[0].tags["buildrun.madeBy"] == main.run_id


def test_result_that_an_untracked_run_made_is_linked_to_none(
    project: Project, experiment: Experiment
) -> None:
    directory = project(STEPS)
    assert experiment.run(directory, "--tracking=off").code == 0
    assert experiment.run(directory).code == 0
    (found,) = experiment.runs()
    assert found.tags["buildrun.cache"] == "up-to-date"
    assert "buildrun.madeBy" not in found.tags


def test_failed_step_fails_its_run_and_the_one_above(
    project: Project, experiment: Experiment
) -> None:
    directory = project(STEPS.replace("seq {rows}", "false"))
    assert experiment.run(directory).code == 1
    below, above = experiment.runs()
    assert (below.status, above.status) == ("FAILED", "FAILED")
    assert json.loads(above.tags["buildrun.steps"])["prepare"]["state"] == "failed"


def test_interrupted_steps_are_told_as_killed(project: Project, experiment: Experiment) -> None:
    directory = project(STEPS.replace("seq {rows}", "echo up >&2; sleep 1000; seq {rows}"))
    with started(directory, experiment.environ) as child:
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 130
    assert experiment.statuses() == ["KILLED", "KILLED"]


def test_version_of_a_checkout_is_tagged_as_mlflow_tags_it(
    project: Project, experiment: Experiment
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    first = repository(directory)
    (directory / "more").touch()
    second = commit(directory)
    assert experiment.run(directory, "-v", "trunk").code == 0
    for _ in range(2):  # the second on the short way
        assert experiment.run(directory, "-v", first).code == 0
    again, by_commit, by_branch = experiment.runs()
    assert again.tags.keys() == by_commit.tags.keys()
    assert by_branch.tags["mlflow.source.git.branch"] == "trunk"
    assert by_branch.tags["mlflow.source.git.commit"] == second
    assert by_commit.tags["mlflow.source.git.commit"] == first
    assert "mlflow.source.git.branch" not in by_commit.tags
    for found in (by_branch, by_commit, again):
        assert found.tags["mlflow.source.name"] == f"file://{directory}"
        assert found.tags["mlflow.source.git.repoURL"] == "https://example.org/some/where.git"


def test_another_commit_is_told_on_the_short_way(project: Project, experiment: Experiment) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    first = repository(directory)
    for _ in range(2):
        experiment.run(directory)
    (directory / "more").touch()
    second = commit(directory)
    experiment.run(directory)
    found = [seen.tags["mlflow.source.git.commit"] for seen in experiment.runs()]
    assert found == [second, first, first]


# -- stores that only MLflow knows -------------------------------------------------------------


def with_mlflow() -> dict[str, str]:
    path = f"{mlflow_install.prefix() / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path}


READ = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
runs = client.search_runs(["0"], order_by=["attributes.start_time DESC"])
print(json.dumps([
    [run.info.run_id, run.info.experiment_id, run.info.run_name, run.info.status,
     run.data.tags, run.data.params] for run in runs
]))
"""


def stored(uri: str) -> list[Seen]:
    python = mlflow_install.prefix() / "bin" / "python"
    done = subprocess.run((python, "-c", READ, uri), check=True, capture_output=True, timeout=300)
    return [Seen(*fields) for fields in json.loads(done.stdout)]


def test_database_is_written_through_the_mlflow_of_the_caller(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(PARAMETERS.replace("'true", "'echo $MLFLOW_TRACKING_URI $MLFLOW_RUN_ID"))
    words = ("-q", directory, LOCAL, "-P", f"file={directory}")
    environ = {**with_mlflow(), "MLFLOW_TRACKING_URI": "sqlite:///runs.db"}
    told = []
    for _ in range(2):
        outcome = buildrun(*words, environ=environ)
        assert outcome.code == 0, outcome.err
        told.append(outcome.out.split()[:2])
    assert (tmp_path / "runs.db").exists()
    uri = f"sqlite:///{tmp_path}/runs.db"
    found = stored(uri)
    assert told == [[uri, seen.run_id] for seen in reversed(found)]
    assert [seen.status for seen in found] == ["FINISHED", "FINISHED"]
    assert found[0].params["text"] == "x y"
    assert found[0].tags["mlflow.source.type"] == "PROJECT"


def test_experiment_alone_means_the_store_that_mlflow_chooses(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'exit 4'}}\n")
    outcome = buildrun("-q", directory, LOCAL, "--experiment-id", "0", environ=with_mlflow())
    assert outcome.code == 4, outcome.err
    (found,) = stored(f"sqlite:///{tmp_path}/mlflow.db")
    assert found.status == "FAILED"


def test_killed_buildrun_leaves_no_open_run_in_a_database(project: Project, tmp_path: Path) -> None:
    directory = project("entry_points: {main: {command: 'echo up >&2; read line'}}\n")
    uri = f"sqlite:///{tmp_path}/runs.db"
    with started(directory, {**with_mlflow(), "MLFLOW_TRACKING_URI": uri}) as child:
        child.send_signal(signal.SIGKILL)
    statuses: list[str] = []
    while statuses != ["KILLED"]:  # MLflow takes its time; the test's own limit ends this
        statuses = [seen.status for seen in stored(uri)]


def test_missing_mlflow_is_told_with_a_remedy(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {command: 'echo ran'}}\n")
    for words in (("--experiment-name", "e"), ("--run-id", "r"), ("--tracking", "on")):
        outcome = buildrun("-q", directory, LOCAL, *words)
        assert (outcome.code, outcome.out) == (1, "")
        assert "no Python here has it" in outcome.err
        assert "pip install mlflow" in outcome.err
    outcome = buildrun("-q", directory, LOCAL, "--experiment-name=e", "--tracking=optional")
    assert (outcome.code, outcome.out) == (0, "ran\n")
    assert "the run is not tracked" in outcome.err
    assert not (tmp_path / "mlflow.db").exists()


# An MLflow that writes what it is asked for into the file that is its store.
FAKE = {
    "mlflow/__init__.py": (
        "import os\nfrom mlflow import entities\n__version__ = '0'\n"
        "def get_tracking_uri():\n    return os.environ['MLFLOW_TRACKING_URI']\n"
    ),
    "mlflow/entities.py": (
        "from types import SimpleNamespace\n"
        "def Param(key, value):\n    return [key, value]\nRunTag = Param\n"
    ),
    "mlflow/tracking.py": (
        "import os\nfrom mlflow.entities import SimpleNamespace\n"
        "class MlflowClient:\n"
        "    def _write(self, *words):\n"
        "        with open(os.environ['MLFLOW_TRACKING_URI'][7:], 'a') as file:\n"
        "            print(*words, file=file)\n"
        "    def create_run(self, experiment, start_time, tags):\n"
        "        self._write('create', experiment)\n        return self.get_run('r1')\n"
        "    def get_run(self, run_id):\n"
        "        info = dict(run_id=run_id, experiment_id='0', status='RUNNING', "
        "artifact_uri='', lifecycle_stage='active')\n"
        "        return SimpleNamespace(info=SimpleNamespace(**info), "
        "data=SimpleNamespace(params={}))\n"
        "    def log_batch(self, run_id, params, tags):\n        self._write('log', params)\n"
        "    def set_terminated(self, run_id, status, end_time=None):\n"
        "        self._write(status)\n"
    ),
}


@pytest.mark.parametrize("outputs", ["", "outputs: [out.txt], "])
def test_mlflow_of_the_environment_serves_where_there_is_no_other(
    outputs: str, project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "wheels", "mlflow", files=FAKE)
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {parameters: {a: {default: 'x y'}}, "
        f"{outputs}command: 'echo $MLFLOW_RUN_ID {{a}} | tee out.txt'}}}}\n",
        python_env__yaml=f"dependencies: ['{wheel}']\n",
    )
    uri = f"file://{tmp_path}/store"
    for _ in range(2):
        assert (
            buildrun("-q", directory, "--no-cache", environ={"MLFLOW_TRACKING_URI": uri}).printed()
            == "r1 x y\n"
        )
    told = ["create 0", "log [['a', 'x y']]", "FINISHED"]
    assert (tmp_path / "store").read_text().splitlines() == told * 2
