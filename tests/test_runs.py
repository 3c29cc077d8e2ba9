"""`buildrun runs`: what is told of past runs, of all kinds and however they ended."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from executor_helpers import BUSY, LIMIT
from processes import kill_session

LOCAL = "--env-manager=local"
STEPS = """\
name: recorded
entry_points:
  first: {outputs: [a], inputs: [MLproject], command: "echo one > a; echo said; echo warned >&2"}
  second: {outputs: [b], inputs: [MLproject], depends_on: [first], command: "cat a > b; echo again"}
  broken: {outputs: [c], inputs: [MLproject], depends_on: [first], command: "echo so far; exit 4"}
"""


def recorded(buildrun: Buildrun) -> list[dict[str, Any]]:
    data = buildrun("runs", "ls", "--format=json").data
    assert data["version"] == 1
    runs: list[dict[str, Any]] = data["runs"]
    return runs


def test_nothing_is_recorded_at_first(buildrun: Buildrun) -> None:
    assert recorded(buildrun) == []
    assert buildrun("runs", "ls").out == ""
    outcome = buildrun("runs", "show")
    assert (outcome.code, outcome.out) == (2, "")
    assert "no run is recorded yet" in outcome.err


def test_steps_are_told_with_their_reasons(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    assert buildrun("run", directory, LOCAL, "-e", "second").code == 0
    (run,) = recorded(buildrun)
    assert (run["project"], run["entry_point"], run["status"]) == ("recorded", "second", "ok")
    assert (run["exit_code"], run["root"]) == (0, str(directory))
    shown = buildrun("runs", "show", run["run_id"], "--format=json").data
    assert shown == {"version": 1, **run}
    assert [(step["id"], step["state"]) for step in shown["steps"]] == [
        ("first", "ok"),
        ("second", "ok"),
    ]
    assert shown["steps"][0]["reasons"][0]["code"] == "never-run"
    text = buildrun("runs", "show").out
    assert f"run {run['run_id']}\n" in text
    assert "  first: ok, " in text
    assert "; it has not run yet" in text


def test_what_is_known_of_a_step_is_recorded(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "name: recorded\nentry_points:\n"
        "  first: {outputs: [a, d/], inputs: [MLproject], command: mkdir d; echo 1 > a; cp a d}\n"
        "  main: {depends_on: [first], parameters: {n: float, token: string},"
        ' command: "echo {n} {token}"}\n'
    )
    assert buildrun("run", directory, LOCAL, "-P", "n=1", "-P", "token=sesame").code == 0
    (run,) = recorded(buildrun)
    first, main = run["steps"]
    assert first["outputs"] == [{"path": "a", "bytes": 2}, {"path": "d/a", "bytes": 2}]
    assert first["key"].startswith("blake3:")
    assert main["parameters"] == {"n": "1", "token": "***"}
    assert "sesame" not in json.dumps(run)
    assert (main["depends_on"], main["backend"], main["image"]) == (["first"], "local", None)
    assert main["environment"] == {"manager": "local", "key": None, "lock": None, "platform": None}
    assert run["started"] <= first["started"] <= main["started"]
    for step in (first, main):
        assert step["cpu_seconds"] >= 0
        assert step["peak_memory"] > 1_000_000
    used = r"  first: ok, \d\.\d s, \d\.\d s CPU, \d+\.\d MB; it has not run yet\n"
    assert re.search(used, buildrun("runs", "show").out)


def test_lone_command_is_recorded_with_what_it_used(project: Project, buildrun: Buildrun) -> None:
    directory = project(f"entry_points: {{main: {{command: {json.dumps(BUSY)}}}}}\n")
    for _ in range(2):
        assert buildrun("run", directory, LOCAL).code == 0
        (step,) = recorded(buildrun)[0]["steps"]
        assert step["cpu_seconds"] >= 0.3
        assert step["peak_memory"] >= 200_000_000


def test_report_of_a_run_in_which_nothing_is_to_do_tells_as_much(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory, report = project(STEPS), tmp_path / "r.json"
    told = []
    for _ in range(4):
        words = ("run", directory, LOCAL, "-e", "second", "--report", report)
        assert buildrun(*words).code == 0
        told.append(json.loads(report.read_text()))
    made, *unchanged = told
    for run in unchanged:
        assert {"project", "root", "entry_point", "started", "seconds"} <= run.keys()
        for step, before in zip(run["steps"], made["steps"], strict=True):
            same = ("outputs", "key", "command", "depends_on", "environment", "backend")
            assert [step[name] for name in same] == [before[name] for name in same]
            assert (step["state"], step["saved"]) == ("up-to-date", before["seconds"])
            assert step["cpu_seconds"] is None


def test_older_record_is_still_shown(store: Path, buildrun: Buildrun) -> None:
    step = {"id": "a", "entry_point": "a", "state": "ok", "exit_code": 0, "seconds": 1.0}
    step |= {"log": None, "reasons": [{"code": "forced", "detail": "it was asked for"}]}
    record = {"version": 1, "run_id": "old", "project": "p", "root": "/p", "entry_point": "a"}
    record |= {"started": 1e9, "status": "ok", "exit_code": 0, "seconds": 1.0, "steps": [step]}
    record |= {"pid": 1, "born": ""}
    (store / "runs" / "old").mkdir(parents=True)
    (store / "runs" / "old" / "run.jsonl").write_text(json.dumps(record) + "\n")
    assert "  a: ok, 1.0 s; it was asked for\n" in buildrun("runs", "show", "old").printed()


def test_latest_run_comes_first_and_their_number_is_bounded(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(STEPS)
    for name in ("first", "second", "broken"):
        buildrun("run", directory, LOCAL, "-e", name)
    assert [run["entry_point"] for run in recorded(buildrun)] == ["broken", "second", "first"]
    lines = buildrun("runs", "ls", "-n", "2").out.splitlines()
    assert [line.split()[-1] for line in lines] == ["broken", "second"]
    assert "failed" in lines[0]


def test_up_to_date_runs_are_recorded_too(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    for _ in range(3):
        assert buildrun("run", directory, LOCAL, "-e", "second").code == 0
    states = [[step["state"] for step in run["steps"]] for run in recorded(buildrun)]
    assert states == [["up-to-date"] * 2, ["up-to-date"] * 2, ["ok"] * 2]


def test_failed_run_has_its_code_and_log(project: Project, buildrun: Buildrun) -> None:
    assert buildrun("run", project(STEPS), LOCAL, "-e", "broken").code == 4
    (run,) = recorded(buildrun)
    assert (run["status"], run["exit_code"]) == ("failed", 4)
    assert buildrun("runs", "logs", run["run_id"][:6], "broken").out == "so far\n"
    assert "exit code 4" in buildrun("runs", "show").out


def test_logs_are_those_of_all_steps_or_of_one(project: Project, buildrun: Buildrun) -> None:
    buildrun("run", project(STEPS), LOCAL, "-e", "second", "-q")
    (run,) = recorded(buildrun)
    both = buildrun("runs", "logs").out
    assert both == "==> first <==\nsaid\nwarned\n==> second <==\nagain\n"
    assert buildrun("runs", "logs", run["run_id"], "second").out == "again\n"
    buildrun("runs", "logs", run["run_id"], "third").refused("its steps: `first`, `second`", code=2)


def test_restored_step_has_the_log_of_its_making(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    buildrun("run", directory, LOCAL, "-e", "first")
    (directory / "a").unlink()
    buildrun("run", directory, LOCAL, "-e", "first")
    assert recorded(buildrun)[0]["steps"][0]["state"] == "cached"
    assert buildrun("runs", "logs").out == "said\nwarned\n"


def test_beginning_of_an_id_is_enough_if_it_is_the_only_one(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    for run_id in ("abc", "abcd", "abx"):
        assert buildrun("run", directory, LOCAL, "--run-id", run_id, "--tracking=off").code == 0
    assert buildrun("runs", "show", "abc", "--format=json").data["run_id"] == "abc"
    assert buildrun("runs", "show", "abcd", "--format=json").data["run_id"] == "abcd"
    assert buildrun("runs", "show", "abx", "--format=json").data["run_id"] == "abx"
    several = buildrun("runs", "show", "ab")
    assert (several.code, "there are 3 runs" in several.err) == (2, True)
    none = buildrun("runs", "show", "x")
    assert (none.code, "there is no run" in none.err) == (2, True)


@pytest.mark.parametrize("run_id", ["../../evil", "..", "/tmp/evil", "x" * 400, "ü" * 90])
def test_id_of_the_user_stays_in_the_store(
    run_id: str, project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project("entry_points: {main: {command: 'echo $MLFLOW_RUN_ID'}}\n")
    outcome = buildrun("run", directory, LOCAL, "--run-id", run_id, "--tracking=off")
    assert (outcome.code, outcome.out) == (0, f"{run_id}\n")
    (record,) = store.rglob("run.jsonl")
    assert record.parent.parent == store / "runs"
    assert [run["run_id"] for run in recorded(buildrun)] == [run_id]


def test_plain_runs_are_recorded_cold_and_warm(project: Project, buildrun: Buildrun) -> None:
    directory = project("name: plain\nentry_points: {main: {command: 'echo hi; exit 3'}}\n")
    for _ in range(3):
        assert buildrun("run", directory, LOCAL).code == 3
    runs = recorded(buildrun)
    assert len({run["run_id"] for run in runs}) == 3
    for run in runs:
        assert (run["project"], run["entry_point"]) == ("plain", "main")
        assert (run["status"], run["exit_code"]) == ("failed", 3)
        assert [step["state"] for step in run["steps"]] == ["failed"]
        assert buildrun("runs", "logs", run["run_id"]).out == "hi\n"


def test_lone_command_keeps_its_log(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    command = "echo out; echo warned >&2; exit 3"
    directory = project(f"entry_points: {{main: {{command: '{command}'}}}}\n")
    for _ in range(2):
        outcome = buildrun("run", "-q", LOCAL, "--report", tmp_path / "r.json", cwd=directory)
        assert (outcome.code, outcome.out, outcome.err) == (3, "out\n", "warned\n")
        log = Path(json.loads((tmp_path / "r.json").read_text())["steps"][0]["log"])
        assert sorted(log.read_text().splitlines()) == ["out", "warned"]
        assert log.stat().st_mode & 0o777 == 0o600
    words = (sys.executable, "-m", "buildrun", "run", "-q", LOCAL)
    command = "for i in 1 2 3 4 5; do echo out $i; echo warned $i >&2; done"
    (directory / "MLproject").write_text(f"entry_points: {{main: {{command: '{command}'}}}}\n")
    both = subprocess.run(
        words, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True
    ).stdout
    assert both.decode() == "".join(f"out {i}\nwarned {i}\n" for i in range(1, 6))
    assert buildrun("runs", "logs").out == both.decode()


def test_terminal_stays_the_command_s_own_unless_a_log_is_asked_for(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points: {main: {command: 'test -t 1 && echo terminal || echo no'}}\n"
    )
    shown = {}
    for more in ((), ("--output", "stream")):
        reader, writer = pty.openpty()
        words = (sys.executable, "-m", "buildrun", "run", "-q", LOCAL, *more)
        subprocess.run(words, cwd=directory, stdout=writer, stderr=writer, check=True)
        os.close(writer)
        shown[more] = os.read(reader, 4096).decode().strip(), buildrun("runs", "logs").out
        os.close(reader)
    assert shown[()] == ("terminal", "")
    assert shown["--output", "stream"][1] == "no\n"


def test_run_that_could_not_begin_is_not_recorded(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS)
    assert buildrun("run", directory, LOCAL, "-e", "nothing").code == 1
    assert recorded(buildrun) == []


class Held:
    """A run whose command waits until it is told to go on."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        os.mkfifo(directory.parent / "begun")
        os.mkfifo(directory.parent / "go")
        self.process = subprocess.Popen(
            (sys.executable, "-m", "buildrun", "run", ".", LOCAL, *arguments),
            cwd=directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        begun = os.open(directory.parent / "begun", os.O_RDONLY | os.O_NONBLOCK)
        try:
            assert select.select([begun], [], [], LIMIT)[0], "it has not begun"
        finally:
            os.close(begun)

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=LIMIT)


