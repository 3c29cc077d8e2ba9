"""The example and docs/kubernetes.md as a user follows them, word by word."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, Buildrun, Outcome
from docker_helpers import a_slim  # noqa: F401
from example_helpers import play
from kube_cluster import Cluster
from kube_faults import Request
from kube_kubelet import Pod
from kube_status import RESOURCES
from kubernetes_helpers import KINDS, Place, Staged, Store

pytest_plugins = "kubernetes_helpers"

EXAMPLE = REPOSITORY / "examples" / "kubernetes"
PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()

pytestmark = pytest.mark.usefixtures("slim")


def blocks(language: str) -> list[str]:
    """Return the blocks of the page that are in a language, without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", PAGE, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def settle(place: Place, path: Path) -> Place:
    """Write the test's cluster and repository into a config; return where its Jobs will be."""
    config = json.loads(path.read_text())
    config.update({"kube-context": place.context, "repository-uri": place.repository})
    if place.standin is None:
        config["namespace"] = place.namespace
    else:
        place.standin.namespace("mlflow")
        place = place._replace(namespace="mlflow")
    path.write_text(json.dumps(config))
    return place


def test_guide_works_word_by_word(
    place: Place, buildrun: Buildrun, tmp_path: Path, slim: str
) -> None:
    project, template = blocks("yaml")[:2]
    assert slim in project
    (tmp_path / "MLproject").write_text(project)
    (tmp_path / "kubernetes_config.json").write_text(blocks("json")[0])
    (tmp_path / "kubernetes_job_template.yaml").write_text(template)
    (tmp_path / "train.py").write_text("print('trained')\n")
    place = settle(place, tmp_path / "kubernetes_config.json")
    (command,) = (
        line.removeprefix("   $ buildrun ").split()
        for line in PAGE.splitlines()
        if line.startswith("   $ buildrun ")
    )
    outcome = buildrun(*command, environ=place.environ)
    assert outcome.code == 0, outcome.err
    assert outcome.out == "trained\n"
    assert (tmp_path / "kubernetes_job_template.yaml").read_text() == template
    assert place.settled() == []


def test_example_has_the_template_that_the_page_and_mlflow_show() -> None:
    shown = yaml.safe_load(blocks("yaml")[1])
    own = yaml.safe_load((EXAMPLE / "kubernetes_job_template.yaml").read_text())
    for job in (shown, own):
        assert job["metadata"].pop("name")
        container = job["spec"]["template"]["spec"]["containers"][0]
        assert [container.pop(name) for name in ("name", "image", "command")]
    assert own == shown


def test_example_runs_on_a_cluster(place: Place, buildrun: Buildrun, tmp_path: Path) -> None:
    directory = Path(shutil.copytree(EXAMPLE, tmp_path / "kubernetes"))
    config = directory / "kubernetes_config.json"
    place = settle(place, config)
    words = (directory, "-b", "kubernetes", "-c", config, "-P", "points=4000")
    outcome = buildrun("-q", *words, environ=place.environ)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("Hello from a pod on Linux\nround 0: 7")
    assert outcome.out.endswith("\npi is about 3.134\n")
    assert "\npi is about 3.138\n" in play(directory, place.environ)
    assert place.settled() == []


def test_example_hands_files_from_one_job_to_the_next(
    place: Place, objects: Store, buildrun: Buildrun, tmp_path: Path
) -> None:
    directory = Path(shutil.copytree(EXAMPLE, tmp_path / "kubernetes"))
    config, report = directory / "kubernetes_config.json", tmp_path / "report.json"
    place = settle(place, config)
    environ = {**place.environ, **objects.environ}
    words = (directory, "-b", "kubernetes", "-c", config, "-e", "report", "-P", "points=4000")

    def run(*more: str, home: str | None = None) -> Outcome:
        changed = environ if home is None else {**environ, "BUILDRUN_HOME": home}
        return buildrun("run", "-q", *words, *more, "--report", report, environ=changed)

    def states() -> list[str]:
        return [step["state"] for step in json.loads(report.read_text())["steps"]]

    refused = run()
    assert refused.code == 1
    assert "files travel to pods and back by way of a remote cache" in refused.err
    assert "docs/kubernetes.md" in refused.err

    first = run("--remote-cache", objects.url, "--remote-cache-write")
    assert first.code == 0, first.err
    assert states() == ["ok", "ok"]
    assert first.out.endswith("4 rounds say that it is about 3.134.\n")
    assert "about 3.134" in (directory / "report.md").read_text()
    assert json.loads((directory / "throws" / "0.json").read_text())["points"] == 1000
    assert place.settled() == []

    assert run("--remote-cache", objects.url).code == 0
    assert states() == ["up-to-date", "up-to-date"]

    # A colleague's machine: nothing is there but the sources, and no Job runs.
    (directory / "report.md").unlink()
    shutil.rmtree(directory / "throws")
    assert run("--remote-cache", objects.url, home=str(tmp_path / "theirs")).code == 0
    assert states() == ["cached", "cached"]
    assert "about 3.134" in (directory / "report.md").read_text()
    if place.standin is not None:
        made = [each.path for each in place.standin.requests if each.method == "POST"]
        assert len([path for path in made if path.endswith("/jobs")]) == 2


