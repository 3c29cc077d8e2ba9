"""What is imported when: a warm run, the package, and the API stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Buildrun, Project

# All that a warm run may import beside buildrun's own modules.
WARM = {
    "__future__", "_bisect", "_collections", "base64", "bisect", "collections", "contextlib",
    "copyreg", "enum", "errno", "fcntl", "functools", "heapq", "importlib", "itertools", "json",
    "keyword", "operator", "random", "re", "reprlib", "resource", "select", "signal", "string",
    "struct", "sre_compile", "sre_constants", "sre_parse", "termios", "time", "types", "typing",
    "warnings", "xxhash",
}  # fmt: skip
NEVER = {
    "argparse", "asyncio", "dataclasses", "docker", "fsspec", "hashlib", "inspect", "jsonschema",
    "kubernetes", "logging", "pathlib", "rattler", "shutil", "socket", "ssl", "subprocess",
    "tempfile", "urllib", "uv", "yaml",
}  # fmt: skip
OWN = {
    "buildrun", "buildrun.cli", "buildrun.console", "buildrun.environments",
    "buildrun.environments.planned_run", "buildrun.environments.prefix",
    "buildrun.environments.provider", "buildrun.errors", "buildrun.executors",
    "buildrun.executors.base", "buildrun.executors.local", "buildrun.executors.process",
    "buildrun.executors.signals", "buildrun.executors.tee", "buildrun.executors.terminal",
    "buildrun.executors.termination", "buildrun.planning", "buildrun.planning.context",
    "buildrun.planning.model",
    "buildrun.planning.plan_cache", "buildrun.project", "buildrun.project.locate",
    "buildrun.runner", "buildrun.store", "buildrun.store.files", "buildrun.store.home",
    "buildrun.store.locks", "buildrun.store.memo", "buildrun.reports",
    "buildrun.reports.report_file",
    "buildrun.store.runs", "buildrun.store.stat_signature", "buildrun.tracking",
    "buildrun.tracking.recorder", "buildrun.tracking.session",
}  # fmt: skip


# The same for a run of steps that are all up to date, and read nothing but plain files.
STEPS = {
    "buildrun", "buildrun.cli", "buildrun.console", "buildrun.environments",
    "buildrun.environments.planned_run", "buildrun.errors", "buildrun.planning",
    "buildrun.planning.context", "buildrun.planning.plan_cache",
    "buildrun.planning.quick_check", "buildrun.project", "buildrun.project.locate",
    "buildrun.runner", "buildrun.store", "buildrun.store.files", "buildrun.store.home",
    "buildrun.store.locks", "buildrun.store.memo", "buildrun.reports",
    "buildrun.reports.report_file",
    "buildrun.store.runs", "buildrun.store.stat_signature", "buildrun.tracking",
    "buildrun.tracking.recorder", "buildrun.tracking.session",
}  # fmt: skip


@pytest.mark.parametrize("verb", [(), ("run",)])
def test_warm_run_imports_only_what_is_listed(
    project: Project, buildrun: Buildrun, tmp_path: Path, verb: tuple[str, ...]
) -> None:
    directory = project(
        "name: warm\npython_env: python_env.yaml\n"
        "entry_points:\n  main:\n    command: python -c pass\n",
        python_env__yaml="dependencies: []\n",
    )
    assert buildrun(*verb, "-q", directory, cwd=tmp_path).code == 0
    assert _modules_of_a_run(directory, tmp_path, *verb) <= OWN


def test_run_of_steps_that_are_up_to_date_imports_only_what_is_listed(
    project: Project, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = project(
        "name: warm\npython_env: python_env.yaml\n"
        "entry_points:\n  main:\n    inputs: [in.txt]\n    outputs: [out.txt]\n"
        "    command: cp in.txt out.txt\n",
        python_env__yaml="dependencies: []\n",
    )
    (directory / "in.txt").write_text("text\n")
    for _ in range(3):
        assert buildrun("-q", directory, cwd=tmp_path).code == 0
    assert _modules_of_a_run(directory, tmp_path) <= STEPS


def test_importing_the_package_imports_nothing_else() -> None:
    script = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import buildrun\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["buildrun"]


def test_loading_run_imports_nothing_heavy() -> None:
    script = "import sys, buildrun; buildrun.run; print(*sorted(sys.modules))"
    done = subprocess.run(
        (sys.executable, "-c", script), capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    light = {"pathlib", "subprocess", "tempfile", "shutil", "urllib", "hashlib"}
    assert not loaded & (NEVER - light)


def _modules_of_a_run(directory: Path, tmp_path: Path, *verb: str) -> set[str]:
    """Return which of buildrun's own modules a run imports, and see to what else it does."""
    script = tmp_path / "imports.py"
    script.write_text(
        "import os, sys\n"
        "before = set(sys.modules)\n"
        "from buildrun.cli import main\n"
        f"code = main([*{verb!r}, '-q', {str(directory)!r}], os.environ)\n"
        "print(code, *sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        (sys.executable, script),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    code, *modules = done.stdout.split()
    assert code == "0", done.stderr
    roots = {name.split(".")[0] for name in modules} - {"buildrun"}
    assert not roots & NEVER
    assert {name for name in roots if not name.startswith("_")} <= WARM
    return {name for name in modules if name.split(".")[0] == "buildrun"}


def test_validate_loads_no_check_of_formats_that_schemas_do_not_have(project: Project) -> None:
    directory = project("entry_points: {main: {command: a}}\n")
    command = (sys.executable, "-X", "importtime", "-m", "buildrun", "validate", directory)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "jsonschema" in loaded
    assert "rfc3987_syntax.syntax_helpers" not in loaded
