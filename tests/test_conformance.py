"""What a project that works with MLflow may rely on, and where buildrun differs on purpose.

The order is that of a run: reading, entry points and parameters, sources, running. Containers,
clusters, tracking and the Python API have files of their own.
"""

from __future__ import annotations

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Outcome, Project

GREETER = """\
entry_points:
  greeter:
    parameters:
      greeting: {type: string, default: hi}
      name: string
    command: "echo {greeting} {name}"
"""


@pytest.fixture
def planned(buildrun: Buildrun) -> Callable[..., dict[str, Any]]:
    """Return a function that gives the last step of a project's plan."""

    def plan(directory: Path | str, *arguments: str) -> dict[str, Any]:
        outcome = buildrun("plan", str(directory), "--format", "json", *arguments)
        assert outcome.code == 0, outcome.err
        step: dict[str, Any] = outcome.data["steps"][-1]
        return step

    return plan


Planned = Callable[..., dict[str, Any]]


def run(buildrun: Buildrun, directory: Path | str, *arguments: str) -> Outcome:
    return buildrun("run", str(directory), "--env-manager", "local", "-q", *arguments)


def codes(buildrun: Buildrun, directory: Path) -> dict[str, str]:
    """Return severity by code of what `validate` finds."""
    found = json.loads(buildrun("validate", directory, "--format", "json").out)
    return {
        item["code"]: item["severity"] for file in found["files"] for item in file["diagnostics"]
    }


# -- reading ----------------------------------------------------------------------------------


def test_directory_without_mlproject_runs_its_scripts(project: Project, planned: Planned) -> None:
    step = planned(project(script__py=""), "-e", "script.py")
    assert step["command"] == "python script.py"


def test_conda_yaml_without_being_named_is_the_environment(
    project: Project, planned: Planned
) -> None:
    directory = project(
        "unknown: 1\nentry_points: {main: {command: echo}}\n",
        conda__yaml="dependencies: [python=3.11]\n",
    )
    assert planned(directory)["environment"]["manager"] == "conda"


def test_name_of_the_file_may_be_in_lower_case(project: Project, planned: Planned) -> None:
    directory = project(mlproject="entry_points: {main: {command: echo lower}}\n")
    (directory / "MLproject").rename(directory / "mlproject")
    assert planned(directory)["command"] == "echo lower"


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("python_env: python_env.yaml\n", {"python_env__yaml": "dependencies: []\n"}),
        ("", {"python_env__yaml": "dependencies: []\n"}),
        ("", {}),
    ],
    ids=["named", "found", "none"],
)
def test_python_projects_run_in_a_virtualenv(
    project: Project, planned: Planned, text: str, files: dict[str, str]
) -> None:
    directory = project(f"{text}entry_points: {{main: {{command: echo}}}}\n", **files)
    assert planned(directory)["environment"]["manager"] == "virtualenv"


def test_docker_project_needs_no_name(project: Project, planned: Planned) -> None:
    directory = project("docker_env: {image: some/image}\nentry_points: {main: {command: echo}}\n")
    step = planned(directory, "-b", "local")
    assert (step["backend"], step["image"]) == ("docker", "some/image")


@pytest.mark.parametrize(
    "text",
    [
        "docker_env: {image: i}\nconda_env: conda.yaml\n",
        "docker_env: {}\n",
        "docker_env: {image: i, volumes: /a:/a}\n",
        "docker_env: {image: i, environment: {A: b}}\n",
        "python_env: gone.yaml\n",
        "databricks_spark_job: {python_file: a.py}\n",
    ],
    ids=["two", "no-image", "volumes", "environment", "missing", "spark"],
)
def test_environments_that_cannot_be_are_refused(
    project: Project, buildrun: Buildrun, text: str
) -> None:
    directory = project(f"{text}entry_points: {{main: {{command: echo}}}}\n", conda__yaml="{}\n")
    outcome = run(buildrun, directory)
    assert outcome.code == 1
    assert "MLproject:" in outcome.err
    assert "error" in codes(buildrun, directory).values()


