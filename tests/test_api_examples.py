"""The programs of examples/tuning: a multi-step workflow and a search with several runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Buildrun
from step_helpers import LIMIT


@pytest.fixture
def example(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "examples" / "tuning", tmp_path / "tuning"))


def play(program: Path, work: Path) -> str:
    done = subprocess.run(
        (sys.executable, program, work),
        capture_output=True,
        text=True,
        check=False,
        timeout=4 * LIMIT,
        env=os.environ,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_workflow_goes_on_until_a_step_is_good_enough(
    example: Path, tmp_path: Path, buildrun: Buildrun
) -> None:
    out = play(example / "workflow.py", tmp_path / "work")
    assert "not good enough: rate 1e-08\n" in out
    found = re.search(r"^good enough: rate 0\.1, trained by run (\w+)$", out, re.MULTILINE)
    assert found
    record = buildrun("runs", "show", found[1], "--format", "json").data
    assert (record["entry_point"], record["status"]) == ("train", "ok")
    assert json.loads((tmp_path / "work" / "score-0.1.json").read_text())["loss"] < 0.02


def test_search_cancels_what_goes_astray_and_finds_the_best(
    example: Path, tmp_path: Path, buildrun: Buildrun
) -> None:
    out = play(example / "search.py", tmp_path / "work")
    assert re.findall(r"^rate ([0-9.]+): ([A-Z]+)$", out, re.MULTILINE) == [
        ("0.01", "FINISHED"),
        ("0.1", "FINISHED"),
        ("0.5", "FINISHED"),
        ("1.5", "KILLED"),
    ]
    assert re.search(r"^best rate: 0\.5, ", out, re.MULTILINE)
    records = buildrun("runs", "ls", "--format", "json").data["runs"]
    statuses = sorted(run["status"] for run in records)
    assert statuses == ["cancelled", "ok", "ok", "ok", "ok"]


def test_steps_of_the_example_run_by_themselves(
    example: Path, tmp_path: Path, buildrun: Buildrun
) -> None:
    data = tmp_path / "data"
    assert (
        buildrun("-q", example, "-e", "split", "-P", f"out={data}", "-P", "rows=10").printed()
        == "split 10 points\n"
    )
    assert len(json.loads((data / "test.json").read_text())) == 5
