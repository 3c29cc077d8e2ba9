"""``buildrun validate``, from argv to what it prints."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import Buildrun, Project

from buildrun.project.places import Style
from buildrun.project.read import check_files
from buildrun.project.report import render
from buildrun.store.memo import DependencyTracker

GOOD = "name: good\nentry_points:\n  main: {command: echo}\n"
WARNED = "name: good\nnmae: x\n"
BAD = "name: bad\nentry_points:\n  main:\n    command: echo {alpha}\n"


def test_valid_project(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("validate", cwd=project(GOOD))
    assert (done.code, done.out) == (0, "")
    assert done.err == "1 file checked: 0 errors, 0 warnings\n"


def test_error_has_place_code_and_hint(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("validate", ".", cwd=project(BAD))
    assert done.code == 1
    first, second = done.out.splitlines()
    assert first == "MLproject:4:19: error[unknown-placeholder]: no parameter fills `{alpha}`"
    assert second.startswith("    hint: declare `alpha`")
    assert done.err == "1 file checked: 1 error, 0 warnings\n"


def test_warnings_fail_only_when_strict(buildrun: Buildrun, project: Project) -> None:
    directory = project(WARNED)
    assert buildrun("validate", directory).code == 0
    done = buildrun("validate", "--strict", directory, "--format", "json")
    assert done.code == 1
    assert done.data["valid"] is False


def test_quiet_leaves_errors(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("validate", "-q", project(WARNED, "a"), project(BAD, "b"))
    assert done.err == ""
    assert "unknown-placeholder" in done.out
    assert "unknown-key" not in done.out


@pytest.mark.parametrize(
    ("more", "count"),
    [("", 1), ("sandbox: false, ", 1), ("sandbox: true, ", 0), ("check_inputs: true, ", 0)],
)
def test_inputs_without_outputs_are_of_use_to_a_sandbox(
    buildrun: Buildrun, project: Project, more: str, count: int
) -> None:
    entry = f"entry_points:\n  main: {{{more}inputs: [MLproject], command: 'true'}}\n"
    done = buildrun("validate", project(entry))
    assert done.code == 0
    assert done.out.count("[no-effect]") == count


def test_json_has_the_documented_shape(buildrun: Buildrun, project: Project) -> None:
    directory = project(BAD + "python_env: env.yaml\n", env__yaml="python: 3.10\n")
    done = buildrun("validate", "--format", "json", "project", cwd=directory.parent)
    assert done.code == 1
    assert done.data == {
        "version": 1,
        "valid": False,
        "files": [
            {
                "argument": "project",
                "path": "project/MLproject",
                "valid": False,
                "diagnostics": [
                    {
                        "severity": "error",
                        "code": "unknown-placeholder",
                        "message": "no parameter fills `{alpha}`",
                        "line": 4,
                        "column": 19,
                        "pointer": "/entry_points/main/command",
                        "hint": "declare `alpha` under `parameters:`; "
                        "write `{{` and `}}` for braces that the command should hold",
                    }
                ],
            },
            {
                "argument": "project",
                "path": "project/env.yaml",
                "valid": True,
                "diagnostics": [
                    {
                        "severity": "warning",
                        "code": "unquoted-version",
                        "message": "the unquoted 3.10 is a number, which MLflow refuses; "
                        "buildrun reads the text `3.10`",
                        "line": 1,
                        "column": 9,
                        "pointer": "/python",
                        "hint": 'put it in quotes: `python: "3.10"`',
                        "fixable": True,
                    }
                ],
            },
        ],
    }


def test_directory_without_mlproject_is_its_own_row(buildrun: Buildrun, project: Project) -> None:
    directory = project(conda__yaml="dependencies: [python=3.10]\n")
    done = buildrun("validate", "--format", "json", directory, cwd=directory)
    assert [(row["argument"], row["path"]) for row in done.data["files"]] == [
        (str(directory), "."),
        (str(directory), "conda.yaml"),
    ]


def test_mlproject_as_an_argument_is_one_row(buildrun: Buildrun, project: Project) -> None:
    directory = project(GOOD + "python_env: env.yaml\n", env__yaml="nonsense: 1\n")
    done = buildrun("validate", "--format", "json", "MLproject", cwd=directory)
    assert done.code == 0
    assert [row["path"] for row in done.data["files"]] == ["MLproject"]
    (directory / "env.yaml").unlink()
    done = buildrun("validate", "--format", "json", "MLproject", cwd=directory)
    assert done.data["files"][0]["diagnostics"][0]["code"] == "missing-environment-file"


def test_missing_argument_is_a_row(buildrun: Buildrun, project: Project) -> None:
    done = buildrun("validate", "--format", "json", "absent", "", project(GOOD))
    assert done.code == 1
    assert [row["valid"] for row in done.data["files"]] == [False, False, True]
    assert done.data["files"][0]["diagnostics"][0]["code"] == "missing-file"


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("MlProject", "- a\n", "wrong-type"),
        ("MLproject.yml", "name: x\n", "misnamed-file"),
        ("python_env.yml", "name: x\n", "unknown-key"),
        ("python_env_dev.yaml", "name: x\n", "unknown-key"),
        ("conda.yml", "- a\n", "wrong-type"),
        ("environment-gpu.yaml", "dependencies: x\n", "wrong-type"),
        ("other.yaml", "entry_points: []\n", "wrong-type"),
        ("other.yaml", "channels: [a]\ndependencies: 5\n", "wrong-type"),
        ("other.yaml", "python: 3.10\n", "unquoted-version"),
        ("other.yaml", "some: thing\n", "unknown-file"),
        ("other.yaml", "a: [\n", "yaml-syntax"),
        ("other.txt", "just text\n", "unknown-file"),
        ("k8s.json", '{"kube-context": 5}', "wrong-type"),
        ("k8s.json", '{"repository-uri": ""}', "bad-value"),
        ("k8s.json", '{"kube-context": "a"}', "missing-key"),
        ("k8s.json", '{"kube-context": "a",}', "json-syntax"),
        ("k8s.json", '{"a": ' + "[" * 99999, "too-deep"),
        ("k8s.json", "[]", "unknown-file"),
    ],
)
def test_file_is_judged_by_name_then_content(
    buildrun: Buildrun, tmp_path: Path, name: str, text: str, code: str
) -> None:
    (tmp_path / name).write_text(text)
    done = buildrun("validate", "--format", "json", name, cwd=tmp_path)
    (row,) = done.data["files"]
    assert code in [item["code"] for item in row["diagnostics"]]


def test_kubernetes_configuration(buildrun: Buildrun, tmp_path: Path) -> None:
    config = {
        "kube-context": "docker-for-desktop",
        "repository-uri": "username/mlflow-kubernetes-example",
        "kube-job-template-path": "template.yaml",
        "namespce": "a",
    }
    (tmp_path / "kubernetes_config.json").write_text(json.dumps(config, indent="\t"))
    done = buildrun("validate", "--format", "json", "kubernetes_config.json", cwd=tmp_path)
    assert done.code == 0
    assert [
        (item["code"], item["line"], item["column"], item["hint"])
        for item in done.data["files"][0]["diagnostics"]
    ] == [
        ("missing-job-template", 4, 28,
         "the path is relative to the directory that buildrun is called in, or to this file"),
        ("unknown-key", 5, 2, "did you mean `namespace`?"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [b"\0", b"\xff\xfe", b"a: [" * 100_000, b"? {a: b}\n: c\n", b'"\\ud800": 1\n', b"\t", b"-"],
)
def test_bad_bytes_end_in_a_finding(buildrun: Buildrun, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "MLproject").write_bytes(content)
    done = buildrun("validate", cwd=tmp_path)
    assert "Traceback" not in done.err
    assert "MLproject:1:" in done.out


@pytest.mark.parametrize("colour", [True, False])
def test_colour_is_the_callers_choice(project: Project, colour: bool) -> None:
    rows = check_files([str(project(BAD))], "/", DependencyTracker({}))
    text = render("text", rows, Style("/", colour=colour))
    assert ("\x1b[1;31merror[unknown-placeholder]\x1b[0m" in text) is colour


def test_many_projects_are_checked_in_one_call(buildrun: Buildrun, project: Project) -> None:
    directories = [project(BAD, name=f"p{number}") for number in range(50)]
    done = buildrun("validate", "--format", "json", *directories)
    assert [row["valid"] for row in done.data["files"]] == [False] * 50


def test_plain_types_are_one_line_of_validate_and_of_plan(
    buildrun: Buildrun, project: Project
) -> None:
    parameters = "".join(f"      p{number}: {{type: int, default: 1}}\n" for number in range(12))
    command = " ".join(f"{{p{number}}}" for number in range(12))
    head = "name: x\nentry_points:\n  main:\n    parameters:\n"
    directory = project(f"{head}{parameters}    command: echo {command}\n")
    assert buildrun("validate", cwd=directory).out.count("unknown-type") == 1
    for _ in range(2):
        done = buildrun("plan", ".", "--env-manager", "local", cwd=directory)
        assert (done.code, done.err.count("unknown-type")) == (0, 1)


# -- without arguments, from standard input, and of what a commit names ------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with two projects, one of which names an environment file elsewhere."""
    files = {
        "a/MLproject": GOOD,
        "b/c/MLproject": GOOD + "conda_env: ../../envs/train.yaml\n",
        "envs/train.yaml": "dependencies: 5\n",
        "envs/others.yaml": "dependencies: 5\n",
        "src/code.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    subprocess.run(("git", "init", "-q", tmp_path), check=True)
    return tmp_path


@pytest.mark.parametrize("where", ["", "b", "b/c", "src"])
def test_without_arguments_all_projects_of_the_repository_are_checked(
    buildrun: Buildrun, repository: Path, where: str
) -> None:
    done = buildrun("validate", cwd=repository / where)
    assert done.code == 1
    assert done.out.count("error[wrong-type]") == 1
    assert done.err == "3 files checked: 1 error, 0 warnings\n"
    rows = buildrun("validate", "--format", "json", cwd=repository / where).data["files"]
    assert [row["argument"] for row in rows] == [
        os.path.relpath(repository / name, repository / where) for name in ("a", "b/c", "b/c")
    ]


def test_nothing_to_check_is_no_success(buildrun: Buildrun, tmp_path: Path) -> None:
    fact = f"{tmp_path}: there is no MLproject file in this directory or below"
    buildrun("validate", cwd=tmp_path).refused(fact)
    done = buildrun("validate", ".", cwd=tmp_path)
    assert done.code == 1
    assert ".:1:1: error[no-project]: there is neither an MLproject nor" in done.out
    (row,) = buildrun("validate", "--format", "json", tmp_path, cwd=tmp_path).data["files"]
    assert [item["code"] for item in row["diagnostics"]] == ["no-project"]
    (tmp_path / "train.py").touch()  # MLflow runs it by its name
    done = buildrun("validate", ".", cwd=tmp_path)
    assert (done.code, done.err) == (
        0, "0 files checked, 1 directory without an MLproject: 0 errors, 0 warnings\n",
    )  # fmt: skip
    (tmp_path / "conda.yaml").write_text("dependencies: 5\n")
    assert "conda.yaml:1:15: error" in buildrun("validate", cwd=tmp_path).out


def test_text_on_standard_input_is_judged_by_where_it_belongs(
    buildrun: Buildrun, repository: Path
) -> None:
    text = GOOD + "python_env: env.yaml\n"
    done = buildrun("validate", "-", stdin=text, cwd=repository / "a")
    assert done.out.startswith("MLproject:4:13: error[missing-environment-file]")
    (repository / "a" / "env.yaml").write_text("dependencies: []\n")
    assert buildrun("validate", "-", stdin=text, cwd=repository / "a").code == 0
    for name, code in (("a/MLproject", 0), ("b/c/MLproject", 1), ("new/MLproject", 1)):
        words = ("validate", "-", "--stdin-filename", name, "--format", "json")
        done = buildrun(*words, stdin=text, cwd=repository)
        (row,) = done.data["files"]
        assert (done.code, row["argument"], row["path"]) == (code, "-", name)


@pytest.mark.parametrize(
    ("name", "text", "code"),
    [
        ("python_env.yaml", "unknown: 1\n", "unknown-key"),
        ("k8s.json", '{"kube-context": 5}', "wrong-type"),
        ("notes.yaml", "some: thing\n", "unknown-file"),
        ("MLproject", "a: [\n", "yaml-syntax"),
        ("MLproject", "\0", "bad-character"),
        ("MLproject", "a" * 2**20 + "b", "too-large"),
    ],
)
def test_text_that_is_wrong(
    buildrun: Buildrun, tmp_path: Path, name: str, text: str, code: str
) -> None:
    done = buildrun(
        "validate", "-", "--stdin-filename", name, "--format", "json", stdin=text, cwd=tmp_path
    )
    assert done.code == 1
    assert code in [item["code"] for item in done.data["files"][0]["diagnostics"]]


def test_of_files_that_are_given_those_of_projects_are_checked(
    buildrun: Buildrun, repository: Path
) -> None:
    words = ("validate", "--of-projects", "--format", "json")
    files = ("envs/others.yaml", "envs/train.yaml", "src/code.py", "b/c/MLproject", "absent.yaml")
    done = buildrun(*words, *files, cwd=repository)
    assert [(row["argument"], row["valid"]) for row in done.data["files"]] == [
        ("b/c/MLproject", True),
        ("envs/train.yaml", False),
    ]
    for _ in range(2):  # also by what is remembered of the projects
        assert buildrun(*words, "envs/train.yaml", cwd=repository).code == 1
    (repository / "envs/train.yaml").write_text("dependencies: []\n")
    assert buildrun(*words, "envs/train.yaml", cwd=repository).code == 0
    done = buildrun("validate", "--of-projects", "envs/others.yaml", cwd=repository)
    assert (done.code, done.out, done.err) == (0, "", "")
    (repository / "a/MLproject").write_text(GOOD + "python_env: ../envs/others.yaml\n")
    assert buildrun("validate", "--of-projects", "envs/others.yaml", cwd=repository).code == 1


@pytest.mark.parametrize(
    "words",
    [("--stdin-filename", "x"), ("-", "a"), ("--since", "HEAD", "a"), ("--since", "HEAD", "-")],
)
def test_what_does_not_go_together(buildrun: Buildrun, tmp_path: Path, words: list[str]) -> None:
    buildrun("validate", *words, cwd=tmp_path).refused("hint: ", code=2)


def test_command_that_is_misspelt_is_named_where_it_is_missed(
    project: Project, buildrun: Buildrun
) -> None:
    directory = project("name: x\nentry_points: {main: {comand: a}}\n")
    buildrun(directory).refused("`main` has no `command`", "hint: write `command` for `comand`")
