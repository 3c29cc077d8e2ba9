"""Watches and logs of the Kubernetes stand-in, and what goes wrong with them on purpose."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import urllib3
from kube_faults import Kind
from kube_helpers import (
    JOBS,
    PODS,
    ask,
    condition,
    connected,
    finished,
    for_ever,
    job,
    serving,
    the_pod,
    told,
    watched,
)
from kube_kubelet import Pod


def test_watch_tells_what_happens_in_order(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        version = core.list_namespaced_pod("default").metadata.resource_version
        batch.create_namespaced_job("default", job())
        seen = []
        for event in watched(core.list_namespaced_pod, version):
            seen.append((event["type"], event["object"].status.phase))
            if event["type"] == "DELETED":
                break
            if event["object"].status.phase == "Succeeded" and cluster.all("jobs"):
                batch.delete_namespaced_job("one", "default", propagation_policy="Background")
        assert seen[0] == ("ADDED", "Pending")
        assert ("MODIFIED", "Running") in seen
        assert seen[-1] == ("DELETED", "Succeeded")
        assert {kind for kind, _ in seen[1:-1]} == {"MODIFIED"}


def test_watch_without_version_starts_with_what_is_there() -> None:
    with serving() as cluster:
        cluster.create("jobs", job())
        finished(cluster)
        events = ask(cluster, "GET", f"{JOBS}?watch=1&timeoutSeconds=1").data
        assert [(event["type"], event["object"]["kind"]) for event in events] == [("ADDED", "Job")]


def test_object_that_no_longer_matches_is_deleted_for_a_watch() -> None:
    with serving(for_ever) as cluster:
        version = cluster.store.version
        cluster.create("jobs", job(suspend=True))
        relabel = {"metadata": {"labels": {"app": "other"}}}
        kind = "application/merge-patch+json"
        assert ask(cluster, "PATCH", f"{JOBS}/one", relabel, kind=kind).code == 200
        query = f"watch=1&timeoutSeconds=1&resourceVersion={version}&labelSelector=app%3D"
        kinds = [event["type"] for event in ask(cluster, "GET", f"{JOBS}?{query}one").data]
        assert (kinds[0], kinds[-1]) == ("ADDED", "DELETED")
        other = ask(cluster, "GET", f"{JOBS}?{query}other").data
        assert other[0]["type"] == "ADDED"


@pytest.mark.parametrize("way", ["event", "status"])
def test_version_that_is_too_old_is_gone(way: Any, tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, _):
        version = batch.list_namespaced_job("default").metadata.resource_version
        cluster.compact()
        cluster.gone_as = way
        with pytest.raises(kubernetes.client.ApiException) as gone:
            next(watched(batch.list_namespaced_job, version))
        assert gone.value.status == 410
        reply = ask(cluster, "GET", f"{JOBS}?watch=1&resourceVersion={version}")
        assert reply.code == (200 if way == "event" else 410)
        status = reply.data[0]["object"] if way == "event" else reply.data[0]
        assert (status["code"], status["reason"]) == (410, "Expired")
        assert status["message"].startswith("too old resource version")
        version = batch.list_namespaced_job("default").metadata.resource_version
        assert ask(
            cluster, "GET", f"{JOBS}?watch=1&timeoutSeconds=1&resourceVersion={version}"
        ).data == []  # fmt: skip


def test_bookmarks_come_where_they_are_allowed() -> None:
    with serving() as cluster:
        query = f"watch=1&timeoutSeconds=1&resourceVersion={cluster.store.version}"
        events = ask(cluster, "GET", f"{JOBS}?{query}&allowWatchBookmarks=true").data
        assert [event["type"] for event in events] == ["BOOKMARK"]
        version = events[0]["object"]["metadata"]["resourceVersion"]
        assert version == str(cluster.store.version)
        assert ask(cluster, "GET", f"{JOBS}?{query}").data == []


def test_watch_from_the_future_waits() -> None:
    with serving() as cluster:
        version = cluster.store.version + 1
        query = f"watch=1&timeoutSeconds=1&resourceVersion={version}"
        assert ask(cluster, "GET", f"{JOBS}?{query}").data == []


def test_bookmark_comes_when_a_test_wants_it() -> None:
    with serving() as cluster:
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={cluster.store.version}"
        with urllib3.PoolManager() as pool:
            reply = pool.request("GET", f"{cluster.url}{JOBS}?{query}", preload_content=False)
            cluster.bookmark()
            assert json.loads(next(reply.stream(65536)))["type"] == "BOOKMARK"
            reply.close()


def test_log_follows_the_container_to_its_end(tmp_path: Path) -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"one\ntw")
        pod.wait(gate)
        pod.log(b"o\npart")
        pod.ended(0)

    with serving(play) as cluster, connected(cluster, tmp_path) as (_, core):
        cluster.create("jobs", job())
        name = the_pod(cluster)["metadata"]["name"]
        reply = core.read_namespaced_pod_log(
            name, "default", follow=True, timestamps=True, _preload_content=False
        )
        stream = reply.stream(1)
        first = b""
        while not first.endswith(b"\n"):
            first += next(stream)
        assert re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z one\n", first)
        gate.set()
        rest = b"".join(stream)
        assert [line[31:] for line in rest.splitlines(keepends=True)] == [b"two\n", b"part"]


def test_log_since_a_time_starts_with_its_second() -> None:
    def play(pod: Pod) -> None:
        pod.running()
        for at in (999_999_999, 1_000_000_001, 1_500_000_000, 2_000_000_000):
            pod.log(b"%d\n" % at, at=at)
        pod.ended(0)

    with serving(play) as cluster:
        cluster.create("jobs", job())
        log = f"{PODS}/{the_pod(cluster, 'Succeeded')['metadata']['name']}/log"
        since = ask(cluster, "GET", f"{log}?sinceTime=1970-01-01T00:00:01.6Z").data
        assert since == b"1000000001\n1500000000\n2000000000\n"
        stamped = ask(cluster, "GET", f"{log}?timestamps=true&tailLines=1").data
        assert stamped == b"1970-01-01T00:00:02.000000000Z 2000000000\n"
        assert ask(cluster, "GET", f"{log}?limitBytes=4").data == b"9999"
        assert ask(cluster, "GET", f"{log}?tailLines=0").data == b""


def test_long_line_has_one_time() -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"x" * 40_000 + b"\nshort\n")
        pod.ended(0)

    with serving(play) as cluster:
        cluster.create("jobs", job())
        log = f"{PODS}/{the_pod(cluster, 'Succeeded')['metadata']['name']}/log"
        first, second = ask(cluster, "GET", f"{log}?timestamps=true").data.splitlines()
        assert (len(first), second[31:]) == (40_031, b"short")


def test_log_of_a_container_that_waits_is_refused() -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.scheduled()
        pod.wait(gate)
        pod.waiting("ErrImagePull", "no such image")
        pod.wait_deleted()

    with serving(play) as cluster:
        cluster.create("jobs", job())
        pod = cluster.wait("pods", lambda pod: pod["spec"].get("nodeName"))
        log = f"{PODS}/{pod['metadata']['name']}/log"
        reply = ask(cluster, "GET", f"{log}?follow=true")
        assert (reply.code, reply.data["reason"]) == (400, "BadRequest")
        start = f'container "main" in pod "{pod["metadata"]["name"]}" is waiting to start: '
        assert reply.data["message"] == start + "ContainerCreating"
        gate.set()
        cluster.wait(
            "pods", lambda pod: "ErrImagePull" in json.dumps(pod["status"]["containerStatuses"])
        )
        reply = ask(cluster, "GET", log)
        assert reply.data["message"] == start + "trying and failing to pull image"


def test_log_of_a_pod_without_a_node_is_empty() -> None:
    def play(pod: Pod) -> None:
        pod.unschedulable("0/1 nodes are available: 1 Insufficient cpu.")
        pod.wait_deleted()

    with serving(play) as cluster:
        cluster.create("jobs", job())
        event = told(cluster, "FailedScheduling")
        (pod,) = cluster.all("pods")
        assert event["message"] == "0/1 nodes are available: 1 Insufficient cpu."
        assert condition(pod, "PodScheduled")["reason"] == "Unschedulable"
        reply = ask(cluster, "GET", f"{PODS}/{pod['metadata']['name']}/log?follow=true")
        assert (reply.code, reply.data) == (200, b"")


def test_log_of_several_containers_needs_a_name() -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"other\n", container="side")
        pod.ended(0)

    containers = [{"name": "main", "image": "x"}, {"name": "side", "image": "y"}]
    with serving(play) as cluster:
        cluster.create("jobs", job(pod={"containers": containers}))
        name = the_pod(cluster, "Succeeded")["metadata"]["name"]
        reply = ask(cluster, "GET", f"{PODS}/{name}/log")
        assert reply.data["message"] == (
            f"a container name must be specified for pod {name}, choose one of: [main side]"
        )
        assert ask(cluster, "GET", f"{PODS}/{name}/log?container=side").data == b"other\n"
        reply = ask(cluster, "GET", f"{PODS}/{name}/log?container=z")
        assert reply.data["message"] == f"container z is not valid for pod {name}"


def test_evicted_pod_says_why() -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.evicted("The node was low on resource: memory.")

    with serving(play) as cluster:
        cluster.create("jobs", job())
        pod = the_pod(cluster, "Failed")
        assert (pod["status"]["reason"], pod["status"]["message"]) == (
            "Evicted", "The node was low on resource: memory."
        )  # fmt: skip
        finished(cluster, kind="Failed")


def test_answers_of_failure_come_as_often_as_asked() -> None:
    with serving() as cluster:
        fault = cluster.fault("status", "GET", "/jobs", times=2, code=429, retry_after=1)
        for _ in range(2):
            reply = ask(cluster, "GET", JOBS)
            assert reply.code == 429
            assert reply.data == b"Too many requests, please try again later.\n"  # no Status
            assert reply.headers["Retry-After"] == "1"
        assert ask(cluster, "GET", JOBS).code == 200
        assert fault.met == 2
        assert [request.method for request in cluster.requests] == ["GET"] * 3
        cluster.fault("status", code=503)
        assert ask(cluster, "GET", "/version").data["reason"] == "ServiceUnavailable"


@pytest.mark.parametrize("applied", [False, True])
def test_lost_answer_may_have_had_its_effect(applied: bool) -> None:
    with serving() as cluster:
        cluster.fault("close", "POST", applied=applied)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            ask(cluster, "POST", JOBS, job())
        assert len(cluster.all("jobs")) == int(applied)


def test_answer_is_cut_short() -> None:
    with serving() as cluster:
        kinds: tuple[Kind, ...] = ("truncate", "reset")
        for kind in kinds:
            cluster.fault(kind, "GET", "/version")
            with pytest.raises(urllib3.exceptions.ProtocolError):
                ask(cluster, "GET", "/version")
        assert ask(cluster, "GET", "/version").data["gitVersion"].startswith("v1.34")


@pytest.mark.parametrize(
    ("kind", "amount", "expected"),
    [
        ("truncate", {"lines": 2}, b"one\ntwo\n"),
        ("truncate", {"size": 5}, b"one\nt"),
        ("reset", {"lines": 2}, None),  # a reset may overtake what was sent
    ],
)
def test_stream_breaks_after_so_much(kind: Any, amount: Any, expected: bytes | None) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"one\ntwo\nthree\n")
        pod.wait_deleted()

    with serving(play) as cluster, urllib3.PoolManager(retries=False) as pool:
        cluster.create("jobs", job())
        log = f"{PODS}/{the_pod(cluster)['metadata']['name']}/log?follow=true"
        cluster.fault(kind, "GET", "/log", **amount)
        reply = pool.request("GET", cluster.url + log, preload_content=False)
        got: list[bytes] = []
        with pytest.raises(urllib3.exceptions.ProtocolError):
            got.extend(reply.stream(1))
        if expected is not None:
            assert b"".join(got) == expected


def test_hanging_answer_comes_when_it_is_released() -> None:
    with serving() as cluster:
        fault = cluster.fault("hang", "GET", "/version")
        with urllib3.PoolManager(retries=False) as pool:
            with pytest.raises(urllib3.exceptions.ReadTimeoutError):
                pool.request("GET", cluster.url + "/version", timeout=0.3)
            fault.release()
            assert pool.request("GET", cluster.url + "/version", timeout=30).status == 200


def test_watch_that_hangs_can_be_severed() -> None:
    with serving(for_ever) as cluster:
        cluster.create("jobs", job())
        the_pod(cluster)
        fault = cluster.fault("hang", "GET", "/pods.*watch", lines=1)
        with urllib3.PoolManager(retries=False) as pool:
            url = f"{cluster.url}{PODS}?watch=1"
            reply = pool.request("GET", url, preload_content=False, timeout=30)
            stream = reply.stream(65536)
            assert json.loads(next(stream))["type"] == "ADDED"
            assert fault.hit.wait(30)
            cluster.sever("watch=")
            with pytest.raises(urllib3.exceptions.ProtocolError):
                next(stream)
        fault.release()
