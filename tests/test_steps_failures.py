"""Steps under hostile conditions: never a wrong result, never a lost output."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Project
from step_helpers import (  # noqa: F401
    LOCAL,
    PAUSE,
    TWO,
    Gate,
    Run,
    Start,
    a_gate,
    a_run,
    a_start,
)


def one(command: str, *, outputs: str = "[out]", more: str = "") -> str:
    """Return a project of one step, whose input is in.txt."""
    quoted = command.replace("'", "''")
    return (
        f"entry_points:\n  main: {{inputs: [in.txt], outputs: {outputs}, {more} "
        f"command: '{quoted}'}}\n"
    )


def assert_two(directory: Path, text: str) -> None:
    assert (directory / "first.txt").read_text() == text
    assert (directory / "tree/deep/a").read_text() == text
    assert (directory / "main.txt").read_text() == 2 * text
    assert sorted(os.listdir(directory)) == ["MLproject", "first.txt", "in.txt", "main.txt", "tree"]


# -- commands that fail ---------------------------------------------------------------------------


def test_old_output_is_put_back_where_a_failed_command_left_nothing(
    project: Project, run: Run
) -> None:
    directory = project(one("exit 9"), in__txt="", out="mine")
    outcome = run(directory)
    assert outcome.code == 9
    assert outcome.states == {"main": "failed"}
    assert (directory / "out").read_text() == "mine"
    assert sorted(os.listdir(directory)) == ["MLproject", "in.txt", "out"]


def test_input_that_is_not_there_is_told_before_anything_runs(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n  first: {inputs: [in.txt], outputs: [a], command: touch a ran}\n"
        "  main: {depends_on: [first], inputs: [a, gone.py], outputs: [b], command: touch b}\n",
        in__txt="", gone__py="",
    )  # fmt: skip
    assert run(directory).code == 0  # and leaves a plan to the next run
    for name in ("gone.py", "a", "b", "ran"):
        (directory / name).unlink()
    (directory / "in.txt").write_text("changed")
    outcome = run(directory)
    assert outcome.code == 1
    assert "MLproject:3:43: the input pattern `gone.py` of `main` matches nothing" in outcome.err
    assert not (directory / "ran").exists()


def test_only_outputs_that_were_edited_are_rescued(project: Project, run: Run, store: Path) -> None:
    text = one("echo a > out; echo b > other", outputs="[out, other]")
    directory = project(text, in__txt="")
    run(directory)
    (directory / "other").write_text("mine")
    outcome = run(directory)
    assert outcome.states == {"main": "cached"}
    previous = store / "runs" / outcome.report["run_id"] / "previous"
    assert [path.name for path in previous.iterdir()] == ["other"]
    assert (previous / "other").read_text() == "mine"
    assert outcome.err.count("was not made by buildrun") == 1


def test_old_output_that_is_made_again_as_it_was_is_no_loss(
    project: Project, run: Run, store: Path
) -> None:
    text = one("mkdir out; cat in.txt | tee out/a > other", outputs="[out/, other]")
    directory = project(text, in__txt="data", other="data")
    (directory / "out").mkdir()
    (directory / "out/a").write_text("mine")
    outcome = run(directory)
    assert outcome.states == {"main": "ok"}
    assert outcome.err.count("was not made by buildrun") == 1
    previous = store / "runs" / outcome.report["run_id"] / "previous"
    assert [path.name for path in previous.iterdir()] == ["out"]
    assert (previous / "out/a").read_text() == "mine"


def test_old_output_that_the_cache_does_not_know_is_kept_when_a_command_fails(
    project: Project, run: Run, store: Path
) -> None:
    text = one("mkdir out; echo half > out/a; exit 9", outputs="[out/, other]")
    directory = project(text, in__txt="", other="old")
    (directory / "out").mkdir()
    (directory / "out/a").write_text("days of work")
    outcome = run(directory)
    assert outcome.code == 9
    assert (directory / "out/a").read_text() == "half\n"
    assert (directory / "other").read_text() == "old"
    previous = store / "runs" / outcome.report["run_id"] / "previous"
    assert (previous / "out/a").read_text() == "days of work"
    assert f"what was there before is now `{previous}/out`" in outcome.err


def test_old_output_that_the_cache_knows_is_not_kept_twice(
    project: Project, run: Run, store: Path
) -> None:
    directory = project(one("cat in.txt > out; ! grep -q bad in.txt"), in__txt="good")
    assert run(directory).code == 0
    (directory / "in.txt").write_text("bad")
    assert run(directory).code == 1
    assert (directory / "out").read_text() == "bad"
    assert not list(store.rglob("previous"))
    (directory / "in.txt").write_text("good")
    assert run(directory).code == 0
    assert (directory / "out").read_text() == "good"


def test_old_output_of_a_killed_run_is_kept_too(
    project: Project, run: Run, gate: Gate, start: Start, store: Path
) -> None:
    directory = project(one(f"echo half > out; {PAUSE.format('x')}"), in__txt="", out="mine")
    live = start(directory)
    gate.wait()
    live.process.kill()
    gate.open()
    live.process.wait()
    gate.open()
    outcome = run(directory, environ=gate.environ)
    assert outcome.code == 0
    previous = store / "runs" / outcome.report["run_id"] / "previous"
    assert (previous / "out").read_text() == "mine"
    assert str(previous) in outcome.err


@pytest.mark.parametrize("code", [0, 9])
def test_old_outputs_stay_in_the_project_where_the_store_takes_nothing(
    project: Project, run: Run, store: Path, tmp_path: Path, code: int
) -> None:
    directory = project(one(f"echo new > out; exit {code}", outputs="[out, other]"), in__txt="")
    for name in ("out", "other"):
        (directory / name).write_text("mine")
    (tmp_path / "file").write_text("")
    outcome = run(directory, environ={"BUILDRUN_HOME": str(tmp_path / "file/store")})
    assert outcome.code == (1 if code == 0 else 9)  # `other` was not made
    assert (directory / "out").read_text() == "new\n"
    assert (directory / "other").read_text() == "mine"
    (left,) = directory.glob(".buildrun-*/old")
    assert f"they are in `{left}`" in outcome.err
    assert [file.read_text() for file in left.iterdir()] == ["mine"]
    outcome = run(directory)
    assert sorted(file.read_text() for file in store.glob("runs/*/previous*/out")) == [
        "mine",
        "new\n",
    ]
    assert not list(directory.glob(".buildrun-*"))


def test_old_outputs_of_a_restore_stay_where_the_store_takes_nothing(
    project: Project, run: Run, store: Path
) -> None:
    directory = project(one("echo made > out"), in__txt="")
    assert run(directory).code == 0
    (directory / "out").write_text("mine")
    shutil.rmtree(store / "runs")
    (store / "runs").write_text("")
    outcome = run(directory)
    assert outcome.code == 0
    assert (directory / "out").read_text() == "made\n"
    (left,) = directory.glob(".buildrun-*/old/*")
    assert left.read_text() == "mine"


def test_output_that_is_not_made_fails_the_step(project: Project, run: Run) -> None:
    directory = project(one("touch out", outputs="[out, more/]"), in__txt="")
    outcome = run(directory)
    outcome.refused("succeeded without making its output `more/`")
    assert outcome.states == {"main": "failed"}
    assert run(directory).code == 1


def test_timeout_ends_the_command_and_its_children(
    project: Project, run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "never")
    directory = project(one(f"cat {tmp_path}/never | cat", more="timeout: 0.5,"), in__txt="")
    outcome = run(directory)
    outcome.refused("ended after its timeout of 0.5 s", code=124)
    assert outcome.states == {"main": "failed"}


def test_command_is_tried_again_without_what_the_last_try_left(
    project: Project, run: Run, tmp_path: Path
) -> None:
    tries = tmp_path / "tries"
    command = f"echo x >> {tries}; echo x >> out; test $(wc -l < {tries}) = 3"
    directory = project(one(command, more="retries: 2,"), in__txt="")
    outcome = run(directory)
    assert (outcome.code, (directory / "out").read_text()) == (0, "x\n")
    assert "exit code 1; try 2 of 3" in outcome.err
    assert "exit code 1; try 3 of 3" in outcome.err
    (directory / "in.txt").write_text("new")
    tries.unlink()
    assert run(project(one("exit 3", more="retries: 1,"))).code == 3


# -- projects that cannot run ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depends_on", "fact"),
    [
        ("b: {depends_on: [main]", "wait for each other: main -> b -> main"),
        ("c: {depends_on: []", "`b`"),
    ],
)
def test_impossible_graph_is_refused_before_anything_runs(
    depends_on: str, fact: str, project: Project, run: Run
) -> None:
    directory = project(
        "entry_points:\n"
        "  main: {depends_on: [b], command: touch ran}\n"
        f"  {depends_on}, command: touch ran}}\n"
    )
    run(directory).refused(fact)
    assert not (directory / "ran").exists()


def test_missing_input_fails_its_step_alone(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n"
        "  bad: {inputs: [gone.txt], outputs: [bad], command: touch bad}\n"
        "  good: {inputs: [in.txt], outputs: [good], command: touch good}\n"
        "  main: {depends_on: [bad, good], command: 'true'}\n",
        in__txt="",
    )
    outcome = run(directory, "-k")
    outcome.refused("MLproject:2:18: the input pattern `gone.txt` of `bad` matches nothing")
    assert outcome.states == {"bad": "failed", "good": "ok", "main": "skipped"}


# -- inputs that change ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "inputs", ["inputs: [in.txt],", "", "inputs: ['*.txt'],", "inputs: [link.txt],"]
)
def test_edit_during_the_run_keeps_the_result_out_of_the_cache(
    inputs: str, project: Project, run: Run, gate: Gate, start: Start
) -> None:
    command = f"cat in.txt > out; {PAUSE.format('x')}"
    directory = project(
        f"entry_points: {{main: {{{inputs} outputs: [out], command: '{command}'}}}}\n",
        in__txt="1\n",
    )
    (directory / "link.txt").symlink_to("in.txt")
    live = start(directory)
    gate.wait()
    (directory / "in.txt").write_text("2\n")
    (directory / "in.txt").write_text("1\n")
    gate.open()
    outcome = live.wait()
    assert outcome.code == 0
    assert "the result is not cached" in outcome.err
    assert "`in.txt`" in outcome.err or "`link.txt`" in outcome.err
    assert "changed while the command ran" in outcome.err
    gate.open()
    assert run(directory, environ=gate.environ).states == {"main": "ok"}


def test_edit_of_a_path_parameter_during_the_run_is_seen(
    project: Project, run: Run, gate: Gate, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("1\n")
    directory = project(
        "entry_points:\n  main:\n    inputs: [in.txt]\n    outputs: [out]\n"
        f"    parameters: {{f: {{type: path, default: {tmp_path}/data}}}}\n"
        f"    command: '{PAUSE.format('x')}; cat {{f}} > out'\n",
        in__txt="",
    )
    live = start(directory)
    gate.wait()
    (tmp_path / "data").write_text("2\n")
    gate.open()
    assert f"`{tmp_path}/data` changed while the command ran" in live.wait().err
    gate.open()
    (tmp_path / "data").write_text("1\n")
    assert run(directory, environ=gate.environ).states == {"main": "ok"}
    assert (directory / "out").read_text() == "1\n"


def test_input_that_vanishes_or_comes_during_the_run_is_named(
    project: Project, gate: Gate, start: Start
) -> None:
    directory = project(
        f"entry_points: {{main: {{outputs: [out], command: 'touch out; {PAUSE.format('x')}'}}}}\n",
        in__txt="",
    )
    for change in ((directory / "in.txt").unlink, (directory / "more.txt").touch):
        live = start(directory)
        gate.wait()
        change()
        gate.open()
        outcome = live.wait()
        assert outcome.code == 0
        assert ".txt` changed while the command ran" in outcome.err


EDIT = """
def at(event, args):
    if event == "open" and str(args[0]).rstrip("'").endswith("/in.txt"):
        {}
