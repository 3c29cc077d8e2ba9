"""The schemas are sound, helpful in an editor, and found wherever buildrun is installed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY
from jsonschema import Draft202012Validator

from buildrun.project import schemas

WORDS = ("label", "parent", "actual", "value", "key", "expected")


def subschemas(schema: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield where, schema
        for key, value in schema.items():
            if key in ("properties", "$defs"):
                for name, part in value.items():
                    yield from subschemas(part, f"{where}/{key}/{name}")
            elif key in ("items", "additionalProperties", "propertyNames", "not", "if", "then"):
                yield from subschemas(value, f"{where}/{key}")
            elif key in ("allOf", "prefixItems"):
                for number, part in enumerate(value):
                    yield from subschemas(part, f"{where}/{key}/{number}")


@pytest.mark.parametrize("name", schemas.NAMES)
def test_schema_is_valid_draft_2020_12(name: str) -> None:
    schema = schemas.load(name)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"]
    assert schema["title"]
    assert schema["examples"]


@pytest.mark.parametrize("name", schemas.NAMES)
def test_examples_validate(name: str) -> None:
    schema = schemas.load(name)
    validator = Draft202012Validator(schema)
    for where, part in subschemas(schema):
        for example in part.get("examples", ()):
            errors = list(validator.evolve(schema=part).iter_errors(example))
            assert not errors, f"{where}: {errors[0].message}"


@pytest.mark.parametrize("name", schemas.NAMES)
def test_named_properties_have_a_description(name: str) -> None:
    for where, part in subschemas(schemas.load(name)):
        for key, value in part.get("properties", {}).items():
            if not {"const", "enum"}.intersection(value) and "/if" not in where:
                assert value.get("description"), f"{where}/properties/{key}"


@pytest.mark.parametrize("name", schemas.NAMES)
def test_reports_belong_to_keywords_and_can_be_worded(name: str) -> None:
    words = dict.fromkeys(WORDS, "x")
    for where, part in subschemas(schemas.load(name)):
        for keyword, rule in part.get("x-buildrun", {}).items():
            assert keyword in part, f"{where}: {keyword}"
            for case in (rule, *(rule.get(kind, {}) for kind in ("null", "number", "object"))):
                assert case.get("severity", "error") in ("error", "warning", "ignore"), where
                for text in ("message", "hint"):
                    case.get(text, "").format(**words)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_unknown_keys_fail_in_an_editor(name: str) -> None:
    schema = schemas.load(name)
    instance = {**schema["examples"][0], "no such key": 1}
    assert not Draft202012Validator(schema).is_valid(instance)


def test_two_environments_fail_in_an_editor() -> None:
    instance = {"python_env": "python_env.yaml", "conda_env": "conda.yaml"}
    assert not Draft202012Validator(schemas.load("MLproject")).is_valid(instance)


def test_unknown_schema_is_an_error() -> None:
    with pytest.raises(KeyError):
        schemas.path("../secrets")


def test_checkout_has_the_schemas_at_its_top() -> None:
    assert Path(schemas.path("conda")).is_file()


def test_schemas_inside_the_package_are_found(tmp_path: Path) -> None:
    """A wheel has the data in ``buildrun/schemas/``, beside its modules."""
    package = tmp_path / "buildrun"
    shutil.copytree(REPOSITORY / "buildrun", package)
    shutil.copytree(REPOSITORY / "schemas", package / "schemas")
    code = (
        "from buildrun.project import schemas; print(*map(schemas.path, schemas.NAMES), sep='\\n')"
    )
    done = subprocess.run(
        (sys.executable, "-S", "-c", code),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert {Path(line).parent for line in done.stdout.splitlines()} == {package / "schemas"}
