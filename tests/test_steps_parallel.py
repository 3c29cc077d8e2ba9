"""Steps side by side, in one process and in several: in which order, and what they wait for."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from step_helpers import (  # noqa: F401
    LOCAL,
    PAUSE,
    Gate,
    Live,
    Run,
    Start,
    a_gate,
    a_run,
    a_start,
)


def fan(names: str, command: str, **more: str) -> str:
    """Return a project whose main depends on steps that run the same command."""
    steps = "".join(
        f"  {name}: {{inputs: [in.txt], outputs: [{name}], "
        f"command: '{more.get(name) or command.replace('{}', name)}; echo {name} > {name}'}}\n"
        for name in names
    )
    return f"entry_points:\n{steps}  main: {{depends_on: [{', '.join(names)}], command: 'true'}}\n"


def test_as_many_steps_as_wanted_run_at_once(project: Project, gate: Gate, start: Start) -> None:
    directory = project(fan("abc", PAUSE), in__txt="")
    live = start(directory, "-j", "3")
    assert gate.wait_for(3) == {"a", "b", "c"}
    gate.open(3)
    assert live.wait().code == 0


def test_never_more_steps_than_wanted_run_at_once(
    project: Project, gate: Gate, start: Start, tmp_path: Path
) -> None:
    note = f"echo + >> {tmp_path}/log; {PAUSE}; echo - >> {tmp_path}/log"
    live = start(project(fan("abcde", note), in__txt=""), "-j", "2")
    gate.wait_for(2)
    for _ in range(3):
        gate.open()
        gate.wait()
    gate.open(2)
    assert live.wait().code == 0
    running, most = 0, 0
    for line in (tmp_path / "log").read_text().split():
        running += 1 if line == "+" else -1
        most = max(most, running)
    assert (running, most) == (0, 2)


def test_longest_chain_by_past_times_goes_first(
    project: Project, run: Run, store: Path, tmp_path: Path
) -> None:
    log = tmp_path / "order"
    directory = project(
        "entry_points:\n"
        f"  a: {{outputs: [a], command: 'echo a >> {log}; touch a'}}\n"
        f"  b: {{command: 'echo b >> {log}'}}\n"
        f"  c: {{depends_on: [b], outputs: [c], command: 'echo c >> {log}; touch c'}}\n"
        "  main: {depends_on: [a, c], command: 'true'}\n"
    )
    assert run(directory, "--force").code == 0
    assert log.read_text().split() == ["b", "a", "c"]  # of unknown times, the most steps
    (journal,) = store.glob("index/projects/*.steps")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    lines = [line for line in lines if "\0" not in line[1]]
    assert {line[1] for line in lines} == {"a", "b", "c", "main"}
    for seconds, expected in ((100.0, ["a", "b", "c"]), (0.001, ["b", "c", "a"])):
        anew = [[*line[:-1], seconds if line[1] == "a" else 1.0] for line in lines]
        journal.write_text("".join(json.dumps(line) + "\n" for line in anew))
        log.unlink()
        assert run(directory, "--force").code == 0
        assert log.read_text().split() == expected


def test_failure_lets_running_steps_end_and_starts_nothing_new(
    project: Project, gate: Gate, start: Start, tmp_path: Path
) -> None:
    end = tmp_path / "end"
    os.mkfifo(end)
    text = fan("abc", "true", a=PAUSE.format("a"), b=f"echo b > $UP; read _ < {end}; exit 5")
    live = start(project(text, in__txt=""), "-j", "2")
    assert gate.wait_for(2) == {"a", "b"}
    end.write_text("\n")
    live.said("error: [b]")
    gate.open()
    outcome = live.wait()
    assert outcome.code == 5
    assert outcome.states == {"a": "ok", "b": "failed", "c": "skipped", "main": "skipped"}
    assert "4 steps: 1 ran, 1 failed, 2 skipped" in outcome.err


def test_keep_going_skips_only_what_depends_on_the_failure(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n"
        "  bad: {command: exit 3}\n"
        "  worse: {command: exit 4}\n"
        "  good: {outputs: [good], command: touch good}\n"
        "  better: {depends_on: [good], outputs: [better], command: touch better}\n"
        "  spoilt: {depends_on: [bad], command: 'true'}\n"
        "  main: {depends_on: [bad, worse, better, spoilt], command: 'true'}\n"
    )
    outcome = run(directory, "-k")
    assert outcome.code == 3
    assert outcome.states == {
        "bad": "failed", "worse": "failed", "good": "ok", "better": "ok",
        "spoilt": "skipped", "main": "skipped",
    }  # fmt: skip
    assert "error: [bad] the command ended with exit code 3" in outcome.err
    assert "error: [worse] the command ended with exit code 4" in outcome.err
    reasons = {
        step["id"]: [reason["detail"] for reason in step["reasons"]]
        for step in outcome.report["steps"]
    }
    assert reasons["spoilt"] == ["`bad` failed"]
    assert reasons["main"] == ["`bad` failed"]


def waiting(start: Start, gate: Gate, one: Path, other: Path | None = None) -> tuple[Live, Live]:
    """Return a run that is at its pause, and another one that waits for it."""
    first = start(one, "-e", "a")
    assert gate.wait() == "a"
    second = start(other or one, "-e", "a")
    second.said("[a] waiting for another run of it")
    return first, second


@pytest.mark.parametrize("checkout", [False, True])
def test_second_run_waits_for_the_first_and_finds_it_done(
    checkout: bool, project: Project, gate: Gate, start: Start, tmp_path: Path
) -> None:
    one = project(fan("a", PAUSE), in__txt="")
    other = shutil.copytree(one, tmp_path / "other") if checkout else one
    first, second = waiting(start, gate, one, other)
    gate.open()
    assert first.wait().code == 0
    assert second.wait().states == {"a": "cached" if checkout else "up-to-date"}
    assert (other / "a").read_text() == "a\n"


def test_waiting_run_looks_at_its_inputs_anew(project: Project, gate: Gate, start: Start) -> None:
    directory = project(
        "entry_points: {a: {inputs: [in.txt], outputs: [a], "
        f"command: 'cat in.txt > a; {PAUSE.format('a')}'}}}}\n",
        in__txt="old\n",
    )
    first, second = waiting(start, gate, directory)
    (directory / "in.txt").write_text("new\n")
    gate.open()
    outcome = first.wait()
    assert outcome.code == 0
    assert "not cached: `in.txt` changed while the command ran" in outcome.err
    gate.wait()
    gate.open()
    assert second.wait().states == {"a": "ok"}
    assert (directory / "a").read_text() == "new\n"


def test_waiting_run_takes_over_where_the_first_one_fails(
    project: Project, gate: Gate, start: Start, tmp_path: Path
) -> None:
    mark = tmp_path / "failed"
    once = f"{PAUSE.format('a')}; if ! test -e {mark}; then touch {mark}; exit 6; fi"
    one = project(fan("a", once), in__txt="")
    first, second = waiting(start, gate, one, shutil.copytree(one, tmp_path / "other"))
    gate.open()
    assert first.wait().code == 6
    gate.wait()
    gate.open()
    assert second.wait().code == 0


def test_ctrl_c_ends_a_run_that_waits_for_another(
    project: Project, gate: Gate, start: Start
) -> None:
    directory = project(fan("a", PAUSE), in__txt="")
    first, second = waiting(start, gate, directory)
    second.send(signal.SIGINT)
    outcome = second.wait()
    assert outcome.code == 130
    assert outcome.states == {"a": "cancelled"}
    gate.open()
    assert first.wait().code == 0


def test_next_run_waits_for_what_has_left_the_group_of_a_killed_one(
    project: Project, gate: Gate, start: Start
) -> None:
    away = f'setsid sh -c "{PAUSE}"'
    directory = project(fan("a", away), in__txt="", a="mine")
    first = start(directory, "-e", "a")
    gate.wait()
    first.process.kill()
    first.process.wait()
    second = start(directory, "-e", "a")
    second.said("waiting")
    gate.open()
    assert gate.wait() == "a"  # the result of the killed run is not known
    gate.open()
    assert second.wait().states == {"a": "ok"}
    assert (directory / "a").read_text() == "a\n"


def test_background_process_of_a_step_holds_up_nobody(
    project: Project, gate: Gate, start: Start
) -> None:
    background = "(read _ < $GO) > /dev/null 2>&1 & "
    directory = project(
        "entry_points: {a: {inputs: [in.txt], outputs: [a], "
        f"command: '{background} touch a'}}}}\n",
        in__txt="",
    )
    assert start(directory, "-e", "a").wait().code == 0
    (directory / "in.txt").write_text("new")
    assert start(directory, "-e", "a").wait().code == 0
    gate.open(2)


def test_same_entry_point_with_other_parameters_is_a_step_of_its_own(
    project: Project, run: Run
) -> None:
    directory = project(
        "entry_points:\n"
        "  say: {parameters: {what: string}, command: 'echo {what}'}\n"
        "  main:\n"
        "    depends_on:\n"
        "      - {entry_point: say, parameters: {what: one}}\n"
        "      - {entry_point: say, parameters: {what: two}}\n"
        "      - {entry_point: say, parameters: {what: one}}\n"
        "    command: 'true'\n"
    )
    outcome = run(directory)
    assert (outcome.code, outcome.out) == (0, "one\ntwo\n")
    first, second, main = outcome.states
    assert all(re.fullmatch(r"say\[[0-9a-f]{8}\]", name) for name in (first, second))
    assert (first != second, main) == (True, "main")
    assert list(run(directory).states) == [first, second, "main"]


def test_same_outputs_with_other_parameters_are_refused(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n"
        "  make: {parameters: {what: string}, outputs: [out], command: 'echo {what} > out'}\n"
        "  main:\n"
        "    depends_on:\n"
        "      - {entry_point: make, parameters: {what: one}}\n"
        "      - {entry_point: make, parameters: {what: two}}\n"
        "    command: 'true'\n"
    )
    run(directory).refused("`make` is needed twice with different parameters, `what`, and")
    assert not (directory / "out").exists()


@pytest.mark.parametrize(
    ("mode", "out"),
    [
        ("stream", "a-out\nb-out\nend"),
        ("prefixed", "[a] a-out\n[b] b-out\n[b] end\n"),
        ("grouped", "a-out\nb-out\nend"),
        ("errors", "b-out\nend"),
    ],
)
def test_output_is_shown_as_wanted_and_logged_in_any_case(
    mode: str, run: Run, out: str, project: Project, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points:\n"
        "  a: {outputs: [a], command: 'echo a-out; echo a-err >&2; touch a'}\n"
        "  b: {command: 'echo b-out; printf end; exit 3'}\n"
        "  main: {depends_on: [a, b], command: 'true'}\n"
    )
    outcome = run(directory, "-q", "--output", mode)
    assert (outcome.code, outcome.out) == (3, out)
    assert ("a-err\n" in outcome.err) == (mode != "errors")
    assert "[a] echo" not in outcome.err
    logs: dict[str, Any] = {step["id"]: step["log"] for step in outcome.report["steps"]}
    assert Path(logs["a"]).read_text() == "a-out\na-err\n"
    assert Path(logs["b"]).read_text() == "b-out\nend"
    assert f"hint: its log: {logs['b']}" in outcome.err
    assert buildrun("runs", "logs", outcome.report["run_id"], "b").out == ("b-out\nend")


@pytest.mark.parametrize(
    ("mode", "out"), [("prefixed", "[a] a-out\n"), ("grouped", "a-out\n"), ("errors", "")]
)
def test_restored_output_is_shown_as_if_it_had_run(
    mode: str, run: Run, out: str, project: Project
) -> None:
    directory = project("entry_points: {main: {outputs: [a], command: 'echo a-out; touch a'}}\n")
    text = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(text.replace("main", "a"))
    assert run(directory, "-e", "a").code == 0
    (directory / "a").unlink()
    outcome = run(directory, "-e", "a", "--output", mode)
    assert (outcome.code, outcome.out) == (0, out)
    assert "1 from the cache" in outcome.err


def test_many_steps_at_once_get_prefixed_output(project: Project, run: Run) -> None:
    outcome = run(project(fan("ab", "echo {}"), in__txt=""), "-j", "4")
    assert sorted(outcome.out.splitlines()) == ["[a] a", "[b] b"]
    assert "[a] echo a" in outcome.err


def test_summary_tells_what_the_cache_saved(project: Project, run: Run) -> None:
    directory = project(fan("ab", "true"), in__txt="")
    assert "3 steps: 3 ran in " in run(directory).err
    (directory / "b").unlink()
    outcome = run(directory)
    assert "3 steps: 1 ran, 1 from the cache, 1 up to date in " in outcome.err
    assert os.path.exists(directory / "b")


def test_run_with_other_parameters_waits_until_its_input_is_not_read_any_more(
    project: Project, gate: Gate, start: Start
) -> None:
    directory = project(
        "entry_points:\n"
        "  prep: {parameters: {n: string}, inputs: [in], outputs: [p], command: 'echo {n} > p'}\n"
        "  main:\n    parameters: {n: string}\n"
        "    depends_on: [{entry_point: prep, parameters: {n: '{n}'}}]\n"
        f"    command: '{PAUSE.format('main')}; cat p'\n",
        **{"in": ""},
    )
    first = start(directory, "-P", "n=1")
    gate.wait()
    second = start(directory, "-P", "n=2")
    second.said("[prep] waiting for another run of it")
    gate.open()
    assert first.wait().out == "1\n"
    gate.wait()
    gate.open()
    assert second.wait().out == "2\n"
