"""From templates and parameters to command text, through `plan`."""

from __future__ import annotations

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
  format:
    parameters:
      my-param: {default: ab}
      b: {default: "x y"}
    command: "run {my-param} {b!r:>10} {{literal}} {my-param:>6}"
"""


def command(outcome: Outcome) -> str:
    assert outcome.code == 0, outcome.err
    return str(outcome.data["steps"][-1]["command"])


def planned(buildrun: Buildrun, directory: Path, *arguments: str) -> str:
    return command(buildrun("plan", directory, "--env-manager=local", "--format=json", *arguments))


def test_declared_values_are_quoted_once(project: Project, buildrun: Buildrun) -> None:
    text = planned(buildrun, project(MLPROJECT), "-P", "name=friend; echo 'hi' $(x)")
    assert text == "python greet.py 'friend; echo '\"'\"'hi'\"'\"' $(x)' 0.5"


def test_extra_parameters_follow_in_the_users_order(project: Project, buildrun: Buildrun) -> None:
    text = planned(buildrun, project(MLPROJECT), "-P", "z=v w", "-P", "name=a", "-P", "a=1")
    assert text == "python greet.py a 0.5 --z 'v w' --a 1"


def test_names_of_parameters_keep_their_case(project: Project, buildrun: Buildrun) -> None:
    text = planned(buildrun, project(MLPROJECT), "-P", "name=a", "-P", "ALPHA=1")
    assert text == "python greet.py a 0.5 --ALPHA 1"


def test_zero_empty_and_false_are_defaults(project: Project, buildrun: Buildrun) -> None:
    assert planned(buildrun, project(MLPROJECT), "-e", "zero") == "run 0 '' False '[1, 2]'"


def test_null_default_means_required(project: Project, buildrun: Buildrun) -> None:
    buildrun("plan", project(MLPROJECT), "-e", "nothing").refused(
        "no value given for missing parameters: 'needed'", "-P needed=VALUE"
    )


def test_full_format_syntax_fills_templates(project: Project, buildrun: Buildrun) -> None:
    text = planned(buildrun, project(MLPROJECT), "-e", "format")
    assert text == "run ab    \"'x y'\" {literal}     ab"


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


@pytest.mark.parametrize("value", ["1", "-2.5", "1e-3", "nan", "inf"])
def test_numbers_are_floats(project: Project, buildrun: Buildrun, value: str) -> None:
    text = planned(buildrun, project(MLPROJECT), "-P", "name=a", "-P", f"alpha={value}")
    assert text == f"python greet.py a {value}"


def test_path_is_relative_to_the_caller(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    (tmp_path / "data.csv").write_text("1")
    text = planned(buildrun, project(MLPROJECT), "-e", "data", "-P", "file=data.csv")
    assert text == f"run {tmp_path}/data.csv {tmp_path}/out"


def test_file_uri_becomes_a_path(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("1")
    directory = project(MLPROJECT)
    text = planned(buildrun, directory, "-e", "data", "-P", f"file=file://{tmp_path}/a%20b")
    assert text == f"run '{tmp_path}/a b' {tmp_path}/out"


def test_uri_with_scheme_stands(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "d").touch()
    text = planned(
        buildrun, project(MLPROJECT), "-e", "data", "-P", "file=d", "-P", "place=s3://b/k"
    )
    assert text == f"run {tmp_path}/d s3://b/k"


def test_empty_path_stays_empty(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points: {main: {parameters: {f: {type: path, default: ''}}, command: 'run {f}'}}\n"
    )
    assert planned(buildrun, directory) == "run ''"


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


def test_remote_path_is_downloaded_and_the_copy_goes_with_the_run(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    zipped = tmp_path / "in.zip"
    import zipfile

    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data.txt", "hello")
    directory = project(
        "entry_points:\n  main:\n    parameters: {f: path}\n    command: cat {f}; echo {f} >&2\n"
    )
    outcome = buildrun("-q", directory, "--env-manager=local", "-P", f"f=zip://data.txt::{zipped}")
    assert (outcome.code, outcome.out) == (0, "hello")
    assert not Path(outcome.err.strip().splitlines()[-1]).exists()


def test_storage_dir_keeps_the_copy(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    zipped = tmp_path / "in.zip"
    import zipfile

    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("data.txt", "hello")
    directory = project("entry_points: {main: {parameters: {f: path}, command: 'cat {f}'}}\n")
    arguments = ("-q", directory, "--env-manager=local", "-P", f"f=zip://data.txt::{zipped}")
    outcome = buildrun(*arguments, "--storage-dir", "kept")
    assert (outcome.code, outcome.out) == (0, "hello")
    kept = [path.name for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert "data.txt" in kept
    assert not [name for name in kept if "partial" in name]


def test_failed_download_leaves_nothing(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {parameters: {f: path}, command: 'cat {f}'}}\n")
    arguments = (directory, "--env-manager=local", "--storage-dir", "kept")
    outcome = buildrun(*arguments, "-P", "f=http://127.0.0.1:9/nothing.csv")
    assert outcome.code == 1
    assert "could not download `http://127.0.0.1:9/nothing.csv`" in outcome.err
    assert "Traceback" not in outcome.err
    assert not [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]


def test_credentials_of_a_uri_are_not_shown(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {parameters: {f: path}, command: 'cat {f}'}}\n")
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
