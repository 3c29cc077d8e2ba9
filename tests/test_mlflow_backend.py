"""``mlflow run -b buildrun``, with MLflow itself."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from mlflow_install import environ_of, install, serving
from step_helpers import LIMIT, PAUSE, Gate

PROJECT = (
    "entry_points:\n"
    "  main:\n    parameters: {word: {default: hi}}\n"
    "    command: 'echo {word} $MLFLOW_RUN_ID'\n"
    "  fails: {command: exit 7}\n"
    f"  pauses: {{command: '{PAUSE.format('here')}'}}\n"
)

# Every line that it prints is JSON: the name of a part, and what came of it.
PROGRAM = """
import json, os, sys
import buildrun
import mlflow
from mlflow.exceptions import ExecutionException

client = mlflow.MlflowClient()

def tell(name, run_id, **more):
    run = client.get_run(run_id)
    tags = {key: value for key, value in run.data.tags.items() if key.startswith("mlflow.")}
    ended = run.info.end_time is not None
    told = {"id": run_id, "status": run.info.status, "ended": ended, "tags": tags,
            "params": run.data.params, **more}
    print(json.dumps([name, told]), flush=True)

def run(entry_point="main", **more):
    given = {"env_manager": "local", "backend": "buildrun", **more}
    return mlflow.projects.run(sys.argv[1], entry_point, **given)

def last():
    return mlflow.search_runs(experiment_ids=["0"], output_format="list")[0].info.run_id

done = run(parameters={"word": "a b"}, run_name="my run")
tell("succeeded", done.run_id, own=done.get_status(), wait=done.wait())

for name, more in {"failed": {"entry_point": "fails"}, "refused": {"entry_point": "nope"},
                   "unknown": {"backend_config": {"nonsense": 1}},
                   "impossible": {"backend_config": {"backend": "moon"}},
                   "elsewhere": {"backend_config": {"backend": "databricks"}}}.items():
    try:
        run(**more)
    except ExecutionException as error:
        tell(name, last(), error=str(error))

one = run("pauses", synchronous=False)
with open(os.environ["UP"]) as up:
    up.readline()
status = one.get_status()
one.cancel()
tell("cancelled", one.run_id, own=one.get_status(), before=status)

with mlflow.start_run() as parent:
    child = run(backend_config={"quiet": True, "jobs": 2})
tell("nested", child.run_id, parent=parent.info.run_id)

with mlflow.start_run() as parent:
    ours = buildrun.run(sys.argv[1], parameters={"word": "own"}, env_manager="local")
tell("ours", ours.run_id, parent=parent.info.run_id, own=ours.get_status())

tell("beside", run("fails", synchronous=False).run_id)
"""


class Told(NamedTuple):
    """What the program has printed, and what the store knew when it had ended."""

    parts: Mapping[str, Any]
    out: str
    afterwards: str
    code: int


class Mlflow(NamedTuple):
    """Python with both packages, and what its programs see."""

    python: Path
    directory: Path
    environ: Mapping[str, str]
    gate: Gate

    def __call__(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            (self.python, *words),
            cwd=self.directory,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=10 * LIMIT,
        )

    def start(self, *words: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (self.python, *words),
            cwd=self.directory,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def statuses(self) -> list[str]:
        """Return how all runs stand, the latest first."""
        look = (
            "import mlflow\n"
            "for run in mlflow.search_runs(output_format='list'): print(run.info.status)"
        )
        return self("-c", look).stdout.split()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mlflow")
    (directory / "project").mkdir()
    (directory / "project" / "MLproject").write_text(PROJECT)
    return directory


@pytest.fixture(scope="module")
def call(place: Path) -> Iterator[Mlflow]:
    """Return Python where both are, beside a tracking server."""
    python = install(place / "env")
    gate = Gate(place / "gate")
    with serving(place, environ_of(python, place / "store", "")) as uri:
        variables = {**environ_of(python, place / "store", uri), **gate.environ}
        yield Mlflow(python, place, variables, gate)
    gate.close()


@pytest.fixture(scope="module")
def told(call: Mlflow, place: Path) -> Told:
    """Return what became of the program's runs."""
    script = place / "program.py"
    script.write_text(PROGRAM)
    done = call(script, place / "project")
    lines = done.stdout.splitlines()
    parts = dict(json.loads(line) for line in lines if line.startswith("["))
    assert "beside" in parts, done.stderr
    look = "import sys, mlflow; print(mlflow.get_run(sys.argv[1]).info.status)"
    afterwards = call("-c", look, parts["beside"]["id"]).stdout.strip()
    return Told(parts, done.stdout, afterwards, done.returncode)


