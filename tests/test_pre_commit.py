"""The hook, as the real pre-commit installs it from git; needs a package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import REPOSITORY

SHIPPED = (
    "buildrun",
    "schemas",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    ".pre-commit-hooks.yaml",
)


def git(directory: Path, *arguments: str) -> str:
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {**kept, "PRE_COMMIT_HOME": str(tmp_path / "pre-commit")}


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    """Return a git repository with this working tree's package as its only commit."""
    directory = tmp_path / "hooks"
    directory.mkdir()
    for name in SHIPPED:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(
                source, directory / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc")
            )
        else:
            shutil.copy(source, directory / name)
    git(directory, "init", "-q")
    git(directory, "add", "-A")
    git(directory, "commit", "-q", "-m", "all")
    return directory


def test_hook_checks_the_files_of_a_commit(
    tmp_path: Path, hooks: Path, environ: Mapping[str, str]
) -> None:
    work = tmp_path / "work"
    (work / "sub").mkdir(parents=True)
    git(work, "init", "-q")
    (work / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {hooks}\n  rev: {git(hooks, 'rev-parse', 'HEAD')}\n"
        "  hooks:\n  - id: buildrun-validate\n"
    )
    (work / "sub" / "mlproject").write_text("name: a\nentry_points: {main: {command: 'x {b}'}}\n")
    (work / "PYTHON_ENV.yaml").write_text("unknown: 1\n")
    (work / "notes.yaml").write_text("not: ours\n")
    git(work, "add", "-A")

    def run() -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "pre_commit", "run", "--color=never")
        return subprocess.run(
            command, cwd=work, env=environ, capture_output=True, text=True, check=False
        )

    failed = run()
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "sub/mlproject:2:35: error[unknown-placeholder]" in failed.stdout
    assert "PYTHON_ENV.yaml:1:1: error[unknown-key]" in failed.stdout
    assert "2 files checked: 2 errors, 0 warnings" in failed.stdout

    (work / "sub" / "mlproject").write_text("name: a\nentry_points: {main: {command: x}}\n")
    (work / "PYTHON_ENV.yaml").write_text('python: "3.12"\n')
    git(work, "add", "-A")
    passed = run()
    assert passed.returncode == 0, passed.stdout + passed.stderr