@pytest.mark.parametrize(
    ("old", "new", "place", "fact"),
    [
        ("metadata:", "metadata: 5\nother:", "3:11", "`metadata` must be a mapping"),
        ("namespace: mlflow", "namespace: 5", "5:14", "`metadata.namespace` must be a text"),
        ("        resources:", "        env: {A: b}\n        resources:", "15:14",
         "`spec.template.spec.containers[0].env` must be a list"),
        ("      containers:", "      containers: []\n      other:", "7:3", "has no container"),
        ("kind: Job", "kind: Pod", "1:1", "this is not a Kubernetes Job"),
        ("batch/v1", "batch/v1beta1", "1:13", "a Job's `apiVersion` is `batch/v1`"),
    ],
)  # fmt: skip
def test_template_that_is_no_job_is_told_with_its_line(
    buildrun: Buildrun, tmp_path: Path, old: str, new: str, place: str, fact: str
) -> None:
    directory = Path(shutil.copytree(EXAMPLE, tmp_path / "kubernetes"))
    template = directory / "kubernetes_job_template.yaml"
    template.write_text(template.read_text().replace(old, new, 1))
    config = directory / "kubernetes_config.json"
    outcome = buildrun(directory, "-b", "kubernetes", "-c", config)
    assert outcome.code == 1
    assert outcome.err.startswith(f"error: {template}:{place}: ")
    assert fact in outcome.err


def test_page_tells_of_every_key_of_the_config() -> None:
    table = PAGE.partition("\n## The configuration\n")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `([\w-]+)` \|", table, re.MULTILINE)
    schema = json.loads((REPOSITORY / "schemas" / "kubernetes_config.schema.json").read_text())
    assert told == list(schema["properties"])


def test_links_of_the_page_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in PAGE.splitlines()
        if line.startswith("#")
    }
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = link.partition("#")
        if not path:
            assert anchor in headings, link
        elif "://" not in path:
            assert (REPOSITORY / "docs" / path).exists(), link


# -- rights ----------------------------------------------------------------------------------------

Right = tuple[str, str]


def role() -> set[Right]:
    """Return the rights that the page's Role gives, as verbs and resources."""
    (found,) = (text for text in blocks("yaml") if "kind: Role" in text)
    given: Mapping[str, Any] = yaml.safe_load(found)
    groups = {resource.plural: resource.group for resource in RESOURCES.values()}
    for rule in given["rules"]:
        assert [groups[name.partition("/")[0]] for name in rule["resources"]] == rule["apiGroups"]
    return {
        (verb, name) for rule in given["rules"] for name in rule["resources"]
        for verb in rule["verbs"]
    }  # fmt: skip


def restrict(cluster: Cluster) -> None:
    """Take all rights away that the Role does not give."""
    for resource in RESOURCES.values():
        for name in (resource.plural, f"{resource.plural}/status", f"{resource.plural}/log"):
            for verb in resource.verbs:
                if (verb, name) not in role():
                    cluster.forbid(verb, name)


def right(request: Request) -> Right:
    """Return the right that a request takes."""
    kind, *rest = request.path.partition("/namespaces/")[2].split("/")[1:]
    name = f"{kind}/{rest[1]}" if len(rest) > 1 else kind
    if request.method == "GET":
        verb = "watch" if "watch" in request.query else "get" if rest else "list"
        return verb, name
    return {"POST": "create", "PATCH": "patch", "DELETE": "delete", "PUT": "update"}[
        request.method
    ], name


def uid(made: Mapping[str, Any]) -> str:
    return str(made["metadata"]["uid"])


