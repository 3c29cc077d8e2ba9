"""Ways for tests to use the Kubernetes stand-in."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes
import urllib3
from kube_cluster import Cluster
from kube_kubelet import Kubelet, Pod, Scripted

JOBS = "/apis/batch/v1/namespaces/default/jobs"
PODS = "/api/v1/namespaces/default/pods"


def well(pod: Pod) -> None:
    pod.running()
    pod.log(b"hello\nlast")
    pod.ended(0)


def for_ever(pod: Pod) -> None:
    pod.running()
    pod.wait_deleted()


@contextmanager
def serving(play: Callable[[Pod], object] | Kubelet = well, **options: Any) -> Iterator[Cluster]:
    """Serve a cluster by a kubelet or a script; see to it that no thread outlives it."""
    kubelet: Kubelet = Scripted(play) if callable(play) else play
    before = threading.active_count()
    with Cluster(kubelet, **options) as cluster:
        yield cluster
    assert threading.active_count() == before


def job(name: str = "one", pod: Any = None, container: Any = None, **spec: Any) -> Any:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "backoffLimit": 0,
            "template": {
                "spec": {
                    "restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "x:1", **(container or {})}],
                    **(pod or {}),
                }
            },
            **spec,
        },
    }


class Clients(NamedTuple):
    """The real client's two halves; Any, since only some of its versions tell types."""

    batch: Any
    core: Any


@contextmanager
def connected(cluster: Cluster, directory: Path) -> Iterator[Clients]:
    config = cluster.kubeconfig(directory / "kubeconfig")
    load: Any = kubernetes.config.new_client_from_config
    with load(str(config)) as client:
        yield Clients(kubernetes.client.BatchV1Api(client), kubernetes.client.CoreV1Api(client))


class Reply(NamedTuple):
    code: int
    data: Any
    headers: Any


def ask(cluster: Cluster, method: str, path: str, body: Any = None, **options: Any) -> Reply:
    """Make a request by urllib3 on a connection of its own."""
    kind = options.pop("kind", "application/json")
    data = None if body is None else json.dumps(body).encode()
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        reply = pool.request(
            method, cluster.url + path, body=data, headers={"Content-Type": kind}, **options
        )
        if "json" in reply.headers.get("Content-Type", ""):
            lines = [json.loads(line) for line in reply.data.splitlines()]
            return Reply(reply.status, lines if "watch=" in path else lines[0], reply.headers)
        return Reply(reply.status, reply.data, reply.headers)


def watched(function: Any, version: str) -> Iterator[Any]:
    """Yield what the real client's watch tells."""
    watch: Any = kubernetes.watch.Watch
    yield from watch().stream(function, "default", resource_version=version, timeout_seconds=60)


def condition(job: Any, kind: str) -> Any:
    conditions = job["status"].get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), None)


def finished(cluster: Cluster, name: str = "one", kind: str = "Complete") -> Any:
    return cluster.wait(
        "jobs", lambda job: job["metadata"]["name"] == name and condition(job, kind)
    )


def the_pod(cluster: Cluster, phase: str = "Running") -> Any:
    return cluster.wait("pods", lambda pod: pod["status"]["phase"] == phase)


def told(cluster: Cluster, reason: str) -> Any:
    return cluster.wait("events", lambda event: event["reason"] == reason)
