"""The built wheel, in a fresh virtualenv, has all it needs; the checkout too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY

SCHEMAS = {"MLproject", "python_env", "conda", "databricks_config", "kubernetes_config"}


def run(*arguments: str | os.PathLike[str], cwd: Path) -> str:
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        arguments, cwd=cwd, env=environ, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", directory, REPOSITORY, cwd=directory)
    return next(directory.glob("*.whl"))


def test_wheel_holds_the_schemas_the_report_and_the_types_marker(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"buildrun/reports/report.{kind}" for kind in ("html", "css", "js")} <= names
    assert {f"buildrun/schemas/{name}.schema.json" for name in SCHEMAS} <= names
    assert "buildrun/py.typed" in names
    assert "buildrun/templates/pipeline/MLproject" in names


def test_wheel_works_in_a_fresh_virtualenv(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    python = tmp_path / "fresh" / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", wheel, cwd=tmp_path)
    buildrun = tmp_path / "fresh" / "bin" / "buildrun"
    schema = json.loads(run(buildrun, "schema", "MLproject", cwd=tmp_path))
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    project = tmp_path / "project"
    project.mkdir()
    (project / "MLproject").write_text("entry_points: {main: {command: echo it works}}\n")
    assert json.loads(run(buildrun, "validate", "--format=json", project, cwd=tmp_path))["valid"]
    assert run(buildrun, "-q", project, cwd=tmp_path) == "it works\n"
    assert run(buildrun, "runs", "report", cwd=tmp_path).startswith("<!doctype html>")
    run(buildrun, "init", "--template", "pipeline", "starter", cwd=tmp_path)
    run(buildrun, "validate", "--strict", "starter", cwd=tmp_path)


def test_checkout_finds_its_schemas(tmp_path: Path) -> None:
    for name in sorted(SCHEMAS):
        text = run(sys.executable, "-m", "buildrun", "schema", name, cwd=tmp_path)
        assert json.loads(text) == json.loads(
            (REPOSITORY / "schemas" / f"{name}.schema.json").read_text()
        )
