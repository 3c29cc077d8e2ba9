"""The Kubernetes stand-in does what a real API server does, seen through real clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes
import pytest
from kube_cluster import Cluster
from kube_kubelet import Kubelet, Pod, Scripted


@contextmanager
def serving(play: Any = None, **options: Any) -> Iterator[Cluster]:
    def well(pod: Pod) -> None:
        pod.running()
        pod.log(b"hello\nlast")
        pod.ended(0)

    kubelet: Kubelet = play if hasattr(play, "play") else Scripted(play or well)
    with Cluster(kubelet, **options) as cluster:
        yield cluster


def job(name: str = "one", pod: Any = None, container: Any = None, **spec: Any) -> Any:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
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


def condition(job: Any, kind: str) -> Any:
    conditions = job["status"].get("conditions") or ()
    return next((each for each in conditions if each["type"] == kind), None)


def test_job_runs_to_completion_and_its_log_is_read(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        made = batch.create_namespaced_job("default", job())
        done = cluster.wait("jobs", lambda job: condition(job, "Complete"))
        assert done["metadata"]["uid"] == made.metadata.uid
        assert done["status"]["succeeded"] == 1
        assert condition(done, "Complete")["reason"] == "CompletionsReached"
        (pod,) = core.list_namespaced_pod("default", label_selector="job-name=one").items
        assert pod.metadata.name.startswith("one-")
        assert pod.metadata.owner_references[0].uid == made.metadata.uid
        assert pod.status.phase == "Succeeded"
        assert core.read_namespaced_pod_log(pod.metadata.name, "default") == "hello\nlast"


def test_kinds_of_failure_have_the_servers_words(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, _):
        with pytest.raises(kubernetes.client.ApiException) as missing:
            batch.read_namespaced_job("two", "default")
        assert missing.value.status == 404
        told = json.loads(missing.value.body or "")
        assert told["message"] == 'jobs.batch "two" not found'
