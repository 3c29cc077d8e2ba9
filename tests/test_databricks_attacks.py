"""What must not happen at Databricks: results of others, secrets, second runs, runs left behind."""

from __future__ import annotations

import ast
import json
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from databricks_http import Answer as Said
from databricks_http import Fault
from databricks_runs import CLOUD_FAILURE, SKIPPED, End, Script
from databricks_workspace import HOME, TOKEN, VOLUME
from step_helpers import Gate, a_gate  # noqa: F401
from test_databricks import LONE, PLACE, RUNS, Databricks, databricks, paused, site
from tracking_stub import Answer, playing

from buildrun.executors.databricks import launch
from buildrun.executors.databricks.api import Api
from buildrun.executors.databricks.auth import connect
from buildrun.executors.databricks.errors import NoAnswer
from buildrun.executors.databricks.files import Place
from buildrun.executors.kubernetes import pod_runner

__all__ = ["databricks", "paused", "site"]

LATER = {"Retry-After": "3600"}
MAKES = "name: n\nentry_points: {main: {outputs: [out], command: 'echo WORD > out'}}\n"
SPEC = {"spark_version": "16.4.x-scala2.12", "node_type_id": "i3.xlarge", "num_workers": 0}


def files(databricks: Databricks, pattern: str) -> list[Path]:
    """Return files at the place."""
    return [path for path in (databricks.site.local(PLACE) / "v1").glob(pattern) if path.is_file()]


def finish(databricks: Databricks) -> None:
    """Let all runs come to their end."""
    site = databricks.site
    for number, run in site.runs.items():
        while not run.ended:
            site.step()
            if run.driver.started:
                site.finish(number)


# -- results ---------------------------------------------------------------------------------------


def test_task_that_names_the_run_of_another_step_is_not_followed(
    databricks: Databricks, project: Project
) -> None:
    other = project(MAKES.replace("WORD", "other"))
    assert databricks(other, "--detach").code == 0
    (before,) = files(databricks, "tasks/*")
    token = json.loads(before.read_text())["token"]
    mine = project(MAKES.replace("WORD", "mine"))
    assert databricks(mine, "--detach").code == 0
    finish(databricks)
    (task,) = {*files(databricks, "tasks/*")} - {before}
    task.write_text(json.dumps({**json.loads(task.read_text()), "token": token}))
    outcome = databricks(mine)
    assert outcome.code == 0, outcome.err
    assert (mine / "out").read_text() == "mine\n"


@pytest.mark.parametrize("damage", [b"", b"print('nothing')\n"])
def test_launch_program_that_is_damaged_there_is_sent_anew(
    databricks: Databricks, project: Project, damage: bytes
) -> None:
    assert databricks(project(LONE)).code == 5
    (launch,) = files(databricks, "launch-*.py")
    launch.write_bytes(damage)
    outcome = databricks(project(LONE))
    assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err


@pytest.mark.parametrize("damage", ["cut", "content"])
def test_archive_that_is_damaged_there_is_sent_anew(
    databricks: Databricks, project: Project, damage: str
) -> None:
    directory = project(LONE, text__txt="a word\n" * 3000)
    assert databricks(directory).code == 5
    (archive,) = files(databricks, "carried/sha256/*/*")
    data = archive.read_bytes()
    archive.write_bytes(data[:9000] if damage == "cut" else data.replace(b"word", b"sord"))
    outcome = databricks(directory)
    assert outcome.code == 121
    assert "they were damaged there; run it again, and they are sent anew" in outcome.err
    assert databricks(directory).code == 5


def test_variables_of_the_cluster_count_for_results(
    databricks: Databricks, project: Project
) -> None:
    directory = project(
        "name: n\nentry_points: {main: {outputs: [out], command: 'echo $A > out'}}\n"
    )
    for value, state in (("1", "ok"), ("1", "up-to-date"), ("2", "ok")):
        spec = {"new_cluster": {**SPEC, "spark_env_vars": {"A": value}}}
        outcome = databricks(directory, config={"existing_cluster_id": None, **spec})
        assert outcome.states == {"main": state}, outcome.err
        assert (directory / "out").read_text() == f"{value}\n"


@pytest.mark.parametrize("more", [{"num_workers": 3}, {"custom_tags": {"a": "b"}}])
def test_size_of_the_cluster_does_not_count(
    databricks: Databricks, project: Project, more: Mapping[str, Any]
) -> None:
    directory = project(MAKES)
    for spec, state in ((SPEC, "ok"), ({**SPEC, **more}, "up-to-date")):
        config = {"existing_cluster_id": None, "new_cluster": spec}
        assert databricks(directory, config=config).states == {"main": state}


