"""Steps that depend on each other: what runs, what is taken from the cache, and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Outcome, Project
from step_helpers import LOCAL, Run, a_run  # noqa: F401

CHAIN = """\
name: chain
entry_points:
  prepare:
    parameters: {rows: {type: float, default: 3}}
    inputs: [raw.txt]
    outputs: [data.txt]
    command: "head -n {rows} raw.txt > data.txt; echo prepared"
  train:
    parameters: {rows: {type: float, default: 3}}
    depends_on: [{entry_point: prepare, parameters: {rows: "{rows}"}}]
    inputs: [train.sh]
    outputs: [model/]
    command: "mkdir model; bash train.sh > model/m.txt; echo trained; echo done >&2"
"""


@pytest.fixture
def chain(project: Project) -> Path:
    """Return a project of two steps."""
    directory = project(CHAIN, train__sh="wc -l < data.txt\n")
    (directory / "raw.txt").write_text("".join(f"line {number}\n" for number in range(9)))
    return directory


@pytest.fixture
def plan(buildrun: Buildrun) -> Callable[..., Any]:
    """Return a function that gives back each step's state and the codes of its reasons."""

    def call(directory: Path, *arguments: str, **more: Any) -> Any:
        outcome = buildrun("plan", directory, LOCAL, "--format=json", *arguments, **more)
        assert outcome.code == 0, outcome.err
        return {
            step["id"]: (
                step["cache"]["state"],
                [reason["code"] for reason in step["cache"]["reasons"]],
            )
            for step in outcome.data["steps"]
        }

    return call


Plan = Callable[..., Any]


def test_steps_run_in_order_and_then_are_up_to_date(chain: Path, run: Run) -> None:
    assert run(chain, "-e", "train").states == {"prepare": "ok", "train": "ok"}
    assert (chain / "model/m.txt").read_text() == "3\n"
    assert run(chain, "-e", "train").states == {"prepare": "up-to-date", "train": "up-to-date"}


def test_only_what_changed_runs_again(chain: Path, run: Run) -> None:
    run(chain, "-e", "train")
    (chain / "train.sh").write_text("cat data.txt\n")
    assert run(chain, "-e", "train").states == {"prepare": "up-to-date", "train": "ok"}
    assert (chain / "model/m.txt").read_text() == "line 0\nline 1\nline 2\n"


def test_handed_down_parameter_reaches_the_step_before(chain: Path, run: Run) -> None:
    run(chain, "-e", "train", "-P", "rows=5")
    assert (chain / "model/m.txt").read_text() == "5\n"


def test_earlier_result_is_restored_with_its_output(
    chain: Path, run: Run, buildrun: Buildrun
) -> None:
    run(chain, "-e", "train")
    run(chain, "-e", "train", "-P", "rows=5")
    outcome = buildrun("run", chain, LOCAL, "-e", "train")
    assert (outcome.code, outcome.out) == (0, "prepared\ntrained\n")
    assert "done\n" in outcome.err
    assert (chain / "model/m.txt").read_text() == "3\n"


def test_same_output_of_a_changed_step_stops_the_change(chain: Path, run: Run) -> None:
    run(chain, "-e", "train")
    text = (chain / "MLproject").read_text()
    (chain / "MLproject").write_text(text.replace("echo prepared", "echo prepared anew"))
    assert run(chain, "-e", "train").states == {"prepare": "ok", "train": "up-to-date"}


def test_outputs_are_restored_when_they_are_gone(chain: Path, run: Run, plan: Plan) -> None:
    run(chain, "-e", "train")
    (chain / "model/m.txt").unlink()
    (chain / "model").rmdir()
    assert plan(chain, "-e", "train")["train"] == ("hit", ["output-missing"])
    assert run(chain, "-e", "train").states == {"prepare": "up-to-date", "train": "cached"}
    assert (chain / "model/m.txt").read_text() == "3\n"


