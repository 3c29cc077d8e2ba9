"""Pods of the Kubernetes stand-in that are real containers."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from docker_helpers import BASE, Registry, docker, engine, imported, registry
from kube_cluster import Cluster
from kube_docker import LABEL
from kube_helpers import JOBS, PODS, ask, condition, finished, job, serving, the_pod, told
from kube_inputs import Mount, expand
from kube_kubelet import DockerKubelet

assert engine  # a fixture

pytestmark = pytest.mark.usefixtures("engine")


@pytest.fixture
def kubelet() -> Iterator[DockerKubelet]:
    made = DockerKubelet(os.environ, pull_backoff=0.2, restart_backoff=0)
    yield made
    assert not docker("ps", "-aq", "--filter", f"label={LABEL}={made.id}")
    assert not made.root.exists()


def shell(script: str, **more: Any) -> Any:
    return {"image": BASE, "command": ["bash", "-c", script], **more}


def log_of(cluster: Cluster, name: str) -> str:
    return str(ask(cluster, "GET", f"{PODS}/{name}/log").data.decode())


def ended(cluster: Cluster, container: Any, pod: Any = None, **spec: Any) -> tuple[Any, str]:
    """Run a Job to its end; return how its container has ended, and its log."""
    cluster.create("jobs", job(container=container, pod=pod, **spec))
    cluster.wait("jobs", lambda job: condition(job, "Complete") or condition(job, "Failed"))
    (found,) = cluster.all("pods")
    (status,) = found["status"]["containerStatuses"]
    return status["state"]["terminated"], log_of(cluster, found["metadata"]["name"])


def test_command_runs_in_its_image_with_its_exit_code(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        state, log = ended(
            cluster,
            shell('pwd; cat /etc/debian_version; echo err >&2; printf "%s|" "$@"; exit 7',
                  args=["a b", "", "c'd"], workingDir="/tmp"),
        )  # fmt: skip
        assert (state["exitCode"], state["reason"]) == (7, "Error")
        lines = log.splitlines()
        lines.remove("err")  # it may come before or after what went to standard output
        assert lines[0] == "/tmp"
        assert lines[1].startswith("12")
        assert lines[2:] == ["|c'd|"]
        failed = finished(cluster, kind="Failed")
        assert condition(failed, "Failed")["reason"] == "BackoffLimitExceeded"


def test_variables_come_from_everywhere_and_expand(kubelet: DockerKubelet) -> None:
    secret = {"metadata": {"name": "s"}, "data": {"KEY": base64.b64encode(b"kept\nshut").decode()}}
    env = [
        {"name": "A", "value": "a"},
        {"name": "B", "value": "$(A)-$$(A)-$(NONE)-$A"},
        {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "KEY"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "HOME", "value": "/nowhere"},
    ]
    script = "import os, sys; print(sys.argv[1:], *map(os.environ.get, sys.argv[4:]), sep='|')"
    with serving(kubelet) as cluster:
        cluster.create("secrets", secret)
        _, log = ended(
            cluster,
            {"image": BASE, "command": ["python3", "-c", script], "env": env,
             "envFrom": [{"secretRef": {"name": "s"}}],
             "args": ["$(B)", "$$(B)", "$(NONE)", "B", "S", "KEY", "HOME", "NAME"]},
        )  # fmt: skip
        (pod,) = cluster.all("pods")
        words, *values = log.rstrip().split("|")
        assert words.startswith("['a-$(A)-$(NONE)-$A', '$(B)', '$(NONE)',")
        assert values == [
            "a-$(A)-$(NONE)-$A", "kept\nshut", "kept\nshut", "/nowhere", pod["metadata"]["name"],
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("$(A)", "a"), ("$$(A)", "$(A)"), ("$$$(A)", "$a"), ("$(NONE)", "$(NONE)"), ("$A", "$A"),
        ("$(A", "$(A"), ("$", "$"), ("$$", "$"), ("$()", "$()"), ("$(A)$(A)", "aa"),
        ("$($$)", "$($$)"),
    ],
)  # fmt: skip
def test_references_expand_as_in_kubernetes(text: str, expected: str) -> None:
    assert expand(text, {"A": "a"}) == expected


def test_secret_is_a_directory_of_files(kubelet: DockerKubelet) -> None:
    volumes = [
        {"name": "s", "secret": {"secretName": "s"}},
        {"name": "c", "configMap": {"name": "c", "items": [{"key": "k", "path": "x/y"}]}},
        {"name": "e", "emptyDir": {}},
    ]
    mounts = [
        {"name": "s", "mountPath": "/buildrun", "readOnly": True},
        {"name": "c", "mountPath": "/c"},
        {"name": "e", "mountPath": "/e"},
    ]
    script = "cat /buildrun/k /c/x/y; touch /e/x; touch /buildrun/x"
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(
            pod={"volumes": volumes},
            container=shell(script, volumeMounts=mounts),
        ))  # fmt: skip
        event = told(cluster, "FailedMount")
        assert event["message"] == 'MountVolume.SetUp failed for volume "s" : secret "s" not found'
        cluster.create("secrets", {"metadata": {"name": "s"}, "stringData": {"k": "of secret\n"}})
        cluster.create("configmaps", {"metadata": {"name": "c"}, "data": {"k": "of map\n"}})
        pod = the_pod(cluster, "Failed")
        log = log_of(cluster, pod["metadata"]["name"])
        assert "of secret\nof map\n" in log
        assert "touch: cannot touch '/buildrun/x': Read-only file system" in log


def test_missing_secret_of_a_variable_is_waited_for(kubelet: DockerKubelet) -> None:
    source = {"secretKeyRef": {"name": "s", "key": "k"}}
    with serving(kubelet) as cluster:
        cluster.create(
            "jobs", job(container=shell("echo $K", env=[{"name": "K", "valueFrom": source}]))
        )
        pod = waiting(cluster, "CreateContainerConfigError")
        assert pod["message"] == 'secret "s" not found'
        cluster.create("secrets", {"metadata": {"name": "s"}, "stringData": {"k": "here"}})
        finished(cluster)


def waiting(cluster: Cluster, reason: str) -> Any:
    def state(pod: Any) -> Any:
        statuses = pod["status"].get("containerStatuses") or [{"state": {}}]
        return statuses[0]["state"].get("waiting", {})

    return state(cluster.wait("pods", lambda pod: state(pod).get("reason") == reason))


def test_out_of_memory_is_told(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        state, _ = ended(
            cluster,
            {"image": BASE, "command": ["python3", "-c", "x = bytearray(500 << 20)"],
             "resources": {"limits": {"memory": "30Mi"}}},
        )  # fmt: skip
        assert (state["reason"], state["exitCode"]) == ("OOMKilled", 137)


def test_image_that_cannot_be_pulled_is_told_and_tried_again(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(container={"image": "127.0.0.1:1/none:x"}))
        state = waiting(cluster, "ImagePullBackOff")
        assert state["message"].startswith(
            'Back-off pulling image "127.0.0.1:1/none:x": ErrImagePull: rpc error: '
        )
        assert "connection refused" in state["message"]
        cluster.wait("events", lambda event: event["reason"] == "Pulling" and event["count"] > 1)
        reasons = {event["message"] for event in cluster.all("events")}
        assert "Error: ErrImagePull" in reasons
        assert 'Back-off pulling image "127.0.0.1:1/none:x"' in reasons


def test_image_with_an_impossible_name_is_told(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(container={"image": "Upper:x"}))
        state = waiting(cluster, "InvalidImageName")
        assert state["message"].endswith("repository name (Upper) must be lowercase")


def test_command_that_is_not_there_is_a_start_error(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        state, log = ended(cluster, {"image": BASE, "command": ["nosuchprogram"]})
        assert (state["reason"], state["exitCode"], log) == ("StartError", 128, "")
        assert '"nosuchprogram": executable file not found' in state["message"]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("seq 1000; exit 1", "".join(f"{number}\n" for number in range(921, 1001))),
        ("echo no; echo said > /dev/termination-log; exit 1", "said\n"),
        ("echo no", None),
    ],
)
def test_message_of_the_end_is_the_file_or_the_end_of_the_log(
    kubelet: DockerKubelet, script: str, message: str | None
) -> None:
    with serving(kubelet) as cluster:
        container = shell(script, terminationMessagePolicy="FallbackToLogsOnError")
        assert ended(cluster, container)[0].get("message") == message


def test_deleted_pod_is_asked_to_end_before_it_goes(kubelet: DockerKubelet) -> None:
    script = "trap 'echo asked; sleep 0.2; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(container=shell(script)))
        pod = the_pod(cluster)
        version = cluster.store.version
        path = f"{PODS}/{pod['metadata']['name']}/log?follow=true"
        with urllib3.PoolManager() as pool:
            log = pool.request("GET", cluster.url + path, preload_content=False).stream(1)
            got = b"".join(next(log) for _ in b"ready\n")
            assert ask(cluster, "DELETE", f"{JOBS}/one?propagationPolicy=Background").code == 200
            got += b"".join(log)
        assert got == b"ready\nasked\n"
        cluster.wait_until(lambda: not cluster.all("pods"))
        query = f"watch=1&timeoutSeconds=1&resourceVersion={version}"
        last = ask(cluster, "GET", f"{PODS}?{query}").data[-1]
        assert last["type"] == "DELETED"
        (status,) = last["object"]["status"]["containerStatuses"]
        assert status["state"]["terminated"]["exitCode"] == 5


def test_end_of_the_cluster_kills_what_runs(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(container=shell("sleep 1000")))
        the_pod(cluster)


def test_init_container_runs_first_and_may_fail(kubelet: DockerKubelet) -> None:
    share = [{"name": "e", "mountPath": "/e"}]
    pod = {
        "volumes": [{"name": "e", "emptyDir": {}}],
        "initContainers": [
            {"name": "init", **shell("echo made > /e/file; echo log; exit 0", volumeMounts=share)}
        ],
    }
    with serving(kubelet) as cluster:
        _, log = ended(cluster, shell("cat /e/file", volumeMounts=share), pod)
        assert log == "made\n"
        (found,) = cluster.all("pods")
        path = f"{PODS}/{found['metadata']['name']}/log?container=init"
        assert ask(cluster, "GET", path).data == b"log\n"
        pod["initContainers"] = [{"name": "init", **shell("exit 4")}]
        cluster.create("jobs", job("two", container=shell("true", volumeMounts=share), pod=pod))
        failed = finished(cluster, "two", kind="Failed")
        assert failed["status"]["failed"] == 1


def test_container_starts_again_until_it_succeeds(kubelet: DockerKubelet) -> None:
    share = [{"name": "e", "mountPath": "/e"}]
    pod = {"volumes": [{"name": "e", "emptyDir": {}}], "restartPolicy": "OnFailure"}
    with serving(kubelet) as cluster:
        script = "test -e /e/x && exit 0; touch /e/x; exit 1"
        cluster.create(
            "jobs", job(container=shell(script, volumeMounts=share), pod=pod, backoffLimit=3)
        )
        finished(cluster)
        (found,) = cluster.all("pods")
        assert found["status"]["containerStatuses"][0]["restartCount"] == 1


def test_every_container_gets_what_the_kubelet_adds(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("certificates\n")
    kubelet = DockerKubelet(
        os.environ,
        mounts=[Mount(str(tmp_path), "/added", readonly=True)],
        variables={"REQUESTS_CA_BUNDLE": "/added/ca.pem"},
    )
    with serving(kubelet) as cluster:
        _, log = ended(cluster, shell("cat $REQUESTS_CA_BUNDLE"))
        assert log == "certificates\n"


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Registry]:
    yield from registry(tmp_path / "registry")


def test_image_is_pulled_from_a_registry_by_digest(kubelet: DockerKubelet, there: Registry) -> None:
    name = f"{there.address}/team/image:1"
    imported(name, there.address)  # it has no command, so it only nearly runs
    try:
        digest = docker("push", name).rpartition("digest: ")[2].split()[0]
    finally:
        docker("rmi", name)
    image = f"{there.address}/team/image@{digest}"
    with serving(kubelet) as cluster:
        state, _ = ended(cluster, {"image": image, "command": ["/content"]})
        assert state["reason"] == "StartError"
        assert f'Successfully pulled image "{image}"' in told(cluster, "Pulled")["message"]
        docker("image", "inspect", image)
    assert docker("image", "inspect", image, check=False) == "[]"


def test_pull_secret_opens_a_registry(kubelet: DockerKubelet, tmp_path: Path) -> None:
    for guarded in registry(tmp_path / "guarded", password=True):
        name = f"{guarded.address}/team/image:1"
        login = tmp_path / "login"
        login.mkdir()
        auth = base64.b64encode(b"someone:secret").decode()
        auths = json.dumps({"auths": {guarded.address: {"auth": auth}}})
        (login / "config.json").write_text(auths)
        imported(name, guarded.address)
        try:
            docker("--config", login, "push", name)
        finally:
            docker("rmi", name)
        secret = {
            "metadata": {"name": "login"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": auths},
        }
        pod = {"imagePullSecrets": [{"name": "login"}]}
        with serving(kubelet) as cluster:
            container = {"image": name, "command": ["/content"]}
            cluster.create("jobs", job(container=container, pod=pod))
            assert "no basic auth credentials" in waiting(cluster, "ImagePullBackOff")["message"]
            assert "(login)" in told(cluster, "FailedToRetrieveImagePullSecret")["message"]
            cluster.create("secrets", secret)
            told(cluster, "Pulled")


def test_pod_that_takes_too_long_is_ended(kubelet: DockerKubelet) -> None:
    with serving(kubelet) as cluster:
        cluster.create("jobs", job(container=shell("sleep 1000"), pod={"activeDeadlineSeconds": 1}))
        finished(cluster, kind="Failed")
        (pod,) = cluster.all("pods")
        assert (pod["status"]["phase"], pod["status"]["reason"]) == ("Failed", "DeadlineExceeded")
