"""The formats of `buildrun validate` that services read, as these want them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from conftest import REPOSITORY, Buildrun, Project
from jsonschema import Draft4Validator

from buildrun.project.finding_codes import MEANINGS
from buildrun.project.report import FORMATS

WARNED = "name: good\nnmae: x\n"
BAD = "name: bad\nentry_points:\n  main:\n    command: echo {alpha}\n"
SARIF = json.loads((Path(__file__).parent / "sarif" / "sarif-2.1.0-rtm.5.json").read_text())
CASES = sorted((Path(__file__).parent / "cases").glob("*/*"))
TABLE = re.compile(r"^\| `([a-z0-9-]+)` \| (?:error|warning|either) \| (\S.*) \|$", re.MULTILINE)
MEANING = {"text": "`{name}` that no parameter fills"}
NOWHERE = {"GITHUB_WORKSPACE": None, "CI_PROJECT_DIR": None}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return the top of a git repository with a bad project in `sub/project`."""
    subprocess.run(("git", "init", "-q", tmp_path), check=True)
    project = tmp_path / "sub" / "project"
    project.mkdir(parents=True)
    (project / "MLproject").write_text(BAD + "python_env: env.yaml\n")
    (project / "env.yaml").write_text("python: 3.10\n")
    return tmp_path


def places(buildrun: Buildrun, kind: str, cwd: Path, **more: str | None) -> set[str]:
    """Return the files that a format names for the project in `cwd`."""
    done = buildrun("validate", "--format", kind, cwd=cwd, environ={**NOWHERE, **more})
    if kind == "github":
        return set(re.findall("file=([^,]*),", done.out))
    if kind == "gitlab":
        return {item["location"]["path"] for item in done.data}
    if kind == "junit":
        return {item.attrib["file"] for item in ElementTree.fromstring(done.out).iter("testcase")}
    (run,) = done.data["runs"]
    files = [
        item["locations"][0]["physicalLocation"]["artifactLocation"] for item in run["results"]
    ]
    assert {file["uriBaseId"] for file in files} == {"%SRCROOT%"}
    root = run["originalUriBaseIds"]["%SRCROOT%"]["uri"]
    assert all(Path(f"{root.removeprefix('file://')}{file['uri']}").is_file() for file in files)
    return {file["uri"] for file in files}


@pytest.mark.parametrize("kind", ["github", "gitlab", "junit", "sarif"])
def test_paths_are_relative_to_the_repository(
    buildrun: Buildrun, repository: Path, kind: str
) -> None:
    expected = {"sub/project/MLproject", "sub/project/env.yaml"}
    assert places(buildrun, kind, repository / "sub" / "project") == expected
    for name in NOWHERE:
        found = places(buildrun, kind, repository / "sub" / "project", **{name: str(repository)})
        assert found == expected
        # A submodule's own repository is not where the service reads paths from.
        outer = str(repository.parent)
        found = places(buildrun, kind, repository / "sub" / "project", **{name: outer})
        assert found == {f"{repository.name}/{path}" for path in expected}
        found = places(buildrun, kind, repository / "sub" / "project", **{name: "/elsewhere"})
        assert found == expected


def test_paths_of_files_above_the_project_have_no_dots(
    buildrun: Buildrun, repository: Path
) -> None:
    directory = repository / "sub" / "project"
    mlproject = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(mlproject.replace("env.yaml", "../../env.yaml"))
    (directory / "env.yaml").rename(repository / "env.yaml")
    for kind in ("github", "sarif"):
        for environ in ({}, {"GITHUB_WORKSPACE": str(repository)}):
            found = places(buildrun, kind, directory, **environ)
            assert found == {"sub/project/MLproject", "env.yaml"}


def test_paths_outside_of_a_repository_are_the_callers(
    buildrun: Buildrun, project: Project
) -> None:
    directory = project(BAD)
    assert places(buildrun, "gitlab", directory) == {"MLproject"}
    done = buildrun("validate", "--format", "gitlab", directory, cwd=Path("/"), environ=NOWHERE)
    assert done.data[0]["location"]["path"] == str(directory / "MLproject").lstrip("/")


def test_github_annotations_are_escaped(buildrun: Buildrun, project: Project) -> None:
    directory = project(BAD, name="50%, a:b")
    done = buildrun("validate", "--format", "github", directory.name, cwd=directory.parent)
    assert done.code == 1
    assert done.out.startswith(
        "::error file=50%25%2C a%3Ab/MLproject,line=4,col=19,title=buildrun unknown-placeholder::"
        "no parameter fills `{alpha}`%0Ahint: "
    )
    assert done.out.count("\n") == 1


