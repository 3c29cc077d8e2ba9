"""The Kubernetes stand-in brings Jobs to their end, and deletes, as a real cluster does."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
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
)
from kube_kubelet import Pod


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
