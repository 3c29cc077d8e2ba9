"""Provenance: what is said of outputs is true, can be read by others, and is else not said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project
from docker_helpers import BASE, docker, engine  # noqa: F401
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.v1.statement import Statement
from source_helpers import LOCAL, Repository, plain_git  # noqa: F401

TWO = """\
name: two
entry_points:
  prepare:
    inputs: [raw.txt]
    outputs: [clean.txt]
    command: cp raw.txt clean.txt
  main:
    parameters: {level: {type: float, default: 1}, token: {type: string, default: hush}}
    depends_on: [prepare]
    inputs: [train.sh]
    outputs: [out/]
    command: "mkdir -p out; cat clean.txt train.sh > out/model; echo {level} > out/level; : {token}"
"""


@pytest.fixture
def two(project: Project) -> Path:
    return project(TWO, raw__txt="raw\n", train__sh="train\n")


def _read(path: Path) -> dict[str, Any]:
    """Return a statement that the schemas of in-toto and SLSA accept, without unknown fields."""
    value = json.loads(path.read_text())
    statement = Statement([], "", {})
    json_format.ParseDict(value, statement.pb)
    statement.validate()
    json_format.ParseDict(value["predicate"], provenance_pb2.Provenance())
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    return dict(value)


def _digests(items: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    return {item["name"]: item["digest"] for item in items}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steps(statement: dict[str, Any]) -> dict[str, dict[str, Any]]:
    steps = statement["predicate"]["buildDefinition"]["internalParameters"]["steps"]
    return {step["id"]: step for step in steps}


def test_statement_names_outputs_and_inputs_with_sha256(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    buildrun(LOCAL, two, "-P", "level=2", "--provenance", file).printed()
    statement = _read(file)
    subjects = _digests(statement["subject"])
    assert subjects.keys() == {"clean.txt", "out/model", "out/level"}
    assert all(found["sha256"] == _sha256(two / name) for name, found in subjects.items())
    definition = statement["predicate"]["buildDefinition"]
    inputs = _digests(definition["resolvedDependencies"])
    assert inputs.keys() == {"raw.txt", "train.sh"}
    assert inputs["raw.txt"]["sha256"] == _sha256(two / "raw.txt")
    assert definition["externalParameters"] == {
        "project": str(two), "entryPoint": "main", "parameters": {"level": "2", "token": "***"},
    }  # fmt: skip


@pytest.mark.parametrize("where", ["up-to-date", "cached"])
def test_result_of_an_earlier_run_is_told_as_such(
    two: Path, buildrun: Buildrun, tmp_path: Path, where: str
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    words = (LOCAL, two, "--provenance")
    buildrun(*words, first)
    buildrun(*words, second)
    if where == "cached":
        (two / "out" / "model").unlink()
    (two / "train.sh").touch()
    buildrun(*words, second).printed()
    before, after = _read(first), _read(second)
    assert after["subject"] == before["subject"]
    assert _steps(after)["main"]["state"] == where
    made_in = before["predicate"]["runDetails"]["metadata"]["invocationId"]
    assert _steps(after)["main"]["made"]["invocationId"] == made_in
    assert after["predicate"]["runDetails"]["metadata"]["invocationId"] != made_in


def test_result_from_elsewhere_is_told_with_the_run_that_made_it(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    words = (LOCAL, "--remote-cache", tmp_path / "shared", two, "--provenance")
    buildrun(*words, first, "--remote-cache-write")
    for name in ("clean.txt", "out/model", "out/level"):
        (two / name).unlink()
    buildrun(*words, second, environ={"BUILDRUN_HOME": str(tmp_path / "other")}).printed()
    before, after = _read(first), _read(second)
    for part in ("subject", "resolvedDependencies"):
        assert _part(after, part) == _part(before, part)
    assert {step["state"] for step in _steps(after).values()} == {"cached"}
    assert _steps(after)["main"]["made"] == _steps(before)["main"]["made"]


def _part(statement: dict[str, Any], name: str) -> Any:
    return {**statement, **statement["predicate"]["buildDefinition"]}[name]


def test_secrets_are_not_told(two: Path, buildrun: Buildrun, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    buildrun(LOCAL, two, "-P", "token=s3cr3t", "-P", "more=http://u:pw@h/", "--provenance", file)
    assert _steps(_read(file))["main"]["parameters"]["more"] == "http://h/"
    assert "s3cr3t" not in file.read_text()
    assert "pw" not in file.read_text()


def test_commit_is_named_and_whether_files_differ_from_it(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    file, repository = tmp_path / "p.json", Repository(two)
    repository.git("init", "-q")
    repository.git("remote", "add", "origin", "https://bob:pw@example.invalid/two.git")
    commit = repository.commit(**{".gitignore": "out/\nclean.txt\n"})
    buildrun(LOCAL, two, "--provenance", file).printed()
    uri = f"git+https://example.invalid/two.git@{commit}"
    source = {"name": "source", "uri": uri, "digest": {"gitCommit": commit}}
    assert _part(_read(file), "resolvedDependencies")[0] == source
    (two / "raw.txt").write_text("edited\n")
    buildrun(LOCAL, two, "--provenance", file).printed()
    edited = {**source, "annotations": {"modified": True}}
    assert _part(_read(file), "resolvedDependencies")[0] == edited


def test_remote_that_is_a_path_begins_at_the_repository(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    file, repository = tmp_path / "p.json", Repository(two)
    repository.git("init", "-q")
    repository.git("remote", "add", "origin", "../origin")
    commit = repository.commit(**{".gitignore": "out/\nclean.txt\n"})
    buildrun(LOCAL, two, "--provenance", file, cwd=two.parent.parent).printed()
    source = _part(_read(file), "resolvedDependencies")[0]
    assert source["uri"] == f"git+file://{two.parent / 'origin'}@{commit}"


def test_commit_made_while_the_run_goes_on_is_not_vouched_for(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    repository = Repository(two)
    repository.git("init", "-q")
    commit = "git -c user.name=a -c user.email=a@b.c commit -q --allow-empty -m x"
    (two / "MLproject").write_text(TWO.replace("cp raw.txt", f"{commit}; cp raw.txt"))
    repository.commit(**{".gitignore": "out/\nclean.txt\n"})
    outcome = buildrun(LOCAL, two, "--provenance", tmp_path / "p.json")
    assert outcome.code == 0, outcome.err
    assert "no provenance is written: the commit or the lock changed while it ran" in outcome.err
    assert not (tmp_path / "p.json").exists()


def test_commit_is_not_named_where_git_does_not_compare_files_with_it(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    repository = Repository(two)
    repository.git("init", "-q")
    repository.commit(**{".gitignore": "out/\nclean.txt\n"})
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\ncase " $* " in *" status "*) exit 1;; esac\nexec {shutil.which("git")} "$@"\n'
    )
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    outcome = buildrun(LOCAL, two, "--provenance", tmp_path / "p.json", environ={"PATH": path})
    assert outcome.code == 0
    assert "git does not tell whether files differ from the commit" in outcome.err
    assert not (tmp_path / "p.json").exists()


def test_project_from_git_is_told_by_its_commit(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    file, repository = tmp_path / "p.json", Repository(two)
    repository.git("init", "-q")
    commit = repository.commit()
    buildrun(LOCAL, f"file://{two}", "--provenance", file).printed()
    statement = _read(file)
    assert _part(statement, "resolvedDependencies")[0]["digest"] == {"gitCommit": commit}
    assert _part(statement, "externalParameters")["project"] == f"file://{two}"
    assert all("sha256" in item["digest"] for item in statement["subject"])


def test_lock_is_a_dependency_where_it_is_used(
    two: Path, buildrun: Buildrun, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    (two / "MLproject").write_text("python_env: env.yaml\n" + TWO)
    (two / "env.yaml").write_text("dependencies: []\n")
    buildrun("lock", two).printed()
    buildrun(two, "--provenance", file).printed()
    statement = _read(file)
    found = _digests(_part(statement, "resolvedDependencies"))
    assert found["env.lock"] == {"sha256": _sha256(two / "env.lock")}
    assert _steps(statement)["main"]["environment"]["key"].startswith("blake3:")


@pytest.mark.usefixtures("engine")
def test_image_is_a_dependency_by_its_digest(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    place = project(
        f"docker_env: {{image: '{BASE}'}}\n"
        "entry_points: {main: {outputs: [made], command: 'echo 1 > made'}}\n"
    )
    buildrun(place, "--provenance", file).printed()
    image = docker("image", "inspect", "-f", "{{.Id}}", BASE)
    found = _digests(_part(_read(file), "resolvedDependencies"))
    assert f"sha256:{found['image']['sha256']}" == image


def test_names_that_are_no_text_are_told_as_text(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    place = project("entry_points: {main: {outputs: [o/], command: 'bash make'}}\n")
    (place / "make").write_bytes(b"mkdir -p o; touch o/\xff 'o/\n'\n")
    buildrun(LOCAL, place, "--provenance", tmp_path / "p.json").printed()
    assert _digests(_read(tmp_path / "p.json")["subject"]).keys() == {"o/\\xff", "o/\n"}


# --- nothing is said where it would not be known to be true


def test_failed_run_leaves_no_statement(two: Path, buildrun: Buildrun, tmp_path: Path) -> None:
    file = tmp_path / "p.json"
    buildrun(LOCAL, two, "--provenance", file).printed()
    (two / "raw.txt").unlink()
    outcome = buildrun(LOCAL, two, "--provenance", file)
    assert outcome.code == 1
    assert "no provenance is written: the run ended as `failed`" in outcome.err
    assert not file.exists()
    buildrun(LOCAL, two, "--provenance", two / "train.sh")
    assert (two / "train.sh").read_text() == "train\n"


@pytest.mark.parametrize(
    ("outputs", "command", "said"),
    [
        ("[]", "echo more >> clean.txt", "`clean.txt` is not what `prepare` has made"),
        ("[out]", "echo more >> train.sh; touch out", "the result of `main` is not in the store"),
    ],
)
def test_what_changed_meanwhile_is_not_vouched_for(
    project: Project, buildrun: Buildrun, tmp_path: Path, outputs: str, command: str, said: str
) -> None:
    text = TWO[: TWO.index("    outputs: [out/]")]
    text += f"    outputs: {outputs}\n    command: {command}\n"
    place = project(text, raw__txt="raw\n", train__sh="train\n")
    outcome = buildrun(LOCAL, place, "--provenance", tmp_path / "p.json")
    assert outcome.code == 0
    assert said in outcome.err
    assert not (tmp_path / "p.json").exists()


def test_nothing_is_promised_that_cannot_be_told(
    two: Path, project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    file = tmp_path / "p.json"
    bare = project("entry_points: {main: {command: 'echo ran'}}\n", name="bare")
    outcome = buildrun(LOCAL, bare, "--provenance", file)
    outcome.refused("no step declares outputs", code=2)
    assert outcome.out == ""
    empty = project("entry_points: {main: {outputs: [d/], command: 'mkdir d'}}\n", name="empty")
    assert "no file among the outputs" in buildrun(LOCAL, empty, "--provenance", file).err
    assert not file.exists()
    buildrun(LOCAL, two, "--no-cache", "--provenance", file).refused("`--no-cache`", code=2)
    buildrun(LOCAL, two, "--provenance", tmp_path / "none" / "p").refused("none/p", code=2)


def test_statement_can_go_through_a_pipe(two: Path) -> None:
    done = subprocess.run(
        (sys.executable, "-m", "buildrun", "-q", LOCAL, two, "--provenance", "/dev/stdout"),
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout)["_type"] == "https://in-toto.io/Statement/v1"


def test_what_is_open_is_never_removed(two: Path, tmp_path: Path) -> None:
    argv = (sys.executable, "-m", "buildrun", "-q", LOCAL, two, "--provenance", "/dev/fd/1")
    for more in ((), ("-P", "nothing=1", "-e", "none")):
        with (tmp_path / "all").open("r+" if more else "w") as file:
            subprocess.run((*argv, *more), stdout=file, timeout=120, check=not more)
        assert json.loads((tmp_path / "all").read_text())["_type"]


@pytest.mark.parametrize("option", ["--report", "--provenance"])
def test_project_file_is_not_replaced(project: Project, buildrun: Buildrun, option: str) -> None:
    text = "entry_points: {main: {outputs: [a], command: 'echo ran; touch a'}}\n"
    directory = project(text)
    outcome = buildrun(LOCAL, ".", option, "MLproject", cwd=directory)
    outcome.refused("something else is there", option, code=2)
    assert outcome.out == ""
    assert (directory / "MLproject").read_text() == text
    for _ in range(2):
        assert buildrun(LOCAL, ".", option, "new", cwd=directory).code == 0
        (directory / "a").unlink()


def test_environment_without_packages_has_no_lock_to_tell(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    text = "python_env: env.yaml\nentry_points: {main: {outputs: [a], command: 'touch a'}}\n"
    directory = project(text, env__yaml="dependencies: []\n")
    outcome = buildrun(directory, "--provenance", "p.json")
    assert "no provenance" not in outcome.err
    assert json.loads((tmp_path / "p.json").read_text())["_type"]


def test_run_that_is_killed_leaves_no_earlier_statement(project: Project, tmp_path: Path) -> None:
    text = "entry_points: {main: {outputs: [a], inputs: [in], command: 'touch a; $(cat in)'}}\n"
    directory, file = project(text, **{"in": "true"}), tmp_path / "p.json"
    words = (sys.executable, "-m", "buildrun", "-q", LOCAL, directory, "--provenance", file)
    assert subprocess.run(words, timeout=120, check=False).returncode == 0
    assert file.exists()
    (directory / "in").write_text(f"test ! -e {file}")
    assert subprocess.run(words, timeout=120, check=False).returncode == 0