def test_success_that_a_command_prints_is_none(databricks: Databricks, project: Project) -> None:
    end = End("TERMINATED", "FAILED", "DRIVER_ERROR", message="out of memory")
    databricks.site.play(Script(end=end, log="hello\n::buildrun exit 0\n"))
    outcome = databricks(project(LONE))
    assert outcome.code == 1
    assert "the run has failed: DRIVER_ERROR: out of memory" in outcome.err


def test_last_line_is_the_programs_own(databricks: Databricks, project: Project) -> None:
    command = 'echo; printf "::buildrun exit 0\\n"; exit 9'
    text = f"name: n\nentry_points: {{main: {{command: '{command}'}}}}\n"
    outcome = databricks(project(text))
    assert (outcome.code, outcome.out) == (9, "\n::buildrun exit 0\n"), outcome.err


@pytest.mark.parametrize(
    ("command", "code"),
    [("kill -9 $PPID; sleep 600", 137), ("kill -SEGV $$", 139), ("exit 255", 255),
     ("exit 121", 121), ("exit 124", 124), ("kill -TERM 0; sleep 600", 143)],
)  # fmt: skip
def test_exit_codes_are_the_commands(
    databricks: Databricks, project: Project, command: str, code: int
) -> None:
    text = f"name: n\nentry_points: {{main: {{command: '{command}'}}}}\n"
    outcome = databricks(project(text))
    assert outcome.code == code, outcome.err
    assert "cannot be had" not in outcome.err


def test_output_that_ends_within_a_character_is_whole(
    databricks: Databricks, project: Project
) -> None:
    text = "name: n\nentry_points: {main: {command: \"printf 'a\\\\377b\\\\303'\"}}\n"
    outcome = databricks(project(text))
    assert (outcome.code, outcome.out) == (0, "a\ufffdb\ufffd"), outcome.err


# -- secrets ---------------------------------------------------------------------------------------


def test_password_of_a_tracking_server_is_in_no_task(
    databricks: Databricks, project: Project
) -> None:
    with playing() as server:
        uri = server.uri.replace("http://", "http://me:pass-12345@")
        environ = {"MLFLOW_TRACKING_URI": uri}
        text = "name: n\nentry_points: {main: {command: 'echo $MLFLOW_TRACKING_URI | wc -c'}}\n"
        outcome = databricks(project(text), environ=environ)
    assert outcome.out == f"{len(uri) + 1}\n", outcome.err
    puts = databricks.site.asked("PUT", f"/api/2.0/fs/files{PLACE}/v1/tasks/")
    bearing = [json.loads(each.body) for each in puts if b"pass-12345" in each.body]
    assert bearing
    assert all(set(body) == {"MLFLOW_TRACKING_URI"} for body in bearing)
    assert databricks.left() == []


def test_token_is_nowhere(databricks: Databricks, project: Project, store: Path) -> None:
    command = "env > out; cat /proc/[0-9]*/cmdline >> out 2>/dev/null; true"
    directory = project(MAKES.replace("echo WORD > out", command))
    outcome = databricks(directory)
    assert outcome.code == 0, outcome.err
    assert TOKEN not in outcome.out + outcome.err + json.dumps(outcome.report)
    for top in (store, directory, databricks.site.local(VOLUME)):
        for path in top.rglob("*"):
            assert (
                path.is_symlink() or not path.is_file() or TOKEN.encode() not in path.read_bytes()
            )


# -- runs that go on -------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [401, 429, 503])
def test_run_that_cannot_be_asked_about_is_followed_later(
    databricks: Databricks, paused: Path, gate: Gate, status: int
) -> None:
    databricks.site.fail("GET", f"{RUNS}/get", status=status, headers=LATER)
    outcome = databricks(paused)
    assert outcome.code == 1
    assert "the run may go on, and the same command follows it" in outcome.err
    assert databricks.site.asked("POST", f"{RUNS}/cancel") == []
    databricks.site.step()
    gate.wait()
    gate.open()
    outcome = databricks(paused)
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert len(databricks.site.runs) == 1
    assert databricks.left() == []


