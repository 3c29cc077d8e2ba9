"""The schemas are sound, helpful in an editor, and found wherever buildrun is installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, Buildrun
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator

from buildrun.project import schemas
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.read import EnvironmentFile, check_files, read_environment
from buildrun.project.yaml_loader import Document, load
from buildrun.store.memo import DependencyTracker

WORDS = ("label", "parent", "actual", "value", "key", "expected")


def subschemas(schema: Any, where: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield where, schema
        for key, value in schema.items():
            if key in ("properties", "definitions"):
                for name, part in value.items():
                    yield from subschemas(part, f"{where}/{key}/{name}")
            elif key in ("allOf", "anyOf") or (key == "items" and isinstance(value, list)):
                for number, part in enumerate(value):
                    yield from subschemas(part, f"{where}/{key}/{number}")
            elif key in ("items", "additionalProperties", "propertyNames", "not", "if", "then"):
                yield from subschemas(value, f"{where}/{key}")


@pytest.mark.parametrize("name", schemas.NAMES)
def test_schema_is_valid_draft_07(name: str) -> None:
    schema = schemas.load(name)
    Draft7Validator.check_schema(schema)
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert schema["$id"]
    assert schema["title"]
    assert schema["examples"]


@pytest.mark.parametrize("name", schemas.NAMES)
def test_examples_validate(name: str) -> None:
    schema = schemas.load(name)
    validator = Draft7Validator(schema)
    for where, part in subschemas(schema):
        for example in part.get("examples", ()):
            errors = list(validator.evolve(schema=part).iter_errors(example))
            assert not errors, f"{where}: {errors[0].message}"


@pytest.mark.parametrize("name", schemas.NAMES)
def test_every_key_has_a_description_and_examples(name: str) -> None:
    for where, part in subschemas(schemas.load(name)):
        for key, value in part.get("properties", {}).items():
            if "/allOf" in where:
                continue  # conditions on keys that are described elsewhere
            assert value.get("description"), f"{where}/properties/{key}"
            assert value.get("examples") or "$ref" in value, f"{where}/properties/{key}"


@pytest.mark.parametrize("name", schemas.NAMES)
def test_reports_belong_to_keywords_and_can_be_worded(name: str) -> None:
    words = dict.fromkeys(WORDS, "x")
    for where, part in subschemas(schemas.load(name)):
        for keyword, rule in part.get("x-buildrun", {}).items():
            assert keyword in part or "strict" in rule, f"{where}: {keyword}"
            for case in (rule, *(rule.get(kind, {}) for kind in ("null", "number", "object"))):
                assert case.get("severity", "error") in ("error", "warning", "ignore"), where
                for text in ("message", "hint"):
                    case.get(text, "").format(**words)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_strict_schema_refuses_unknown_keys(buildrun: Buildrun, name: str) -> None:
    schema = buildrun("schema", "--strict", name).data
    Draft7Validator.check_schema(schema)
    instance = schemas.load(name)["examples"][0]
    assert Draft7Validator(schema).is_valid(instance)
    assert not Draft7Validator(schema).is_valid({**instance, "no such key": 1})


def test_two_environments_fail_in_an_editor() -> None:
    instance = {"python_env": "python_env.yaml", "conda_env": "conda.yaml"}
    assert not Draft7Validator(schemas.load("MLproject")).is_valid(instance)


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


CASES = Path(__file__).parent / "cases"
CORPUS = REPOSITORY.parent / "shared" / "corpus"
EDITORS = (REPOSITORY / "docs" / "editors.md").read_text()
UNSAID = set(re.findall(r"^\| `([a-z0-9-]+)` \|", EDITORS, re.MULTILINE))


def compare(name: str, path: Path, findings: Sequence[Diagnostic]) -> None:
    """See to it that the schemas refuse a file where buildrun does, and only there."""
    document = load(str(path), DependencyTracker({}))
    if not isinstance(document, Document) or document.value is None:
        return  # no schema is asked
    value = json.loads(json.dumps(document.value, default=str, skipkeys=True))
    errors = {item.code for item in findings if item.severity == "error"}
    schema = schemas.load(name)
    for refused, those in ((schema, errors), (schemas.strict(schema), findings)):
        found = list(Draft7Validator(refused).iter_errors(value))
        assert those or all(document.lends(tuple(error.path)) for error in found), found
    if Draft7Validator(schema).is_valid(value):
        assert errors <= UNSAID


def compare_project(directory: Path) -> None:
    reader = DependencyTracker({})
    conda = None
    for row in check_files([str(directory)], "/", reader):
        path = Path(row.path)
        if path.name.lower() == "mlproject":
            compare("MLproject", path, row.diagnostics)
            document = load(row.path, reader)
            value = document.value if isinstance(document, Document) else None
            conda = value.get("conda_env") if isinstance(value, dict) else None
        elif path.is_file():
            is_conda = conda or path.name == "conda.yaml"
            compare("conda" if is_conda else "python_env", path, row.diagnostics)


@pytest.mark.parametrize("directory", sorted(CASES.glob("*/*")), ids=lambda path: path.name)
def test_schemas_judge_cases_as_validate_does(directory: Path) -> None:
    compare_project(directory)


def corpus(name: str) -> list[Any]:
    path = CORPUS / name
    if not path.is_file():
        return [pytest.param(None, marks=pytest.mark.skip(reason="the corpus is not here"))]
    return [pytest.param(case, id=case["id"]) for case in json.loads(path.read_text())]


@pytest.mark.parametrize("case", corpus("mlproject_cases.json"))
def test_schema_judges_projects_as_validate_does(tmp_path: Path, case: dict[str, Any]) -> None:
    (tmp_path / "MLproject").write_text(case["mlproject"])
    for name in case["files"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("dependencies: []\n")
    compare_project(tmp_path)


@pytest.mark.parametrize("case", corpus("env_cases.json"))
def test_schemas_judge_environments_as_validate_does(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "environment.yaml"
    path.write_text(case["text"])
    file = EnvironmentFile(case["kind"] == "conda", str(path))
    _, reading = read_environment(file, None, DependencyTracker({}))
    compare(case["kind"], path, reading.diagnostics)


ODD = st.sampled_from(
    [None, True, 0, 3.1, -1, "", "x", "~", "../x", "a b", [], ["x"], [["x", 1]], {}, {"x": 1}]
)


def mutants(value: Any) -> st.SearchStrategy[Any]:
    """Return a strategy of values that differ from an example in one place, or hold an odd key."""
    if isinstance(value, dict) and value:
        keys = st.sampled_from([*value, "x", "1 2"])
        return ODD | keys.flatmap(
            lambda key: mutants(value.get(key)).map(lambda new: {**value, key: new})
        )
    if isinstance(value, list) and value:
        return st.one_of(ODD, mutants(value[0]).map(lambda new: [new, *value[1:]]))
    return ODD


WHOLE = {
    "name": "x",
    "docker_env": {"image": "a", "volumes": ["/a:/b"], "environment": [["A", "b"], "C"]},
    "entry_points": {
        "main": {
            "parameters": {"alpha": {"type": "float", "default": 1, "secret": False}, "b": "path"},
            "depends_on": ["prepare", {"entry_point": "prepare", "parameters": {"rows": 1}}],
            "inputs": ["MLproject"],
            "outputs": ["model.pkl"],
            "env": {"A": "b"},
            "pass_env": ["B"],
            "timeout": "2h",
            "retries": 1,
            "key_env": ["D"],
            "check_inputs": True,
            "sandbox": {"network": False, "allow": ["~/x"]},
            "command": "python train.py {alpha} {b}",
        },
        "prepare": {"parameters": {"rows": {"type": "float", "default": 1}}, "command": "x {rows}"},
    },
}
FILES = {
    "MLproject": "MLproject",
    "python_env": "python_env.yaml",
    "conda": "conda.yaml",
    "databricks_config": "cluster.json",
    "kubernetes_config": "k8s.json",
}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_schemas_judge_generated_files_as_validate_does(
    tmp_path: Path, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(schemas.NAMES))
    examples = [*schemas.load(name)["examples"], *([WHOLE] if name == "MLproject" else [])]
    path = tmp_path / FILES[name]
    path.write_text(json.dumps(data.draw(st.sampled_from(examples).flatmap(mutants))))
    (row,) = check_files([str(path)], "/", DependencyTracker({}))
    if [item.code for item in row.diagnostics] != ["unknown-file"]:
        compare(name, path, row.diagnostics)


def test_documented_settings_of_an_editor_are_in_order() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", EDITORS, re.DOTALL)
    settings = json.loads(text)
    assert settings["files.associations"] == {"MLproject": "yaml"}
    for path, file in settings["yaml.schemas"].items():
        name = next(name for name in schemas.NAMES if FILES[name] == file)
        assert f"buildrun schema {name} > {path}\n" in EDITORS
    (line,) = re.findall(r"# yaml-language-server: \$schema=(\S+)", EDITORS)
    assert f"buildrun schema MLproject > {line}\n" in EDITORS


def test_catalog_names_our_schemas() -> None:
    catalog = json.loads((REPOSITORY / "schemas" / "catalog.json").read_text())
    for entry in catalog["schemas"]:
        assert entry.keys() == {"name", "description", "fileMatch", "url"}
        schema = REPOSITORY / "schemas" / entry["url"].rsplit("/", 1)[1]
        name = json.loads(schema.read_text())["$id"].rsplit(":", 1)[1]
        assert entry["fileMatch"] == [FILES[name]]
