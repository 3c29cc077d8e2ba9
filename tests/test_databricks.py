"""Steps at Databricks, by the command line and a stand-in that really runs what is submitted."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import select
import shutil
import signal
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from databricks_runs import (
    BAD_LIBRARY,
    CANCELED,
    CLOUD_FAILURE,
    NO_CLUSTER,
    QUEUED,
    SKIPPED,
    TIMEOUT,
    End,
    Run,
    Script,
)
from databricks_workspace import CLUSTER, HOME, VOLUME, Workspace
from processes import processes
from step_helpers import TWO, Gate, Live, Ran, a_gate  # noqa: F401

from buildrun.executors.databricks.jobs import Pacer

PLACE = f"{VOLUME}/team"
RUNS = "/api/2.2/jobs/runs"
LONE = "name: alone\nentry_points:\n  main: {command: \"echo 'as it is'; echo two >&2; exit 5\"}\n"


@pytest.fixture
def site() -> Iterator[Workspace]:
    with Workspace() as workspace:
        yield workspace
        assert workspace.left_running() == []
        for run in workspace.runs.values():  # a run that is killed leaves its directory
            shutil.rmtree(directory_of(run), ignore_errors=True)


def directory_of(run: Run) -> Path:
    """Return the directory that a run has on its driver, which is this machine."""
    return Path("/tmp") / f"buildrun-{run.body['idempotency_token']}"


class Databricks:
    """Runs of projects at a stand-in; ``config``: keys beside those that lead there."""

    def __init__(self, site: Workspace, buildrun: Buildrun, directory: Path) -> None:
        self.site = site
        self._buildrun = buildrun
        self._directory = directory
        self._started: list[Live] = []

    def words(self, config: Mapping[str, Any] | None) -> tuple[str | Path, ...]:
        path = self._directory / "cluster.json"
        keys = {"existing_cluster_id": CLUSTER, "volume": PLACE, "poll": 0.02, **(config or {})}
        path.write_text(json.dumps({k: v for k, v in keys.items() if v is not None}))
        return ("-b", "databricks", "-c", path)

    def __call__(
        self,
        *words: str | Path,
        config: Mapping[str, Any] | None = None,
        environ: Mapping[str, str | None] | None = None,
    ) -> Ran:
        report = self._directory / "report.json"
        given = ("run", *words, *self.words(config), "--report", report)
        variables = {**self.site.environ, **(environ or {})}
        return Ran.of(self._buildrun(*given, environ=variables), report)

    def start(self, *words: str | Path, **environ: str) -> Live:
        report = self._directory / f"report{len(self._started)}.json"
        given = [*map(str, ("run", *words, *self.words(None), "--report", report))]
        argv = [sys.executable, "-m", "buildrun", *given]
        variables = {**self.site.environ, **environ}
        self._started.append(Live(argv, self._directory, variables, report))
        return self._started[-1]

    def runs(self, *words: str) -> Ran:
        return Ran(*self._buildrun("runs", *words, environ=dict(self.site.environ)))

    def close(self) -> None:
        for live in self._started:
            live.close()

    def left(self) -> list[str]:
        """Return the files that are still there for single runs."""
        top = self.site.local(PLACE) / "v1"
        names = [*top.glob("tasks/*"), *top.glob("carried/jobs/*/*")]
        return [str(name.relative_to(top)) for name in names]

    def submitted(self) -> list[Any]:
        return [each.body for each in self.site.asked("POST", f"{RUNS}/submit")]


@pytest.fixture
def databricks(site: Workspace, buildrun: Buildrun, tmp_path: Path) -> Iterator[Databricks]:
    made = Databricks(site, buildrun, tmp_path)
    yield made
    made.close()


# -- what works ------------------------------------------------------------------------------------


def test_lone_command_runs_each_time(databricks: Databricks, project: Project) -> None:
    directory = project(LONE)
    for number in (1, 2):
        outcome = databricks(directory)
        assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err
        assert len(databricks.site.runs) == number
        assert f"submitted: {databricks.site.url}/?o=1234567890#job/" in outcome.err
    assert databricks.left() == []


@pytest.mark.parametrize("place", ["volume", "workspace", "default"])
def test_unchanged_project_is_submitted_by_few_requests(
    databricks: Databricks, project: Project, place: str
) -> None:
    site = databricks.site
    directory = project(LONE, code__py="print()\n")
    config: dict[str, Any] = {"volume": PLACE if place == "volume" else None}
    if place == "workspace":
        config["workspace"] = f"{HOME}/runs"
    assert databricks(directory, config=config).code == 5
    site.requests.clear()
    assert databricks(directory, config=config).code == 5
    asked = [each.path for each in site.requests]
    before = asked[: asked.index(f"{RUNS}/submit") + 1]
    assert len(before) <= {"volume": 4, "workspace": 4, "default": 5}[place], before
    (directory / "code.py").write_text("print(1)\n")
    site.requests.clear()
    assert databricks(directory, config=config).code == 5
    sent = [each for each in site.requests if each.method == "PUT" or "import" in each.path]
    assert len(sent) <= 4  # the archive, perhaps a directory for it, and the task


def test_steps_give_each_other_what_they_make(databricks: Databricks, project: Project) -> None:
    directory = project(TWO, in__txt="text\n")
    outcome = databricks(directory)
    assert outcome.states == {"first": "ok", "main": "ok"}, outcome.err
    assert (directory / "main.txt").read_text() == "text\ntext\n"
    assert "told\n" in outcome.out
    assert databricks.left() == []

    assert databricks(directory).states == {"first": "up-to-date", "main": "up-to-date"}
    for name in ("first.txt", "main.txt"):
        (directory / name).unlink()
    assert set(databricks(directory).states.values()) == {"cached"}
    assert len(databricks.site.runs) == 2


def test_outputs_that_are_here_travel_to_the_next_step(
    databricks: Databricks, project: Project
) -> None:
    directory = project(TWO, in__txt="text\n")
    assert databricks(directory).code == 0
    (directory / "MLproject").write_text(TWO.replace("> main.txt", "> main.txt; echo more"))
    outcome = databricks(directory)
    assert outcome.states == {"first": "up-to-date", "main": "ok"}, outcome.err
    assert (directory / "main.txt").read_text() == "text\ntext\n"


def test_steps_run_at_once(databricks: Databricks, project: Project, tmp_path: Path) -> None:
    made = Gate(tmp_path / "gate")
    up, go = made.environ["UP"], made.environ["GO"]
    names = "abcd"
    steps = "".join(
        f"  {name}: {{outputs: [{name}], "
        f"command: 'echo {name} > {up}; read _ < {go}; cp code.txt {name}'}}\n"
        for name in names
    )
    text = f"name: wide\nentry_points:\n{steps}  main: {{depends_on: [a, b, c, d], command: ls}}\n"
    directory = project(text, code__txt="code\n")
    live = databricks.start(directory, "-j", "4")
    try:
        assert made.wait_for(4) == set(names)
        made.open(4)
        outcome = live.wait()
    finally:
        made.close()
    assert outcome.states == {**dict.fromkeys(names, "ok"), "main": "ok"}, outcome.err
    assert {(directory / name).read_text() for name in names} == {"code\n"}
    archives = [
        each.path
        for each in databricks.site.asked("PUT", "/api/2.0/fs/files")
        if "/carried/sha256/" in each.path
    ]
    # Each once, and once more where its directory had to be made.
    assert len(archives) <= 2 * len(set(archives))


def test_names_of_all_kinds_travel_there_and_back(databricks: Databricks, project: Project) -> None:
    text = (
        "name: names\nentry_points:\n  main:\n    inputs: [data/]\n"
        "    outputs: ['out put/', gone]\n"
        "    command: \"cp -a data 'out put'; ln -s /etc/hostname 'out put/out'; "
        "mkfifo x; cat 'out put/ünï'\"\n"
    )
    directory = project(text)
    data = directory / "data"
    (data / "none").mkdir(parents=True)
    (data / "ünï").write_text("unicode")
    (data / os.fsdecode(b"\xff\x80")).write_text("undecodable")
    (data / "-n\nl").write_text("odd")
    (data / "link").symlink_to("ünï")
    (data / "run.sh").write_text("#!/bin/sh\n")
    (data / "run.sh").chmod(0o755)
    (directory / "leads-out").symlink_to("/etc/hostname")
    outcome = databricks(directory)
    assert "made its output `gone`" in outcome.err or outcome.code == 1
    assert outcome.out == "unicode"
    (directory / "MLproject").write_text(text.replace(", gone", ""))
    assert databricks(directory).code == 0
    made = directory / "out put"
    assert {path.name for path in made.iterdir()} == {*os.listdir(data), "out"}
    assert (made / os.fsdecode(b"\xff\x80")).read_text() == "undecodable"
    assert os.readlink(made / "out") == "/etc/hostname"
    assert os.access(made / "run.sh", os.X_OK)
    assert (made / "none").is_dir()


def test_ignored_inputs_and_paths_of_this_machine_travel(
    databricks: Databricks, project: Project, tmp_path: Path
) -> None:
    text = (
        "name: inputs\nentry_points:\n  main:\n"
        "    parameters: {data: path, inside: path}\n    inputs: [big.bin]\n"
        '    command: "cat big.bin code.txt {data} {inside}; test -e other.bin || echo none"\n'
    )
    directory = project(text, big__bin="big\n", other__bin="x", code__txt="code\n")
    (directory / ".gitignore").write_text("*.bin\n")
    (directory / "sub").mkdir()
    (directory / "sub" / "inside").write_text("inside\n")
    (tmp_path / "else where").write_text("elsewhere\n")
    outcome = databricks(
        directory, "-P", f"data={tmp_path / 'else where'}", "-P", f"inside={directory}/sub/inside"
    )
    assert outcome.code == 0, outcome.err
    assert outcome.out == "big\ncode\nelsewhere\ninside\nnone\n"


def test_declared_files_alone_are_there(databricks: Databricks, project: Project) -> None:
    text = (
        "name: sandbox\nentry_points:\n  main:\n    inputs: [in.txt, data/a]\n    outputs: [out]\n"
        "    sandbox: true\n    command: 'ls -A > out; ls; ls data'\n"
    )
    directory = project(text, in__txt="", other__txt="")
    (directory / ".gitignore").write_text("*.key\n")
    (directory / "data").mkdir()
    (directory / "data" / "a").write_text("")
    (directory / "data" / "my.key").write_text("")
    outcome = databricks(directory)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "data\nin.txt\nout\na\n"
    network = text.replace("sandbox: true", "sandbox: {network: false}")
    (directory / "MLproject").write_text(network)
    databricks(directory).refused("`network: false`, which is not possible at Databricks", code=1)


def test_retries_are_runs_of_their_own(databricks: Databricks, project: Project) -> None:
    text = (
        "name: again\nentry_points:\n  main:\n    outputs: [out]\n    retries: 2\n"
        f"    command: 'echo x >> {databricks.site.root}/tries; "
        f"test $(wc -l < {databricks.site.root}/tries) = 2 && echo done > out'\n"
    )
    directory = project(text)
    outcome = databricks(directory)
    assert outcome.states == {"main": "ok"}, outcome.err
    assert "try 2 of 3" in outcome.err
    tokens = [body["idempotency_token"] for body in databricks.submitted()]
    assert len(set(tokens)) == len(tokens) == 2
    assert all(len(token) <= 64 for token in tokens)


def test_timeout_of_a_step_ends_its_command(databricks: Databricks, project: Project) -> None:
    text = (
        "name: late\nentry_points:\n  main:\n    outputs: [out]\n    timeout: 1s\n"
        "    command: 'echo begun; sleep 1000 & sleep 1000'\n"
    )
    outcome = databricks(project(text))
    assert outcome.code == 124
    assert outcome.out == "begun\n"
    assert "ended after its timeout of 1 s" in outcome.err


def test_what_a_command_leaves_running_ends_with_it(
    databricks: Databricks, project: Project
) -> None:
    text = "name: rest\nentry_points: {main: {command: 'sleep 1000 & echo done; exit 3'}}\n"
    outcome = databricks(project(text))
    assert (outcome.code, outcome.out) == (3, "done\n")


def test_output_without_a_line_end_is_as_it_was(databricks: Databricks, project: Project) -> None:
    text = "name: end\nentry_points: {main: {command: 'printf %s \"::buildrun exit 0\"; exit 9'}}\n"
    outcome = databricks(project(text))
    assert (outcome.code, outcome.out) == (9, "::buildrun exit 0")


def test_command_that_cannot_start_is_told(databricks: Databricks, project: Project) -> None:
    outcome = databricks(project("name: n\nentry_points: {main: {command: no-such-program}}\n"))
    assert outcome.code == 127
    assert "no-such-program: command not found" in outcome.out


# -- what is submitted -----------------------------------------------------------------------------


def test_secrets_are_in_no_body_and_do_not_stay(
    databricks: Databricks, project: Project, store: Path
) -> None:
    text = (
        "name: hidden\nentry_points:\n  main:\n"
        "    parameters: {key: {type: string, secret: true}, n: {type: float, default: 1}}\n"
        "    pass_env: [API_TOKEN, PLAIN]\n"
        '    command: "printf %s {key} $API_TOKEN | wc -c; echo $PLAIN {n}"\n'
    )
    secrets = {"key": "par-12345", "API_TOKEN": "tok-12345"}
    environ = {"API_TOKEN": secrets["API_TOKEN"], "PLAIN": "seen"}
    directory = project(text)
    outcome = databricks(directory, "-P", f"key={secrets['key']}", environ=environ)
    assert (outcome.code, outcome.out) == (0, "18\nseen 1\n"), outcome.err
    bearing = [
        each.path
        for each in databricks.site.requests
        if any(secret in repr(each) for secret in secrets.values())
    ]
    assert len(set(bearing)) == 1
    assert all(path.startswith(f"/api/2.0/fs/files{PLACE}/v1/tasks/") for path in bearing)
    assert databricks.left() == []
    for top in (databricks.site.root, store):
        held = [path.read_bytes() for path in top.rglob("*") if path.is_file()]
        assert held
        assert not any(secret.encode() in data for secret in secrets.values() for data in held)


@pytest.mark.parametrize("kind", ["flat", "new", "existing", "serverless"])
def test_compute_is_what_the_config_says(
    databricks: Databricks, project: Project, kind: str
) -> None:
    spec = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 1}
    libraries = [{"pypi": {"package": "numpy==1.26.4"}}]
    kinds: dict[str, dict[str, Any]] = {
        "flat": spec, "new": {"new_cluster": spec}, "existing": {"existing_cluster_id": CLUSTER},
        "serverless": {"serverless": {"environment_version": "3"}},
    }  # fmt: skip
    config = kinds[kind]
    more: dict[str, Any] = {"tags": {"team": "a"}} if kind in ("flat", "new") else {}
    keys = {"existing_cluster_id": None, "libraries": libraries, "timeout": "1h", **more, **config}
    outcome = databricks(project(LONE), config=keys)
    assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err
    (body,) = databricks.submitted()
    (task,) = body["tasks"]
    assert body["run_name"] == "alone: main"
    assert body["timeout_seconds"] == 3600
    if kind == "serverless":
        said = {"environment_version": "3", "dependencies": ["numpy==1.26.4"]}
        assert body["environments"] == [{"environment_key": task["environment_key"], "spec": said}]
        assert "libraries" not in task
        return
    assert task["libraries"] == libraries
    if kind == "existing":
        assert task["existing_cluster_id"] == CLUSTER
    else:
        assert task["new_cluster"] == {**spec, "custom_tags": {"team": "a"}}


# -- interrupted, detached, attached ---------------------------------------------------------------


@pytest.fixture
def paused(project: Project, gate: Gate) -> Path:
    """Return a project whose command waits until the gate opens, and then exits with 3."""
    up, go = gate.environ["UP"], gate.environ["GO"]
    command = f"echo begun; echo x > {up}; read _ < {go}; echo done; exit 3"
    return project(f"name: paused\nentry_points:\n  main: {{command: '{command}'}}\n")


def test_ctrl_c_cancels_the_run_and_waits(databricks: Databricks, paused: Path, gate: Gate) -> None:
    live = databricks.start(paused)
    gate.wait()
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert outcome.states == {"main": "cancelled"}
    assert databricks.site.left_running() == []
    assert databricks.left() == []
    assert len(databricks.site.asked("POST", f"{RUNS}/cancel")) == 1


def test_ctrl_c_while_there_is_no_cluster(databricks: Databricks, paused: Path) -> None:
    site = databricks.site
    site.play(NO_CLUSTER)
    live = databricks.start(paused)
    live.said("submitted")
    live.send(signal.SIGINT)
    assert live.wait().code == 130
    assert site.left_running() == []


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_ctrl_c_before_there_is_a_run(databricks: Databricks, paused: Path, method: str) -> None:
    site = databricks.site
    site.fail(method, "/api/2", times=10_000)
    live = databricks.start(paused)
    site.until(lambda: bool(site.asked(method, "/api/2")))
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130
    assert "defect" not in outcome.err
    assert site.runs == {}


@pytest.mark.parametrize("ended", [False, True])
def test_detached_run_is_shown_followed_and_attached_to(
    databricks: Databricks, paused: Path, gate: Gate, ended: bool
) -> None:
    site = databricks.site
    outcome = databricks(paused, "--detach")
    assert (outcome.code, outcome.states) == (0, {"main": "submitted"}), outcome.err
    (number,) = site.runs
    shown = databricks.runs("show", "--format", "json").data
    assert [job["job"] for job in shown["jobs"]] == [str(number)]
    assert shown["jobs"][0]["state"] in ("waiting", "running")
    early = databricks.runs("logs")
    early.refused("the log of a run comes when it has ended", "--follow", code=1)
    gate.wait()
    gate.open()
    if ended:
        assert databricks.runs("logs", "-f").out == "begun\ndone\n"
        assert databricks.runs("logs").out == "begun\ndone\n"
        shown = databricks.runs("show", "--format", "json").data
        assert [(job["state"], job["exit_code"]) for job in shown["jobs"]] == [("ended", 3)]
        assert f"Databricks run {number}: ended with exit code 3" in databricks.runs("show").out
    outcome = databricks(paused)
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert f"run {number} attached to the one that" in outcome.err
    assert len(site.runs) == 1
    assert databricks.left() == []


def test_detached_run_is_cancelled(databricks: Databricks, paused: Path, gate: Gate) -> None:
    assert databricks(paused, "--detach").code == 0
    (number,) = databricks.site.runs
    databricks.site.step()
    gate.wait()
    outcome = databricks.runs("cancel")
    assert outcome.code == 0, outcome.err
    assert f"Databricks run {number} cancelled\n" in outcome.out
    assert databricks.left() == []
    assert databricks.site.left_running() == []
    (latest,) = databricks.runs("ls", "-n", "1", "--format", "json").data["runs"]
    assert latest["status"] == "cancelled"
    again = databricks.runs("cancel", latest["run_id"])
    again.refused("the run has ended already", code=1)
    logs = databricks.runs("logs", latest["run_id"])
    logs.refused(
        "there is no log: it was not fetched", f"run {number} at {databricks.site.url}", code=1
    )


def test_run_of_another_workspace_is_not_looked_for_here(
    databricks: Databricks, paused: Path, buildrun: Buildrun
) -> None:
    site = databricks.site
    assert databricks(paused, "--detach").code == 0
    environ = {"DATABRICKS_HOST": "http://127.0.0.1:9", "DATABRICKS_TOKEN": site.token}
    refused = buildrun("runs", "show", environ=environ)
    assert f"the run is at {site.url}" in refused.err
    assert databricks.runs("cancel").code == 0


def test_launch_program_that_is_killed_leaves_nothing(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    site = databricks.site
    assert databricks(paused, "--detach").code == 0
    (run,) = site.runs.values()
    site.step()
    gate.wait()
    place = directory_of(run)
    assert place.stat().st_mode & 0o777 == 0o700
    family = [each for each in processes() if str(place) in command_line_of(each.pid)]
    (runner,) = [each for each in family if each.parent not in {other.pid for other in family}]
    descriptor = os.pidfd_open(runner.pid)
    os.kill(runner.parent, signal.SIGKILL)
    assert select.select([descriptor], [], [], 60)[0]
    os.close(descriptor)
    assert not place.exists()
    site.step()
    outcome = databricks(paused)
    assert outcome.code == 1
    assert "The Python process exited unexpectedly" in outcome.err


def command_line_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def test_second_ctrl_c_does_not_wait(databricks: Databricks, paused: Path, gate: Gate) -> None:
    site = databricks.site
    live = databricks.start(paused)
    gate.wait()
    site.looks_advance = False
    live.send(signal.SIGINT)
    live.said("ending the run and waiting for its end")
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130
    assert "the run was cancelled, and is still ending" in outcome.err
    site.step()
    site.step()


def test_run_of_another_user_is_not_attached_to(databricks: Databricks, project: Project) -> None:
    directory = project(LONE)
    assert databricks(directory, "--detach", environ={"BUILDRUN_OWNER": "one"}).code == 0
    outcome = databricks(directory, environ={"BUILDRUN_OWNER": "another"})
    assert outcome.code == 5
    assert len(databricks.site.runs) == 2
    assert databricks(directory, environ={"BUILDRUN_OWNER": "one"}).code == 5
    assert len(databricks.site.runs) == 2


def test_run_whose_client_was_killed_is_followed_by_the_next(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    live = databricks.start(paused)
    gate.wait()
    live.kill()
    gate.open()
    outcome = databricks(paused)
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert len(databricks.site.runs) == 1


def test_ctrl_c_leaves_the_run_to_another_call_that_follows_it(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    first = databricks.start(paused)
    gate.wait()
    second = databricks.start(paused)
    second.said("attached to the one that runs already")
    first.send(signal.SIGINT)
    ended = first.wait()
    assert ended.code == 130
    assert "is left to the other call that follows it" in ended.err
    gate.open()
    outcome = second.wait()
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert databricks.left() == []


def test_outputs_of_a_detached_step_are_fetched_later(
    databricks: Databricks, project: Project
) -> None:
    directory = project(TWO, in__txt="text\n")
    outcome = databricks(directory, "--detach")
    assert outcome.code == 0, outcome.err
    outcome = databricks(directory)
    assert outcome.states == {"first": "ok", "main": "ok"}, outcome.err
    assert "attached to the one that" in outcome.err
    assert (directory / "main.txt").read_text() == "text\ntext\n"
    assert len(databricks.site.runs) == 2
    assert databricks.left() == []


# -- what goes wrong -------------------------------------------------------------------------------


def test_connection_lost_after_submit_makes_no_second_run(
    databricks: Databricks, project: Project
) -> None:
    databricks.site.drop("POST", f"{RUNS}/submit", carried_out=True)
    databricks.site.drop("PUT", "/api/2.0/fs/files", times=2, carried_out=True)
    outcome = databricks(project(LONE))
    assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err
    assert len(databricks.site.runs) == 1
    assert len(databricks.submitted()) == 2


def test_lost_answer_for_the_task_is_no_run_of_others(
    databricks: Databricks, project: Project
) -> None:
    assert databricks(project(LONE)).code == 5
    databricks.site.drop("PUT", f"/api/2.0/fs/files{PLACE}/v1/tasks", carried_out=True)
    outcome = databricks(project(LONE))
    assert outcome.code == 5
    assert "attached" not in outcome.err


@pytest.mark.parametrize(
    ("script", "told", "hint"),
    [
        (SKIPPED, "SKIPPED: An active run already exists.", "try again later"),
        (CLOUD_FAILURE, "CLOUD_FAILURE: Unexpected failure during launch", "`node_type_id`"),
        (BAD_LIBRARY, "LIBRARY_INSTALLATION_ERROR: Library installation", "`libraries`"),
        (Script(end=CANCELED, runs=False), "USER_CANCELED: Run cancelled.", "run it again"),
        (Script(end=End("TERMINATED", "FAILED", "DRIVER_ERROR", message="gone"), runs=False),
         "DRIVER_ERROR: gone", "`driver_node_type_id`"),
        (Script(end=End("TERMINATED", "EXCLUDED", "MAX_CONCURRENT_RUNS_EXCEEDED"), runs=False),
         "MAX_CONCURRENT_RUNS_EXCEEDED", "`-j`"),
    ],
)  # fmt: skip
def test_run_that_databricks_ends_is_told(
    databricks: Databricks, project: Project, script: Script, told: str, hint: str
) -> None:
    databricks.site.play(script)
    outcome = databricks(project(LONE))
    assert outcome.code == 1
    assert f"the run has failed: {told}" in outcome.err
    assert hint in outcome.err
    assert f"its page: {databricks.site.url}" in outcome.err
    assert databricks.left() == []


def test_place_that_the_driver_does_not_see_is_told(
    databricks: Databricks, project: Project
) -> None:
    spec = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge"}
    spec["spark_env_vars"] = {"BUILDRUN_DRIVER_ROOT": "/nowhere"}  # type: ignore[assignment]
    config = {"existing_cluster_id": None, "new_cluster": spec}
    outcome = databricks(project(LONE), config=config)
    assert outcome.code == 1
    assert "FileNotFoundError" in outcome.err
    assert f"must be allowed to read and write `{PLACE}`" in outcome.err
    assert databricks.left() == []


def test_run_that_takes_too_long_is_told(databricks: Databricks, project: Project) -> None:
    databricks.site.play(TIMEOUT)
    outcome = databricks(project("name: n\nentry_points: {main: {command: 'true'}}\n"))
    assert outcome.code == 124
    assert "the run was ended at its timeout" in outcome.err


def test_run_that_is_queued_is_told_once(databricks: Databricks, project: Project) -> None:
    databricks.site.play(Script(before=("QUEUED", "QUEUED", "QUEUED", "PENDING")), QUEUED)
    outcome = databricks(project(LONE))
    assert outcome.code == 5
    assert outcome.err.count("the run is queued") == 1


def test_log_that_is_cut_is_told(databricks: Databricks, project: Project) -> None:
    databricks.site.play(Script(log_limit=40))
    text = "name: long\nentry_points: {main: {command: 'seq 1000; exit 6'}}\n"
    outcome = databricks(project(text))
    assert outcome.code == 6
    assert outcome.out.endswith("999\n1000\n")
    assert "the beginning of the log is lost" in outcome.err


def test_cluster_that_is_not_there_leaves_nothing(databricks: Databricks, project: Project) -> None:
    outcome = databricks(project(LONE), config={"existing_cluster_id": "0000-none"})
    assert outcome.code == 1
    assert "Cluster 0000-none does not exist" in outcome.err
    assert "correct `existing_cluster_id` in the backend config" in outcome.err
    assert databricks.left() == []


def test_volume_that_is_not_there_is_told_with_a_remedy(
    databricks: Databricks, project: Project
) -> None:
    config = {"volume": "/Volumes/main/default/none"}
    outcome = databricks(project(LONE), config=config)
    assert outcome.code == 1
    assert "Volume 'main.default.none' does not exist" in outcome.err
    assert "correct `volume` in the backend config, or make it first" in outcome.err


def test_right_that_is_lost_in_the_middle_ends_the_run(
    databricks: Databricks, paused: Path
) -> None:
    said = {"error_code": "PERMISSION_DENIED", "message": "No."}
    databricks.site.fail("GET", f"{RUNS}/get", status=403, body=said)
    outcome = databricks(paused)
    assert outcome.code == 1
    assert "No." in outcome.err
    databricks.site.step()
    databricks.site.step()
    assert databricks.left() == []


def test_secrets_do_not_stay_where_the_task_cannot_be_written(
    databricks: Databricks, project: Project
) -> None:
    text = "name: n\nentry_points: {main: {pass_env: [API_TOKEN], command: 'true'}}\n"
    directory = project(text)
    environ = {"API_TOKEN": "tok-12345"}
    assert databricks(directory, environ=environ).code == 0
    body = {"error_code": "PERMISSION_DENIED", "message": "Full."}
    key = databricks.site.asked("DELETE", "/")[-2].path  # the task's; then that of the secrets
    databricks.site.fail("PUT", key, status=403, body=body)
    outcome = databricks(directory, environ=environ)
    assert outcome.code == 1
    assert "Full." in outcome.err
    assert databricks.left() == []
    assert len(databricks.site.runs) == 1


def test_trouble_that_passes_is_waited_for(databricks: Databricks, project: Project) -> None:
    site = databricks.site
    site.fail("POST", f"{RUNS}/submit", status=429, headers={"Retry-After": "1"})
    site.fail("PUT", "/api/2.0/fs/files", times=3)
    site.fail("GET", f"{RUNS}/get", times=3, status=500)
    outcome = databricks(project(LONE))
    assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err
    assert len(site.runs) == 1


def test_wrong_host_is_told(databricks: Databricks, project: Project) -> None:
    databricks.site.login_page()
    outcome = databricks(project(LONE))
    assert outcome.code == 1
    assert "this is no Databricks workspace" in outcome.err
    assert databricks.site.runs == {}


def test_run_that_is_out_of_reach_is_told(databricks: Databricks, paused: Path) -> None:
    site = databricks.site
    live = databricks.start(paused)
    live.said("submitted")
    site.tokens.clear()
    outcome = live.wait()
    assert outcome.code == 1
    assert "does not accept" in outcome.err
    (number,) = site.runs
    assert "the run may go on, and the same command follows it" in outcome.err
    assert site.token not in outcome.err
    site.runs[number].cancel()
    site.step()
    site.step()


@pytest.mark.parametrize("place", ["volume", "workspace"])
def test_archive_that_is_too_large_is_told(
    databricks: Databricks, project: Project, place: str
) -> None:
    directory = project(LONE)
    (directory / "large").write_bytes(bytes(300_000))
    databricks.site.file_limit = databricks.site.import_limit = 200_000
    other = {"volume": None, "workspace": f"{HOME}/runs"}
    config = {} if place == "volume" else other
    outcome = databricks(directory, config=config)
    assert outcome.code == 1
    assert "exceeds the limit" in outcome.err
    assert ('"volume": "/Volumes/' in outcome.err) == (place == "workspace")
    assert databricks.site.runs == {}


def test_large_files_travel_in_parts_where_they_have_to(
    databricks: Databricks, project: Project
) -> None:
    text = "name: n\nentry_points: {main: {outputs: [out], command: cp large out}}\n"
    directory = project(text)
    data = os.urandom(1 << 20) * 15
    (directory / "large").write_bytes(data)
    config = {"volume": None, "workspace": f"{HOME}/runs"}
    outcome = databricks(directory, config=config)
    assert outcome.code == 0, outcome.err
    assert (directory / "out").read_bytes() == data
    with (directory / "large").open("r+b") as file:
        file.truncate(450 << 20)
    outcome = databricks(directory, "--force", config=config)
    assert outcome.code == 1
    assert "are more than `/Workspace/" in outcome.err
    assert '"volume": "/Volumes/' in outcome.err


def hostile(*members: tuple[str, bytes, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size = kind, len(data) if kind == tarfile.REGTYPE else 0
            member.linkname = data.decode() if kind == tarfile.SYMTYPE else ""
            archive.addfile(member, io.BytesIO(data))
    return made.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (hostile(("../x", tarfile.REGTYPE, b"x")), "which lies outside"),
        (hostile(("/etc/x", tarfile.REGTYPE, b"x")), "which lies outside"),
        (hostile(("other", tarfile.REGTYPE, b"x")), "`other`, which is no output"),
        (hostile(("out", tarfile.SYMTYPE, b".."), ("out/x", tarfile.REGTYPE, b"x")),
         "in `out`, no directory"),
        (hostile(("out", tarfile.CHRTYPE, b"")), "of a kind that is not used"),
        (b"nonsense" * 100, "the archive is damaged"),
        (b"", "the archive ends too early"),
    ],
    ids=["above", "absolute", "other", "link", "device", "nonsense", "cut"],
)  # fmt: skip
def test_delivery_that_is_not_what_was_made_is_refused(
    databricks: Databricks, project: Project, content: bytes, told: str
) -> None:
    site = databricks.site
    text = "name: n\nentry_points: {main: {outputs: [out], command: 'echo made > out'}}\n"
    directory = project(text, out="old\n")
    assert databricks(directory, "--detach").code == 0
    (number,) = site.runs
    while not site.runs[number].driver.started:
        site.step()
    site.finish(number)
    (done,) = (site.local(PLACE) / "v1").glob("carried/jobs/*/done.json")
    record = json.loads(done.read_text())
    if content:
        record.update(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    done.write_text(json.dumps(record))
    (done.parent / "0").write_bytes(content)
    outcome = databricks(directory)
    assert outcome.code == 1
    assert told in outcome.err
    assert "defect" not in outcome.err
    assert (directory / "out").read_text() == "old\n"
    assert not Path("/etc/x").exists()


def test_task_that_somebody_has_damaged_is_written_anew(
    databricks: Databricks, project: Project
) -> None:
    site = databricks.site
    directory = project(LONE)
    assert databricks(directory, "--detach").code == 0
    (task,) = (site.local(PLACE) / "v1" / "tasks").iterdir()
    (number,) = site.runs
    while not site.runs[number].ended:
        site.step()
        if site.runs[number].driver.started:
            site.finish(number)
    task.write_bytes(b'{"token": "../../x"}')
    outcome = databricks(directory)
    assert outcome.code == 5
    assert "attached" not in outcome.err
    assert len(site.runs) == 2


# -- speed -----------------------------------------------------------------------------------------


def test_many_steps_are_looked_at_twice_a_second() -> None:
    now = [0.0]
    pacer = Pacer(clock=lambda: now[0])
    turns: list[float] = []
    due = dict.fromkeys(range(50), 0.0)
    while now[0] < 120:
        step = min(due, key=lambda each: due[each])
        now[0] = max(now[0], due[step])
        at = now[0] + pacer.turn()
        turns.append(at)
        due[step] = at + 5.0
    ordered = sorted(turns)
    assert len([at for at in ordered if at < 60.0]) == 120
    assert min(b - a for a, b in itertools.pairwise(ordered)) >= 0.5 - 1e-9
    # One that is alone is looked at as often as it wants.
    now[0] += 1000
    assert pacer.turn() == 0.0


def test_turns_are_taken_by_threads_one_after_the_other() -> None:
    pacer = Pacer(clock=lambda: 10.0)
    found: list[float] = []
    threads = [threading.Thread(target=lambda: found.append(pacer.turn())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [number / 2 for number in range(8)]
