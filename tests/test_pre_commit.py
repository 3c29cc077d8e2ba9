"""The hooks, as the real pre-commit installs them from git; needs a package index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import REPOSITORY, Buildrun

SHIPPED = (
    "buildrun",
    "schemas",
    "templates",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    ".pre-commit-hooks.yaml",
)
GOOD = "entry_points: {main: {command: x}}\n"


def git(directory: Path, *arguments: str) -> str:
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments)
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    return done.stdout.strip()


class Hooks(NamedTuple):
    """A git repository with this working tree's package, and where pre-commit installs it."""

    repository: Path
    home: Path


@pytest.fixture(scope="module")
def hooks(tmp_path_factory: pytest.TempPathFactory) -> Hooks:
    directory = tmp_path_factory.mktemp("hooks")
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
    return Hooks(directory, tmp_path_factory.mktemp("pre-commit"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    git(directory, "init", "-q")
    return directory


Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def check(work: Path, hooks: Hooks) -> Check:
    """Return a function that stages files by their paths and calls one hook, as a commit would."""
    (work / ".pre-commit-config.yaml").write_text(
        f"repos:\n- repo: {hooks.repository}\n  rev: {git(hooks.repository, 'rev-parse', 'HEAD')}\n"
        "  hooks:\n  - id: buildrun-validate\n  - id: buildrun-lock\n    exclude: ^unlocked/\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environ: Mapping[str, str] = {**kept, "PRE_COMMIT_HOME": str(hooks.home)}

    def run(hook: str, files: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        for name, text in files.items():
            path = work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git(work, "add", "-A")
        command = (sys.executable, "-m", "pre_commit", "run", hook, "--color=never")
        return subprocess.run(
            command, cwd=work, env=environ, capture_output=True, text=True, check=False
        )

    return run


def test_files_of_projects_are_checked_by_their_names(check: Check) -> None:
    bad = {
        "sub/mlproject": "name: a\nentry_points: {main: {command: 'x {b}'}}\n",
        "PYTHON_ENV.yaml": "unknown: 1\n",
        "notes.yaml": "not: ours\n",
    }
    failed = check("buildrun-validate", bad)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "sub/mlproject:2:35: error[unknown-placeholder]" in failed.stdout
    assert "PYTHON_ENV.yaml:1:1: error[unknown-key]" in failed.stdout
    assert "2 files checked: 2 errors, 0 warnings" in failed.stdout

    passed = check("buildrun-validate", {"sub/mlproject": GOOD, "PYTHON_ENV.yaml": "python: '3'\n"})
    assert passed.returncode == 0, passed.stdout + passed.stderr


def test_environment_file_is_checked_wherever_it_lies(check: Check, work: Path) -> None:
    naming = GOOD + "conda_env: ../../envs/train.yaml\n"
    first = check(
        "buildrun-validate", {"a/b/MLproject": naming, "envs/train.yaml": "dependencies: [pip]\n"}
    )
    assert first.returncode == 0, first.stdout + first.stderr
    git(work, "commit", "-q", "-m", "all")

    git(work, "mv", "envs/train.yaml", "envs/renamed.yaml")
    renamed = check("buildrun-validate", {})
    assert renamed.returncode == 1
    assert "a/b/MLproject:2:12: error[missing-environment-file]" in renamed.stdout
    git(work, "reset", "-q", "--hard")

    files = ("envs/train.yaml", "others.yaml")
    broken = check("buildrun-validate", dict.fromkeys(files, "dependencies: 5\n"))
    assert broken.returncode == 1
    assert "envs/train.yaml:1:15: error[wrong-type]" in broken.stdout
    assert "1 file checked: 1 error" in broken.stdout


def test_requirements_file_that_a_commit_deletes_is_missed(check: Check, work: Path) -> None:
    names = {"a/MLproject": GOOD + "python_env: e.yaml\n", "a/e.yaml": "dependencies: [-r b.txt]\n"}
    assert check("buildrun-validate", {**names, "a/b.txt": ""}).returncode == 0
    git(work, "commit", "-q", "-m", "all")
    git(work, "rm", "-q", "a/b.txt")
    done = check("buildrun-validate", {"another.yaml": ""})
    assert done.returncode == 1
    assert "a/e.yaml:1:16: error[missing-requirements-file]" in done.stdout


def test_warnings_are_seen_though_the_hook_passes(check: Check) -> None:
    done = check("buildrun-validate", {"a/MLproject": GOOD + "nmae: x\n"})
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a/MLproject:2:1: warning[unknown-key]" in done.stdout


def test_locks_of_all_projects_that_a_commit_concerns_must_be_fresh(
    check: Check, work: Path, buildrun: Buildrun
) -> None:
    project = {"MLproject": GOOD, "python_env.yaml": "dependencies: [alpha]\n"}
    files = {f"{name}/{file}": text for name in ("a", "b c") for file, text in project.items()}
    missing = check("buildrun-lock", files)
    assert missing.returncode == 1
    assert "/a/python_env.lock: there is no lock\nhint: `buildrun lock a` makes" in missing.stdout
    assert "hint: `buildrun lock 'b c'` makes a fresh one" in missing.stdout
    assert "error: 2 of 2 projects failed: `a`, `b c`" in missing.stdout
    for name in ("a", "b c"):
        (work / name / "python_env.yaml").write_text("dependencies: []\n")
        assert buildrun("lock", name, cwd=work).code == 0
    fresh = check("buildrun-lock", {})
    assert fresh.returncode == 0, fresh.stdout + fresh.stderr

    stale = check("buildrun-lock", {"a/python_env.yaml": "dependencies: [alpha]\n"})
    assert stale.returncode == 1
    assert "error: 1 of 2 projects failed: `a`" in stale.stdout
    git(work, "commit", "-q", "-m", "all")
    others = {
        "b c/conf.yaml": "",
        "unlocked/conda.yaml": "",
        "unlocked/MLproject": "",
        "d/mlproject": "",
    }
    passed = check("buildrun-lock", others)
    assert passed.returncode == 0, passed.stdout + passed.stderr