def test_role_of_the_page_suffices_and_is_the_least(stage: Staged, objects: Store) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"hello\n")
        pod.ended(0, container=pod.containers[0])

    entries = "  main: {command: 'true', pass_env: [A_TOKEN]}\n"
    there = stage(play, entries + "  made: {command: 'true', outputs: [made]}\n")
    cluster = there.cluster
    restrict(cluster)
    secret = {"A_TOKEN": "hidden"}
    assert there.run(environ=secret).out == "hello\n"

    # The Job of a run that was left, and another run that attaches to it and keeps it.
    assert there.run("--detach", environ=secret).code == 0
    kept = there.run(config={"keep-jobs": "always"}, environ=secret)
    assert (kept.code, kept.out) == (0, "hello\n")
    assert "attached to the Job" in kept.err
    (job,) = cluster.all("jobs")
    assert job["spec"]["backoffLimit"] == 0

    # What runs beside the command of a Job that is kept ends.
    template = there.root.parent / "template.yaml"
    containers = [{"name": "main"}, {"name": "side", "image": "alpine"}]
    spec = {"template": {"spec": {"containers": containers}}}
    template.write_text(json.dumps({"apiVersion": "batch/v1", "kind": "Job", "spec": spec}))
    config = {"keep-jobs": "always", "kube-job-template-path": str(template)}
    assert there.run(config=config, environ=secret).code == 0
    (made,) = (each for each in cluster.all("jobs") if each["metadata"]["uid"] != uid(job))
    there.place.delete("jobs", made["metadata"]["name"])

    # Nothing is delivered here, which is a failure of the step; its Job and Secret go.
    lost = there.run(
        "-e", "made", environ={**objects.environ, "BUILDRUN_REMOTE_CACHE": objects.url}
    )
    assert lost.code == 1
    assert "did not arrive" in lost.err

    # The events tell why there is no pod.
    cluster.refuse("pods", "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1")
    refused = there.run(config={"schedule-timeout": "0s"}, environ=secret)
    assert refused.code == 1
    assert "exceeded quota: q" in refused.err
    assert {right(request) for request in cluster.requests if "/namespaces/" in request.path} == (
        role()
    )
    assert [len(cluster.all(kind)) for kind in KINDS] == [0, 0, 0]


def test_commands_for_runs_need_no_more_than_the_role(stage: Staged, buildrun: Buildrun) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"hello\n")
        pod.wait_deleted()

    there = stage(play, "  main: {command: 'true', pass_env: [A_TOKEN]}\n")
    restrict(there.cluster)
    assert there.run("--detach", environ={"A_TOKEN": "hidden"}).code == 0
    there.cluster.wait("pods", lambda pod: pod["status"].get("phase") == "Running")
    assert "submitted" in buildrun("runs", "ls", environ=there.place.environ).out
    assert "running" in buildrun("runs", "show", environ=there.place.environ).out
    assert buildrun("runs", "logs", environ=there.place.environ).out == "hello\n"
    cancelled = buildrun("runs", "cancel", environ=there.place.environ)
    assert cancelled.code == 0, cancelled.err
    assert [len(there.cluster.all(kind)) for kind in KINDS] == [0, 0, 0]


def test_place_for_files_that_is_not_there_is_told_before_a_job_is_made(
    stage: Staged, objects: Store
) -> None:
    there = stage(lambda pod: pod.ended(0), "  made: {command: 'true', outputs: [made]}\n")
    environ = {**objects.environ, "BUILDRUN_REMOTE_CACHE": "s3://no-such-bucket/team"}
    outcome = there.run("-e", "made", environ=environ)
    assert outcome.code == 1
    assert "error: [made] the remote cache `s3://no-such-bucket/team` does not exist" in outcome.err
    assert there.asked("POST", "/jobs") == 0


def test_default_template_is_as_the_page_shows(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.ended(0)

    there = stage(play)
    assert there.run(config={"keep-jobs": "always"}).code == 0
    (made,) = there.cluster.all("jobs")
    there.place.delete("jobs", made["metadata"]["name"])
    (text,) = (text for text in blocks("yaml") if "containers: [{}]" in text)
    shown = yaml.safe_load(text)
    pod = shown["spec"].pop("template")["spec"]
    assert {name: made["spec"][name] for name in shown["spec"]} == shown["spec"]
    assert pod["restartPolicy"] == made["spec"]["template"]["spec"]["restartPolicy"]
    assert len(made["spec"]["template"]["spec"]["containers"]) == len(pod["containers"]) == 1