def test_output_changed_by_hand_is_made_right(chain: Path, run: Run, plan: Plan) -> None:
    run(chain, "-e", "train")
    (chain / "model/m.txt").write_text("4\n")
    (chain / "model/stale").write_text("")
    assert plan(chain, "-e", "train")["train"] == ("hit", ["output-modified"])
    run(chain, "-e", "train")
    assert (chain / "model/m.txt").read_text() == "3\n"
    assert os.listdir(chain / "model") == ["m.txt"]


def test_leftovers_of_a_killed_run_go_where_all_is_up_to_date(
    chain: Path, buildrun: Buildrun
) -> None:
    for _ in range(3):  # the last of them has nothing to look at but a record
        assert buildrun("run", chain, LOCAL, "-e", "train").code == 0
    (chain / ".buildrun-0123456789ab/new/0").mkdir(parents=True)
    (chain / ".buildrun-0123456789ab/old").mkdir()
    (chain / ".buildrun-0123456789ab/lock").touch()
    outcome = buildrun("run", chain, LOCAL, "-e", "train")
    assert outcome.code == 0
    assert "2 up to date" in outcome.err
    assert not list(chain.glob(".buildrun-*"))


# For the program that loads it, all happens within one second of a file system that knows whole
# seconds only.
COARSE = """
import os, time
from functools import partial

NOW = 1_700_000_000 * 10**9

def coarse(call, *arguments, **options):
    status = call(*arguments, **options)
    names = ("atime", "mtime", "ctime", "atime_ns", "blocks", "blksize", "rdev")
    rest = {f"st_{name}": getattr(status, f"st_{name}") for name in names}
    return os.stat_result(tuple(status), {**rest, "st_mtime_ns": NOW, "st_ctime_ns": NOW})

# A function of Python would become a method where pathlib keeps it in a class.
os.stat, os.lstat, os.fstat = (partial(coarse, each) for each in (os.stat, os.lstat, os.fstat))
time.time_ns = lambda: NOW + 10**9 // 2
"""


@pytest.mark.parametrize("name", ["MLproject", "in.txt"])
def test_edit_within_one_step_of_a_clock_of_whole_seconds_is_seen(
    name: str, project: Project, run: Run, tmp_path: Path
) -> None:
    command = "cat in.txt > out; echo one >> out"
    directory = project(
        f"entry_points: {{main: {{inputs: [in.txt], outputs: [out], command: '{command}'}}}}\n",
        in__txt="one\n",
    )
    (tmp_path / "coarse").mkdir()
    (tmp_path / "coarse/sitecustomize.py").write_text(COARSE)
    environ = {"PYTHONPATH": str(tmp_path / "coarse")}
    before = "one"
    for text, state in (("one", "ok"), ("one", "up-to-date"), ("two", "ok"), ("six", "ok")):
        file = directory / name
        file.write_text(file.read_text().replace(before, text))
        assert run(directory, environ=environ).states == {"main": state}
        assert text in (directory / "out").read_text()
        before = text


def test_new_checkout_takes_results_of_another(chain: Path, run: Run, project: Project) -> None:
    run(chain, "-e", "train")
    other = project(CHAIN, name="elsewhere", train__sh="wc -l < data.txt\n")
    (other / "raw.txt").write_bytes((chain / "raw.txt").read_bytes())
    assert run(other, "-e", "train").states == {"prepare": "cached", "train": "cached"}
    assert (other / "model/m.txt").read_text() == "3\n"


def test_plan_writes_nothing(chain: Path, plan: Plan, store: Path) -> None:
    before = sorted(store.rglob("*"))
    assert plan(chain, "-e", "train") == {
        "prepare": ("miss", ["never-run"]),
        "train": ("miss", ["never-run", "upstream-changed"]),
    }
    assert sorted(store.rglob("*")) == before
    assert not (chain / "data.txt").exists()


def test_steps_without_outputs_always_run(project: Project, run: Run) -> None:
    directory = project(
        "entry_points:\n"
        "  first: {command: echo x >> count}\n"
        "  main: {depends_on: [first], command: 'true'}\n"
    )
    for _ in range(2):
        assert run(directory).states == {"first": "ok", "main": "ok"}
    assert (directory / "count").read_text() == "x\nx\n"


