"""The Kubernetes stand-in keeps objects as a real API server does, seen through real clients."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import urllib3
from kube_cluster import Cluster
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
    watched,
)
from kube_kubelet import Pod, Scripted
from kube_status import Refused


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
        attributes = {"verb": "create", "resource": "jobs", "namespace": "default"}
        review = {"kind": "SelfSubjectAccessReview", "spec": {"resourceAttributes": attributes}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        assert ask(cluster, "POST", path, review).data["status"] == {"allowed": False}
        cluster.permit("create", "jobs")
        assert ask(cluster, "POST", JOBS, job()).code == 201


def test_credentials_are_checked(tmp_path: Path) -> None:
    with serving(token="right", tls=True) as cluster:
        assert cluster.identity is not None
        authority = tmp_path / "authority.pem"
        authority.write_bytes(cluster.identity.certificate)
        for token, code in (("right", 200), ("wrong", 401)):
            headers = {"Authorization": f"Bearer {token}"}
            with urllib3.PoolManager(ca_certs=str(authority), retries=False) as pool:
                reply = pool.request("GET", cluster.url + JOBS, headers=headers)
                assert reply.status == code
        assert json.loads(reply.data)["message"] == "Unauthorized"
        cluster.unauthorized = True
        with urllib3.PoolManager(ca_certs=str(authority), retries=False) as pool:
            assert pool.request("GET", cluster.url + JOBS).status == 401


def test_client_in_a_pod_finds_its_way(tmp_path: Path) -> None:
    loading: Any = kubernetes.config.incluster_config
    with serving(token="right", tls=True) as cluster:
        environ = cluster.service_account(tmp_path)
        settings: Any = kubernetes.client.Configuration()
        loading.InClusterConfigLoader(
            token_filename=str(tmp_path / "token"),
            cert_filename=str(tmp_path / "ca.crt"),
            environ=environ,
        ).load_and_set(settings)
        api: Any = kubernetes.client.ApiClient
        with api(settings) as client:
            assert kubernetes.client.VersionApi(client).get_code().minor == "34"


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
