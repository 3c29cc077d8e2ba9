"""Project and environment files in the shapes that people really write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY

from buildrun.project.model import CondaEnv, DockerEnv, PythonEnv
from buildrun.project.read import EnvironmentFile, read_environment, read_project
from buildrun.project.rules.environments import as_python_env
from buildrun.store.memo import DependencyTracker

CORPUS = REPOSITORY.parent / "shared" / "corpus"
ENVIRONMENT = "dependencies: []\n"
RECORDS = {"docker_env": DockerEnv, "python_env": PythonEnv, "conda_env": CondaEnv}
# Where a python_env file without a version means MLflow's own Python, buildrun reads None.
RUNNING_PYTHON = "3.11.7"


def cases(name: str) -> list[Any]:
    path = CORPUS / name
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the corpus is not here"))]
    found = json.loads(path.read_text())
    return [pytest.param(case, id=case["id"]) for case in found]


@pytest.mark.parametrize("case", cases("mlproject_cases.json"))
def test_project_gets_mlflows_verdict(tmp_path: Path, case: dict[str, Any]) -> None:
    root = tmp_path / "project"
    root.mkdir()
    (root / "MLproject").write_text(case["mlproject"])
    for name in case["files"]:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(ENVIRONMENT if path.suffix in (".yaml", ".yml") else "")
    reading = read_project(str(root), DependencyTracker({}))
    errors = [found for found in reading.diagnostics if found.severity == "error"]
    assert bool(errors) is not case["accepted"], errors
    if not case["accepted"]:
        return
    assert reading.spec is not None
    assert reading.spec.name == case["name"]
    assert isinstance(reading.spec.environment, RECORDS[case["env_type"]])
    assert [item.name for item in reading.spec.entry_points] == list(case["entry_points"])
    for name, expected in case["entry_points"].items():
        entry_point = reading.spec.entry_point(name)
        assert entry_point is not None
        assert {item.name: (item.type, item.default) for item in entry_point.parameters} == {
            key: (str(value["type"]), text_of(value["default"]))
            for key, value in expected["parameters"].items()
        }
        required = [item.name for item in entry_point.parameters if item.default is None]
        assert required == expected["required"]


@pytest.mark.parametrize("case", cases("env_cases.json"))
def test_environment_is_read_as_by_mlflow(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "environment.yaml"
    path.write_text(case["text"])
    file = EnvironmentFile(case["kind"] == "conda", str(path))
    environment, reading = read_environment(file, None, DependencyTracker({}))
    errors = [found for found in reading.diagnostics if found.severity == "error"]
    assert bool(errors) is ("error" in case), errors
    if errors:
        return
    if isinstance(environment, CondaEnv):
        environment, _ = as_python_env(environment)
    assert isinstance(environment, PythonEnv)
    expected = case["ok"]
    assert (environment.python or RUNNING_PYTHON) == expected["python"]
    assert environment.build_dependencies == tuple(expected["build_dependencies"] or ())
    assert environment.dependencies == tuple(lines_of(expected["dependencies"]))


def lines_of(dependencies: list[Any] | None) -> list[str]:
    """Return dependencies with the lines of a ``pip`` section, on which MLflow's pip fails."""
    found: list[str] = []
    for item in dependencies or ():
        found += item["pip"] if isinstance(item, dict) else [item]
    return found


def text_of(value: object) -> str | None:
    return None if value is None else str(value)