# Each part of a key: what changes it alone, and the reason that is told.
ONE_STEP = """\
name: parts
python_env: python_env.yaml
entry_points:
  main:
    parameters: {{p: {{type: string, default: a}}, f: {{type: path, default: {file}}}}}
    inputs: ["*.txt"]
    outputs: [out]
    env: {{MODE: fast}}
    key_env: [API_URL]
    command: "cat {{f}} *.txt > out; echo {{p}} $MODE >> out"
"""


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        text = (directory / name).read_text()
        assert old in text
        (directory / name).write_text(text.replace(old, new))

    return change


def write(name: str, text: str) -> Callable[[Path], None]:
    def change(directory: Path) -> None:
        (directory / name).write_text(text)

    return change


CHANGES: dict[str, tuple[Callable[[Path], object], list[str], dict[str, str], str]] = {
    "command": (edit("MLproject", "cat ", "cat  "), [], {}, "command-changed"),
    "parameter": (lambda _: None, ["-P", "p=b"], {}, "command-changed"),
    "undeclared parameter": (lambda _: None, ["-P", "q=b"], {}, "command-changed"),
    "content of a path": (write("data/f", "other\n"), [], {}, "command-changed"),
    "content of an input": (write("a.txt", "other\n"), [], {}, "input-changed"),
    "executable bit": (lambda d: (d / "a.txt").chmod(0o755), [], {}, "input-changed"),
    "new input": (write("b.txt", "new\n"), [], {}, "input-added"),
    "renamed input": (lambda d: (d / "a.txt").rename(d / "c.txt"), [], {}, "input-added"),
    "removed input": (lambda d: (d / "z.txt").unlink(), [], {}, "input-removed"),
    "link's target": (
        lambda d: os.replace(d / "k.link", d / "l.txt"),
        [],
        {},
        "input-changed",
    ),
    "variable": (edit("MLproject", "MODE: fast", "MODE: slow"), [], {}, "variable-changed"),
    "new variable": (edit("MLproject", "MODE: fast", "MODE: fast, X: y"), [], {},
                     "variable-changed"),
    "variable of the caller": (lambda _: None, [], {"API_URL": "x"}, "variable-changed"),
    "empty variable of the caller": (lambda _: None, [], {"API_URL": ""}, "variable-changed"),
    "new name under key_env": (edit("MLproject", "[API_URL]", "[API_URL, X]"), [], {},
                               "variable-changed"),
    "environment": (write("python_env.yaml", "python: '3'\ndependencies: []\n"), [], {},
                    "environment-changed"),
    "outputs": (edit("MLproject", "[out]", "[out, more]"), [], {}, "outputs-changed"),
    "salt": (lambda _: None, [], {"BUILDRUN_SALT": "2"}, "salt-changed"),
}  # fmt: skip

NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "description": edit("MLproject", "    inputs", "    description: new\n    inputs"),
    "comment": edit("MLproject", "name: parts\n", "name: parts # a comment\n"),
    "another entry point": edit("MLproject", "entry_points:\n",
                                "entry_points:\n  other: {command: 'true'}\n"),
    "times": lambda d: os.utime(d / "a.txt", (1, 1)),
    "rewritten input": lambda d: (d / "a.txt").write_text((d / "a.txt").read_text()),
    "file that is no input": write("README", "x"),
    "timeout and retries": edit("MLproject", "    outputs",
                                "    timeout: 5m\n    retries: 2\n    outputs"),
    "pass_env": edit("MLproject", "    outputs", "    pass_env: [FLAVOUR]\n    outputs"),
    "check_inputs and sandbox": edit("MLproject", "    outputs",
                                     "    check_inputs: true\n    sandbox: auto\n    outputs"),
    "group's rights": lambda d: (d / "a.txt").chmod(0o640),
}  # fmt: skip


