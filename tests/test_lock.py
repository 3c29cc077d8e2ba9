"""Locks: made, used, refused when stale, and shown as differences."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from conftest import Project
from wheels import Call, only_wheels, write_wheel  # noqa: F401

MLPROJECT = """\
name: locked
python_env: python_env.yaml
entry_points:
  main:
    command: python -c "import alpha; print(alpha.VERSION)"
"""
HERE = f"{sys.platform}-{os.uname().machine}"


@pytest.fixture
def links(tmp_path: Path) -> Path:
    return write_wheel(tmp_path / "wheels", "alpha", "1.0").parent


@pytest.fixture
def directory(project: Project) -> Path:
    return project(MLPROJECT, python_env__yaml="dependencies: [alpha]\n")


def test_lock_holds_every_package_with_version_and_hash(directory: Path, offline: Call) -> None:
    outcome = offline("lock", directory)
    assert outcome.code == 0, outcome.err
    lock = json.loads((directory / "python_env.lock").read_text())
    (package,) = lock["platforms"][HERE]
    assert (package["name"], package["version"]) == ("alpha", "1.0")
    assert package["hashes"][0].startswith("sha256:")
    assert "+ alpha 1.0" in outcome.out


def test_locked_environment_stays_when_newer_packages_come(
    directory: Path, offline: Call, links: Path
) -> None:
    offline("lock", directory)
    write_wheel(links, "alpha", "2.0")
    assert offline("-q", "--locked", directory).out == "1.0\n"
    assert offline("-q", directory).out == "1.0\n"


def test_unlocked_environment_takes_the_newest(directory: Path, offline: Call, links: Path) -> None:
    write_wheel(links, "alpha", "2.0")
    assert offline("-q", directory).out == "2.0\n"


def test_locked_refuses_a_missing_lock(directory: Path, offline: Call, store: Path) -> None:
    outcome = offline("--locked", directory)
    assert outcome.code == 1
    assert "the environment is not locked" in outcome.err
    assert "buildrun lock" in outcome.err
    assert not (store / "envs").exists()


def test_locked_refuses_a_stale_lock_and_says_what_changed(
    directory: Path, offline: Call, links: Path
) -> None:
    offline("lock", directory)
    write_wheel(links, "beta")
    (directory / "python_env.yaml").write_text("dependencies: [alpha, beta]\n")
    outcome = offline("--locked", directory)
    assert outcome.code == 1
    assert "the lock is stale: `beta` was added" in outcome.err


def test_stale_lock_is_told_and_left_aside(directory: Path, offline: Call, links: Path) -> None:
    offline("lock", directory)
    write_wheel(links, "alpha", "2.0")
    (directory / "python_env.yaml").write_text("dependencies: [alpha>=2]\n")
    outcome = offline(directory)
    assert outcome.out == "2.0\n"
    assert "the lock is stale and not used" in outcome.err


@pytest.mark.parametrize(("text", "state"), [("[alpha]", "locked"), ("['alpha>0']", "stale")])
def test_plan_tells_the_state_of_the_lock(
    directory: Path, offline: Call, text: str, state: str
) -> None:
    offline("lock", directory)
    (directory / "python_env.yaml").write_text(f"dependencies: {text}\n")
    plan = offline("plan", directory, "--format=json").data
    assert plan["steps"][-1]["environment"]["lock"] == state


def test_check_tells_fresh_from_stale(directory: Path, offline: Call) -> None:
    assert offline("lock", "--check", directory).code == 1
    offline("lock", directory)
    assert offline("lock", "--check", directory).code == 0
    (directory / "python_env.yaml").write_text("dependencies: []\n")
    outcome = offline("lock", "--check", directory)
    assert outcome.code == 1
    assert "`alpha` was removed" in outcome.out


def test_check_looks_for_each_platform_that_is_named(directory: Path, offline: Call) -> None:
    offline("lock", directory, "--platform=linux-x86_64")
    assert offline("lock", "--check", directory, "--platform=linux-x86_64").code == 0
    outcome = offline("lock", "--check", directory, "--platform=darwin-arm64")
    assert outcome.code == 1
    assert "python_env.lock: it has no packages for darwin-arm64" in outcome.out
    assert "`buildrun lock --platform=darwin-arm64 " in outcome.err


def test_check_does_not_pass_where_there_is_no_project(tmp_path: Path, offline: Call) -> None:
    outcome = offline("lock", "--check", tmp_path)
    assert outcome.code == 1
    assert "there is no MLproject" in outcome.err


def test_new_lock_keeps_versions_and_update_takes_the_newest(
    directory: Path, offline: Call, links: Path
) -> None:
    offline("lock", directory)
    write_wheel(links, "alpha", "2.0")
    write_wheel(links, "beta")
    (directory / "python_env.yaml").write_text("dependencies: [alpha, beta]\n")
    kept = offline("lock", directory, "--format=json").data["changes"][HERE]
    assert kept == ["+ beta 1.0"]
    shown = offline("lock", directory, "--update", "--dry-run", "--format=json").data
    assert shown["changes"][HERE] == ["~ alpha 1.0 -> 2.0"]
    assert "2.0" not in (directory / "python_env.lock").read_text()
    offline("lock", directory, "--update")
    assert offline("-q", "--locked", directory).out == "2.0\n"


def test_lock_for_several_platforms(directory: Path, offline: Call) -> None:
    offline("lock", directory, "--platform=linux-x86_64", "--platform=darwin-arm64")
    lock = json.loads((directory / "python_env.lock").read_text())
    assert sorted(lock["platforms"]) == ["darwin-arm64", "linux-x86_64"]


def test_same_inputs_give_the_same_lock(directory: Path, offline: Call) -> None:
    offline("lock", directory)
    first = (directory / "python_env.lock").read_bytes()
    (directory / "python_env.lock").unlink()
    offline("lock", directory)
    assert (directory / "python_env.lock").read_bytes() == first


def test_installing_verifies_the_locked_hashes(directory: Path, offline: Call) -> None:
    offline("lock", directory)
    path = directory / "python_env.lock"
    value = json.loads(path.read_text())
    value["platforms"][HERE][0]["hashes"] = ["sha256:" + "0" * 64]
    path.write_text(json.dumps(value))
    outcome = offline("--locked", directory)
    assert outcome.code == 1
    assert "ash mismatch" in outcome.err


def test_damaged_lock_is_told(directory: Path, offline: Call) -> None:
    (directory / "python_env.lock").write_text("{")
    outcome = offline(directory)
    assert outcome.code == 1
    assert "python_env.lock: this is not a lock" in outcome.err
    assert offline("lock", directory).code == 0
    assert offline("-q", directory).code == 0


def test_unknown_platform_is_a_usage_error(directory: Path, offline: Call) -> None:
    outcome = offline("lock", directory, "--platform=amiga")
    assert outcome.code == 2
    assert "linux-x86_64" in outcome.err


def test_project_without_environment_has_nothing_to_lock(project: Project, offline: Call) -> None:
    outcome = offline("lock", project("entry_points: {main: {command: 'true'}}\n"))
    assert outcome.code == 1
    assert "nothing to lock" in outcome.err


def test_locked_wheel_that_is_named_by_its_file_is_installed(
    project: Project, offline: Call, tmp_path: Path
) -> None:
    wheel = write_wheel(tmp_path / "other", "gamma", "4.0")
    place = project(
        "python_env: python_env.yaml\n"
        'entry_points: {main: {command: python -c "import gamma; print(gamma.VERSION)"}}\n',
        python_env__yaml=f"dependencies: ['gamma @ file://{wheel}']\n",
    )
    assert offline("lock", place).code == 0
    assert offline("-q", "--locked", place).printed() == "4.0\n"
