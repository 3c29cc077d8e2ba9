"""The Kubernetes stand-in does what a real API server does, seen through real clients."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes
import pytest
import urllib3
from kube_cluster import Cluster
from kube_faults import Kind
from kube_kubelet import Kubelet, Pod, Scripted
from kube_status import Refused

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
def serving(play: Callable[[Pod], object] = well, **options: Any) -> Iterator[Cluster]:
    kubelet: Kubelet = Scripted(play)
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


# Objects.


def test_job_runs_to_completion_and_its_log_is_read(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        made = batch.create_namespaced_job("default", job())
        done = finished(cluster)
        assert done["metadata"]["uid"] == made.metadata.uid
        assert done["status"]["succeeded"] == 1
        assert "active" not in done["status"]
        assert condition(done, "SuccessCriteriaMet")["reason"] == "CompletionsReached"
        assert condition(done, "Complete")["reason"] == "CompletionsReached"
        assert done["status"]["completionTime"]
        (pod,) = core.list_namespaced_pod("default", label_selector="job-name=one").items
        assert re.fullmatch("one-[a-z0-9]{5}", pod.metadata.name)
        assert pod.metadata.labels["batch.kubernetes.io/job-name"] == "one"
        assert pod.metadata.labels["controller-uid"] == made.metadata.uid
        assert pod.metadata.owner_references[0].uid == made.metadata.uid
        assert pod.status.phase == "Succeeded"
        assert pod.status.container_statuses[0].state.terminated.exit_code == 0
        assert core.read_namespaced_pod_log(pod.metadata.name, "default") == "hello\nlast"


def test_missing_existing_and_outdated_objects_are_refused_in_the_servers_words() -> None:
    with serving(for_ever) as cluster:
        missing = ask(cluster, "GET", f"{JOBS}/two")
        assert (missing.code, missing.data["reason"]) == (404, "NotFound")
        assert missing.data["message"] == 'jobs.batch "two" not found'
        assert missing.data["details"] == {"name": "two", "group": "batch", "kind": "jobs"}
        first = ask(cluster, "POST", JOBS, job())
        assert first.code == 201
        again = ask(cluster, "POST", JOBS, job())
        assert (again.code, again.data["reason"]) == (409, "AlreadyExists")
        assert again.data["message"] == 'jobs.batch "one" already exists'
        the_pod(cluster)
        outdated = ask(cluster, "PUT", f"{JOBS}/one", first.data)
        assert (outdated.code, outdated.data["reason"]) == (409, "Conflict")
        assert "the object has been modified; please apply your changes" in outdated.data["message"]
        elsewhere = ask(cluster, "POST", JOBS.replace("default", "nowhere"), job())
        assert (elsewhere.code, elsewhere.data["message"]) == (
            404, 'namespaces "nowhere" not found'
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"name": "Bad_Name"}}, 'metadata.name: Invalid value: "Bad_Name"'),
        (
            {"metadata": {"name": "x" * 64}},
            "spec.template.labels: Invalid value: \"" + "x" * 64 + '": must be no more than 63',
        ),
        (
            {"metadata": {"name": "a", "labels": {"k": "a b"}}},
            'metadata.labels: Invalid value: "a b": a valid label must be',
        ),
        (
            job(pod={"restartPolicy": "Always"}),
            "spec.template.spec.restartPolicy: Required value: "
            'valid values: "OnFailure", "Never"',
        ),
        (job(pod={"containers": []}), "spec.template.spec.containers: Required value"),
        (
            job(container={"image": ""}),
            "spec.template.spec.containers[0].image: Required value",
        ),
        (
            job(container={"name": "A"}),
            'spec.template.spec.containers[0].name: Invalid value: "A": a lowercase RFC 1123 label',
        ),
        (
            job(container={"env": [{"name": "a=b", "value": "1"}]}),
            "spec.template.spec.containers[0].env[0].name: Invalid value",
        ),
        (
            job(container={"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            'spec.template.spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (job(backoffLimit=-1), "spec.backoffLimit: Invalid value: -1: must be greater than"),
    ],
)  # fmt: skip
def test_invalid_job_is_refused_with_its_fields(change: Any, message: str) -> None:
    with serving() as cluster:
        reply = ask(cluster, "POST", JOBS, {**job(), **change})
        assert (reply.code, reply.data["reason"]) == (422, "Invalid")
        assert message in reply.data["message"]
        assert reply.data["message"].startswith('Job.batch "')
        assert reply.data["details"]["causes"]
        assert cluster.all("jobs") == []


def test_fields_are_those_of_the_api() -> None:
    strange = job(container={"envs": []}, foo=1)
    wrong = job(container={"env": [{"name": "A", "value": 1}]})
    with serving(for_ever) as cluster:
        strict = ask(cluster, "POST", JOBS + "?fieldValidation=Strict", strange)
        assert strict.code == 400
        assert strict.data["message"] == (
            'Job in version "v1" cannot be handled as a Job: strict decoding error: unknown field '
            '"spec.template.spec.containers[0].envs", unknown field "spec.foo"'
        )
        mistyped = ask(cluster, "POST", JOBS, wrong)
        assert mistyped.code == 400
        assert mistyped.data["message"].endswith(
            "json: cannot unmarshal number into Go struct field "
            "EnvVar.spec.template.spec.containers.env.value of type string"
        )
        warned = ask(cluster, "POST", JOBS, strange)
        assert warned.code == 201
        assert "unknown field" in warned.headers["Warning"]
        assert len(cluster.warnings) == 2


def test_secrets_are_checked_and_kept_as_bytes(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (_, core):
        core.create_namespaced_secret(
            "default", {"metadata": {"generateName": "s-"}, "stringData": {"k": "v\n"}}
        )
        (kept,) = cluster.all("secrets")
        assert base64.b64decode(kept["data"]["k"]) == b"v\n"
        assert re.fullmatch("s-[a-z0-9]{5}", kept["metadata"]["name"])
        bad = {"metadata": {"name": "s"}, "data": {"a b": "AAAA"}}
        assert "data[a b]: Invalid value" in ask(
            cluster, "POST", "/api/v1/namespaces/default/secrets", bad
        ).data["message"]  # fmt: skip
        large = {
            "metadata": {"name": "s"},
            "data": {"k": base64.b64encode(b"0" * 1048577).decode()},
        }
        assert "data: Too long: may not be more than 1048576 bytes" in ask(
            cluster, "POST", "/api/v1/namespaces/default/secrets", large
        ).data["message"]  # fmt: skip


def test_patches_change_what_they_name(tmp_path: Path) -> None:
    with serving(for_ever) as cluster, connected(cluster, tmp_path) as (batch, _):
        batch.create_namespaced_job("default", job(suspend=True))
        batch.patch_namespaced_job("one", "default", {"metadata": {"annotations": {"a": "1"}}})
        steps = [{"op": "replace", "path": "/spec/suspend", "value": False}]
        batch.patch_namespaced_job("one", "default", steps)
        merge = {"metadata": {"annotations": {"a": None, "b": "2"}}}
        kind = "application/merge-patch+json"
        assert ask(cluster, "PATCH", f"{JOBS}/one", merge, kind=kind).code == 200
        found = cluster.get("jobs", "one")
        assert found["metadata"]["annotations"] == {"b": "2"}
        assert found["spec"]["suspend"] is False
        assert found["metadata"]["generation"] == 2
        template = {"spec": {"template": {"spec": {"hostNetwork": True}}}}
        refused = ask(cluster, "PATCH", f"{JOBS}/one", template, kind=kind)
        assert (refused.code, refused.data["details"]["causes"][0]["field"]) == (
            422, "spec.template"
        )  # fmt: skip


def test_lists_are_selected_and_paged(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        for name in ("a", "b", "c"):
            batch.create_namespaced_job("default", job(name))
            finished(cluster, name)

        def names(**query: Any) -> list[str]:
            return [
                each.metadata.name for each in batch.list_namespaced_job("default", **query).items
            ]

        assert names(label_selector="app in (a, c)") == ["a", "c"]
        assert names(label_selector="app!=a,app") == ["b", "c"]
        assert names(label_selector="!app") == []
        assert names(field_selector="metadata.name=b") == ["b"]
        first = batch.list_namespaced_job("default", limit=2)
        assert (len(first.items), first.metadata.remaining_item_count) == (2, 1)
        rest = batch.list_namespaced_job("default", limit=2, _continue=first.metadata._continue)
        assert [each.metadata.name for each in rest.items] == ["c"]
        assert (
            len(core.list_pod_for_all_namespaces(field_selector="status.phase=Succeeded").items)
            == 3
        )
        uid = cluster.get("jobs", "b")["metadata"]["uid"]
        events = core.list_namespaced_event(
            "default", field_selector=f"involvedObject.uid={uid},reason=SuccessfulCreate"
        ).items
        assert [event.involved_object.name for event in events] == ["b"]
        bad = ask(cluster, "GET", f"{PODS}?fieldSelector=spec.foo%3D1")
        assert (bad.code, bad.data["message"]) == (400, "field label not supported: spec.foo")


# Watches.


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
        assert [event["type"] for event in other] == ["ADDED"]


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


def test_bookmark_comes_when_a_test_wants_it() -> None:
    with serving() as cluster:
        query = f"watch=1&allowWatchBookmarks=true&resourceVersion={cluster.store.version}"
        with urllib3.PoolManager() as pool:
            reply = pool.request("GET", f"{cluster.url}{JOBS}?{query}", preload_content=False)
            cluster.bookmark()
            assert json.loads(next(reply.stream(65536)))["type"] == "BOOKMARK"
            reply.close()


# Jobs.


def failing(pod: Pod) -> None:
    pod.running()
    pod.ended(3, message="why")


def test_job_fails_when_its_pods_failed_too_often() -> None:
    with serving(failing, backoff=0) as cluster:
        cluster.create("jobs", job(backoffLimit=1))
        failed = finished(cluster, kind="Failed")
        assert failed["status"]["failed"] == 2
        assert "completionTime" not in failed["status"]
        assert condition(failed, "FailureTarget")["reason"] == "BackoffLimitExceeded"
        assert (
            condition(failed, "Failed")["message"] == "Job has reached the specified backoff limit"
        )
        pods = cluster.all("pods")
        assert [pod["status"]["phase"] for pod in pods] == ["Failed", "Failed"]
        ended = pods[0]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "why")
        told(cluster, "BackoffLimitExceeded")


def test_job_that_takes_too_long_loses_its_pods_first() -> None:
    with serving(for_ever) as cluster:
        cluster.create("jobs", job(activeDeadlineSeconds=1))
        failed = finished(cluster, kind="Failed")
        assert condition(failed, "Failed")["reason"] == "DeadlineExceeded"
        assert (
            condition(failed, "Failed")["message"]
            == "Job was active longer than specified deadline"
        )
        assert cluster.all("pods") == []


def test_suspended_job_has_no_pods_until_it_is_resumed() -> None:
    with serving() as cluster:
        cluster.create("jobs", job(suspend=True))
        suspended = cluster.wait("jobs", lambda job: condition(job, "Suspended"))
        assert "startTime" not in suspended["status"]
        assert cluster.all("pods") == []
        kind = "application/merge-patch+json"
        ask(cluster, "PATCH", f"{JOBS}/one", {"spec": {"suspend": False}}, kind=kind)
        assert condition(finished(cluster), "Suspended")["status"] == "False"


def test_finished_job_goes_with_its_pod_after_its_time() -> None:
    with serving() as cluster:
        cluster.create("jobs", job(ttlSecondsAfterFinished=1))
        finished(cluster)
        assert len(cluster.all("pods")) == 1
        cluster.wait_until(lambda: not cluster.all("jobs") and not cluster.all("pods"))


def test_refused_pod_leaves_the_job_with_an_event() -> None:
    quota = "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    with serving() as cluster:
        cluster.refuse("pods", quota)
        cluster.create("jobs", job())
        event = told(cluster, "FailedCreate")
        assert event["type"] == "Warning"
        assert event["involvedObject"]["kind"] == "Job"
        assert re.fullmatch(
            f'Error creating: pods "one-[a-z0-9]{{5}}" is forbidden: {quota}', event["message"]
        )
        assert "active" not in cluster.get("jobs", "one")["status"]
        cluster.admit("pods")
        finished(cluster)
        cluster.refuse(
            "jobs", 'admission webhook "policy.example.com" denied the request: no', plain=True
        )
        refused = ask(cluster, "POST", JOBS, job("two"))
        assert refused.code == 403
        assert refused.data["message"].startswith('admission webhook "policy')


def test_pod_of_an_unknown_service_account_is_refused() -> None:
    with serving() as cluster:
        cluster.create("jobs", job(pod={"serviceAccountName": "trainer"}))
        assert told(cluster, "FailedCreate")["message"].endswith(
            "is forbidden: error looking up service account default/trainer: "
            'serviceaccount "trainer" not found'
        )


def test_deleted_pod_counts_as_failed() -> None:
    with serving(for_ever) as cluster:
        cluster.create("jobs", job())
        pod = the_pod(cluster)
        assert ask(cluster, "DELETE", f"{PODS}/{pod['metadata']['name']}").code == 200
        assert condition(finished(cluster, kind="Failed"), "Failed")["reason"] == (
            "BackoffLimitExceeded"
        )


def test_job_of_several_pods_keeps_as_many_going_as_it_says() -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.wait(gate)
        pod.ended(0)

    with serving(play) as cluster:
        cluster.create("jobs", job(parallelism=2, completions=5))
        cluster.wait("jobs", lambda job: job["status"].get("ready") == 2)
        assert len(cluster.all("pods")) == 2
        gate.set()
        assert finished(cluster)["status"]["succeeded"] == 5


def test_container_that_may_restart_has_a_previous_log() -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"first\n")
        pod.ended(1)
        pod.running()
        pod.log(b"second\n")
        pod.ended(0)

    with serving(play) as cluster:
        cluster.create("jobs", job(pod={"restartPolicy": "OnFailure"}, backoffLimit=3))
        finished(cluster)
        (pod,) = cluster.all("pods")
        (status,) = pod["status"]["containerStatuses"]
        assert status["restartCount"] == 1
        assert status["lastState"]["terminated"]["exitCode"] == 1
        log = f"{PODS}/{pod['metadata']['name']}/log"
        assert ask(cluster, "GET", log).data == b"second\n"
        assert ask(cluster, "GET", f"{log}?previous=true").data == b"first\n"


# Deletion.


def test_deleted_job_leaves_its_pods_unless_told(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        batch.create_namespaced_job("default", job())
        finished(cluster)
        reply = ask(cluster, "DELETE", f"{JOBS}/one")
        assert (
            "child pods are preserved by default when jobs are deleted" in reply.headers["Warning"]
        )
        cluster.wait_until(lambda: not cluster.all("jobs"))
        (left,) = core.list_namespaced_pod("default").items
        assert left.metadata.owner_references is None


@pytest.mark.parametrize("policy", ["Background", "Foreground"])
def test_deleted_job_takes_along_what_it_owns(policy: str, tmp_path: Path) -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.wait_deleted()
        gate.wait(30)
        pod.ended(143)

    with serving(play) as cluster, connected(cluster, tmp_path) as (batch, _):
        made = batch.create_namespaced_job("default", job())
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "one", "uid": made.metadata.uid}
        cluster.create("secrets", {"metadata": {"name": "s", "ownerReferences": [owner]}})
        pod = the_pod(cluster)
        version = cluster.store.version
        batch.delete_namespaced_job("one", "default", propagation_policy=policy)
        ending = cluster.wait("pods", lambda pod: "deletionTimestamp" in pod["metadata"])
        assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
        cluster.wait_until(lambda: not cluster.all("secrets"))
        assert len(cluster.all("jobs")) == (1 if policy == "Foreground" else 0)
        gate.set()
        cluster.wait_until(lambda: not cluster.all("pods") and not cluster.all("jobs"))
        query = f"watch=1&timeoutSeconds=1&resourceVersion={version}"
        events = ask(cluster, "GET", f"{PODS}?{query}").data
        assert {event["object"]["metadata"]["name"] for event in events} == {
            pod["metadata"]["name"]
        }
        assert [event["type"] for event in events][-1] == "DELETED"
        assert events[-1]["object"]["status"]["phase"] == "Failed"


def test_pod_without_grace_goes_at_once() -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        gate.wait(30)

    with serving(play) as cluster:
        cluster.create("jobs", job())
        path = f"{PODS}/{the_pod(cluster)['metadata']['name']}"
        cluster.fault("hang", "POST")
        assert ask(cluster, "DELETE", f"{path}?gracePeriodSeconds=0").code == 200
        assert cluster.all("pods") == []
        gate.set()


def test_stubborn_pod_goes_after_its_grace_period() -> None:
    gate = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        gate.wait(30)

    with serving(play) as cluster:
        cluster.create("jobs", job(pod={"terminationGracePeriodSeconds": 1}))
        assert ask(cluster, "DELETE", f"{PODS}/{the_pod(cluster)['metadata']['name']}").code == 200
        assert len(cluster.all("pods")) == 1
        cluster.wait_until(lambda: not cluster.all("pods"))
        gate.set()


def test_many_are_deleted_by_a_selector(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, _):
        for name in ("a", "b"):
            batch.create_namespaced_job("default", job(name))
            finished(cluster, name)
        batch.delete_collection_namespaced_job(
            "default", label_selector="app=a", propagation_policy="Background"
        )
        cluster.wait_until(lambda: len(cluster.all("pods")) == 1)
        assert [each["metadata"]["name"] for each in cluster.all("jobs")] == ["b"]


def test_deletion_of_another_object_of_the_name_is_refused() -> None:
    with serving() as cluster:
        cluster.create("jobs", job())
        reply = ask(cluster, "DELETE", f"{JOBS}/one", {"preconditions": {"uid": "other"}})
        assert reply.code == 409
        assert "Precondition failed: UID in precondition: other" in reply.data["message"]


# Logs.


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


# Access.


def test_missing_right_is_named() -> None:
    with serving(user="system:serviceaccount:ns:name") as cluster:
        cluster.forbid("create", "jobs")
        cluster.forbid("get", "pods/log")
        reply = ask(cluster, "POST", JOBS, job())
        assert (reply.code, reply.data["reason"]) == (403, "Forbidden")
        assert reply.data["message"] == (
            'jobs.batch is forbidden: User "system:serviceaccount:ns:name" cannot create resource '
            '"jobs" in API group "batch" in the namespace "default"'
        )
        assert ask(cluster, "GET", f"{PODS}/p/log").data["message"] == (
            'pods "p" is forbidden: User "system:serviceaccount:ns:name" cannot get resource '
            '"pods/log" in API group "" in the namespace "default"'
        )
        cluster.permit("create", "jobs")
        assert ask(cluster, "POST", JOBS, job()).code == 201


def test_credentials_are_checked() -> None:
    with serving(token="right", tls=True) as cluster:
        assert cluster.identity is not None
        authority = cluster.identity.certificate.decode()
        for token, code in (("right", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            with urllib3.PoolManager(ca_cert_data=authority, retries=False) as pool:
                reply = pool.request("GET", cluster.url + JOBS, headers=headers)
                assert reply.status == code
        assert json.loads(reply.data)["message"] == "Unauthorized"
        cluster.unauthorized = True
        with urllib3.PoolManager(ca_cert_data=authority, retries=False) as pool:
            assert pool.request("GET", cluster.url + JOBS).status == 401


# Faults.


def test_answers_of_failure_come_as_often_as_asked() -> None:
    with serving() as cluster:
        fault = cluster.fault("status", "GET", "/jobs", times=2, code=429, retry_after=1)
        for _ in range(2):
            reply = ask(cluster, "GET", JOBS)
            assert (reply.code, reply.data["reason"]) == (429, "TooManyRequests")
            assert reply.headers["Retry-After"] == "1"
            assert reply.data["details"]["retryAfterSeconds"] == 1
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


# The whole.


def test_trouble_of_a_play_is_raised_at_the_end() -> None:
    def play(pod: Pod) -> None:
        raise ValueError(pod.name)

    cluster = Cluster(Scripted(play))
    cluster.__enter__()
    cluster.create("jobs", job())
    cluster.wait_until(lambda: cluster.troubles)
    with pytest.raises(ValueError, match="one-"):
        cluster.__exit__(None, None, None)


def test_end_of_a_cluster_ends_all_that_waits() -> None:
    with serving(for_ever) as cluster:
        cluster.create("jobs", job())
        name = the_pod(cluster)["metadata"]["name"]
        hang = cluster.fault("hang", "GET", "/version", lines=0)
        ended: list[object] = []

        def follow(path: str) -> None:
            try:
                ended.append(ask(cluster, "GET", path).code)
            except urllib3.exceptions.HTTPError as error:
                ended.append(error)

        paths = (f"{PODS}?watch=1", f"{PODS}/{name}/log?follow=true", "/version")
        threads = [threading.Thread(target=follow, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        cluster.wait_until(lambda: len(cluster.requests) == 3)
        cluster.close()
        for thread in threads:
            thread.join(30)
        assert len(ended) == 3
        assert hang.met == 1
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", int(cluster.url.rpartition(":")[2])), 5)


def test_hundred_jobs_are_seen_by_one_watch(tmp_path: Path) -> None:
    with serving() as cluster, connected(cluster, tmp_path) as (batch, core):
        version = core.list_namespaced_pod("default").metadata.resource_version

        def submit() -> None:
            for number in range(100):
                batch.create_namespaced_job("default", job(f"job-{number}"))

        submitting = threading.Thread(target=submit)
        submitting.start()
        done = set()
        for event in watched(core.list_namespaced_pod, version):
            if event["object"].status.phase == "Succeeded":
                done.add(event["object"].metadata.name)
            if len(done) == 100:
                break
        submitting.join()
        assert len(done) == 100
        assert sum("watch" in request.query for request in cluster.requests) == 1


# kubectl.


@pytest.fixture
def kubectl(tmp_path: Path) -> Callable[..., str]:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("there is no kubectl")

    def call(cluster: Cluster, *words: str | Path, code: int = 0) -> str:
        config = cluster.kubeconfig(tmp_path / "kubeconfig", token=cluster.token)
        done = subprocess.run(
            (program, "--kubeconfig", config, *words), capture_output=True, text=True, timeout=60,
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return call


def test_kubectl_creates_follows_and_deletes(kubectl: Any, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job()))
    with serving(token="secret", tls=True) as cluster:
        assert kubectl(cluster, "create", "-f", file) == "job.batch/one created\n"
        assert kubectl(cluster, "wait", "--for=condition=complete", "--timeout=50s", "job/one") == (
            "job.batch/one condition met\n"
        )
        assert kubectl(cluster, "logs", "-f", "job/one") == "hello\nlast"
        assert kubectl(cluster, "get", "pods", "-o", "name").startswith("pod/one-")
        assert "SuccessfulCreate" in kubectl(cluster, "describe", "job", "one")
        assert "already exists" in kubectl(cluster, "create", "-f", file, code=1)
        assert kubectl(cluster, "delete", "job", "one").startswith('job.batch "one" deleted')
        cluster.wait_until(lambda: not cluster.all("pods"))


def test_kubectl_has_unknown_fields_refused(kubectl: Any, tmp_path: Path) -> None:
    file = tmp_path / "job.json"
    file.write_text(json.dumps(job(foo=1)))
    with serving() as cluster:
        said = kubectl(cluster, "create", "-f", file, code=1)
        assert 'strict decoding error: unknown field "spec.foo"' in said


def test_refusal_is_raised_to_a_test_too() -> None:
    with serving() as cluster, pytest.raises(Refused, match="not found"):
        cluster.get("jobs", "none")