# -- entry points and parameters --------------------------------------------------------------


@pytest.mark.parametrize("script", ["x.py", "x.sh", "x.R"])
def test_script_is_an_entry_point(project: Project, planned: Planned, script: str) -> None:
    directory = project(**{script.replace(".", "__"): ""})
    step = planned(directory, "-e", script, "-P", "a=1", "--env-manager", "local")
    assert script in step["command"]
    assert step["command"].endswith(" --a 1")


def test_other_files_are_no_entry_points(project: Project, buildrun: Buildrun) -> None:
    outcome = run(buildrun, project(x__scala=""), "-e", "x.scala")
    assert outcome.code == 1
    assert "could not find `x.scala` among the entry points" in outcome.err


def test_extra_parameters_follow_as_options(project: Project, planned: Planned) -> None:
    step = planned(project(GREETER), "-e", "greeter", "-P", "name=friend", "-P", "excitement=10")
    assert step["command"] == "echo hi friend --excitement 10"


def test_parameter_without_value_is_required(project: Project, buildrun: Buildrun) -> None:
    outcome = run(buildrun, project(GREETER), "-e", "greeter")
    assert outcome.code == 1
    assert "no value given for missing parameters: 'name'" in outcome.err


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("friend; echo 'hi'", "hi friend; echo 'hi'\n"),
        ("friend=you", "hi friend=you\n"),
        ("='friend'", "hi ='friend'\n"),
        ("$HOME `id`", "hi $HOME `id`\n"),
        ("", "hi \n"),
    ],
)
def test_values_are_data(project: Project, buildrun: Buildrun, value: str, shown: str) -> None:
    outcome = run(buildrun, project(GREETER), "-e", "greeter", "-P", f"name={value}")
    assert outcome.out == shown


def test_names_of_parameters_keep_their_case(project: Project, planned: Planned) -> None:
    directory = project(
        "entry_points: {main: {parameters: {alpha: {default: 1}}, command: 'echo {alpha}'}}\n"
    )
    assert planned(directory, "-P", "ALPHA=3")["command"] == "echo 1 --ALPHA 3"


def test_local_paths_become_absolute(project: Project, planned: Planned) -> None:
    directory = project(
        "entry_points: {main: {parameters: {data: path}, command: 'cat {data}'}}\n", d__csv="1\n"
    )
    file = directory / "d.csv"
    assert planned(directory, "-P", f"data={file}")["command"] == f"cat {file}"
    assert planned(directory, "-P", f"data=file://{file}")["command"] == f"cat {file}"