@pytest.fixture
def parts(project: Project) -> Path:
    """Return a project whose step has something of every part of a key."""
    directory = project(python_env__yaml="dependencies: []\n", a__txt="a\n", z__txt="z\n")
    (directory / "data").mkdir()
    (directory / "data/f").write_text("f\n")
    (directory / "l.txt").symlink_to("a.txt")
    (directory / "k.link").symlink_to("z.txt")
    (directory / "MLproject").write_text(ONE_STEP.format(file=directory / "data/f"))
    return directory


def planned(buildrun: Buildrun, directory: Path, *arguments: str, **more: Any) -> Any:
    outcome: Outcome = buildrun("plan", directory, "--format=json", *arguments, **more)
    assert outcome.code == 0, outcome.err
    return outcome.data["steps"][-1]["cache"]


@pytest.mark.parametrize("part", CHANGES)
def test_each_part_of_the_key_alone_causes_a_run(
    part: str, parts: Path, buildrun: Buildrun
) -> None:
    change, arguments, environ, code = CHANGES[part]
    assert buildrun("run", "-q", parts).code == 0
    before = planned(buildrun, parts)
    change(parts)
    after = planned(buildrun, parts, *arguments, environ=environ)
    assert (before["state"], after["state"]) == ("up-to-date", "miss")
    assert before["key"] != after["key"]
    assert code in [reason["code"] for reason in after["reasons"]]
    others = {"input-removed"} if part == "renamed input" else set()
    others |= {"output-missing"} if part == "outputs" else set()
    assert {reason["code"] for reason in after["reasons"]} <= {code, *others}


@pytest.mark.parametrize("name", NO_CHANGES)
def test_nothing_else_causes_a_run(name: str, parts: Path, buildrun: Buildrun) -> None:
    assert buildrun("run", "-q", parts).code == 0
    before = planned(buildrun, parts)
    NO_CHANGES[name](parts)
    after = planned(buildrun, parts, environ={"FLAVOUR": "mint", "USER": "else"})
    assert (after["state"], after["key"]) == ("up-to-date", before["key"])


def test_result_is_that_of_the_callers_variable(project: Project, run: Run) -> None:
    directory = project(
        "entry_points: {main: {inputs: [in], outputs: [out], key_env: [URL], "
        "command: 'echo ${{URL-none}} > out'}}\n",
        **{"in": ""},
    )
    invalid = os.fsdecode(b"\xff"), os.fsdecode(b"\xfe")
    for value, state in (
        ("a", "ok"), ("b", "ok"), ("b", "up-to-date"), ("a", "cached"), ("", "ok"), (None, "ok"),
        (None, "up-to-date"), ("", "cached"), *((text, "ok") for text in invalid),
    ):  # fmt: skip
        environ = {} if value is None else {"URL": value}
        assert run(directory, environ=environ).states == {"main": state}, value
        shown = "none" if value is None else value
        assert (directory / "out").read_bytes() == os.fsencode(shown) + b"\n"


def test_parameters_that_are_no_text_have_keys_of_their_own(project: Project, run: Run) -> None:
    directory = project(
        "entry_points: {main: {parameters: {p: string}, outputs: [out], command: 'echo {p} >out'}}"
    )
    for value in (b"\xff", b"\xfe"):
        assert run(directory, "-P", "p=" + os.fsdecode(value)).states == {"main": "ok"}
        assert (directory / "out").read_bytes() == value + b"\n"


def test_key_is_the_same_in_another_place(parts: Path, buildrun: Buildrun) -> None:
    one = planned(buildrun, parts)["key"]
    other = parts.rename(parts.parent / "moved")
    file = other / "MLproject"
    file.write_text(file.read_text().replace("/project/", "/moved/"))
    assert planned(buildrun, other)["key"] == one


def test_env_is_set_for_a_lone_command_too(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {env: {MODE: fast}, command: 'echo $MODE'}}\n")
    for _ in range(2):
        assert buildrun("-q", directory, LOCAL, environ={"MODE": "caller"}).out == "fast\n"


