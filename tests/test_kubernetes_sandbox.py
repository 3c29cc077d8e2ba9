"""`sandbox` in pods: declared files alone are there, with real pods on the stand-in's cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Project
from docker_helpers import BASE, docker
from kubernetes_helpers import Place, Run, Store

from buildrun.environments.images import derive
from buildrun.executors.kubernetes import pod_runner
from buildrun.store.home import Home

pytest_plugins = "kubernetes_helpers"

HEAD = f"docker_env: {{image: '{BASE}'}}\nname: inside\nentry_points:\n"
CODE = "/mlflow/projects/code"


def template(tmp_path: Path, pod: dict[str, Any], **container: Any) -> dict[str, str]:
    """Write a Job template, and return the config that names it."""
    spec = {"containers": [{"name": "main", **container}], "restartPolicy": "Never", **pod}
    job = {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": {"spec": spec}}}
    path = tmp_path / "template.yaml"
    path.write_text(yaml.safe_dump(job))
    return {"kube-job-template-path": str(path)}


LONE = HEAD + (
    "  main: {sandbox: true, inputs: [src, link], "
    "command: 'find * | sort; cat link; test -x src/tool; cat other/secret.cfg'}\n"
)


def lone(project: Project) -> Path:
    directory = project(LONE, other="")
    (directory / "other").unlink()
    for path in ("src/deep/a.py", "src/tool", "other/target", "other/secret.cfg"):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text("x\n")
    (directory / "src/tool").chmod(0o755)
    (directory / "src/none").mkdir()
    (directory / "link").symlink_to("other/target")
    return directory


FOUND = """\
link
other
other/target
src
src/deep
src/deep/a.py
src/none
src/tool
x
"""


@pytest.mark.parametrize("user", [None, 1234])
def test_declared_files_are_all_that_is_there_without_a_remote_cache(
    project: Project, run: Run, place: Place, tmp_path: Path, user: int | None
) -> None:
    config = template(tmp_path, {"securityContext": {"runAsUser": user}} if user else {})
    outcome = run("-q", lone(project), config=config)
    assert (outcome.code, outcome.out.partition("cat: ")[0]) == (1, FOUND), outcome.err
    assert "secret.cfg: No such file" in outcome.out + outcome.err
    assert place.settled() == []


STEPS = (
    HEAD
    + """\
  make:
    sandbox: true
    inputs: [tool, data]
    outputs: [out/]
    command: "find * | sort; mkdir out; ./tool > out/a; chmod +x out/a"
  main:
    sandbox: true
    depends_on: [make]
    inputs: [tool]
    parameters: {more: path}
    command: "find * | sort; test -x out/a; cat out/a {more} secret.cfg"
"""
)


def test_outputs_of_steps_before_and_what_git_ignores_are_there(
    project: Project, run: Run, objects: Store
) -> None:
    files = {"secret__cfg": "x", "__gitignore": "*.csv\n", "more": "more\n"}
    directory = project(STEPS, tool="#!/bin/sh\necho made\n", **files)
    (directory / "tool").chmod(0o755)
    (directory / "data").mkdir()
    (directory / "data/big.csv").touch()
    (directory / "data/small").touch()
    words = ("-q", directory, "-P", f"more={directory / 'more'}", "--remote-cache", objects.url)
    outcome = run(*words, environ=objects.environ)
    first = "data\ndata/big.csv\ndata/small\ntool\n"
    second = "more\nout\nout/a\ntool\nmade\nmore\n"
    assert (outcome.code, outcome.out.partition("cat: ")[0]) == (1, first + second), outcome.err
    assert "secret.cfg: No such file" in outcome.out + outcome.err
    assert os.access(directory / "out/a", os.X_OK)


def test_network_cannot_be_taken_away_and_nothing_is_built(
    project: Project, run: Run, store: Path
) -> None:
    text = "  main: {sandbox: {network: false}, command: 'echo ran'}\n"
    outcome = run(project(HEAD + text))
    assert (outcome.code, outcome.out) == (1, "")
    assert "`network: false`, which is not possible in pods" in outcome.err
    assert "NetworkPolicy" in outcome.err
    assert list(derive.keys(Home(str(store)))) == []


def test_commands_in_pods_are_not_watched(project: Project, run: Run) -> None:
    text = "  main: {check_inputs: true, inputs: [tool], command: 'true'}\n"
    outcome = run(project(HEAD + text, tool="x"))
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("commands in containers are not watched") == 1


def test_volume_in_the_project_is_told(project: Project, run: Run, tmp_path: Path) -> None:
    mount = {"name": "scratch", "mountPath": f"{CODE}/scratch"}
    volumes = {"volumes": [{"name": "scratch", "emptyDir": {}}]}
    config = template(tmp_path, volumes, volumeMounts=[mount])
    text = "  main: {sandbox: true, inputs: [tool], command: 'ls; touch scratch/a'}\n"
    outcome = run(project(HEAD + text, tool="x", other="x"), config=config)
    assert (outcome.code, outcome.out) == (0, "scratch\ntool\n"), outcome.err
    assert f"the Job template mounts `{CODE}/scratch`" in outcome.err


def test_sealed_file_system_is_told(project: Project, run: Run, tmp_path: Path) -> None:
    config = template(tmp_path, {}, securityContext={"readOnlyRootFilesystem": True})
    outcome = run(lone(project), config=config)
    assert outcome.code != 0
    assert "what is not declared cannot be removed" in outcome.err
    assert "Read-only file system" in outcome.err


@pytest.mark.parametrize(
    ("mounted", "left"),
    [
        (f"{CODE}/da ta/deep", ["da ta", "da ta/deep", "da ta/deep/kept", "keep", "new"]),
        (CODE, ["da ta", "da ta/x", "keep", "kept", "new", "other"]),
        ("/mlflow", ["da ta", "da ta/x", "keep", "new", "other"]),
    ],
)
@pytest.mark.usefixtures("engine")
def test_mounted_volume_is_never_emptied(tmp_path: Path, mounted: str, left: list[str]) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "kept").touch()
    task = {"version": 1, "argv": ["find"], "workdir": CODE, "inputs": [], "outputs": []}
    task["only"] = {"keep": ["keep"], "directories": ["new"]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    script = (
        f"mkdir -p '{CODE}/da ta'; cd {CODE}; touch 'da ta/x' keep other; "
        "python3 /pod_runner.py /task.json"
    )
    out = docker(
        "run", "--rm", "-v", f"{volume}:{mounted}", "-v", f"{pod_runner.__file__}:/pod_runner.py",
        "-v", f"{tmp_path}/task.json:/task.json", BASE, "sh", "-c", script,
    )  # fmt: skip
    assert sorted(line[2:] for line in out.splitlines() if line != ".") == left
    assert (volume / "kept").exists()