def test_run_that_cannot_be_cancelled_is_told(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    site = databricks.site
    for method, path in (("GET", "get"), ("POST", "cancel")):
        site.fail(method, f"{RUNS}/{path}", status=403, body={"error_code": "PERMISSION_DENIED"})
    outcome = databricks(paused)
    assert outcome.code == 1
    (number,) = site.runs
    assert f"the run {number} cannot be cancelled, and may go on" in outcome.err
    site.step()
    gate.wait()
    gate.open()
    assert databricks(paused).code == 3
    assert len(site.runs) == 1


@pytest.mark.parametrize("status", [403, 429, 503])
def test_ctrl_c_that_databricks_does_not_heed_is_told(
    databricks: Databricks, paused: Path, gate: Gate, status: int
) -> None:
    site = databricks.site
    live = databricks.start(paused)
    gate.wait()
    site.fail("POST", f"{RUNS}/cancel", status=status, headers=LATER)
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    (number,) = site.runs
    assert f"the run {number} may go on" in outcome.err
    gate.open()
    assert databricks(paused).code == 3
    assert len(site.runs) == 1


def test_refusal_of_what_was_submitted_makes_no_second_run(
    databricks: Databricks, project: Project
) -> None:
    said = Said(503, {"error_code": "TEMPORARILY_UNAVAILABLE", "message": "Busy."}, LATER)
    databricks.site.faults.append(Fault("POST", f"{RUNS}/submit", 1, said, "after"))
    outcome = databricks(project(LONE))
    assert outcome.code == 1
    assert "the same command follows the run, if it was submitted" in outcome.err
    assert databricks(project(LONE)).code == 5
    assert len(databricks.site.runs) == 1
    assert databricks.left() == []


def test_serverless_compute_does_not_run_a_failed_command_again(
    databricks: Databricks, project: Project
) -> None:
    config = {"existing_cluster_id": None, "serverless": True}
    assert databricks(project(LONE), config=config).code == 5
    (body,) = databricks.submitted()
    assert body["tasks"][0]["disable_auto_optimization"] is True


def test_outputs_that_do_not_come_are_fetched_later(
    databricks: Databricks, project: Project
) -> None:
    directory = project(MAKES)
    databricks.site.fail(
        "GET", f"/api/2.0/fs/files{PLACE}/v1/carried/jobs", status=503, headers=LATER
    )
    outcome = databricks(directory)
    assert outcome.code == 1
    assert "the run has ended, and the same command follows it" in outcome.err
    assert databricks(directory).code == 0
    assert (directory / "out").read_text() == "WORD\n"
    assert len(databricks.site.runs) == 1


def test_two_that_follow_a_run_both_get_its_outputs(
    databricks: Databricks, project: Project, gate: Gate, tmp_path: Path
) -> None:
    up, go = gate.environ["UP"], gate.environ["GO"]
    command = f"echo x > {up}; read _ < {go}; echo WORD > out"
    directory = project(MAKES.replace("echo WORD > out", command))
    other = Path(shutil.copytree(directory, tmp_path / "other"))
    first = databricks.start(directory)
    gate.wait()
    second = databricks.start(other, BUILDRUN_HOME=str(tmp_path / "home"))
    second.said("attached to the one that runs already")
    second.send(signal.SIGSTOP)
    gate.open()
    assert first.wait().states == {"main": "ok"}
    second.send(signal.SIGCONT)
    assert second.wait().states == {"main": "ok"}
    assert (other / "out").read_text() == (directory / "out").read_text() == "WORD\n"
    assert len(databricks.site.runs) == 1
    assert databricks.left() == []


def test_cancelling_an_older_run_leaves_a_newer_one_of_the_same_step(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    assert databricks(paused, "--detach").code == 0
    (older,) = databricks.runs("ls", "-n", "1", "--format", "json").data["runs"]
    databricks.site.step()
    gate.wait()
    gate.open()
    assert databricks(paused).code == 3
    assert databricks(paused, "--detach").code == 0
    assert databricks.runs("cancel", older["run_id"]).code in (0, 1)
    databricks.site.step()
    gate.wait()
    gate.open()
    outcome = databricks(paused)
    assert (outcome.code, outcome.out) == (3, "begun\ndone\n")
    assert "attached" in outcome.err
    assert len(databricks.site.runs) == 2


@pytest.mark.parametrize("forced", [False, True])
def test_ended_run_that_nobody_has_collected_is_not_what_force_asks_for(
    databricks: Databricks, project: Project, forced: bool
) -> None:
    directory = project(MAKES)
    assert databricks(directory, "--detach").code == 0
    finish(databricks)
    outcome = databricks(directory, *(["--force"] if forced else []))
    assert (outcome.code, outcome.states) == (0, {"main": "ok"}), outcome.err
    assert ("attached" in outcome.err) is not forced
    assert len(databricks.site.runs) == 1 + forced
    assert databricks.left() == []


def test_run_that_goes_on_is_what_force_asks_for(
    databricks: Databricks, paused: Path, gate: Gate
) -> None:
    assert databricks(paused, "--detach").code == 0
    databricks.site.step()
    gate.wait()
    gate.open()
    assert databricks(paused, "--force").code == 3
    assert len(databricks.site.runs) == 1


# -- Ctrl-C ----------------------------------------------------------------------------------------


def test_ctrl_c_while_files_are_sent_submits_nothing(
    databricks: Databricks, project: Project
) -> None:
    site = databricks.site
    site.drop("PUT", f"/api/2.0/fs/files{PLACE}/v1/carried", times=10**9, carried_out=False)
    live = databricks.start(project(LONE))
    live.said("it is tried again for")
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert outcome.states == {"main": "cancelled"}
    assert site.asked("POST", f"{RUNS}/submit") == []
    assert databricks.left() == []


def test_hurry_ends_a_file_that_is_still_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("buildrun.executors.databricks.api.HURRY", 0.0)
    with playing() as server:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
        server.answers[""] = lambda _: Answer(
            raw=head + b"Content-Length: 10000000\r\n\r\n" + bytes(10_000_000)
        )
        environ = {"DATABRICKS_HOST": server.uri, "DATABRICKS_TOKEN": TOKEN}
        api = Api(connect(None, environ), {})
        stream = Place(api, VOLUME).stream(["x"], "the outputs")
        assert not any(stream.read())
        api.hurry()
        with pytest.raises(NoAnswer, match="it does not answer in time"):
            stream.read()
        stream.close()


def test_long_wait_that_is_asked_for_is_told_and_ended(
    databricks: Databricks, project: Project
) -> None:
    site = databricks.site
    site.fail("", "/api/2.0/fs", times=10**9, status=429, headers={"Retry-After": "300"})
    live = databricks.start(project(LONE))
    live.said("Databricks is in trouble (429")
    live.send(signal.SIGINT)
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert outcome.states == {"main": "cancelled"}
    assert site.runs == {}


# -- other answers ---------------------------------------------------------------------------------

REQUESTS = {
    "read": ("GET", f"/api/2.0/fs/files{PLACE}"),
    "there": ("HEAD", f"/api/2.0/fs/files{PLACE}"),
    "put": ("PUT", f"/api/2.0/fs/files{PLACE}"),
    "submit": ("POST", f"{RUNS}/submit"),
    "look": ("GET", f"{RUNS}/get"),
    "output": ("GET", f"{RUNS}/get-output"),
    "delete": ("DELETE", f"/api/2.0/fs/files{PLACE}"),
}
STRANGE = {
    "page": (200, b"<html>Sign in</html>", {"Content-Type": "text/html"}),
    "empty": (200, b"", {}),
    "list": (200, [], {}),
    "moved": (307, b"", {"Location": "http://127.0.0.1:9/else"}),
    "shape": (200, {"run_id": "x", "state": [], "tasks": {}, "logs": 5, "error": {}}, {}),
}


@pytest.mark.parametrize("answer", STRANGE)
@pytest.mark.parametrize("request_", REQUESTS)
def test_answers_of_strangers_are_told(
    databricks: Databricks, project: Project, request_: str, answer: str
) -> None:
    site = databricks.site
    directory = project(MAKES)
    status, body, headers = STRANGE[answer]
    method, path = REQUESTS[request_]
    site.faults.append(Fault(method, path, 1, Said(status, body, headers), ""))
    outcome = databricks(directory)
    assert "defect" not in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.code in (0, 1, 121)
    if outcome.code == 1:
        assert "error: " in outcome.err
        assert "hint: " in outcome.err or "does not tell" in outcome.err
    for _ in range(3):
        site.step()
    finish(databricks)
    assert databricks(directory).code == 0
    assert (directory / "out").read_text() == "WORD\n"


def test_run_that_has_no_output_says_why_it_failed(
    databricks: Databricks, project: Project
) -> None:
    site = databricks.site
    said = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Run has no output."}
    site.fail("GET", f"{RUNS}/get-output", status=400, body=said)
    site.play(CLOUD_FAILURE)
    outcome = databricks(project(LONE))
    assert outcome.code == 1
    assert "the run has failed: CLOUD_FAILURE" in outcome.err
    assert databricks.left() == []


def test_state_in_its_newer_form_alone_is_understood(
    databricks: Databricks, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("databricks_runs.Run.state_told", lambda _: None)
    outcome = databricks(project(LONE))
    assert (outcome.code, outcome.out) == (5, "as it is\ntwo\n"), outcome.err


def test_state_that_nobody_knows_is_waited_for(databricks: Databricks, project: Project) -> None:
    databricks.site.play(Script(before=("HATCHING", "WAITING_FOR_RETRY", "PENDING")))
    assert databricks(project(LONE)).code == 5


def test_credentials_that_expire_while_files_are_sent_are_renewed(
    databricks: Databricks, project: Project
) -> None:
    site = databricks.site
    client = {
        "DATABRICKS_CLIENT_ID": site.client_id,
        "DATABRICKS_CLIENT_SECRET": site.client_secret,
        "DATABRICKS_TOKEN": None,
    }
    for method, path in REQUESTS.values():
        site.fail(method, path, status=401)
    outcome = databricks(project(MAKES), environ=client)
    assert outcome.code == 0, outcome.err
    assert len(site.runs) == 1
    assert databricks.left() == []


@pytest.mark.parametrize("kind", ["volume", "workspace"])
def test_place_may_have_any_name(databricks: Databricks, project: Project, kind: str) -> None:
    place = {"volume": VOLUME, "workspace": HOME}[kind] + "/it's a place; ü%41?#"
    directory = project(MAKES)
    outcome = databricks(directory, config={"volume": None, kind: place})
    assert outcome.code == 0, outcome.err
    assert (directory / "out").read_text() == "WORD\n"


def test_launch_program_suits_old_pythons() -> None:
    for module in (launch, pod_runner):
        text = Path(str(module.__file__)).read_text()
        assert ast.parse(text, feature_version=(3, 8))


@pytest.mark.parametrize("said", ["[", "\\377\\376", '{"access_token": "a\\nb"}'])
def test_nonsense_of_the_cli_is_told(
    databricks: Databricks, project: Project, tmp_path: Path, said: str
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    printing = f"head -c 200000 /dev/zero | tr '\\0' '['\nprintf '{said}'"
    cli = programs / "databricks"
    cli.write_text(f"#!/bin/sh\n{printing if said == '[' else printing.splitlines()[1]}\n")
    cli.chmod(0o755)
    environ = {"DATABRICKS_TOKEN": None, "PATH": f"{programs}:{os.environ['PATH']}"}
    outcome = databricks(project(LONE), environ=environ)
    assert outcome.code == 1
    assert "defect" not in outcome.err
    assert "credentials" in outcome.err or "the token that was given" in outcome.err
    assert databricks.site.runs == {}


def test_detached_run_that_was_skipped_is_shown(databricks: Databricks, project: Project) -> None:
    site = databricks.site
    site.play(SKIPPED)
    assert databricks(project(LONE), "--detach").code == 0
    site.step()
    site.step()
    site.fail("GET", f"{RUNS}/get-output", times=2, status=400)
    shown = databricks.runs("show", "--format", "json").data
    assert [(job["state"], job["exit_code"]) for job in shown["jobs"]] == [("ended", 1)]
    assert databricks.runs("logs").code == 0


@pytest.mark.parametrize("as_text", [False, True])
def test_secrets_of_the_config_are_in_no_record(
    databricks: Databricks, buildrun: Buildrun, project: Project, store: Path, tmp_path: Path,
    as_text: bool,
) -> None:  # fmt: skip
    account = {"username": "me", "password": "hunter-12345"}
    image = {"url": "example.org/image", "basic_auth": account}
    more = {"docker_image": image, "spark_env_vars": {"A_TOKEN": "tok-12345", "A": "1"}}
    config = {"new_cluster": {**SPEC, **more}, "volume": PLACE, "poll": 0.02}
    given: str | Path = json.dumps(config)
    if not as_text:
        given = tmp_path / "secret.json"
        given.write_text(json.dumps(config))
    report = tmp_path / "out.json"
    words = ("run", project(MAKES), "-b", "databricks", "-c", given, "--report", report)
    outcome = buildrun(*words, environ=databricks.site.environ)
    assert outcome.code == 0, outcome.err
    texts = [outcome.out, outcome.err, report.read_text(errors="replace")]
    held = [path.read_bytes() for path in store.rglob("*") if path.is_file()]
    for secret in ("hunter-12345", "tok-12345"):
        assert not any(secret in text for text in texts)
        assert not any(secret.encode() in data for data in held)
