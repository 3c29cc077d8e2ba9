"""Executors that have packages installed where commands run: what they are told, keys and locks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Outcome, Project
from step_helpers import Ran

PACKAGE = Path(__file__).parent / "executor_package"

PYTHON = "name: p\npython_env: python_env.yaml\n"
CONDA = "name: p\nconda_env: conda.yaml\n"
LONE = "entry_points: {main: {command: echo ran}}\n"
STEP = "entry_points:\n  main: {inputs: [in.txt], outputs: [out.txt], command: cp in.txt out.txt}\n"


class Cluster:
    """buildrun with the executor, and what that was told of."""

    def __init__(self, buildrun: Buildrun, place: Path) -> None:
        self._buildrun = buildrun
        self._told = place / "told.json"
        self.report = place / "report.json"

    def __call__(self, verb: str, *words: str | Path, **config: Any) -> Outcome:
        text = json.dumps({"told": str(self._told), **config})
        environ = {"PYTHONPATH": str(PACKAGE)}
        return self._buildrun(verb, *words, "-b", "cluster", "-c", text, environ=environ)

    def run(self, *words: str | Path, **config: Any) -> Ran:
        return Ran.of(self("run", *words, "--report", self.report, **config), self.report)

    @property
    def told(self) -> list[str]:
        found: list[str] = json.loads(self._told.read_text())
        return found


@pytest.fixture
def cluster(buildrun: Buildrun, tmp_path: Path) -> Cluster:
    """Return buildrun with an executor that builds nothing here."""
    return Cluster(buildrun, tmp_path)


def locked(directory: Path, platform: str, **stages: str) -> None:
    """Write a lock for the `python_env.yaml` of a directory that asks for `numpy` alone."""
    packages = [
        {"name": line.partition("==")[0], "version": "1", "line": line, "hashes": ["sha256:ab"],
         "stage": stage}
        for stage, line in stages.items()
    ]  # fmt: skip
    inputs = {"requested": None, "build": [], "run": [{"text": "numpy"}]}
    value = {
        "version": 1, "manager": "virtualenv", "digest": "", "inputs": inputs, "python": "3.9",
        "platforms": {platform: packages},
    }  # fmt: skip
    (directory / "python_env.lock").write_text(json.dumps(value))


def test_packages_are_told_as_declared_and_nothing_is_built(
    project: Project, cluster: Cluster, store: Path
) -> None:
    directory = project(
        PYTHON + LONE,
        python_env__yaml="python: '3.4'\nbuild_dependencies: [pip==20]\n"
        "dependencies: [no-such-package==1.0, -r more.txt]\n",
        more__txt="another>=2  # why\n",
    )
    for _ in range(2):  # the second is remembered
        outcome = cluster("run", directory)
        assert (outcome.code, outcome.out) == (0, "ran\n"), outcome.err
        assert cluster.told == ["no-such-package==1.0", "another>=2"]
    assert not (store / "envs").exists()


def test_remembered_plan_is_dropped_when_a_requirement_changes(
    project: Project, cluster: Cluster
) -> None:
    directory = project(
        PYTHON + LONE, python_env__yaml="dependencies: [-r more.txt]\n", more__txt="one\n"
    )
    assert cluster("run", directory).code == 0
    (directory / "more.txt").write_text("two\n")
    assert cluster("run", directory).code == 0
    assert cluster.told == ["two"]


def test_lock_for_the_clusters_platform_is_what_is_installed(
    project: Project, cluster: Cluster
) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: [numpy]\n")
    locked(directory, "linux-x86_64", build="wheel==1", run="numpy==1")
    assert cluster("run", directory).code == 0
    assert cluster.told == ["numpy==1"]


def test_lock_without_the_clusters_platform_is_stale(project: Project, cluster: Cluster) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: [numpy]\n")
    locked(directory, "darwin-arm64", run="numpy==1")
    outcome = cluster("run", directory)
    assert "the lock is stale and not used: it has no packages for linux-x86_64" in outcome.err
    assert cluster.told == ["numpy"]
    refused = cluster("run", directory, "--locked")
    assert refused.code == 1
    assert "it has no packages for linux-x86_64" in refused.err


def test_lock_is_made_for_the_cluster(project: Project, cluster: Cluster) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: []\n")
    assert cluster("lock", directory).code == 0
    made = json.loads((directory / "python_env.lock").read_text())
    assert list(made["platforms"]) == ["linux-x86_64"]
    checked = cluster("lock", directory, "--check")
    assert (checked.code, checked.out) == (0, f"{directory}/python_env.lock: fresh\n")


def test_lock_for_another_platform_is_not_fresh_for_the_cluster(
    project: Project, cluster: Cluster
) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: [numpy]\n")
    locked(directory, "darwin-arm64", run="numpy==1")
    checked = cluster("lock", directory, "--check")
    assert checked.code == 1
    assert "it has no packages for linux-x86_64" in checked.out


def test_conda_project_has_its_pip_section_installed(project: Project, cluster: Cluster) -> None:
    directory = project(
        CONDA + LONE,
        conda__yaml="channels: [conda-forge]\nvariables: {MODE: fast}\n"
        "dependencies: [python, pip, numpy=1.26, {pip: [mlflow-skinny]}]\n",
    )
    outcome = cluster("run", directory)
    assert outcome.code == 0, outcome.err
    assert "only its `pip:` section is installed on a cluster, not `numpy=1.26`, `MODE=…`" in (
        outcome.err
    )
    assert cluster.told == ["mlflow-skinny"]


def test_own_environment_asks_for_nothing(project: Project, cluster: Cluster) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: [numpy]\n")
    assert cluster("run", directory, "--env-manager", "local").code == 0
    assert cluster.told == []


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        (".", "a package of this machine"),
        ("-e .", "a package of this machine"),
        ("./wheels/x.whl", "a package of this machine"),
        ("x @ https://me:word@host/x.whl", "the requirement needs credentials"),
        ("x @ https://${WORD}@host/x.whl", "the requirement needs credentials"),
    ],
)
def test_requirement_that_no_cluster_can_install_is_refused_at_its_place(
    project: Project, cluster: Cluster, line: str, fact: str
) -> None:
    directory = project(
        PYTHON + LONE,
        python_env__yaml="dependencies: [-r more.txt]\n", more__txt=f"numpy\n{line}\n",
        pyproject__toml="[project]\nname = 'x'\nversion = '1'\n",
    )  # fmt: skip
    outcome = cluster("run", directory)
    assert outcome.code == 1
    assert f"{directory}/more.txt:2: " in outcome.err
    assert fact in outcome.err
    assert "me:word" not in outcome.err


def test_options_and_constraints_are_said_to_have_no_effect(
    project: Project, cluster: Cluster
) -> None:
    directory = project(
        PYTHON + LONE,
        python_env__yaml="dependencies: ['--index-url https://host/simple', -c most.txt, numpy]\n",
        most__txt="numpy<2\n",
    )
    outcome = cluster("run", directory)
    assert "`--index-url https://host/simple` has no effect on a cluster" in outcome.err
    assert "most.txt:1: constraint `numpy<2` has no effect on a cluster" in outcome.err
    assert cluster.told == ["numpy"]


def test_index_of_a_locked_project_is_not_shown_with_its_password(
    project: Project, cluster: Cluster
) -> None:
    option = "--index-url https://me:word@host/simple"
    directory = project(PYTHON + LONE, python_env__yaml=f"dependencies: ['{option}', numpy]\n")
    outcome = cluster("run", directory)
    assert "`--index-url https://host/simple` has no effect on a cluster" in outcome.err
    assert "me:word" not in outcome.err
    assert cluster.told == ["numpy"]


SHA256 = "ab" * 32
UV_LOCK = f"""\
version = 1
requires-python = ">=3.8"

