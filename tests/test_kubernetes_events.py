"""What a cluster warns of, asked for without a request for each Job."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_cluster import Cluster
from kube_kubelet import Pod, Scripted

from buildrun.executors.kubernetes.api import Api
from buildrun.executors.kubernetes.auth import connect
from buildrun.executors.kubernetes.watch import Event, Events


def idle(pod: Pod) -> None:
    pod.running()


@pytest.fixture(name="cluster")
def a_cluster() -> Iterator[Cluster]:
    with Cluster(Scripted(idle), token="token") as cluster:
        yield cluster


@pytest.fixture(name="events")
def some_events(cluster: Cluster, tmp_path: Path) -> Events:
    path = cluster.kubeconfig(tmp_path / "config")
    return Events(Api(connect(None, {"KUBECONFIG": str(path)})), "default")


def warn(cluster: Cluster, uid: str, words: str, *, kind: str = "Pod", time: int = 0) -> None:
    about = {"kind": kind, "name": "same", "uid": uid, "namespace": "default"}
    cluster.create(
        "events",
        {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": "event-", "namespace": "default"},
            "involvedObject": about,
            "reason": "Failed",
            "message": words,
            "type": "Warning",
            "lastTimestamp": f"2026-01-01T00:00:{time:02}Z",
        },
    )


def asked(cluster: Cluster) -> int:
    return sum(request.path.endswith("/events") for request in cluster.requests)


def test_last_warning_is_found(cluster: Cluster, events: Events) -> None:
    warn(cluster, "one", "later", time=2)
    warn(cluster, "one", "earlier", time=1)
    warn(cluster, "other", "latest", time=3)
    assert events.last("Pod", "one") == Event("Failed", "later")
    assert events.last("Job", "one") is None


def test_no_right_to_see_is_no_warning(cluster: Cluster, events: Events) -> None:
    warn(cluster, "one", "words")
    cluster.forbid("list", "events")
    assert events.last("Pod", "one") is None


def test_many_that_ask_share_an_answer(cluster: Cluster, events: Events) -> None:
    names = [f"pod-{number}" for number in range(40)]
    for name in names:
        warn(cluster, name, f"of {name}")
        warn(cluster, name, f"of the Job {name}", kind="Job")
    found: dict[str, Event | None] = {}

    def ask(name: str) -> None:
        found[name] = events.last("Pod", name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {name: Event("Failed", f"of {name}") for name in names}
    assert asked(cluster) <= 10
    assert events.last("Job", "pod-0") == Event("Failed", "of the Job pod-0")
