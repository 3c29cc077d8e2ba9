"""`buildrun cache`: what the store holds, and taking things out of it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Project

NOTHING = "entry_points: {main: {command: 'true'}}\n"
STEP = """\
name: steps
entry_points:
  main:
    inputs: [data]
    outputs: [result]
    command: "cat data data > result; echo made"
"""


@pytest.fixture
def built(project: Project, buildrun: Buildrun) -> Path:
    directory = project(NOTHING, python_env__yaml="dependencies: []\n")
    assert buildrun("-q", directory).code == 0
    return directory


def listed(kind: str, buildrun: Buildrun, *arguments: str) -> list[dict[str, Any]]:
    outcome = buildrun("cache", *arguments, "--format=json")
    assert outcome.code == 0, outcome.err
    rows: list[dict[str, Any]] = outcome.data[kind]
    return rows


environments = partial(listed, "environments")
results = partial(listed, "results")


def test_ls_tells_size_use_and_projects(built: Path, buildrun: Buildrun, project: Project) -> None:
    other = project(NOTHING, name="other", python_env__yaml="dependencies: []\n")
    assert buildrun("-q", other).code == 0
    (row,) = environments(buildrun, "ls")
    assert row["manager"] == "virtualenv"
    assert row["projects"] == [str(built), str(other)]
    assert row["bytes"] > 1000
    assert row["complete"] is True


@pytest.mark.usefixtures("built")
def test_gc_removes_by_age(buildrun: Buildrun, store: Path) -> None:
    assert environments(buildrun, "gc", "--max-age=1h") == []
    uses = next(store.glob("envs/*/.buildrun-uses"))
    os.utime(uses, (1, 1))
    (gone,) = environments(buildrun, "gc", "--max-age=1h", "--dry-run")
    assert Path(gone["path"]).exists()
    environments(buildrun, "gc", "--max-age=1h")
    assert not Path(gone["path"]).exists()


@pytest.mark.usefixtures("built")
def test_gc_removes_by_size_the_least_recent_first(
    buildrun: Buildrun, project: Project, store: Path
) -> None:
    uses = next(store.glob("envs/*/.buildrun-uses"))
    os.utime(uses, (1, 1))
    old = uses.parent
    newer = project(NOTHING, name="newer", python_env__yaml="build_dependencies: [pip]\n")
    assert buildrun("-q", newer).code == 0
    kept = max(row["bytes"] for row in environments(buildrun, "ls"))
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


@pytest.fixture
def made(project: Project, buildrun: Buildrun) -> Path:
    directory = project(STEP, data="text\n")
    assert buildrun("-q", "--env-manager=local", directory).code == 0
    assert (directory / "result").read_text() == "text\ntext\n"
    return directory


def again(buildrun: Buildrun, directory: Path) -> str:
    """Run without the outputs, and return whether the command ran or its result was restored."""
    (directory / "result").unlink()
    outcome = buildrun("--env-manager=local", directory)
    assert outcome.code == 0, outcome.err
    assert (directory / "result").read_text() == "text\ntext\n"
    return "restored" if "restored from the cache" in outcome.err else "ran"


@pytest.mark.usefixtures("made")
def test_ls_tells_of_results(buildrun: Buildrun) -> None:
    (row,) = results(buildrun, "ls")
    names = {"key", "project", "step", "entry_point", "bytes", "created", "used", "assurance"}
    assert set(row) == names
    assert (row["project"], row["step"], row["entry_point"]) == ("steps", "main", "main")
    assert row["key"].startswith("blake3:")
    assert "steps: main" in buildrun("cache", "ls").out


@pytest.mark.usefixtures("made", "built")
def test_info_counts(buildrun: Buildrun, store: Path) -> None:
    info = buildrun("cache", "info", "--format=json").data
    assert list(info) == ["version", "root", "environments", "results", "images", "sources"]
    assert info["root"] == str(store)
    counts = [info[kind]["count"] for kind in ("environments", "results", "images", "sources")]
    assert counts == [1, 1, 0, 0]
    assert info["results"]["bytes"] > 0
    shown = buildrun("cache", "info").out
    assert "\nresults: 1, " in shown
    assert "\nimages: 0, 0 B beside their bases\n" in shown


def test_collected_result_is_made_again(made: Path, buildrun: Buildrun, store: Path) -> None:
    assert again(buildrun, made) == "restored"
    assert results(buildrun, "gc", "--max-age=1h") == []
    (manifest,) = [path for path in store.glob("results/*/*/*") if path.is_file()]
    os.utime(manifest, (1, 1))
    assert len(results(buildrun, "gc", "--dry-run")) == 1
    assert manifest.exists()
    assert len(results(buildrun, "gc")) == 1
    assert again(buildrun, made) == "ran"


def test_size_is_shared_by_environments_and_results(
    made: Path, buildrun: Buildrun, project: Project, store: Path
) -> None:
    (manifest,) = [path for path in store.glob("results/*/*/*") if path.is_file()]
    os.utime(manifest, (1, 1))
    other = project(NOTHING, name="other", python_env__yaml="dependencies: []\n")
    assert buildrun("-q", other).code == 0
    (environment,) = environments(buildrun, "ls")
    outcome = buildrun("cache", "gc", f"--max-size={environment['bytes']}", "--format=json")
    assert outcome.data["environments"] == []
    assert len(outcome.data["results"]) == 1
    assert again(buildrun, made) == "ran"


def test_clear_removes_results_and_their_contents(
    made: Path, buildrun: Buildrun, store: Path
) -> None:
    assert len(results(buildrun, "clear")) == 1
    assert not [path for path in store.glob("blobs/**/*") if path.is_file()]
    assert again(buildrun, made) == "ran"


def test_damaged_result_is_found_and_made_again(
    made: Path, buildrun: Buildrun, store: Path
) -> None:
    assert buildrun("cache", "verify").code == 0
    (blob,) = [
        path
        for path in store.glob("blobs/*/*/*")
        if path.is_file() and path.read_bytes() == b"text\ntext\n"
    ]
    blob.chmod(0o644)
    blob.write_bytes(b"TEXT\nTEXT\n")
    outcome = buildrun("cache", "verify")
    assert outcome.code == 1
    assert "`result` of step `main` of project `steps` is lost; it is made anew" in outcome.out
    assert buildrun("cache", "verify").code == 0
    assert again(buildrun, made) == "ran"
    assert again(buildrun, made) == "restored"


def test_records_of_old_runs_are_removed(made: Path, buildrun: Buildrun, store: Path) -> None:
    (old,) = (store / "runs").iterdir()
    record = json.loads((old / "run.jsonl").read_text().splitlines()[-1])
    assert results(buildrun, "gc", "--max-age=1h") == []
    assert old.exists()
    (old / "run.jsonl").write_text(json.dumps({**record, "started": 1.0}))
    assert again(buildrun, made) == "restored"
    buildrun("cache", "gc", "--max-age=1h")
    assert not old.exists()
    assert len(list((store / "runs").iterdir())) == 1


def obsolete(store: Path, age: float) -> list[Path]:
    """Add what a store has held under digests of other kinds, used so many seconds ago."""
    paths = [
        store / "blobs/xxh3/0f" / ("0f" * 16),
        store / "blobs/sha256/0f" / ("0f" * 32),
        store / "results/xxh3/0f" / ("0f" * 16),
        store / "results/sha256/0f" / ("0f" * 32),
    ]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 5000)
        os.utime(path, (time.time() - age, time.time() - age))
    return paths


def test_what_is_kept_under_other_digests_is_collected(
    made: Path, buildrun: Buildrun, store: Path
) -> None:
    old = obsolete(store, age=7200)
    index = next(store.glob("index/projects/*.index"))
    old_index = index.with_name(index.name.replace(".index", ".xxh3.index"))
    old_index.write_bytes(b"buildrun index 1 ")
    assert buildrun("cache", "verify").code == 0
    assert len(results(buildrun, "ls")) == 1
    info = buildrun("cache", "info", "--format=json").data["results"]
    assert info["count"] == 1
    assert info["bytes"] > 4 * 5000
    assert results(buildrun, "gc") == []
    assert not [path for path in old if path.parent.parent.exists()]
    assert not old_index.exists()
    assert index.exists()
    assert again(buildrun, made) == "restored"


@pytest.mark.usefixtures("made")
def test_young_contents_under_other_digests_go_with_all_others(
    buildrun: Buildrun, store: Path
) -> None:
    young = obsolete(store, age=0)
    assert results(buildrun, "gc") == []
    assert all(path.exists() for path in young)
    buildrun("cache", "clear")
    assert not any(path.exists() for path in young)


def test_results_under_other_digests_are_misses_once(
    made: Path, buildrun: Buildrun, store: Path
) -> None:
    (journal,) = store.glob("index/projects/*.steps")
    journal.write_text(re.sub(r"blake3:[0-9a-f]{64}", "xxh3:" + "0f" * 16, journal.read_text()))
    for kind in ("blobs", "results"):
        (store / kind / "blake3").rename(store / kind / "xxh3")
    for path in store.glob("index/*"):
        if path.is_file():
            path.unlink()  # another version keeps its own records
    local = ("--env-manager=local", str(made))
    (step,) = buildrun("plan", *local, "--format=json").data["steps"]
    assert step["cache"]["state"] == "miss"
    assert step["cache"]["reasons"] == [
        {"code": "key-changed", "detail": "keys are made in another way than before"}
    ]
    assert buildrun(*local).code == 0
    assert (made / "result").read_text() == "text\ntext\n"
    (step,) = buildrun("plan", *local, "--format=json").data["steps"]
    assert step["cache"]["state"] == "up-to-date"