[[package]]
name = "p"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "six" }}]

[[package]]
name = "six"
version = "1.16.0"
source = {{ registry = "https://pypi.org/simple" }}
wheels = [{{ url = "https://host/six-1.16.0-py2.py3-none-any.whl", hash = "sha256:{SHA256}" }}]
"""


@pytest.mark.parametrize(("text", "code"), [(UV_LOCK, 0), ("version = [", 1)])
def test_lock_of_uv_is_taken_or_refused(
    project: Project, cluster: Cluster, text: str, code: int
) -> None:
    directory = project(
        PYTHON + LONE,
        python_env__yaml="dependencies: [numpy]\n", uv__lock=text,
        pyproject__toml="[project]\nname = 'p'\nversion = '1'\ndependencies = ['six']\n",
    )  # fmt: skip
    outcome = cluster("run", directory, "--env-manager", "uv")
    assert outcome.code == code, outcome.err
    if code == 0:
        assert cluster.told == ["six==1.16.0"]
    else:
        assert f"{directory}/uv.lock: its packages could not be read" in outcome.err


Key = Callable[..., str]


@pytest.fixture
def key(cluster: Cluster) -> Key:
    """Return a function that gives the key of a project's last step."""

    def of(directory: Path, *words: str, **config: Any) -> str:
        planned = cluster("plan", directory, "--format", "json", *words, **config)
        assert planned.code == 0, planned.err
        found: str = planned.data["steps"][-1]["cache"]["key"]
        return found

    return of