def test_path_that_is_not_there_is_told(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points: {main: {parameters: {d: path}, command: 'cat {d}'}}\n")
    outcome = run(buildrun, directory, "-P", "d=/does/not/exist")
    assert outcome.code == 1
    assert "/does/not/exist" in outcome.err


def test_uri_is_passed_on_and_a_relative_one_made_absolute(
    project: Project, planned: Planned, tmp_path: Path
) -> None:
    directory = project("entry_points: {main: {parameters: {u: uri}, command: 'get {u}'}}\n")
    assert planned(directory, "-P", "u=file:///a/b")["command"] == "get file:///a/b"
    (tmp_path / "there").write_text("")
    assert planned(directory, "-P", "u=there")["command"] == f"get {tmp_path}/there"


@pytest.mark.parametrize(("default", "text"), [("0", "0"), ('""', "''")])
def test_default_that_is_false_is_one(
    project: Project, planned: Planned, default: str, text: str
) -> None:
    directory = project(
        f"entry_points: {{main: {{parameters: {{a: {{default: {default}}}}}, "
        "command: 'echo {a}'}}\n"
    )
    assert planned(directory)["command"] == f"echo {text}"


def test_default_null_is_none(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points: {main: {parameters: {a: {default: null}}, command: 'echo {a}'}}\n"
    )
    assert run(buildrun, directory).code == 1


def test_doubled_braces_are_braces(project: Project, planned: Planned) -> None:
    directory = project("entry_points: {main: {command: 'echo {{x}}'}}\n")
    assert planned(directory)["command"] == "echo {x}"


def test_last_line_of_a_command_decides(project: Project, buildrun: Buildrun) -> None:
    directory = project("entry_points:\n  main:\n    command: |\n      false\n      echo on\n")
    outcome = run(buildrun, directory)
    assert (outcome.code, outcome.out) == (0, "on\n")


@pytest.mark.parametrize("arguments", [("-P", "a"), ("-P", "a=1", "-P", "a=2")])
def test_malformed_parameters_are_usage_errors(
    project: Project, buildrun: Buildrun, arguments: tuple[str, ...]
) -> None:
    assert run(buildrun, project(GREETER), "-e", "greeter", *arguments).code == 2


# -- sources ----------------------------------------------------------------------------------

HERE = "entry_points: {main: {command: 'cat told'}}\n"


def git(directory: Path, *words: str) -> str:
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@b", *words)
    done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(project: Project) -> Path:
    """Return a repository with a project at its top and another one below."""
    directory = project(HERE, "repository", told="top\n")
    (directory / "sub").mkdir()
    (directory / "sub/MLproject").write_text(HERE)
    (directory / "sub/told").write_text("below\n")
    git(directory, "init", "-q", "-b", "main")
    git(directory, "add", ".")
    git(directory, "commit", "-qm", "one")
    git(directory, "tag", "v1")
    (directory / "told").write_text("later\n")
    git(directory, "commit", "-qam", "two")
    return directory


def test_directory_and_subdirectory(repository: Path, buildrun: Buildrun) -> None:
    assert run(buildrun, repository).out == "later\n"
    assert run(buildrun, f"{repository}#sub").out == "below\n"
    assert run(buildrun, f"file://{repository}").out == "later\n"


def test_repository_and_its_versions(repository: Path, buildrun: Buildrun, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", "--bare", str(repository), "bare.git")
    uri = f"file://{tmp_path}/bare.git"
    commit = git(repository, "rev-parse", "v1")
    assert run(buildrun, uri).out == "later\n"
    assert run(buildrun, f"{uri}#sub").out == "below\n"
    for version in ("v1", commit):
        assert run(buildrun, uri, "-v", version).out == "top\n"
    assert run(buildrun, uri, "-v", "main").out == "later\n"
    refused = run(buildrun, uri, "-v", "no-such")
    assert refused.code == 1
    assert "no-such" in refused.err


@pytest.mark.parametrize("form", ["path", "file"])
def test_zip_is_a_project(repository: Path, buildrun: Buildrun, tmp_path: Path, form: str) -> None:
    archive = tmp_path / "project.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for name in ("MLproject", "told"):
            made.write(repository / name, name)
    assert run(buildrun, archive if form == "path" else f"file://{archive}").out == "later\n"


@pytest.mark.parametrize("fragment", ["#fake", "#..", "#../repository", "#/etc"])
def test_subdirectory_that_is_none_is_refused(
    repository: Path, buildrun: Buildrun, fragment: str
) -> None:
    outcome = run(buildrun, f"{repository}{fragment}")
    assert outcome.code == 1
    assert "error: " in outcome.err


def test_version_of_what_is_not_git_is_refused(project: Project, buildrun: Buildrun) -> None:
    assert run(buildrun, project(HERE, told=""), "-v", "v1").code == 1


def test_users_checkout_is_never_touched(repository: Path, buildrun: Buildrun) -> None:
    """MLflow checks the version out in the user's own working copy."""
    (repository / "told").write_text("unsaved\n")
    before = git(repository, "status", "--porcelain", "--branch"), git(repository, "remote")
    assert run(buildrun, repository, "-v", "v1").out == "top\n"
    assert (repository / "told").read_text() == "unsaved\n"
    assert (
        git(repository, "status", "--porcelain", "--branch"), git(repository, "remote")
    ) == before  # fmt: skip


def test_members_that_leave_the_archive_are_refused(buildrun: Buildrun, tmp_path: Path) -> None:
    archive = tmp_path / "bad.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("MLproject", HERE)
        made.writestr("../left", "")
    assert run(buildrun, archive).code == 1
    assert not (tmp_path / "left").exists()


def test_mlruns_of_the_project_stay(project: Project, buildrun: Buildrun) -> None:
    directory = project(HERE, told="")
    (directory / "mlruns").mkdir()
    (directory / "mlruns/kept").write_text("")
    assert run(buildrun, directory).code == 0
    assert (directory / "mlruns/kept").exists()


# -- running ----------------------------------------------------------------------------------


def test_command_runs_in_the_project_with_the_callers_variables(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("entry_points: {main: {command: 'pwd; echo $CALLER'}}\n")
    outcome = buildrun("run", directory, "--env-manager", "local", environ={"CALLER": "me and you"})
    assert outcome.out == f"{directory}\nme and you\n"


def test_own_environment_makes_none(project: Project, buildrun: Buildrun, store: Path) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n",
        python_env__yaml="dependencies: [no-such-package-anywhere]\n",
    )
    assert run(buildrun, directory).code == 0
    assert not list((store / "envs").glob("*"))


def test_conda_is_refused_for_python_env(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "python_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n",
        python_env__yaml="dependencies: []\n",
    )
    outcome = buildrun("run", directory, "--env-manager", "conda")
    assert outcome.code == 1
    assert "conda" in outcome.err


def test_virtualenv_takes_a_conda_project(project: Project, planned: Planned) -> None:
    directory = project(
        "conda_env: conda.yaml\nentry_points: {main: {command: echo}}\n",
        conda__yaml="dependencies: [python=3.11, pip, {pip: []}]\n",
    )
    step = planned(directory, "--env-manager", "virtualenv")
    assert step["environment"]["manager"] == "virtualenv"


def test_both_names_of_an_experiment_are_one_too_many(project: Project, buildrun: Buildrun) -> None:
    outcome = run(buildrun, project(HERE), "--experiment-name", "a", "--experiment-id", "1")
    assert outcome.code == 2


def test_exit_code_is_the_commands(project: Project, buildrun: Buildrun) -> None:
    """MLflow exits with 1 whatever the command's code is."""
    assert run(buildrun, project("entry_points: {main: {command: exit 7}}\n")).code == 7


@pytest.mark.parametrize("missing", ["repository-uri"])
def test_kubernetes_config_lacks_nothing_that_is_needed(
    project: Project, buildrun: Buildrun, missing: str
) -> None:
    directory = project(
        "docker_env: {image: i}\nentry_points: {main: {command: 'true'}}\n", config__json="{}"
    )
    outcome = buildrun("run", directory, "-b", "kubernetes", "-c", str(directory / "config.json"))
    assert outcome.code == 1
    assert f"config.json:1:1: `{missing}` is missing" in outcome.err
    assert buildrun("run", directory, "-b", "kubernetes").code == 2


NEW_CLUSTER = '{"new_cluster": {"spark_version": "16.4.x-scala2.12", "node_type_id": "m"}}'


def test_databricks_needs_a_backend_config(project: Project, buildrun: Buildrun) -> None:
    outcome = buildrun("run", project(HERE), "-b", "databricks")
    assert outcome.code == 2
    assert "backend spec must be provided when launching MLflow project runs" in outcome.err


@pytest.mark.parametrize("verb", ["run", "plan", "build"])
def test_docker_projects_are_not_for_databricks(
    project: Project, buildrun: Buildrun, verb: str
) -> None:
    directory = project(f"docker_env: {{image: i}}\n{HERE}")
    outcome = buildrun(verb, directory, "-b", "databricks", "-c", NEW_CLUSTER)
    assert outcome.code == 2
    assert "`databricks` runs no containers, and the project names an image" in outcome.err