def test_success_ends_the_run_with_its_name_and_tags(told: Told, place: Path) -> None:
    run = told.parts["succeeded"]
    assert (run["status"], run["ended"], run["own"], run["wait"]) == (
        "FINISHED", True, "FINISHED", True,
    )  # fmt: skip
    tags = run["tags"]
    assert tags["mlflow.runName"] == "my run"
    assert tags["mlflow.source.type"] == "PROJECT"
    assert tags["mlflow.source.name"] == str(place / "project")
    assert tags["mlflow.project.entryPoint"] == "main"
    assert tags["mlflow.project.backend"] == "buildrun"
    assert run["params"] == {"word": "a b"}
    assert f"a b {run['id']}\n" in told.out  # what the command saw


def test_failure_and_refusal_are_mlflows_exceptions(told: Told) -> None:
    failed, refused = told.parts["failed"], told.parts["refused"]
    assert (failed["status"], failed["ended"]) == ("FAILED", True)
    assert failed["error"] == f"Run (ID '{failed['id']}') failed"
    assert (refused["status"], refused["ended"]) == ("FAILED", True)


def test_backend_config_holds_options_of_buildrun_alone(told: Told) -> None:
    assert "does not know `nonsense`" in told.parts["unknown"]["error"]
    assert "unsupported execution mode moon" in told.parts["impossible"]["error"]
    assert told.parts["impossible"]["status"] == "FAILED"


def test_databricks_is_reached(told: Told) -> None:
    assert "backend spec must be provided" in told.parts["elsewhere"]["error"]
    assert told.parts["elsewhere"]["status"] == "FAILED"


def test_cancelled_run_is_killed(told: Told) -> None:
    run = told.parts["cancelled"]
    assert (run["before"], run["own"], run["status"], run["ended"]) == (
        "RUNNING", "KILLED", "KILLED", True,
    )  # fmt: skip


def test_run_within_a_run_names_its_parent(told: Told) -> None:
    for name in ("nested", "ours"):
        run = told.parts[name]
        assert run["tags"]["mlflow.parentRunId"] == run["parent"]
        assert run["status"] == "FINISHED"
    assert (run["own"], run["params"]) == ("FINISHED", {"word": "own"})
    assert f"own {run['id']}\n" in told.out


def test_run_that_nobody_waits_for_is_ended_all_the_same(told: Told) -> None:
    assert told.code == 0
    assert told.afterwards == "FAILED"


def test_command_line_waits_and_keeps_the_commands_exit_code(call: Mlflow, place: Path) -> None:
    words = ("-m", "mlflow", "run", place / "project", "-b", "buildrun", "--env-manager", "local")
    done = call(*words, "-P", "word=it's")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("it's ")
    assert "succeeded ===" in done.stderr
    failed = call(*words, "-e", "fails")
    assert failed.returncode == 7
    assert "failed ===" in failed.stderr


def test_command_line_that_is_interrupted_ends_the_run(call: Mlflow, place: Path) -> None:
    words = ("run", place / "project", "-b", "buildrun", "--env-manager", "local", "-e", "pauses")
    process = call.start("-m", "mlflow", *words)
    assert call.gate.wait() == "here"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, out
    assert call.statuses()[0] == "KILLED"
