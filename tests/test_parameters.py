"""From templates and parameters to command text, through `plan`."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from conftest import Buildrun, Outcome, Project

MLPROJECT = """\
name: commands
entry_points:
  main:
    parameters:
      name: string
      alpha: {type: float, default: 0.5}
    command: "python greet.py {name} {alpha}"
  zero:
    parameters:
      number: {default: 0}
      empty: {default: ""}
      off_: {default: False}
      list: {default: [1, 2]}
    command: "run {number} {empty} {off_} {list}"
  nothing:
    parameters:
      needed: {type: string, default: null}
    command: "run {needed}"
  data:
    parameters:
      file: path
      place: {type: uri, default: out}
    command: "run {file} {place}"
  none:
    parameters: {file: {type: path, default: ""}}
    command: "run {file}"
  format:
    parameters:
      my-param: {default: ab}
      b: {default: "x y"}
    command: "run {my-param} {b!r:>10} {{literal}} {my-param:>6}"
"""


def command(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.data["steps"][-1]["command"])


@pytest.mark.parametrize(
    ("entry_point", "given", "text"),
    [
        # declared values are quoted once
        ("main", ["name=friend; 'hi' $(x)"], "python greet.py 'friend; '\"'\"'hi'\"'\"' $(x)' 0.5"),
        # others follow in the user's order, and names keep their case
        ("main", ["z=v w", "name=a", "a=1"], "python greet.py a 0.5 --z 'v w' --a 1"),
        ("main", ["name=a", "ALPHA=1"], "python greet.py a 0.5 --ALPHA 1"),
        *(
            ("main", ["name=a", f"alpha={number}"], f"python greet.py a {number}")
            for number in ("1", "-2.5", "1e-3", "nan", "inf")
        ),
        # zero, empty and false are defaults
        ("zero", [], "run 0 '' False '[1, 2]'"),
        # all of Python's format syntax
        ("format", [], "run ab    \"'x y'\" {literal}     ab"),
        # paths are relative to the caller
        ("data", ["file=a b"], "run '{here}/a b' {here}/out"),
        ("data", ["file=file://{here}/a%20b"], "run '{here}/a b' {here}/out"),
        ("data", ["file=a b", "place=s3://b/k"], "run '{here}/a b' s3://b/k"),
        ("none", [], "run ''"),
    ],
)
def test_parameters_fill_a_command(
    entry_point: str, given: list[str], text: str, project: Project, buildrun: Buildrun,
    tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "a b").write_text("1")
    here = str(tmp_path)
    words = [word for pair in given for word in ("-P", pair.replace("{here}", here))]
    arguments = ("--env-manager=local", "--format=json", "-e", entry_point, *words)
    outcome = buildrun("plan", project(MLPROJECT), *arguments)
    assert command(outcome) == text.replace("{here}", here)


def test_null_default_means_required(project: Project, buildrun: Buildrun) -> None:
    buildrun("plan", project(MLPROJECT), "-e", "nothing").refused(
        "no value given for missing parameters: 'needed'", "-P needed=VALUE"
    )


def test_values_with_newlines_and_emoji_arrive_whole(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points:\n  main:\n    parameters: {x: string}\n    command: printf %s {x}\n"
    )
    value = "a\nb 'c' \"d\" ;`e` $(f) 🚀"
    outcome = buildrun(directory, "--env-manager=local", "-P", f"x={value}")
    assert (outcome.code, outcome.out) == (0, value)


def test_float_is_checked_as_documented(project: Project, buildrun: Buildrun) -> None:
    buildrun("plan", project(MLPROJECT), "-P", "name=a", "-P", "alpha=abc").refused(
        "`alpha` is a float, and `abc` is not a number"
    )


def test_missing_path_stops_the_run_before_anything(
    project: Project, buildrun: Buildrun, store: Path
) -> None:
    directory = project(MLPROJECT)
    buildrun(directory, "-e", "data", "-P", "file=nowhere.csv").refused(
        "got value `nowhere.csv` for parameter `file`, but there is no such file"
    )
    assert not (store / "envs").exists()


def test_plan_warns_of_a_missing_path_and_shows_the_rest(
    project: Project, buildrun: Buildrun
) -> None:
    outcome = buildrun(
        "plan", project(MLPROJECT), "-e", "data", "-P", "file=nowhere.csv", "--format=json"
    )
    assert command(outcome).startswith("run nowhere.csv ")
    assert "a run would stop" in outcome.err


CAT = "entry_points: {main: {parameters: {f: path}, command: 'cat {f}; echo {f} >&2'}}\n"


@pytest.mark.parametrize("kept", [False, True])
def test_remote_path_is_downloaded_and_kept_on_request_alone(
    kept: bool, project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        archive.writestr("data.txt", "hello")
    more = ("--storage-dir", "kept") if kept else ()
    given = ("-P", f"f=zip://data.txt::{tmp_path}/in.zip")
    outcome = buildrun("-q", project(CAT), "--env-manager=local", *given, *more)
    assert (outcome.code, outcome.out) == (0, "hello")
    copy = Path(outcome.err.strip().splitlines()[-1])
    assert (copy.exists(), copy.name) == (kept, "data.txt")
    assert not kept or copy.is_relative_to(tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*partial*"))


def test_failed_download_leaves_nothing(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(CAT)
    arguments = (directory, "--env-manager=local", "--storage-dir", "kept")
    outcome = buildrun(*arguments, "-P", "f=http://127.0.0.1:9/nothing.csv")
    assert outcome.code == 1
    assert "could not download `http://127.0.0.1:9/nothing.csv`" in outcome.err
    assert "Traceback" not in outcome.err
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_credentials_of_a_uri_are_not_shown(project: Project, buildrun: Buildrun) -> None:
    directory = project(CAT)
    outcome = buildrun(
        directory, "--env-manager=local", "-P", "f=http://user:secret@127.0.0.1:9/x.csv"
    )
    assert outcome.code == 1
    assert "secret" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (("-P", "a"), "invalid format for -P parameter: 'a'"),
        (("-P", "a=1", "-P", "a=2"), "repeated parameter: 'a'"),
        (("--experiment-id=1", "--experiment-name=x"), "specify only one of"),
        (("-c", "{"), "invalid backend config JSON"),
        (("-b", "kubernetes"), "specify 'backend_config'"),
    ],
)
def test_usage_errors_exit_2(
    project: Project, buildrun: Buildrun, arguments: tuple[str, ...], fact: str
) -> None:
    buildrun(project(MLPROJECT), *arguments).refused(fact, code=2)
