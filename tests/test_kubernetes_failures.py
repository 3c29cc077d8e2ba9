"""What becomes of Jobs that cannot run, or that end otherwise than by their command."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from kube_kubelet import Pod
from kubernetes_helpers import Stage, Staged

pytest_plugins = "kubernetes_helpers"

PULL = 'Back-off pulling image "r/x@sha256:0": ErrImagePull: failed to authorize: 401 Unauthorized'
FULL = "0/3 nodes are available: 3 Insufficient cpu. preemption: 0/3 nodes are available"
QUOTA = "exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4"
POLICY = 'admission webhook "policy.example.com" denied the request: images need a signature'
SECURITY = (
    'violates PodSecurity "restricted:latest": runAsNonRoot != true (pod or container "staged" '
    "must set securityContext.runAsNonRoot=true)"
)
EVICTED = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 3Mi."
TEMPLATE_DECIDES = "hint: the Job template or the backend config decides that"
NO_PROGRAM = 'exec: "%s": executable file not found in $PATH: unknown'

FETCH = [{"name": "fetch", "image": "alpine", "command": ["false"]}]
BOTH = [{"name": "main"}, {"name": "side", "image": "alpine"}]


def end(pod: Pod, code: int = 0, *args: str) -> None:
    """Run, and end."""
    pod.running()
    pod.ended(code, *args)


def begun(pod: Pod, going: threading.Event, code: int = 0) -> None:
    """Run and write, and end once it may; nothing where it is deleted first."""
    pod.running()
    pod.log(b"begun\n")
    if pod.wait(going):
        pod.log(b"done\n")
        pod.ended(code)


def has(stage: Stage, **keys: Any) -> dict[str, Any]:
    """Return a config with a template in which a pod's or a Job's fields are set."""
    pod = {"containers": [{"name": "main"}], "restartPolicy": "Never", **keys.pop("pod", {})}
    spec = {**keys.pop("job", {"backoffLimit": 0}), "template": {"spec": pod}}
    path = stage.root.parent / "template.yaml"
    path.write_text(yaml.safe_dump({"apiVersion": "batch/v1", "kind": "Job", "spec": spec}))
    return {"kube-job-template-path": str(path), **keys}


# -- what is told of Jobs that fail ----------------------------------------------------------------


class Case(NamedTuple):
    """A way to fail, and what is told of it.

    arrange: is called with the stage first. job, pod: fields of the template's, None for none.
    config: other keys of the config.
    """

    told: tuple[str, ...]
    play: Callable[[Pod], object] = end
    arrange: Callable[[Stage], object] = lambda _: None
    code: int = 1
    out: str = ""
    job: dict[str, Any] | None = None
    pod: dict[str, Any] | None = None
    config: dict[str, Any] | None = None


def evicted(pod: Pod) -> None:
    pod.running()
    pod.log(b"begun\n")
    pod.evicted(EVICTED)


def fetched_in_vain(pod: Pod) -> None:
    pod.running(container="fetch")
    pod.log(b"".join(b"line %d\n" % number for number in range(30)), container="fetch")
    pod.ended(3, "Error", "no such bucket", container="fetch")


CANNOT = "error: [main] the cluster cannot run it: "
CASES = {
    "image that cannot be pulled": Case(
        (
            f"{CANNOT}ImagePullBackOff: {PULL}",
            "hint: the cluster's nodes must reach the registry of `repository-uri`",
            "`image-pull-secrets` names credentials",
        ),
        lambda pod: pod.waiting("ImagePullBackOff", PULL),
        config={"pull-timeout": "0s"},
    ),
    "name of an image": Case(
        (f"{CANNOT}InvalidImageName: couldn't parse", "hint: correct `repository-uri`"),
        lambda pod: pod.waiting("InvalidImageName", "couldn't parse"),
        config={"pull-timeout": "1h"},
    ),
    "image that is never pulled": Case(
        (f"{CANNOT}ErrImageNeverPull: is not present", "`imagePullPolicy`"),
        lambda pod: pod.waiting("ErrImageNeverPull", "is not present"),
        config={"pull-timeout": "1h"},
    ),
    "missing Secret": Case(
        (f'{CANNOT}CreateContainerConfigError: secret "keys"', "hint: a Secret or ConfigMap that"),
        lambda pod: pod.waiting("CreateContainerConfigError", 'secret "keys" not found'),
        config={"pull-timeout": "1h"},
    ),
    "no place": Case(
        (
            f"{CANNOT}Unschedulable: {FULL}",
            "hint: ask for less in `resources`, correct the template's node selector",
        ),
        lambda pod: pod.unschedulable(FULL),
        config={"schedule-timeout": "0s"},
    ),
    "init container": Case(
        (
            "error: [main] the init container `fetch` ended with exit code 3: no such bucket",
            "".join(f"line {number}\n" for number in range(10, 30)),
        ),
        fetched_in_vain,
        pod={"initContainers": FETCH},
    ),
    "no such program": Case(
        ("error: [main] the command cannot be started: " + NO_PROGRAM % "nosuch",),
        lambda pod: end(pod, 128, "StartError", NO_PROGRAM % "nosuch"),
        code=128,
    ),
    "no sh": Case(
        ("hint: the image must have `sh`, for a command of more than plain words",),
        lambda pod: end(pod, 128, "StartError", NO_PROGRAM % "sh"),
        code=128,
    ),
    "out of memory": Case(
        (
            "error: [main] the container ran out of memory (OOMKilled); its limit is 64Mi",
            "hint: raise `resources.limits.memory`",
        ),
        lambda pod: end(pod, 137, "OOMKilled"),
        code=137,
        config={"resources": {"limits": {"memory": "64Mi"}}},
    ),
    "evicted": Case(
        (f"error: [main] the pod was evicted: {EVICTED}", "`resources.requests`"),
        evicted,
        out="begun\n",
    ),
    "replaced as often as allowed": Case(
        ("error: [main] the command ended with exit code 5",),
        lambda pod: end(pod, 5),
        code=5,
        job={"backoffLimit": 1},
    ),
    "quota": Case(
        (f"{CANNOT}FailedCreate: ", QUOTA, "kubectl -n default describe quota"),
        arrange=lambda staged: staged.cluster.refuse("pods", QUOTA),
        config={"schedule-timeout": "0s"},
    ),
    "webhook refuses the Job": Case(
        (POLICY, "error: [main] the cluster ", TEMPLATE_DECIDES),
        arrange=lambda staged: staged.cluster.refuse("jobs", POLICY, plain=True),
    ),
    "webhook refuses the pod": Case(
        (POLICY, CANNOT, TEMPLATE_DECIDES),
        arrange=lambda staged: staged.cluster.refuse("pods", POLICY, plain=True),
    ),
    "Pod Security": Case(
        (
            f"{CANNOT}FailedCreate: ",
            "runAsNonRoot != true",
            "hint: set what it names under `securityContext` in the Job template",
        ),
        arrange=lambda staged: staged.cluster.refuse("pods", SECURITY),
    ),
    "no namespace": Case(
        ("there is no namespace `nowhere`", "kubectl create namespace nowhere"),
        config={"namespace": "nowhere"},
    ),
    "no service account": Case(
        ('serviceaccount "trainer" not found',), config={"service-account": "trainer"}
    ),
    "template": Case(
        ("error: [main] the cluster refuses the job: ", "restartPolicy", TEMPLATE_DECIDES),
        pod={"restartPolicy": "Always"},
    ),
    "unknown field": Case(
        ('warning: [main] the cluster warns: unknown field "spec.backofLimit"',),
        code=0,
        job={"backoffLimit": 0, "backofLimit": 3},
    ),
    "credentials": Case(
        ("the cluster does not accept the credentials: Unauthorized", "log in anew"),
        arrange=lambda staged: setattr(staged.cluster, "unauthorized", True),
    ),
    "context": Case(
        (
            "there is no context `production`; there is `test`",
            "kubectl config get-contexts",
        ),
        config={"kube-context": "production"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_failure_is_told_with_its_remedy(stage: Staged, name: str) -> None:
    case = CASES[name]
    staged = stage(case.play)
    case.arrange(staged)
    config = case.config or {}
    if case.job is not None or case.pod is not None:
        config = has(staged, job=case.job or {"backoffLimit": 0}, pod=case.pod or {}, **config)
    outcome = staged.run(config=config)
    assert (outcome.code, outcome.out) == (case.code, case.out), outcome.err
    for text in case.told:
        assert outcome.err.count(text) == 1, text
    assert "Role" not in outcome.err
    assert "line 9\n" not in outcome.err


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


# -- what passes -----------------------------------------------------------------------------------


def pulled(pod: Pod, going: threading.Event) -> None:
    pod.waiting("ErrImagePull", "401 Unauthorized")
    assert pod.wait(going)
    pod.waiting("ImagePullBackOff", PULL)
    pod.waiting("ErrImagePull", "401 Unauthorized, again")
    end(pod)


def placed(pod: Pod, going: threading.Event) -> None:
    pod.unschedulable(FULL)
    assert pod.wait(going)
    end(pod)


def fetched_late(pod: Pod, going: threading.Event) -> None:
    pod.running(container="fetch")
    pod.ended(3, container="fetch")
    assert pod.wait(going)
    pod.running(container="fetch")
    pod.ended(0, container="fetch")
    end(pod)


@pytest.mark.parametrize(
    ("play", "told"),
    [
        (pulled, "warning: [main] ErrImagePull: 401 Unauthorized"),
        (placed, f"warning: [main] Unschedulable: {FULL}"),
        (fetched_late, "CrashLoopBackOff: the init container `fetch` ended with exit code 3"),
    ],
)
def test_trouble_that_passes_is_warned_of_once(
    stage: Staged, play: Callable[[Pod, threading.Event], None], told: str
) -> None:
    going = threading.Event()
    staged = stage(lambda pod: play(pod, going))
    pod = {"initContainers": FETCH, "restartPolicy": "OnFailure"} if play is fetched_late else {}
    live = staged.start(**has(staged, job={"backoffLimit": 3}, pod=pod))
    live.said(told)
    going.set()
    outcome = live.wait()
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("warning: ") == 1
    assert "error" not in outcome.err


def test_job_runs_once_the_quota_has_room(stage: Staged) -> None:
    staged = stage(end)
    staged.cluster.refuse("pods", QUOTA)
    live = staged.start()
    live.said(QUOTA)
    staged.cluster.admit("pods")
    assert live.wait().code == 0


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
    pod = {"initContainers": FETCH, "restartPolicy": "OnFailure"}
    outcome = staged.run(config=has(staged, job={"backoffLimit": limit}, pod=pod))
    assert outcome.code == 1
    assert "error: [main] the init container `fetch` ended with exit code 3" in outcome.err
    assert "no such bucket\n" in outcome.out + outcome.err


# -- pods that others delete, replace or start anew ------------------------------------------------


def test_job_that_others_delete_is_told(stage: Staged) -> None:
    staged = stage(lambda pod: begun(pod, threading.Event()))
    live = staged.start()
    live.said("begun")
    (job,) = staged.cluster.all("jobs")
    name = job["metadata"]["name"]
    staged.place.delete("jobs", name)
    outcome = live.wait()
    assert outcome.code == 1
    assert f"error: [main] the Job `{name}` was deleted before its end was known" in outcome.err


@pytest.mark.parametrize("code", [143, 1])
def test_pod_that_others_delete_is_told(stage: Staged, code: int) -> None:
    told = threading.Event()

    def play(pod: Pod) -> None:
        begun(pod, threading.Event())
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
    config = has(staged, job={"backoffLimit": 3}, pod={"containers": BOTH})
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
    pod = {"containers": BOTH, "terminationGracePeriodSeconds": 600}
    outcome = staged.run(config=has(staged, pod=pod))
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
        for number, (event, code) in enumerate(((again, 1), (going, 0))):
            pod.running()
            pod.log(b"try %d\n" % number)
            assert pod.wait(event)
            pod.ended(code)

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
            end(pod, 9)

    staged = stage(play)
    config = has(staged, job={"backoffLimit": 1}, pod={"restartPolicy": "OnFailure"})
    outcome = staged.run(config=config)
    assert outcome.code == 9, outcome.err
    assert "the Job failed: Job has reached the specified backoff limit" in outcome.err


# -- rights ----------------------------------------------------------------------------------------


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
    staged = stage(
        lambda pod: begun(pod, going), keeps=True,
        environment=", environment: [[API_TOKEN, text]]",
    )  # fmt: skip
    staged.cluster.forbid(verb, resource)
    if verb == "delete":
        going.set()
    live = staged.start()
    live.said(f"the right to `{verb}` `{resource}` in the namespace `default` is missing")
    going.set()
    outcome = live.wait()
    assert f'cannot {verb} resource "{resource}"' in outcome.err
    assert f"have a Role with the verb `{verb}` on `{resource}` bound" in outcome.err
    assert "docs/kubernetes.md has the role" in outcome.err
    assert outcome.code == (0 if resource == "pods/log" else 1)
    if verb in ("list", "watch"):  # what may not be followed does not stay
        left = ("jobs", "secrets", "pods")
        staged.cluster.wait_until(lambda: not any(map(staged.cluster.all, left)))


# -- what is found before anything is made ---------------------------------------------------------


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


HEAD = "kind: Job\napiVersion: batch/v1\nspec: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEAD}[", "template.yaml:3"),
        ("", "this is not a Kubernetes Job"),
        (f"{HEAD}{{}}\n", "the Job has no container"),
        (f"{HEAD}{{template: {{spec: {{containers: [{{env: text}}]}}}}}}", "must be a list"),
        (f"{HEAD}{{template: {{spec: {{containers: [{{env: {{A: b}}}}]}}}}}}", "must be a list"),
        (f"{HEAD}{{template: {{spec: {{containers: [{{resources: [1]}}]}}}}}}", "be a mapping"),
        (f"{HEAD}{{template: {{spec: {{containers: [{{volumeMounts: t}}]}}}}}}", "must be a list"),
        (f"{HEAD}{{template: {{spec: {{containers: [{{}}], volumes: 3}}}}}}", "must be a list"),
        (f"{HEAD}{{template: {{metadata: t, spec: {{containers: [{{}}]}}}}}}", "be a mapping"),
        (
            f"{HEAD}{{template: {{metadata: {{labels: [a]}}, spec: {{containers: [{{}}]}}}}}}",
            "be a mapping",
        ),
        (f"{HEAD}{{template: {{spec: {{containers: [{{}}], imagePullSecrets: a}}}}}}", "a list"),
        (f"{HEAD}{{backoffLimit: a, template: {{spec: {{containers: [{{}}]}}}}}}", "be a number"),
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
    assert "hint: " in outcome.err
    assert staged.cluster.requests == []


def test_config_and_template_that_change_are_read_anew(stage: Staged) -> None:
    seen: list[Any] = []

    def play(pod: Pod) -> None:
        seen.append(pod.spec["terminationGracePeriodSeconds"])
        end(pod)

    staged = stage(play)
    beside = staged.root.parent / "template.yaml"
    for seconds in (10, 20):
        has(staged, pod={"terminationGracePeriodSeconds": seconds})
        assert staged.run(config={"kube-job-template-path": "template.yaml"}).code == 0
    assert staged.run(config={"kube-job-template-path": str(beside), "keep-jobs": "x"}).code == 1
    assert seen == [10, 20]


# -- what stays ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep", "code", "left"),
    [
        ("never", 0, 0), ("never", 1, 0), ("failed", 0, 0), ("failed", 1, 1),
        ("always", 0, 1), ("always", 1, 1),
    ],
)  # fmt: skip
def test_jobs_stay_as_the_config_says(stage: Staged, keep: str, code: int, left: int) -> None:
    staged = stage(
        lambda pod: end(pod, code), keeps=True, environment=", environment: [[API_TOKEN, text]]"
    )
    before: set[str] = set()
    # One that was kept is replaced by the next, and not attached to.
    for _ in range(2):
        outcome = staged.run(config={"keep-jobs": keep})
        assert outcome.code == code
        assert ("is kept, as `keep-jobs` says" in outcome.err) == bool(left)
        assert "attached" not in outcome.err
        assert "still there" not in outcome.err
        jobs = {each["metadata"]["uid"] for each in staged.cluster.all("jobs")}
        assert len(jobs) == len(staged.cluster.all("pods")) == left
        assert not jobs & before
        owners = [each["metadata"]["ownerReferences"] for each in staged.cluster.all("secrets")]
        assert {owner["uid"] for (owner,) in owners} == jobs
        before = jobs


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
    staged = stage(lambda pod: begun(pod, going, 6))
    first = staged.start()
    first.said("begun")
    second = staged.start()
    second.said("runs already")
    second.said("begun")
    going.set()
    for live in (first, second):
        outcome = live.wait()
        assert (outcome.code, outcome.out) == (6, "begun\ndone\n"), outcome.err
    assert staged.asked("POST", "/jobs") == 2
    made = {each.path for each in staged.cluster.requests if each.method == "DELETE"}
    assert len(made) == 1


def test_retries_of_the_entry_point_are_new_jobs(stage: Staged) -> None:
    jobs: list[str] = []

    def play(pod: Pod) -> None:
        jobs.append(pod.current["metadata"]["labels"]["job-name"])
        end(pod, 1 if len(jobs) < 3 else 0)

    outcome = stage(play, "  main: {retries: 2, command: 'true'}\n").run()
    assert outcome.code == 0
    assert len(set(jobs)) == 3
    assert jobs[1:] == [f"{jobs[0]}-1", f"{jobs[0]}-2"]


# -- Ctrl-C ----------------------------------------------------------------------------------------


def test_interrupt_before_the_pod_starts_leaves_nothing(stage: Staged) -> None:
    live = stage(lambda pod: pod.unschedulable(FULL)).start()
    live.said("Unschedulable")
    live.interrupt()
    assert live.wait().code == 130


def test_second_interrupt_does_not_wait_for_a_pod_that_goes_on(stage: Staged) -> None:
    going = threading.Event()

    def play(pod: Pod) -> None:
        begun(pod, threading.Event())
        going.wait(60)

    staged = stage(play)
    live = staged.start()
    live.said("begun")
    live.interrupt()
    live.said("ending the Job and waiting for its pod; Ctrl-C again does not wait")
    staged.cluster.wait("pods", lambda pod: "deletionTimestamp" in pod["metadata"])
    live.interrupt()
    outcome = live.wait()
    assert outcome.code == 130
    assert "its pod is still ending" in outcome.err
    assert "kubectl -n default get pods -l job-name=br-staged-main-" in outcome.err
    assert len(staged.cluster.all("pods")) == 1
    going.set()


@pytest.mark.parametrize(("method", "size"), [("POST", None), ("POST", 10), ("DELETE", None)])
def test_interrupt_ends_a_run_whose_server_hangs_and_tells_what_may_stay(
    stage: Staged, method: str, size: int | None
) -> None:
    staged = stage(lambda pod: begun(pod, threading.Event()), keeps=True)
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
