"""What becomes of Jobs that cannot run, or that end otherwise than by their command."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_helpers import an_engine  # noqa: F401
from kube_kubelet import Pod
from kubernetes_helpers import (  # noqa: F401
    MAIN,
    Stage,
    Staged,
    a_prepared_store,
    a_stage,
    an_own_registry,
    written,
)

PULL = 'Back-off pulling image "r/x@sha256:0": ErrImagePull: failed to authorize: 401 Unauthorized'


def end(pod: Pod, code: int = 0, *args: str) -> None:
    """Run, and end."""
    pod.running()
    pod.ended(code, *args)


def template(directory: Path, spec: dict[str, Any], pod: dict[str, Any]) -> str:
    """Write a Job template, and return its path."""
    made = {"containers": [{"name": "main"}], "restartPolicy": "Never", **pod}
    path = directory / "template.yaml"
    path.write_text(
        yaml.safe_dump(
            {"apiVersion": "batch/v1", "kind": "Job", "spec": {**spec, "template": {"spec": made}}}
        )
    )
    return str(path)


def has(stage: Stage, **keys: Any) -> dict[str, Any]:
    """Return a config with a template in which a pod's or a Job's fields are set."""
    spec = keys.pop("job", {"backoffLimit": 0})
    return {
        "kube-job-template-path": template(stage.root.parent, spec, keys.pop("pod", {})),
        **keys,
    }


# -- pods that do not start ------------------------------------------------------------------------


def test_image_that_cannot_be_pulled_is_given_up_after_the_pull_timeout(stage: Staged) -> None:
    staged = stage(lambda pod: pod.waiting("ImagePullBackOff", PULL))
    outcome = staged.run(config={"pull-timeout": "0s"})
    assert outcome.code == 1
    assert f"error: [main] the cluster cannot run it: ImagePullBackOff: {PULL}" in outcome.err
    assert "hint: the cluster's nodes must reach the registry of `repository-uri`" in outcome.err
    assert "`image-pull-secrets` names credentials" in outcome.err


def test_image_that_is_pulled_in_the_end_runs(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.waiting("ErrImagePull", "503 Service Unavailable")
        assert pod.wait(going)
        pod.running()
        pod.log(b"there\n")
        pod.ended(0)

    live = stage(play).start()
    live.said("warning: [main] ErrImagePull: 503 Service Unavailable")
    going.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "there\n")
    assert "error" not in outcome.err


@pytest.mark.parametrize(
    ("reason", "words", "hint"),
    [
        ("InvalidImageName", 'couldn\'t parse image name "R/X"', "correct `repository-uri`"),
        ("ErrImageNeverPull", "is not present with pull policy of Never", "`imagePullPolicy`"),
        ("CreateContainerConfigError", 'secret "keys" not found', "a Secret or ConfigMap that"),
    ],
)
def test_what_does_not_pass_by_itself_is_said_at_once(
    stage: Staged, reason: str, words: str, hint: str
) -> None:
    outcome = stage(lambda pod: pod.waiting(reason, words)).run(config={"pull-timeout": "1h"})
    assert outcome.code == 1
    assert f"error: [main] the cluster cannot run it: {reason}: {words}" in outcome.err
    assert f"hint: {hint}" in outcome.err or hint in outcome.err.partition("hint: ")[2]


FULL = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available"


def test_pod_without_a_place_is_given_up_after_the_schedule_timeout(stage: Staged) -> None:
    staged = stage(lambda pod: pod.unschedulable(FULL))
    outcome = staged.run(config={"schedule-timeout": "0s"})
    assert outcome.code == 1
    assert f"error: [main] the cluster cannot run it: Unschedulable: {FULL}" in outcome.err
    assert "hint: ask for less in `resources`, correct the template's node selector" in outcome.err


def test_pod_that_finds_a_place_in_the_end_runs(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.unschedulable(FULL)
        assert pod.wait(going)
        end(pod)

    live = stage(play).start()
    live.said(f"warning: [main] Unschedulable: {FULL}")
    going.set()
    assert live.wait().code == 0


def test_init_container_that_fails_is_named(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        pod.running(container="fetch")
        pod.ended(3, "Error", "no such bucket", container="fetch")

    staged = stage(play)
    init = [{"name": "fetch", "image": "alpine", "command": ["false"]}]
    outcome = staged.run(config=has(staged, pod={"initContainers": init}))
    assert outcome.code == 1
    fact = "the init container `fetch` ended with exit code 3: no such bucket"
    assert f"error: [main] {fact}" in outcome.err


def test_last_lines_of_an_init_container_that_fails_are_shown(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        pod.running(container="fetch")
        pod.log(b"".join(b"line %d\n" % number for number in range(30)), container="fetch")
        pod.ended(3, container="fetch")

    staged = stage(play)
    init = [{"name": "fetch", "image": "alpine", "command": ["false"]}]
    outcome = staged.run(config=has(staged, pod={"initContainers": init}))
    assert outcome.code == 1
    assert "".join(f"line {number}\n" for number in range(10, 30)) in outcome.out + outcome.err
    assert "line 9\n" not in outcome.out + outcome.err
    assert "the init container `fetch` ended with exit code 3\n" in outcome.err


@pytest.mark.parametrize("limit", [0, 2])
def test_init_container_that_crashes_again_and_again_fails_the_step(
    stage: Staged, limit: int
) -> None:
    def play(pod: Pod) -> None:
        while not pod.ending():
            pod.running(container="fetch")
            pod.log(b"no such bucket\n", container="fetch")
            pod.ended(3, container="fetch")
        requests = staged.cluster.requests
        staged.cluster.wait_until(lambda: any("tailLines" in each.query for each in requests))

    staged = stage(play)
    init = [{"name": "fetch", "image": "alpine", "command": ["false"]}]
    pod = {"initContainers": init, "restartPolicy": "OnFailure"}
    outcome = staged.run(config=has(staged, job={"backoffLimit": limit}, pod=pod))
    assert outcome.code == 1
    assert "error: [main] the init container `fetch` ended with exit code 3" in outcome.err
    assert "no such bucket\n" in outcome.out + outcome.err


def test_init_container_that_crashes_and_goes_on_is_warned_of(stage: Staged) -> None:
    told = threading.Event()

    def play(pod: Pod) -> None:
        pod.running(container="fetch")
        pod.ended(3, container="fetch")
        assert pod.wait(told)
        pod.running(container="fetch")
        pod.ended(0, container="fetch")
        end(pod)

    staged = stage(play)
    init = [{"name": "fetch", "image": "alpine", "command": ["false"]}]
    pod = {"initContainers": init, "restartPolicy": "OnFailure"}
    live = staged.start(**has(staged, job={"backoffLimit": 3}, pod=pod))
    live.said("CrashLoopBackOff: the init container `fetch` ended with exit code 3")
    told.set()
    assert live.wait().code == 0


@pytest.mark.parametrize("program", ["nosuch", "sh"])
def test_command_that_the_runtime_cannot_start_is_told(stage: Staged, program: str) -> None:
    words = f'exec: "{program}": executable file not found in $PATH: unknown'
    outcome = stage(lambda pod: end(pod, 128, "StartError", words)).run()
    assert outcome.code == 128
    assert f"error: [main] the command cannot be started: {words}" in outcome.err
    remedy = "the image must have `sh`, for a command of more than plain words"
    assert (remedy in outcome.err) == (program == "sh")


# -- pods that end early ---------------------------------------------------------------------------


def test_container_out_of_memory_is_told_with_its_limit(stage: Staged) -> None:
    staged = stage(lambda pod: end(pod, 137, "OOMKilled"))
    outcome = staged.run(config={"resources": {"limits": {"memory": "64Mi"}}})
    assert outcome.code == 137
    fact = "the container ran out of memory (OOMKilled); its limit is 64Mi"
    assert f"error: [main] {fact}" in outcome.err
    assert "hint: raise `resources.limits.memory`" in outcome.err


def test_eviction_is_told_in_the_nodes_words(stage: Staged) -> None:
    words = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 3Mi."

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        pod.evicted(words)

    outcome = stage(play).run()
    assert (outcome.code, outcome.out) == (1, "begun\n")
    assert f"error: [main] the pod was evicted: {words}" in outcome.err
    assert "`resources.requests`" in outcome.err


def test_timeout_of_the_entry_point_ends_the_pod(stage: Staged) -> None:
    seen: list[Any] = []

    def play(pod: Pod) -> None:
        seen.append(pod.spec.get("activeDeadlineSeconds"))
        pod.running()
        pod.log(b"begun\n")
        words = "Pod was active on the node longer than the specified deadline"
        pod.status({"phase": "Failed", "reason": "DeadlineExceeded", "message": words})
        pod.ended(143)

    outcome = stage(play, "  main: {timeout: 90s, command: 'true'}\n").run()
    assert (outcome.code, outcome.out) == (124, "begun\n")
    assert seen == [90]
    assert "error: [main] the command was ended after its timeout of 90 s" in outcome.err


def test_deadline_of_the_template_ends_the_job(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        assert pod.wait_deleted(60)
        pod.ended(143)

    staged = stage(play)
    outcome = staged.run(config=has(staged, job={"activeDeadlineSeconds": 1, "backoffLimit": 0}))
    assert outcome.code == 124
    assert "error: [main] the Job was ended at its deadline" in outcome.err
    assert "hint: `activeDeadlineSeconds` in the Job template" in outcome.err
    assert "error: [main] the command ended with exit code 124" in outcome.err


def test_job_that_others_delete_is_told(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        assert pod.wait_deleted(60)
        going.set()

    staged = stage(play)
    live = staged.start()
    live.said("begun")
    (job,) = staged.cluster.all("jobs")
    staged.place.delete("jobs", job["metadata"]["name"])
    outcome = live.wait()
    assert outcome.code == 1
    name = job["metadata"]["name"]
    assert f"error: [main] the Job `{name}` was deleted before its end was known" in outcome.err
    assert going.is_set()


@pytest.mark.parametrize("code", [143, 1])
def test_pod_that_others_delete_is_told(stage: Staged, code: int) -> None:
    told = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        assert pod.wait_deleted(60)
        if code == 143:  # else it is gone before anybody sees its end
            pod.ended(code)
            told.wait(60)

    staged = stage(play)
    live = staged.start()
    live.said("begun")
    (pod,) = staged.cluster.all("pods")
    staged.place.delete("pods", pod["metadata"]["name"])
    outcome = live.wait()
    told.set()
    assert outcome.code == code, outcome.err
    assert "error: [main] the pod was deleted before its command had ended" in outcome.err


def test_kept_job_leaves_no_sidecar_running(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.ended(0, container="staged")
        if pod.until(lambda: pod.current["spec"].get("activeDeadlineSeconds")):
            pod.ended(137, container="side")
            pod.status({"phase": "Failed", "reason": "DeadlineExceeded"})

    staged = stage(play, keeps=True)
    both = [{"name": "main"}, {"name": "side", "image": "alpine"}]
    config = has(staged, job={"backoffLimit": 3}, pod={"containers": both})
    outcome = staged.run(config={**config, "keep-jobs": "always"})
    assert outcome.code == 0, outcome.err
    staged.cluster.wait("jobs", lambda job: job["status"].get("failed"))
    (pod,) = staged.cluster.all("pods")
    assert pod["status"]["phase"] == "Failed"
    assert "deletionTimestamp" not in pod["metadata"]


def test_sidecar_that_never_ends_does_not_hold_the_run_up(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"done\n")
        pod.ended(0, container="staged")
        assert pod.wait_deleted(60)
        going.wait(60)

    staged = stage(play)
    both = [{"name": "main"}, {"name": "side", "image": "alpine"}]
    outcome = staged.run(
        config=has(staged, pod={"containers": both, "terminationGracePeriodSeconds": 600})
    )
    assert (outcome.code, outcome.out) == (0, "done\n"), outcome.err
    # Nor does a pod that takes its time to go.
    assert staged.cluster.all("jobs") == []
    assert len(staged.cluster.all("pods")) == 1
    assert "still there" not in outcome.err
    going.set()


def test_pod_that_is_replaced_is_followed_to_the_next(stage: Staged) -> None:
    pods: list[str] = []

    def play(pod: Pod) -> None:
        pods.append(pod.name)
        pod.running()
        pod.log(b"try %d\n" % len(pods))
        pod.ended(1 if len(pods) == 1 else 0)

    staged = stage(play)
    outcome = staged.run(config=has(staged, job={"backoffLimit": 1}))
    assert (outcome.code, outcome.out) == (0, "try 1\ntry 2\n"), outcome.err
    assert len(set(pods)) == 2


def test_pod_that_is_replaced_as_often_as_allowed_fails_with_its_code(stage: Staged) -> None:
    staged = stage(lambda pod: end(pod, 5))
    outcome = staged.run(config=has(staged, job={"backoffLimit": 1}))
    assert outcome.code == 5
    assert "error: [main] the command ended with exit code 5" in outcome.err


ON_FAILURE = {"job": {"backoffLimit": 3}, "pod": {"restartPolicy": "OnFailure"}}


def test_container_that_starts_anew_in_its_pod_is_followed(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        for number, code in enumerate((1, 0)):
            pod.running()
            pod.log(b"try %d\n" % number)
            staged.cluster.wait_until(lambda: staged.asked("GET", "/log") > number)  # noqa: B023
            pod.ended(code)

    staged = stage(play)
    outcome = staged.run(config=has(staged, **ON_FAILURE))
    assert (outcome.code, outcome.out) == (0, "try 0\ntry 1\n"), outcome.err


def test_who_comes_after_a_restart_reads_the_log_of_before_too(stage: Staged) -> None:
    again, going = threading.Event(), threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"try 0\n")
        assert pod.wait(again)
        pod.ended(1)
        pod.running()
        pod.log(b"try 1\n")
        assert pod.wait(going)
        pod.ended(0)

    staged = stage(play)
    config = has(staged, **ON_FAILURE)
    killed = staged.start(**config)
    killed.said("try 0")
    killed.close()
    again.set()
    staged.cluster.wait(
        "pods", lambda pod: pod["status"]["containerStatuses"][0]["restartCount"] == 1
    )
    live = staged.start(**config)
    live.said("try 1")
    going.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "try 0\ntry 1\n"), outcome.err


def test_container_that_fails_too_often_ends_with_its_code(stage: Staged) -> None:
    def play(pod: Pod) -> None:
        while not pod.ending():
            pod.running()
            pod.ended(9)

    staged = stage(play)
    config = has(staged, job={"backoffLimit": 1}, pod={"restartPolicy": "OnFailure"})
    outcome = staged.run(config=config)
    assert outcome.code == 9, outcome.err
    assert "the Job failed: Job has reached the specified backoff limit" in outcome.err


# -- Jobs that are refused -------------------------------------------------------------------------

QUOTA = "exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4"


def test_quota_is_waited_for_as_long_as_a_place(stage: Staged) -> None:
    staged = stage(end)
    staged.cluster.refuse("pods", QUOTA)
    outcome = staged.run(config={"schedule-timeout": "0s"})
    assert outcome.code == 1
    assert "error: [main] the cluster cannot run it: FailedCreate: " in outcome.err
    assert QUOTA in outcome.err
    assert "kubectl -n default describe quota" in outcome.err


def test_job_runs_once_the_quota_has_room(stage: Staged) -> None:
    staged = stage(end)
    staged.cluster.refuse("pods", QUOTA)
    live = staged.start()
    live.said(QUOTA)
    staged.cluster.admit("pods")
    assert live.wait().code == 0


POLICY = 'admission webhook "policy.example.com" denied the request: images need a signature'


@pytest.mark.parametrize("kind", ["jobs", "pods"])
def test_refusal_of_an_admission_webhook_is_told_in_its_words(stage: Staged, kind: str) -> None:
    staged = stage(end)
    staged.cluster.refuse(kind, POLICY, plain=True)
    outcome = staged.run()
    assert outcome.code == 1
    assert POLICY in outcome.err
    assert "error: [main] the cluster " in outcome.err
    assert "hint: the Job template or the backend config decides that" in outcome.err
    assert "Role" not in outcome.err


SECURITY = (
    'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "staged" '
    "must set securityContext.runAsNonRoot=true)"
)


def test_refusal_by_pod_security_is_told_once_with_its_remedy(stage: Staged) -> None:
    staged = stage(end)
    staged.cluster.refuse("pods", SECURITY)
    outcome = staged.run()
    assert outcome.code == 1
    assert outcome.err.count("runAsNonRoot != true") == 1
    assert "error: [main] the cluster cannot run it: FailedCreate: " in outcome.err
    assert "hint: set what it names under `securityContext` in the Job template" in outcome.err


def test_trouble_is_warned_of_once_whatever_its_name(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.waiting("ErrImagePull", "401 Unauthorized")
        assert pod.wait(going)
        pod.waiting("ImagePullBackOff", PULL)
        pod.waiting("ErrImagePull", "401 Unauthorized, again")
        end(pod)

    live = stage(play).start()
    live.said("warning: [main] ErrImagePull: 401 Unauthorized")
    going.set()
    outcome = live.wait()
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("401 Unauthorized") == 1


def test_namespace_that_is_missing_is_named(stage: Staged) -> None:
    outcome = stage(end).run(config={"namespace": "nowhere"})
    assert outcome.code == 1
    assert "there is no namespace `nowhere`" in outcome.err
    assert "kubectl create namespace nowhere" in outcome.err


def test_service_account_that_is_missing_is_named(stage: Staged) -> None:
    outcome = stage(end).run(config={"service-account": "trainer"})
    assert outcome.code == 1
    assert 'serviceaccount "trainer" not found' in outcome.err


def test_warnings_of_the_cluster_are_told(stage: Staged) -> None:
    staged = stage(end)
    outcome = staged.run(config=has(staged, job={"backoffLimit": 0, "backofLimit": 3}))
    assert outcome.code == 0, outcome.err
    assert 'warning: [main] the cluster warns: unknown field "spec.backofLimit"' in outcome.err


def test_template_that_the_cluster_does_not_accept_is_told_in_its_words(stage: Staged) -> None:
    staged = stage(end)
    outcome = staged.run(config=has(staged, pod={"restartPolicy": "Always"}))
    assert outcome.code == 1
    assert "error: [main] the cluster refuses the job: " in outcome.err
    assert "restartPolicy" in outcome.err
    assert "hint: the Job template or the backend config decides that" in outcome.err


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("create", "jobs"), ("list", "jobs"), ("watch", "jobs"), ("delete", "jobs"),
        ("list", "pods"), ("watch", "pods"), ("get", "pods/log"), ("create", "secrets"),
        ("patch", "secrets"), ("delete", "secrets"),
    ],
)  # fmt: skip
def test_missing_right_is_named(stage: Staged, verb: str, resource: str) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        pod.wait(going)
        pod.ended(0)

    staged = stage(play, keeps=True, environment=", environment: [[API_TOKEN, text]]")
    staged.cluster.forbid(verb, resource)
    if verb == "delete":
        going.set()
    live = staged.start()
    right = f"the right to `{verb}` `{resource}` in the namespace `default` is missing"
    live.said(right)
    going.set()
    outcome = live.wait()
    assert f'cannot {verb} resource "{resource}"' in outcome.err
    assert f"have a Role with the verb `{verb}` on `{resource}` bound" in outcome.err
    assert "docs/kubernetes.md" in outcome.err
    assert outcome.code == (0 if resource == "pods/log" else 1)


def test_credentials_that_have_expired_are_told(stage: Staged) -> None:
    staged = stage(end)
    staged.cluster.unauthorized = True
    outcome = staged.run()
    assert outcome.code == 1
    assert "the cluster does not accept the credentials: Unauthorized" in outcome.err
    assert "log in anew" in outcome.err


def test_cluster_that_is_down_is_given_up(stage: Staged) -> None:
    staged = stage(end)
    config = json.loads(staged.place.kubeconfig.read_text())
    with socket.socket() as unused:  # nothing listens there
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        config["clusters"][0]["cluster"]["server"] = url
        staged.place.kubeconfig.write_text(json.dumps(config))
        outcome = staged.run()
    assert outcome.code == 1
    assert f"the cluster at {url} does not answer: " in outcome.err
    assert "Connection refused" in outcome.err
    assert "must work with the same context" in outcome.err


# -- what is found before anything is made ---------------------------------------------------------


def test_context_that_is_not_there_is_told_with_those_that_are(stage: Staged) -> None:
    outcome = stage(end).run(config={"kube-context": "production"})
    assert outcome.code == 1
    assert "there is no context `production`; there is `test`" in outcome.err
    assert "kubectl config get-contexts" in outcome.err


def test_missing_kubeconfig_is_told(stage: Staged, tmp_path: Path) -> None:
    outcome = stage(end).run(environ={"KUBECONFIG": str(tmp_path / "none")})
    assert outcome.code == 1
    assert str(tmp_path / "none") in outcome.err
    assert "KUBECONFIG names another file" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("text", ["{", "[]", "apiVersion: v1\n", "contexts: 3\n", "\0", "a: b: c"])
def test_kubeconfig_that_is_none_is_told(stage: Staged, text: str) -> None:
    staged = stage(end)
    staged.place.kubeconfig.write_text(text)
    outcome = staged.run()
    assert outcome.code == 1
    assert str(staged.place.kubeconfig) in outcome.err
    assert "buildrun has a defect" not in outcome.err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"repository-uri": None}, "`repository-uri` is missing"),
        ({"repository-uri": 3}, "`repository-uri` must be"),
        ({"keep-jobs": "sometimes"}, "keep-jobs"),
        ({"pull-timeout": "soon"}, "`pull-timeout`"),
        ({"kube-job-template-path": "none.yaml"}, "there is no Job template `none.yaml`"),
        ({"image-pull-secrets": "one"}, "image-pull-secrets"),
    ],
)
def test_wrong_config_is_found_before_anything_is_asked(
    stage: Staged, keys: dict[str, Any], message: str
) -> None:
    staged = stage(end)
    outcome = staged.run(config=keys)
    assert outcome.code == 1
    assert message in outcome.err
    assert staged.cluster.requests == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind: Job\napiVersion: batch/v1\nspec: [", "template.yaml:3"),
        ("kind: Pod\napiVersion: v1\n", "this is not a Kubernetes Job"),
        ("kind: Job\napiVersion: batch/v2\n", "a Job's `apiVersion` is `batch/v1`"),
        ("kind: Job\napiVersion: batch/v1\nspec: {}\n", "the Job has no container"),
        ("", "this is not a Kubernetes Job"),
    ],
)
def test_wrong_template_is_found_before_anything_is_asked(
    stage: Staged, text: str, message: str
) -> None:
    staged = stage(end)
    path = staged.root.parent / "template.yaml"
    path.write_text(text)
    outcome = staged.run(config={"kube-job-template-path": "template.yaml"})
    assert outcome.code == 1
    assert message in outcome.err
    assert f"{path}:" in outcome.err or "template.yaml:" in outcome.err
    assert staged.cluster.requests == []


@pytest.mark.parametrize(
    "spec",
    [
        {"template": {"spec": {"containers": [{"env": "text"}]}}},
        {"template": {"spec": {"containers": [{"env": {"A": "b"}}]}}},
        {"template": {"spec": {"containers": [{"resources": [1]}]}}},
        {"template": {"spec": {"containers": [{"volumeMounts": "text"}], "volumes": 3}}},
        {"template": {"metadata": "text", "spec": {"containers": [{}]}}},
        {"template": {"metadata": {"labels": ["a"]}, "spec": {"containers": [{}]}}},
        {"template": {"spec": {"containers": [{}], "imagePullSecrets": "one"}}},
        {"backoffLimit": "many", "template": {"spec": {"containers": [{}]}}},
    ],
)  # fmt: skip
def test_template_of_strange_shapes_is_an_error_of_the_user(
    stage: Staged, spec: dict[str, Any]
) -> None:
    staged = stage(end, environment=", environment: [[API_TOKEN, text]]")
    path = staged.root.parent / "template.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "batch/v1", "kind": "Job", "spec": spec}))
    outcome = staged.run(
        config={
            "kube-job-template-path": "template.yaml",
            "resources": {"limits": {"memory": "1Gi"}},
            "image-pull-secrets": ["a"],
        }
    )
    assert outcome.code == 1
    assert "buildrun has a defect" not in outcome.err, outcome.err
    assert "hint: " in outcome.err


# -- what stays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "code", "left"),
    [
        ("never", 0, 0), ("never", 1, 0), ("failed", 0, 0), ("failed", 1, 1),
        ("always", 0, 1), ("always", 1, 1),
    ],
)  # fmt: skip
def test_jobs_stay_as_the_config_says(stage: Staged, keep: str, code: int, left: int) -> None:
    staged = stage(lambda pod: end(pod, code), keeps=True)
    outcome = staged.run(config={"keep-jobs": keep})
    assert outcome.code == code
    assert len(staged.cluster.all("jobs")) == len(staged.cluster.all("pods")) == left
    assert ("is kept, as `keep-jobs` says" in outcome.err) == bool(left)

    # One that was kept is replaced by the next, and not attached to.
    before = [each["metadata"]["uid"] for each in staged.cluster.all("jobs")]
    assert staged.run(config={"keep-jobs": keep}).code == code
    after = [each["metadata"]["uid"] for each in staged.cluster.all("jobs")]
    assert len(after) == left
    assert not set(before) & set(after)


def test_job_that_cannot_run_may_be_kept(stage: Staged) -> None:
    staged = stage(lambda pod: pod.waiting("InvalidImageName", "no"), keeps=True)
    assert staged.run(config={"keep-jobs": "failed"}).code == 1
    assert len(staged.cluster.all("jobs")) == 1


# -- several at once -------------------------------------------------------------------------------


def test_steps_run_at_once_up_to_the_number_that_was_asked_for(stage: Staged) -> None:
    together = threading.Barrier(3)

    def play(pod: Pod) -> None:
        pod.running()
        if not pod.name.startswith("br-staged-main-"):
            together.wait(60)
        pod.ended(0)

    steps = "".join(f"  s{n}: {{command: 'echo {n}'}}\n" for n in range(3))
    staged = stage(play, steps + "  main: {depends_on: [s0, s1, s2], command: 'true'}\n")
    outcome = staged.run("-j", "3")
    assert outcome.code == 0, outcome.err
    assert staged.asked("POST", "/jobs") == 4
    watches = [each for each in staged.cluster.requests if each.query.get("watch")]
    assert len(watches) == 2


def test_same_step_submitted_twice_is_one_job(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        assert pod.wait(going)
        pod.log(b"done\n")
        pod.ended(6)

    staged = stage(play)
    first = staged.start()
    first.said("begun")
    second = staged.start()
    second.said("runs already")
    second.said("begun")
    going.set()
    for live in (first, second):
        outcome = live.wait()
        assert (outcome.code, outcome.out) == (6, "begun\ndone\n"), outcome.err
    made = {each.path for each in staged.cluster.requests if each.method == "DELETE"}
    assert len(made) == 1


def test_job_of_a_killed_run_is_attached_to(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        assert pod.wait(going)
        pod.log(b"done\n")
        pod.ended(0)

    staged = stage(play)
    killed = staged.start()
    killed.said("begun")
    killed.close()
    (job,) = staged.cluster.all("jobs")
    live = staged.start()
    live.said("runs already")
    assert [each["metadata"]["uid"] for each in staged.cluster.all("jobs")] == [
        job["metadata"]["uid"]
    ]
    going.set()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "begun\ndone\n"), outcome.err


def test_retries_of_the_entry_point_are_new_jobs(stage: Staged) -> None:
    jobs: list[str] = []

    def play(pod: Pod) -> None:
        jobs.append(pod.current["metadata"]["labels"]["job-name"])
        end(pod, 1 if len(jobs) < 3 else 0)

    outcome = stage(play, "  main: {retries: 2, command: 'true'}\n").run()
    assert outcome.code == 0
    assert len(set(jobs)) == 3
    assert jobs[1:] == [f"{jobs[0]}-1", f"{jobs[0]}-2"]


def test_interrupt_before_the_pod_starts_leaves_nothing(stage: Staged) -> None:
    staged = stage(lambda pod: pod.unschedulable(FULL))
    live = staged.start()
    live.said("Unschedulable")
    live.interrupt()
    assert live.wait().code == 130


def test_second_interrupt_does_not_wait_for_a_pod_that_goes_on(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        going.wait(60)

    staged = stage(play, keeps=True)
    live = staged.start()
    live.said("begun")
    live.interrupt()
    live.said("ending the Job")
    staged.cluster.wait("pods", lambda pod: "deletionTimestamp" in pod["metadata"])
    live.interrupt()
    outcome = live.wait()
    going.set()
    assert outcome.code == 130
    assert "its pod is still ending" in outcome.err
    assert "kubectl -n default get pods -l job-name=br-staged-main-" in outcome.err


@pytest.mark.parametrize(("method", "size"), [("POST", None), ("POST", 10), ("DELETE", None)])
def test_interrupt_ends_a_run_whose_server_hangs_and_tells_what_may_stay(
    stage: Staged, method: str, size: int | None
) -> None:
    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"begun\n")
        pod.wait_deleted()

    staged = stage(play, keeps=True)
    fault = staged.cluster.fault("hang", method, "/jobs", times=99, size=size)
    live = staged.start()
    if method == "POST":
        staged.cluster.wait_until(lambda: fault.met)
        staged.cluster.fault("hang", "DELETE", "/jobs", times=99)
    else:
        live.said("begun")
    live.interrupt()
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert fault.met == 1  # nor was it asked again
    assert f"the cluster at {staged.cluster.url} does not answer: " in outcome.err
    assert "the Job `br-staged-main-" in outcome.err
    assert "may be there and run" in outcome.err
    assert "kubectl -n default delete jobs br-staged-main-" in outcome.err


@pytest.mark.parametrize("size", [None, 10])
def test_interrupt_does_not_wait_for_a_log_that_hangs(stage: Staged, size: int | None) -> None:
    staged = stage(lambda pod: end(pod, 3))
    fault = staged.cluster.fault("hang", "GET", "/log", times=99, size=size)
    live = staged.start()
    staged.cluster.wait_until(lambda: fault.met)
    live.interrupt()
    outcome = live.wait()
    assert outcome.code == 130, outcome.err
    assert "Traceback" not in outcome.err
