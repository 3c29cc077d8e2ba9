"""What is known of Jobs and their pods, by one watch of each kind, and what is warned of."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from executor_helpers import wait_until
from kube_cluster import Cluster
from kube_kubelet import Pod, Scripted

from buildrun.executors.kubernetes.api import Api, Stream, Target
from buildrun.executors.kubernetes.auth import Connection, connect
from buildrun.executors.kubernetes.watch import Event, Events, View, Watcher

SELECTOR = "mine=yes"
LIMIT = 60.0


def idle(pod: Pod) -> None:
    pod.running()
    pod.wait_deleted()


@pytest.fixture(name="cluster")
def a_cluster() -> Iterator[Cluster]:
    with Cluster(Scripted(idle), token="token") as cluster:
        yield cluster


@pytest.fixture(name="connection")
def a_connection(cluster: Cluster, tmp_path: Path) -> Connection:
    path = cluster.kubeconfig(tmp_path / "config")
    return connect(None, {"KUBECONFIG": str(path)})


def body(name: str) -> dict[str, Any]:
    pod = {"restartPolicy": "Never", "containers": [{"name": "main", "image": "image"}]}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"mine": "yes"}},
        "spec": {
            "backoffLimit": 0,
            "template": {"metadata": {"labels": {"mine": "yes"}}, "spec": pod},
        },
    }


def until(watcher: Watcher, name: str, pods: int) -> View:
    """Return the Job once it is known with so many pods that run; each comes by its own watch."""
    view = watcher.look(name)
    while view.job is None or len(running(view)) != pods:
        after = view.revision
        view = watcher.wait(name, after, LIMIT)
        assert view.revision > after
    return view


def running(view: View) -> list[dict[str, Any]]:
    return [pod for pod in view.pods if pod["status"].get("phase") == "Running"]


def test_many_jobs_are_known_by_one_watch_of_each_kind(
    cluster: Cluster, connection: Connection
) -> None:
    def watches() -> list[str]:
        return [request.path for request in cluster.requests if "watch" in request.query]

    names = [f"job-{number}" for number in range(20)]
    with Watcher(Api(connection), "default", SELECTOR) as watcher:
        for name in names:
            cluster.create("jobs", body(name))
        found = {name: until(watcher, name, 1) for name in names}
        wait_until(lambda: len(watches()) >= 2)  # what is known may be from the lists
    for name, view in found.items():
        assert view.job is not None
        assert view.pods[0]["metadata"]["labels"]["job-name"] == name
    assert len(watches()) == len(set(watches())) == 2


def test_job_that_was_there_before_is_known(cluster: Cluster, connection: Connection) -> None:
    cluster.create("jobs", body("job"))
    with Watcher(Api(connection), "default", SELECTOR) as watcher:
        assert until(watcher, "job", 1).job is not None


def test_job_that_is_deleted_is_gone(cluster: Cluster, connection: Connection) -> None:
    api = Api(connection)
    with Watcher(api, "default", SELECTOR) as watcher:
        cluster.create("jobs", body("job"))
        until(watcher, "job", 1)
        api.delete(Target("jobs", "default", "job"))
        view = watcher.look("job")
        while view.pods or not view.gone:
            view = watcher.wait("job", view.revision, LIMIT)
    assert view.job is None


def test_job_made_while_the_list_was_on_its_way_is_not_gone(connection: Connection) -> None:
    listed, arrive, follow = threading.Event(), threading.Event(), threading.Event()

    class Slow(Api):
        """An API whose list of Jobs arrives late, and its watch later."""

        def get(self, target: Target, **query: str) -> dict[str, Any]:
            found = super().get(target, **query)
            if target.kind == "jobs":
                listed.set()
                arrive.wait(LIMIT)
            return found

        def stream(self, target: Target, query: Mapping[str, str], *, silence: float) -> Stream:
            if target.kind == "jobs":
                follow.wait(LIMIT)
            return super().stream(target, query, silence=silence)

    with Watcher(Slow(connection), "default", SELECTOR) as watcher:
        assert listed.wait(LIMIT)
        made = Api(connection).create(Target("jobs", "default"), body("job"))
        watcher.learn(made)
        until(watcher, "job", 1)
        before = watcher.look("job")
        arrive.set()
        view = watcher.wait("job", before.revision, LIMIT)
        assert not view.gone
        assert view.job is made
        follow.set()
        while view.job is made:  # until the watch tells of it
            view = watcher.wait("job", view.revision, LIMIT)
        assert view.job is not None


def test_what_happens_to_a_job_wakes_nobody_else(connection: Connection) -> None:
    watcher = Watcher(Api(connection), "default", SELECTOR)
    for name in ("one", "other"):
        watcher.learn(body(name))
    revision = watcher.wait("one", 0, LIMIT).revision
    watcher.stir("other")
    assert watcher.wait("one", revision, 0.0).revision == revision
    watcher.stir("one")
    assert watcher.wait("one", revision, LIMIT).revision == revision + 1


# -- events ----------------------------------------------------------------------------------------


@pytest.fixture(name="events")
def some_events(connection: Connection) -> Events:
    return Events(Api(connection), "default")


def warn(cluster: Cluster, uid: str, words: str, *, kind: str = "Pod", time: int = 0) -> None:
    about = {"kind": kind, "name": "same", "uid": uid, "namespace": "default"}
    event = {
        "metadata": {"generateName": "event-"}, "involvedObject": about, "type": "Warning",
        "reason": "Failed", "message": words, "lastTimestamp": f"2026-01-01T00:00:{time:02}Z",
    }  # fmt: skip
    cluster.create("events", event)


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
    assert sum(request.path.endswith("/events") for request in cluster.requests) <= 10
    assert events.last("Job", "pod-0") == Event("Failed", "of the Job pod-0")