"""


@pytest.mark.parametrize(
    "change", ["open(args[0], 'a').write('x')", "os.unlink(args[0])"], ids=["edited", "unlinked"]
)
def test_input_that_changes_while_it_is_hashed_is_not_relied_on(
    change: str, project: Project, start: Start, run: Run
) -> None:
    command = "cat *.txt > out"
    directory = project(
        f"entry_points: {{main: {{inputs: ['*.txt'], outputs: [out], command: '{command}'}}}}\n",
        in__txt="0",
        other__txt="1\n",
    )
    outcome = start(directory, code=EDIT.format(change)).wait()
    assert outcome.code == 0
    (directory / "in.txt").write_text("5")
    assert run(directory).states == {"main": "ok"}
    assert (directory / "out").read_text() == "51\n"


# -- hostile names and shapes ---------------------------------------------------------------------

NAMES = [b"new\nline", b"quo'te\"s", b"invalid\xff\xfe", b"-rf", b"x" * 255, b" ", "ü€😀".encode()]


def test_hostile_names_survive_store_and_restore(project: Project, run: Run) -> None:
    directory = project(
        "entry_points: {main: {inputs: ['src/*'], outputs: [out/], command: cp -a src out}}\n"
    )
    (directory / "src").mkdir()
    for name in NAMES:
        with open(os.fsencode(directory / "src") + b"/" + name, "wb") as file:
            file.write(name)
    assert run(directory).code == 0
    shutil.rmtree(directory / "out")
    assert run(directory).states == {"main": "cached"}
    found = os.listdir(os.fsencode(directory / "out"))
    assert sorted(found) == sorted(NAMES)
    for name in NAMES:
        with open(os.fsencode(directory / "out") + b"/" + name, "rb") as file:
            assert file.read() == name
    with open(os.fsencode(directory / "src") + b"/" + NAMES[2], "wb") as file:
        file.write(b"new")
    outcome = run(directory)
    assert outcome.states == {"main": "ok"}
    reason = outcome.report["steps"][0]["reasons"][0]
    assert r"`src/invalid\xff\xfe` changed" in reason["detail"]


def test_project_in_a_directory_with_a_hostile_name(tmp_path: Path, run: Run) -> None:
    directory = Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\n'b\"\xffc"))
    directory.mkdir()
    (directory / "in.txt").write_text("1\n")
    (directory / "MLproject").write_text(TWO)
    assert run(directory).code == 0
    assert_two(directory, "1\n")
    (directory / "main.txt").unlink()
    assert run(directory).states == {"first": "up-to-date", "main": "cached"}


def test_entry_points_with_hostile_names_run(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n"
        '  "../a\\nb /\\e[1m": {outputs: [a], command: echo hi > a; echo out}\n'
        '  main: {depends_on: ["../a\\nb /\\e[1m"], command: "true"}\n'
    )
    outcome = run(directory, "--output", "prefixed")
    assert (outcome.code, outcome.out) == (0, "[../a\\nb /\\x1b[1m] out\n")
    assert list(outcome.states.values()) == ["ok", "ok"]
    log = Path(outcome.report["steps"][0]["log"])
    assert log.read_text() == "out\n"


@pytest.mark.parametrize(
    ("command", "look"),
    [
        (": > out", lambda out: out.is_file() and out.stat().st_size == 0),
        ("mkdir out; touch out/a", lambda out: os.listdir(out) == ["a"]),
        ("mkdir out", lambda out: os.listdir(out) == []),
        ("ln -s in.txt out", lambda out: os.readlink(out) == "in.txt"),
        ("echo x > out; chmod 555 out", lambda out: os.access(out, os.X_OK)),
        (
            "mkdir -p out/d; echo x > out/d/f; chmod 400 out/d/f; chmod 500 out out/d",
            lambda out: (out / "d/f").read_text() == "x\n",
        ),
    ],
    ids=["empty", "directory", "empty directory", "link", "executable", "read-only"],
)
def test_outputs_of_any_shape_replace_each_other(
    command: str, look: Callable[[Path], bool], project: Project, run: Run
) -> None:
    plain = one("echo plain > out")
    directory = project(plain, in__txt="")
    out = directory / "out"
    assert run(directory).code == 0
    (directory / "MLproject").write_text(one(command))
    assert run(directory).code == 0
    assert look(out)
    (directory / "MLproject").write_text(plain)
    outcome = run(directory)
    assert (outcome.states, out.read_text()) == ({"main": "cached"}, "plain\n")
    (directory / "MLproject").write_text(one(command))
    assert run(directory).states == {"main": "cached"}
    assert look(out)
    assert run(directory).states == {"main": "up-to-date"}
    assert sorted(os.listdir(directory)) == ["MLproject", "in.txt", "out"]


def test_output_that_leads_to_what_is_no_output_is_not_kept_and_its_target_counts(
    project: Project, run: Run
) -> None:
    directory = project(
        "entry_points:\n"
        "  first: {inputs: [in.txt], outputs: [link/], command: 'mkdir -p cache link;"
        " cat in.txt > cache/f; ln -s ../cache/f link/f'}\n"
        "  main: {depends_on: [first], inputs: [MLproject], outputs: [out],"
        " command: cat link/f > out}\n",
        in__txt="1\n",
    )
    for text in ("1\n", "2\n", "1\n"):
        (directory / "in.txt").write_text(text)
        outcome = run(directory)
        assert outcome.code == 0
        assert (directory / "link/f").read_text() == (directory / "out").read_text() == text
        assert outcome.states["first"] == "ok"
        assert "`link/f` is a link to what is no output of the step" in outcome.err
        assert "was replaced" not in outcome.err
    assert outcome.states["main"] == "cached"


@pytest.mark.parametrize("inputs", ["[in.txt]", "[d/link]"])
def test_input_that_was_edited_and_put_back_with_its_time_is_noticed(
    inputs: str, project: Project, run: Run
) -> None:
    directory = project(
        f"entry_points:\n  main: {{inputs: {inputs}, outputs: [out], command: 'cp -p in.txt saved;"
        " if [ -e edit ]; then echo b > in.txt; fi; cat in.txt > out; cp -p saved in.txt'}\n",
        in__txt="a\n",
        edit="",
    )
    (directory / "d").mkdir()
    (directory / "d/link").symlink_to("../in.txt")
    outcome = run(directory)
    assert (outcome.code, (directory / "out").read_text()) == (0, "b\n")
    assert "the result is not cached: `" in outcome.err
    assert "changed while the command ran" in outcome.err
    (directory / "edit").unlink()
    outcome = run(directory)
    assert (outcome.states, (directory / "out").read_text()) == ({"main": "ok"}, "a\n")


def test_path_that_was_edited_and_put_back_with_its_time_is_noticed(
    project: Project, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "value").mkdir()
    (tmp_path / "value/f").write_text("a\n")
    directory = project(
        "entry_points:\n  main: {parameters: {p: path}, inputs: [MLproject], outputs: [out],"
        " command: 'cp -p {p}/f saved; echo b > {p}/f; cat {p}/f > out; cp -p saved {p}/f'}\n"
    )
    outcome = run(directory, "-P", f"p={tmp_path}/value")
    assert outcome.code == 0
    assert f"`{tmp_path}/value/f` changed while the command ran" in outcome.err


def test_output_that_is_another_name_of_an_input_is_kept(project: Project, run: Run) -> None:
    directory = project(one("ln in.txt out", outputs="[out]"), in__txt="a\n")
    assert run(directory).code == 0
    (directory / "out").unlink()
    outcome = run(directory)
    assert (outcome.states, (directory / "out").read_text()) == ({"main": "cached"}, "a\n")


@pytest.mark.parametrize("path", ["mlruns/f", "d/__pycache__/f", "ignored", "d/empty/"])
@pytest.mark.parametrize("place", ["inside", "outside", "link"])
def test_all_that_a_path_holds_counts(
    path: str, place: str, project: Project, run: Run, tmp_path: Path
) -> None:
    directory = project(
        "entry_points:\n  main: {parameters: {p: path}, inputs: [MLproject], outputs: [out],"
        " command: 'find {p}/ > out'}\n"
    )
    (directory / ".gitignore").write_text("ignored\nmlruns\n")
    value = (directory if place == "inside" else tmp_path) / "value"
    value.mkdir()
    (value / "a").touch()
    if place == "link":
        (directory / "link").symlink_to(value)
        value = directory / "link"
    given = ("-P", f"p={value}")
    assert run(directory, *given).code == 0
    new = value / path
    new.parent.mkdir(parents=True, exist_ok=True)
    new.mkdir() if path.endswith("/") else new.touch()
    assert run(directory, *given).states == {"main": "ok"}
    assert run(directory, *given).states == {"main": "up-to-date"}


def test_output_that_leads_out_of_the_project_is_not_kept(
    project: Project, run: Run, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("s")
    directory = project(one(f"mkdir -p out; ln -sf {tmp_path}/secret out/s", outputs="[out/]"),
                        in__txt="")  # fmt: skip
    for _ in range(2):
        outcome = run(directory)
        assert outcome.code == 0
        assert outcome.states == {"main": "ok"}
        assert "the result is not cached: `out/s`" in outcome.err
    assert (tmp_path / "secret").read_text() == "s"
