"""Runs that are left to a cluster, or to nobody when their client is killed."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading

import pytest
from conftest import Buildrun, Outcome, Project
from docker_helpers import BASE
from kube_kubelet import Pod
from kubernetes_helpers import Run, Stage, Staged, Store, written

pytest_plugins = "kubernetes_helpers"


class Play:
    """Pods that write a line, and end when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.pods: list[str] = []

    def __call__(self, pod: Pod) -> None:
        self.pods.append(pod.name)
        pod.running()
        pod.log(b"begun\n")
        if pod.wait(self.go):
            pod.log(b"done\n")
            pod.ended(3)


def runs(stage: Stage, buildrun: Buildrun, *words: str) -> Outcome:
    return buildrun("runs", *words, environ=dict(stage.place.environ))


def submitted(stage: Stage) -> None:
    outcome = stage.run("--detach")
    assert outcome.code == 0, outcome.err
    assert "1 step: 1 submitted" in outcome.err
    stage.cluster.wait("pods", lambda pod: pod["status"].get("phase") == "Running")


@pytest.fixture
def play() -> Play:
    return Play()


def test_detached_run_is_told_as_submitted(stage: Staged, play: Play, buildrun: Buildrun) -> None:
    staged = stage(play)
    submitted(staged)
    (latest,) = runs(staged, buildrun, "ls", "-n", "1", "--format", "json").data["runs"]
    assert latest["status"] == "submitted"
    shown = runs(staged, buildrun, "show", "--format", "json").data
    assert [job["state"] for job in shown["jobs"]] == ["running"]
    assert runs(staged, buildrun, "logs").out == "begun\n"
    assert runs(staged, buildrun, "cancel").code == 0


def test_logs_follow_a_detached_run_to_its_end(
    stage: Staged, play: Play, buildrun: Buildrun
) -> None:
    staged = stage(play)
    submitted(staged)
    play.go.set()
    assert runs(staged, buildrun, "logs", "-f").out == "begun\ndone\n"
    shown = runs(staged, buildrun, "show", "--format", "json").data
    assert [(job["state"], job["exit_code"]) for job in shown["jobs"]] == [("ended", 3)]
    assert "ended with exit code 3" in runs(staged, buildrun, "show").out
    assert staged.run().code == 3


@pytest.mark.parametrize("ended", [False, True])
def test_same_command_follows_what_was_submitted(stage: Staged, play: Play, ended: bool) -> None:
    staged = stage(play)
    submitted(staged)
    play.go.set()
    if ended:
        staged.cluster.wait("jobs", lambda job: job["status"].get("conditions"))
    outcome = staged.run()
    assert outcome.code == 3
    assert outcome.out == "begun\ndone\n"
    assert "attached to the Job `br-staged-main-" in outcome.err
    assert len(play.pods) == 1


def test_cancel_waits_until_the_pod_is_gone(stage: Staged, play: Play, buildrun: Buildrun) -> None:
    staged = stage(play)
    submitted(staged)
    outcome = runs(staged, buildrun, "cancel")
    assert outcome.code == 0
    assert "deleted" in outcome.out
    assert staged.cluster.all("pods") == []
    (latest,) = runs(staged, buildrun, "ls", "-n", "1", "--format", "json").data["runs"]
    assert latest["status"] == "cancelled"
    assert [step["state"] for step in latest["steps"]] == ["cancelled"]
    shown = runs(staged, buildrun, "show").out
    assert ": cancelled\n" in shown
    assert "main: cancelled" in shown
    assert "exit code" not in shown
    logs = runs(staged, buildrun, "logs")
    assert (logs.code, logs.out) == (1, "")
    assert "there is no log: it went with the Jobs" in logs.err
    again = runs(staged, buildrun, "cancel", latest["run_id"])
    assert again.code == 1
    assert "the run has ended already: cancelled" in again.err
    again = runs(staged, buildrun, "cancel")
    assert again.code == 2
    assert "no run of this directory is running or submitted" in again.err


def test_cancel_of_what_has_ended_tells_how(stage: Staged, play: Play, buildrun: Buildrun) -> None:
    staged = stage(play)
    submitted(staged)
    play.go.set()
    staged.cluster.wait("jobs", lambda job: job["status"].get("conditions"))
    assert "deleted, which had ended: exit code 3" in runs(staged, buildrun, "cancel").out
    (latest,) = runs(staged, buildrun, "ls", "-n", "1", "--format", "json").data["runs"]
    assert [(step["state"], step["exit_code"]) for step in latest["steps"]] == [("failed", 3)]