def test_sarif_names_rules_and_places(buildrun: Buildrun, project: Project) -> None:
    directory = project(BAD, name="a b")
    log = buildrun("validate", "--format", "sarif", directory, cwd=directory.parent).data
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert run["tool"]["driver"]["name"] == "buildrun"
    assert run["tool"]["driver"]["rules"] == [
        {
            "id": "unknown-placeholder",
            "shortDescription": MEANING,
            "fullDescription": MEANING,
            "help": MEANING,
        }
    ]
    (result,) = run["results"]
    assert (result["ruleId"], result["level"]) == ("unknown-placeholder", "error")
    assert result["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "a%20b/MLproject", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 4, "startColumn": 19},
    }
    assert "hint" not in result["message"]["text"]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("name", ["line\nbreak", os.fsdecode(b"by\xffte"), "émoji 🎉", "\x1b[31m"])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_unusual_names_break_no_format(
    buildrun: Buildrun, project: Project, kind: str, name: str, encoding: str
) -> None:
    directory = project(BAD.replace("alpha", name.encode("unicode_escape").decode()), name=name)
    environ = {"PYTHONIOENCODING": encoding}
    done = buildrun("validate", "--format", kind, name, cwd=directory.parent, environ=environ)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "\x1b" not in done.out
    if kind in ("json", "sarif", "gitlab"):
        assert done.data
    elif kind == "junit":
        assert ElementTree.fromstring(done.out).find(".//failure") is not None
    elif kind == "github":
        assert done.out.count("\n") == 1


def test_sarif_is_what_its_schema_says(buildrun: Buildrun) -> None:
    log = buildrun("validate", "--format", "sarif", *CASES).data
    Draft4Validator(SARIF).validate(log)
    (run,) = log["runs"]
    named = {rule["id"] for rule in run["tool"]["driver"]["rules"]}
    assert named == {result["ruleId"] for result in run["results"]}


def test_sarif_of_nothing_wrong_is_a_run_without_results(
    buildrun: Buildrun, project: Project
) -> None:
    log = buildrun("validate", "--format", "sarif", project("name: x\n")).data
    Draft4Validator(SARIF).validate(log)
    assert log["runs"][0]["results"] == []


def test_codes_mean_what_the_documents_say() -> None:
    assert dict(TABLE.findall((REPOSITORY / "docs" / "mlproject.md").read_text())) == MEANINGS


def test_gitlab_tells_new_findings_from_old_ones_that_moved(
    buildrun: Buildrun, project: Project
) -> None:
    def report() -> Any:
        return buildrun("validate", "--format", "gitlab", directory, cwd=directory).data

    directory = project("nmae: x\nentry_points:\n  main: {command: '{a} {b}'}\n")
    first, second, third = report()
    assert first["check_name"] == "unknown-key"
    assert first["severity"] == "minor"
    assert second["severity"] == "major"
    assert second["description"].startswith("no parameter fills `{a}`; declare `a`")
    assert len({item["fingerprint"] for item in (first, second, third)}) == 3
    path = directory / "MLproject"
    path.write_text("# a comment\n\n" + path.read_text())
    moved = report()
    assert [item["location"]["lines"]["begin"] for item in moved] == [3, 5, 5]
    assert [item["fingerprint"] for item in moved] == [
        item["fingerprint"] for item in (first, second, third)
    ]


@pytest.mark.parametrize("strict", [False, True])
def test_junit_has_a_test_case_for_each_file(
    buildrun: Buildrun, project: Project, strict: bool
) -> None:
    project(BAD, name="bad")
    project(WARNED, name="warned")
    cwd = project("name: good\n", name="good").parent
    arguments = ("bad", "good", "warned", *(["--strict"] if strict else []))
    done = buildrun("validate", "--format", "junit", *arguments, cwd=cwd)
    (suite,) = ElementTree.fromstring(done.out)
    assert suite.attrib["tests"] == "3"
    assert suite.attrib["failures"] == str(1 + strict)
    bad, good, warned = suite
    assert [case.attrib["name"] for case in suite] == [
        f"{name}/MLproject" for name in ("bad", "good", "warned")
    ]
    assert [child.tag for child in bad] == ["failure"]
    assert bad[0].attrib["message"] == "no parameter fills `{alpha}`"
    assert (bad[0].text or "").startswith("bad/MLproject:4:19: error[unknown-placeholder]: ")
    assert [child.tag for child in good] == []
    assert [child.tag for child in warned] == ["failure" if strict else "system-out"]
    assert "warned/MLproject:2:1: warning[unknown-key]" in (warned[0].text or "")