OWN_FILES = "entry_points: {main: {inputs: [in], outputs: [out/], command: 'mkdir out; cp in out'}}"


def test_files_of_the_users_in_an_output_are_moved_away(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(OWN_FILES, **{"in": "1"})
    (directory / "out").mkdir()
    (directory / "out/mine").write_text("work")
    outcome = buildrun("run", directory, LOCAL)
    assert outcome.code == 0
    assert os.listdir(directory / "out") == ["in"]
    (kept,) = store.glob("runs/*/previous/out/mine")
    assert kept.read_text() == "work"
    assert str(kept.parent) in outcome.err


def test_edit_of_an_output_is_moved_away_by_a_restore(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(OWN_FILES, **{"in": "1"})
    assert buildrun("run", directory, LOCAL).code == 0
    (directory / "out/in").write_text("edited by hand")
    outcome = buildrun("run", directory, LOCAL)
    assert (directory / "out/in").read_text() == "1"
    (kept,) = store.glob("runs/*/previous/out/in")
    assert kept.read_text() == "edited by hand"
    assert str(kept.parent) in outcome.err


def test_outputs_of_earlier_commands_are_replaced_without_a_word(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(OWN_FILES, **{"in": "1"})
    for number in range(3):
        (directory / "in").write_text(str(number))
        arguments = ("--no-cache",) if number == 1 else ()
        assert buildrun("-q", directory, LOCAL, *arguments).err == ""
    text = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(text.replace("cp in out", "cp in out; exit 3"))
    assert buildrun("-q", directory, LOCAL).code == 3
    (directory / "MLproject").write_text(text)
    (directory / "in").write_text("4")
    assert buildrun("-q", directory, LOCAL).err == ""
    assert list(store.glob("runs/*/previous")) == []


def test_input_beneath_an_own_output_is_an_error(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points: {main: {inputs: ['data/raw/*.csv'], outputs: [data/], command: 'true'}}\n"
    )
    (directory / "data/raw").mkdir(parents=True)
    (directory / "data/raw/a.csv").write_text("1")
    buildrun("run", directory, LOCAL).refused("own-output")
    assert (directory / "data/raw/a.csv").exists()


def test_output_that_is_a_link_out_of_the_project_is_not_replaced(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        "entry_points: {main: {inputs: [in], outputs: [out], "
        "command: 'cp in out/in || cp in out'}}",
        **{"in": "1"},
    )
    assert buildrun("run", directory, LOCAL).code == 0
    (directory / "out").unlink()
    (tmp_path / "disk").mkdir()
    (directory / "out").symlink_to(tmp_path / "disk")
    outcome = buildrun("run", directory, LOCAL)
    assert outcome.code == 0
    assert (directory / "out").is_symlink()
    assert "link out of the project" in outcome.err
    assert (tmp_path / "disk/in").read_text() == "1"


def test_results_that_are_there_are_shared_when_that_is_asked_for(
    chain: Path, run: Run, project: Project, tmp_path: Path, store: Path
) -> None:
    remote = str(tmp_path / "remote")
    assert run(chain, "-e", "train", "--remote-cache", remote).states["train"] == "ok"
    assert not list(tmp_path.glob("remote/**/results/**/*"))
    states = run(chain, "-e", "train", "--remote-cache", remote, "--remote-cache-write").states
    assert set(states.values()) == {"up-to-date"}
    other = project(CHAIN, name="elsewhere", train__sh="wc -l < data.txt\n")
    (other / "raw.txt").write_bytes((chain / "raw.txt").read_bytes())
    environ = {"BUILDRUN_HOME": str(store / "other")}
    states = run(other, "-e", "train", "--remote-cache", remote, environ=environ).states
    assert set(states.values()) == {"cached"}


def test_writing_to_a_remote_without_one_is_refused(chain: Path, buildrun: Buildrun) -> None:
    buildrun("run", chain, LOCAL, "--remote-cache-write").refused("--remote-cache-write", code=2)