def test_without_an_id_the_submitted_run_of_the_directory_is_meant(
    stage: Staged, play: Play, buildrun: Buildrun, project: Project
) -> None:
    staged = stage(play)
    submitted(staged)
    environ = dict(staged.place.environ)
    (run,) = runs(staged, buildrun, "ls", "-n", "1", "--format", "json").data["runs"]
    # Later runs of the same project and of others do not stand before it.
    (staged.root / "MLproject").write_text("name: p\nentry_points: {main: {command: 'true'}}\n")
    other = project("name: q\nentry_points: {main: {command: 'true'}}\n", "other")
    for directory in (staged.root, other):
        assert buildrun(directory, "--env-manager=local", environ=environ).code == 0
    for cwd in (staged.root, staged.root.parent):
        shown = buildrun("runs", "show", "--format", "json", cwd=cwd, environ=environ)
        assert shown.data["run_id"] == run["run_id"]
    assert buildrun("runs", "logs", cwd=staged.root, environ=environ).out == "begun\n"
    # In another directory it is not meant.
    assert '"q"' in buildrun("runs", "show", "--format=json", cwd=other, environ=environ).out
    refused = buildrun("runs", "cancel", cwd=other, environ=environ)
    assert refused.code == 2
    assert "no run of this directory is running or submitted" in refused.err
    done = buildrun("runs", "cancel", cwd=staged.root, environ=environ)
    assert done.out.endswith(f"run {run['run_id'][:12]} cancelled\n")


def test_several_submitted_runs_of_different_projects_are_not_guessed_between(
    stage: Staged, play: Play, buildrun: Buildrun
) -> None:
    staged = stage(play)
    submitted(staged)
    other = staged.root.parent / "other"
    shutil.copytree(staged.root, other)
    config = written(staged.place, staged.root.parent)
    words = (other, "--detach", "-P", "n=1", "-b", "kubernetes", "-c", config)
    environ = dict(staged.place.environ)
    assert buildrun(*words, environ={**environ, "BUILDRUN_OWNER": "another"}).code == 0
    refused = runs(staged, buildrun, "cancel")
    assert refused.code == 2
    assert "several runs may be meant: `" in refused.err
    assert f"of {other}, submitted" in refused.err
    for cwd in (other, staged.root):
        assert buildrun("runs", "cancel", cwd=cwd, environ=environ).code == 0


def test_run_that_a_later_one_has_followed_is_not_outstanding(
    stage: Staged, play: Play, buildrun: Buildrun
) -> None:
    staged = stage(play)
    submitted(staged)
    play.go.set()
    assert staged.run().code == 3
    shown = runs(staged, buildrun, "show", "--format", "json").data
    assert (shown["status"], shown["exit_code"]) == ("failed", 3)
    assert runs(staged, buildrun, "cancel").code == 2


def test_run_whose_client_was_killed_is_followed_by_the_next(
    stage: Staged, play: Play, buildrun: Buildrun
) -> None:
    staged = stage(play)
    live = staged.start()
    live.said("begun")
    live.process.kill()
    live.wait()
    (latest,) = runs(staged, buildrun, "ls", "-n", "1", "--format", "json").data["runs"]
    assert latest["status"] == "lost"
    assert runs(staged, buildrun, "logs").out == "begun\n"
    play.go.set()
    outcome = staged.run()
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert len(play.pods) == 1


def test_ctrl_c_leaves_the_job_to_another_run_that_follows_it(stage: Staged, play: Play) -> None:
    staged = stage(play)
    first = staged.start()
    first.said("begun")
    second = staged.start()
    second.said("begun")
    first.interrupt()
    ended = first.wait()
    assert ended.code == 130
    assert "is left to the other run that follows it" in ended.err
    play.go.set()
    assert second.wait().code == 3


def test_what_waits_for_a_submitted_step_runs_with_the_same_command(
    run: Run, project: Project, objects: Store
) -> None:
    directory = project(
        f"name: later\ndocker_env: {{image: '{BASE}'}}\nentry_points:\n"
        "  first: {outputs: [out], command: 'echo made > out'}\n"
        "  main: {depends_on: [first], command: 'cat out'}\n"
    )
    cache = ("--remote-cache", objects.url)
    outcome = run(directory, *cache, "--detach", environ=objects.environ)
    assert outcome.code == 0, outcome.err
    assert "1 skipped, 1 submitted" in outcome.err
    assert not (directory / "out").exists()
    outcome = run(directory, *cache, environ=objects.environ)
    assert outcome.out == "made\n", outcome.err
    assert (directory / "out").read_text() == "made\n"


def test_detaching_is_for_clusters(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    outcome = buildrun("run", directory, "--detach")
    assert outcome.code == 2
    assert "`--detach` is for Kubernetes" in outcome.err


def test_cancel_ends_a_run_of_this_machine(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {command: 'echo begun; exec sleep 1000'}}\n")
    argv = [sys.executable, "-m", "buildrun", str(directory), "--env-manager", "local"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=directory) as live:
        assert live.stdout is not None
        assert live.stdout.readline() == b"begun\n"
        outcome = buildrun("runs", "cancel")
        assert outcome.code == 0, outcome.err
        assert live.wait(timeout=60) == 128 + signal.SIGTERM
    (latest,) = buildrun("runs", "ls", "-n", "1", "--format", "json").data["runs"]
    assert latest["status"] == "cancelled"
