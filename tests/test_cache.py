"""`buildrun cache`: what the store holds, and taking things out of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Buildrun, Project

NOTHING = "entry_points: {main: {command: 'true'}}\n"


@pytest.fixture
def built(project: Project, buildrun: Buildrun) -> Path:
    directory = project(NOTHING, python_env__yaml="dependencies: []\n")
    assert buildrun("-q", directory).code == 0
    return directory


def environments(buildrun: Buildrun, *arguments: str) -> list[dict[str, object]]:
    outcome = buildrun("cache", *arguments, "--format=json")
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, object]] = outcome.data["environments"]
    return rows


def test_ls_tells_size_use_and_projects(built: Path, buildrun: Buildrun, project: Project) -> None:
    other = project(NOTHING, name="other", python_env__yaml="dependencies: []\n")
    assert buildrun("-q", other).code == 0
    (row,) = environments(buildrun, "ls")
    assert row["manager"] == "virtualenv"
    assert row["projects"] == [str(built), str(other)]
    assert int(str(row["bytes"])) > 1000
    assert row["complete"] is True


@pytest.mark.usefixtures("built")
def test_info_counts(buildrun: Buildrun, store: Path) -> None:
    info = buildrun("cache", "info", "--format=json").data
    assert info["root"] == str(store)
    assert info["environments"]["count"] == 1


@pytest.mark.usefixtures("built")
def test_gc_removes_by_age(buildrun: Buildrun, store: Path) -> None:
    assert environments(buildrun, "gc", "--max-age=1h") == []
    uses = next(store.glob("envs/*/.buildrun-uses"))
    os.utime(uses, (1, 1))
    (gone,) = environments(buildrun, "gc", "--max-age=1h", "--dry-run")
    assert Path(str(gone["path"])).exists()
    environments(buildrun, "gc", "--max-age=1h")
    assert not Path(str(gone["path"])).exists()


@pytest.mark.usefixtures("built")
def test_gc_removes_by_size_the_least_recent_first(
    buildrun: Buildrun, project: Project, store: Path
) -> None:
    uses = next(store.glob("envs/*/.buildrun-uses"))
    os.utime(uses, (1, 1))
    old = uses.parent
    newer = project(NOTHING, name="newer", python_env__yaml="build_dependencies: [pip]\n")
    assert buildrun("-q", newer).code == 0
    kept = max(int(str(row["bytes"])) for row in environments(buildrun, "ls"))
    (gone,) = environments(buildrun, "gc", f"--max-size={kept}")
    assert gone["path"] == str(old)


def test_gc_removes_what_a_killed_build_left(buildrun: Buildrun, store: Path) -> None:
    half = store / "envs" / ("0" * 24)
    half.mkdir(parents=True)
    (half / "file").touch()
    environments(buildrun, "gc")
    assert not half.exists()


def test_nothing_in_use_is_removed(project: Project, buildrun: Buildrun) -> None:
    directory = project(
        "entry_points: {main: {command: 'echo started; read line'}}\n",
        python_env__yaml="dependencies: []\n",
    )
    running = subprocess.Popen(
        (sys.executable, "-m", "buildrun", "-q", directory),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"started\n"
    outcome = buildrun("cache", "clear")
    assert "is in use and was kept" in outcome.err
    assert len(environments(buildrun, "ls")) == 1
    running.communicate(b"\n", timeout=60)
    assert running.returncode == 0
    buildrun("cache", "clear")
    assert environments(buildrun, "ls") == []


def test_verify_finds_damage_and_the_next_run_mends_it(
    built: Path, buildrun: Buildrun, store: Path
) -> None:
    assert buildrun("cache", "verify").code == 0
    module = next(store.glob("envs/*/lib/python*/site-packages/pip/__init__.py"))
    module.unlink()
    outcome = buildrun("cache", "verify", "--format=json")
    assert outcome.code == 1
    assert "pip/__init__.py" in outcome.data["damaged"][0]["reason"]
    assert buildrun("-q", built).code == 0
    assert module.exists()


@pytest.mark.parametrize("arguments", [("--max-age=soon",), ("--max-size=huge",)])
def test_unreadable_limits_are_usage_errors(buildrun: Buildrun, arguments: tuple[str, ...]) -> None:
    assert buildrun("cache", "gc", *arguments).code == 2


def test_empty_store_is_no_error(buildrun: Buildrun) -> None:
    assert environments(buildrun, "ls") == []
    assert environments(buildrun, "gc") == []
