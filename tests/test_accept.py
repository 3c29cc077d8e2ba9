"""The short look at a document never accepts what jsonschema does not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Project
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from buildrun.project import schemas
from buildrun.project.accept import conforms

VALIDATORS = {name: Draft202012Validator(schemas.load(name)) for name in schemas.NAMES}
WORDS = st.sampled_from(
    [
        "name", "entry_points", "main", "parameters", "command", "type", "default", "string",
        "float", "int", "python_env", "conda_env", "docker_env", "image", "volumes",
        "environment", "python", "3.11", "dependencies", "build_dependencies", "pip", "channels",
        "kube-context", "repository-uri", "kube-job-template-path", "resources", "x", "",
        "depends_on", "inputs", "outputs", "env", "pass_env", "timeout", "retries", "entry_point",
        "data/*.csv", "/abs", "1h30m", "90\n", "0s", "A B", "é", "٣",
    ]
)  # fmt: skip
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.floats(allow_nan=False) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("name", schemas.NAMES)
@settings(max_examples=300, deadline=None)
@given(value=VALUES)
def test_what_is_accepted_is_valid(name: str, value: Any) -> None:
    assert not conforms(schemas.load(name), value) or VALIDATORS[name].is_valid(value)


def mlproject(command: object, parameters: object, environment: object) -> dict[str, object]:
    entry_point = {"command": command, "parameters": parameters}
    return {"name": "x", "entry_points": {"main": entry_point}, "docker_env": environment}


@settings(max_examples=300, deadline=None)
@given(parameters=st.dictionaries(WORDS, VALUES, max_size=3), environment=VALUES)
def test_projects_that_are_accepted_are_valid(parameters: Any, environment: Any) -> None:
    value = mlproject("run", parameters, environment)
    schema = schemas.load("MLproject")
    assert not conforms(schema, value) or VALIDATORS["MLproject"].is_valid(value)


DIALECT = ("depends_on", "inputs", "outputs", "env", "pass_env", "timeout", "retries")
NUMBERS = st.integers(-200, 200) | st.floats() | st.integers(10**300, 10**301)


@settings(max_examples=500, deadline=None)
@given(keys=st.dictionaries(st.sampled_from(DIALECT), VALUES | NUMBERS, max_size=4))
def test_entry_points_that_are_accepted_are_valid(keys: Any) -> None:
    value = {"entry_points": {"main": {"command": "run", **keys}}}
    schema = schemas.load("MLproject")
    assert not conforms(schema, value) or VALIDATORS["MLproject"].is_valid(value)


@pytest.mark.parametrize(
    "keys",
    [
        {"depends_on": ["a", {"entry_point": "b", "parameters": {"c": 1, "d": "{e}", "f": True}}]},
        {"inputs": ["a", "b/*.csv"], "outputs": ["c", "d/"]},
        {"env": {"A": 1, "B": "x", "C": 0.5}, "pass_env": ["D"]},
        {"timeout": 90, "retries": 100},
        {"timeout": "1h30m", "retries": 0},
    ],
)
def test_usual_entry_points_are_accepted_at_once(keys: Any) -> None:
    value = {"entry_points": {"main": {"command": "run", **keys}}}
    assert conforms(schemas.load("MLproject"), value)


EXAMPLES = sorted(REPOSITORY.glob("examples/*/MLproject"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_usual_files_are_accepted_at_once(path: Any) -> None:
    assert conforms(schemas.load("MLproject"), yaml.safe_load(path.read_text()))


def test_good_project_is_run_without_a_validator(project: Project) -> None:
    directory = project(
        "name: x\npython_env: python_env.yaml\nentry_points:\n  main:\n"
        "    parameters: {a: {type: float, default: 1}}\n    command: echo {a}\n",
        python_env__yaml="dependencies: []\n",
    )
    done = subprocess.run(
        (
            sys.executable,
            "-c",
            "import os, sys; from buildrun.cli import main;"
            f"main(['plan', {str(directory)!r}], os.environ);"
            "sys.exit('jsonschema' in sys.modules)",
        ),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