HELD = "echo one; echo > ../begun; cat ../go"


@pytest.fixture(params=["plain", "warm", "steps"])
def held(request: pytest.FixtureRequest, project: Project, buildrun: Buildrun) -> Iterator[Held]:
    """Give a run that is at its command."""
    if request.param == "steps":
        directory = project(
            "entry_points: {main: {inputs: [MLproject], outputs: [o], command: '" + HELD + "'}}\n"
        )
    else:
        directory = project(f"entry_points: {{main: {{command: '{HELD}'}}}}\n")
    if request.param == "warm":
        # The same command line, that what is prepared for it is known.
        for name in ("begun", "go"):
            (directory.parent / name).write_text("")
        assert buildrun("run", ".", LOCAL, cwd=directory).code == 0
        for name in ("begun", "go"):
            (directory.parent / name).unlink()
    running = Held(directory)
    yield running
    kill_session(running.process.pid)
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()
    # The command, in a group of its own, reads on until somebody has opened the other end.
    try:
        os.close(os.open(directory.parent / "go", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        pass


def test_run_is_told_of_while_it_runs_and_lost_when_killed(held: Held, buildrun: Buildrun) -> None:
    assert recorded(buildrun)[0]["status"] == "running"
    assert held.end(signal.SIGKILL) == -signal.SIGKILL
    run = recorded(buildrun)[0]
    assert (run["status"], run["exit_code"], run["seconds"]) == ("lost", None, None)
    assert ": lost\n" in buildrun("runs", "show").out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_is_told_as_such(held: Held, buildrun: Buildrun, number: int) -> None:
    assert held.end(number) == 128 + number
    run = recorded(buildrun)[0]
    assert (run["status"], run["exit_code"]) == ("cancelled", 128 + number)
    assert [step["state"] for step in run["steps"]] == ["cancelled"]


def test_log_of_a_killed_run_is_still_there(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n"
        "  a: {inputs: [MLproject], outputs: [a], command: 'touch a; echo first'}\n"
        f"  main: {{depends_on: [a], inputs: [MLproject], outputs: [o], command: '{HELD}'}}\n"
    )
    running = Held(directory)
    assert buildrun("runs", "logs").out == "==> 001-a.log <==\nfirst\n==> 002-main.log <==\none\n"
    running.end(signal.SIGKILL)
    (run,) = recorded(buildrun)
    assert run["status"] == "lost"
    assert buildrun("runs", "logs", run["run_id"], "main").out == "one\n"
    assert buildrun("runs", "logs", run["run_id"], "b").code == 1


def test_number_of_a_process_that_was_given_again_is_no_run(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    buildrun("run", project(STEPS), LOCAL, "-e", "first")
    (path,) = store.rglob("run.jsonl")
    value = json.loads(path.read_text().splitlines()[-1])
    path.write_text(json.dumps({**value, "status": "running", "pid": os.getpid(), "born": "1"}))
    assert recorded(buildrun)[0]["status"] == "lost"


DAMAGES = {
    "nothing": b"",
    "cut off": b'{"version": 1, "run_id"',
    "another shape": b"[]",
    "nested deeply": b"[" * 100_000,
    "invalid UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_record_is_passed_over(
    damage: str, project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(STEPS)
    buildrun("run", directory, LOCAL, "-e", "first")
    (path,) = store.rglob("run.jsonl")
    path.write_bytes(DAMAGES[damage])
    assert recorded(buildrun) == []
    assert buildrun("run", directory, LOCAL, "-e", "first").code == 0
    assert len(recorded(buildrun)) == 1
    assert buildrun("runs", "show").code == 0


@pytest.mark.parametrize(
    "field",
    [
        {"started": "yesterday"},
        {"steps": None},
        {"steps": [{}]},
        {"steps": [{"id": "a"}]},
        {"project": None},
        {"seconds": []},
        {"status": 1},
        {"pid": "x"},
    ],
)
def test_record_of_odd_values_is_passed_over(
    field: dict[str, Any], project: Project, buildrun: Buildrun, store: Path
) -> None:
    buildrun("run", project(STEPS), LOCAL, "-e", "first")
    (path,) = store.rglob("run.jsonl")
    value = json.loads(path.read_text().splitlines()[-1])
    path.write_text(json.dumps({**value, **field}))
    assert recorded(buildrun) == []
    assert buildrun("runs", "ls").code == 0


def test_other_files_among_the_runs_do_no_harm(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    buildrun("run", project(STEPS), LOCAL, "-e", "first")
    (store / "runs/stray").write_text("")
    (store / "runs/empty").mkdir()
    (store / "runs/odd/run.jsonl").mkdir(parents=True)
    assert len(recorded(buildrun)) == 1


def test_hostile_names_do_not_reach_the_terminal(project: Project, buildrun: Buildrun) -> None:
    directory = project(STEPS, name="a\x1b[31mred\nb")
    assert buildrun("run", directory, LOCAL, "-e", "first").code == 0
    outcome = buildrun("runs", "show")
    assert outcome.code == 0, outcome.err
    assert "\x1b" not in outcome.out
    assert "a\\x1b[31mred\\nb" in outcome.out
    assert recorded(buildrun)[0]["root"] == str(directory)


def test_store_that_cannot_be_written_stops_no_run(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    directory = project("entry_points: {main: {command: 'echo hi'}}\n")
    outcome = buildrun("run", directory, LOCAL, environ={"BUILDRUN_HOME": str(tmp_path / "file")})
    assert (outcome.code, outcome.out) == (0, "hi\n")


def test_where_it_is_not_clear_which_run_is_meant_none_is(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    assert buildrun(project(STEPS), LOCAL, "-e", "second").code == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for verb in ("show", "logs", "cancel"):
        outcome = buildrun("runs", verb, cwd=elsewhere)
        assert (outcome.code, outcome.out) == (2, "")
        assert "no run of this directory is " in outcome.err
        assert "give the beginning of an id" in outcome.err