def test_result_is_there_again_until_packages_or_runtime_change(
    project: Project, cluster: Cluster, key: Key
) -> None:
    directory = project(
        PYTHON + STEP, python_env__yaml="dependencies: [numpy==1]\n", in__txt="text\n"
    )
    assert cluster.run(directory).states == {"main": "ok"}
    assert cluster.run(directory).states == {"main": "up-to-date"}
    first = key(directory)
    assert key(directory, queue="other") == first
    others = {
        key(directory, new_cluster={"spark_version": "15.4.x-scala2.12"}),
        key(directory, new_cluster={"spark_version": "16.4.x-scala2.12"}),
        key(directory, serverless={"environment_version": "3"}),
        key(directory, "--env-manager", "local"),
    }
    assert key(directory, spark_version="15.4.x-scala2.12") in others
    (directory / "python_env.yaml").write_text("dependencies: [numpy==2]\n")
    others.add(key(directory))
    assert len(others - {first}) == 5


def test_key_does_not_depend_on_this_machine(
    project: Project, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = project(PYTHON + STEP, python_env__yaml="dependencies: []\n", in__txt="text\n")
    first, real = key(directory), os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "riscv64")))
    assert key(directory) == first


def test_provenance_tells_of_the_platform_of_the_cluster(
    project: Project, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = project(PYTHON + STEP, python_env__yaml="dependencies: []\n", in__txt="text\n")
    real = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((*real[:4], "riscv64")))
    assert cluster("run", directory, "--provenance", tmp_path / "p.json").code == 0
    definition = json.loads((tmp_path / "p.json").read_text())["predicate"]["buildDefinition"]
    assert definition["internalParameters"]["platform"] == "linux-x86_64"


def test_plan_and_build_say_where_the_packages_go(project: Project, cluster: Cluster) -> None:
    directory = project(PYTHON + LONE, python_env__yaml="dependencies: [numpy, pandas]\n")
    planned = cluster("plan", directory)
    assert "on cluster, virtualenv packages installed there, unlocked" in planned.out
    environment = cluster("plan", directory, "--format", "json").data["steps"][0]["environment"]
    assert (environment["ready"], environment["platform"]) == (True, "linux-x86_64")
    built = cluster("build", directory)
    assert built.out.startswith("2 requirements of the project, installed where it runs; nothing")
    made = cluster("build", directory, "--format", "json").data
    assert (made["path"], made["key"]) == (None, environment["key"])
    assert cluster("build", directory, "--push", "host/x").code == 2


def test_image_is_refused(project: Project, cluster: Cluster) -> None:
    outcome = cluster("run", project("docker_env: {image: x}\n" + LONE))
    assert outcome.code == 2
    assert "runs no containers, and the project names an image" in outcome.err
