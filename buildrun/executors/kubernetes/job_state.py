"""What the status of a Job and its pod means."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from buildrun.executors.base import TIMED_OUT
from buildrun.executors.docker_cli import CODE
from buildrun.executors.kubernetes.config import runs_as_root
from buildrun.executors.kubernetes.watch import Object, View, last_end

# Reasons for which a container waits that do not pass by themselves.
_FINAL = frozenset(
    {"InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "ImageInspectError"}
)
_PULLING = frozenset({"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable"})
# The last is between two tries of a container, of which the Job allows some.
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing", "CrashLoopBackOff"})

_HINTS = {
    "ErrImageNeverPull": "the Job template's `imagePullPolicy` forbids to pull it",
    "InvalidImageName": "correct `repository-uri` in the backend config",
    "CreateContainerConfigError": "a Secret or ConfigMap that the Job template names is missing; "
    "make it in the Job's namespace",
    "Unschedulable": "ask for less in `resources`, correct the template's node selector and "
    "tolerations, or add a node",
}
_PULL_HINT = (
    "the cluster's nodes must reach the registry of `repository-uri` and have the right to pull; "
    "`image-pull-secrets` names credentials"
)
# As the kubelet says it.
_NON_ROOT = re.compile("runAsNonRoot|non-root policy")
_NON_ROOT_HINT = (
    "set `runAsUser` in the Job template's `securityContext` to a number other than 0; the image "
    "itself names none"
)
_INIT_HINT = "correct the image of the init container in the Job template"
_DENIED = (
    f"the pod does not run as root: its user may write in `{CODE}`, if it has the group 0, in /tmp "
    "and in the volumes of the Job template; a user without a name has no HOME to write to either"
)
_READ_ONLY = (
    "`readOnlyRootFilesystem` in the Job template forbids it: mount an `emptyDir` where it writes"
)
_DELETED = "the pod was deleted before its command had ended"
_DELETED_HINT = "a user, or the cluster when it drained a node, may have done that; run again"

# Programs that an image may lack, and what needs them.
_PROGRAMS = {
    "python3": "steps whose files travel to the pod and back",
    "sh": "a command of more than plain words",
}


class Waiting(NamedTuple):
    """It does not run yet.

    reason: the cluster's word, "" where all goes its way. words: the cluster's message. trouble:
    what kind of patience it takes, ``pull`` or ``schedule``; ``final`` for none; ``retry`` and ""
    for no end. events: whose events may tell more, ``job`` or ``pod``.
    """

    reason: str = ""
    words: str = ""
    trouble: str = ""
    hint: str = ""
    events: str = ""


class Running(NamedTuple):
    """The container runs; pod: its name. restarts: how often it has been started anew."""

    pod: str
    restarts: int


class Ended(NamedTuple):
    """It is over.

    exit_code: the container's own. fact: what else there is to say, "" for an ordinary end.
    pod: its name, "" where there was none. restarts: as for `Running`. timed_out: by a deadline.
    message: what the container left as its termination message. init: the init container that
    failed, "" where none did.
    """

    exit_code: int
    fact: str = ""
    hint: str = ""
    pod: str = ""
    restarts: int = 0
    timed_out: bool = False
    message: str = ""
    init: str = ""


class Gone(NamedTuple):
    """Somebody has deleted it."""


State = Waiting | Running | Ended | Gone


def classify(view: View, container: str) -> State:
    """Return how a Job stands; container: the name of the one that matters."""
    if view.gone:
        # Another client may have deleted it once it had ended.
        ours = _of_container(view.last, container)
        ended = (ours.get("state") or {}).get("terminated")
        if view.last is None or ended is None:
            return Gone()
        return _ended(view.last, ended, int(ours.get("restartCount") or 0))
    if view.job is None:
        return Waiting()
    if view.pod is None:
        return _without_pod(view.job, view.last, container)
    return _with_pod(view.job, view.pod, container)


def restarts_of(pod: Object, container: str) -> int:
    """Return how often a container has been started anew."""
    return int(_of_container(pod, container).get("restartCount") or 0)


def is_over(job: Object) -> bool:
    """Return whether a Job has ended, whatever became of it."""
    return _condition(job, "Complete", "Failed") is not None


def write_hint(words: str) -> str:
    """Return the remedy where words tell that a place cannot be written; "" where they do not."""
    if "Read-only file system" in words:
        return _READ_ONLY
    return _DENIED if "Permission denied" in words else ""


def _without_pod(job: Object, last: Object | None, container: str) -> State:
    failed = _failure(job)
    if failed is None:
        if job["spec"].get("suspend"):
            return Waiting("Suspended", "the Job is queued")
        return Waiting(events="job")
    late = _is_late(failed)
    if not late and (crashed := _crashed_init(last)):
        return Ended(1, _init_fact(crashed))
    in_place = _starts_anew(job["spec"]["template"]["spec"])
    if last is None and failed.get("reason") == "BackoffLimitExceeded" and not in_place:
        return Ended(1, _DELETED, _DELETED_HINT)
    before = (_of_container(last, container).get("lastState") or {}).get("terminated") or {}
    fact = f"the Job failed: {failed.get('message') or failed.get('reason')}"
    return Ended(TIMED_OUT if late else int(before.get("exitCode") or 1), fact, timed_out=late)


def _with_pod(job: Object, pod: Object, container: str) -> State:  # noqa: PLR0911
    name, status, failed = pod["metadata"]["name"], pod.get("status") or {}, _failure(job)
    ours = _of_container(pod, container)
    restarts = int(ours.get("restartCount") or 0)
    late = failed is not None and _is_late(failed)
    ended = (ours.get("state") or {}).get("terminated")
    if ended is not None:
        if ended.get("exitCode") and failed is None and _is_tried_again(job, pod):
            return Waiting()
        made = _ended(pod, ended, restarts)
        # Of the Job's own deadline the pod, which is deleted, tells nothing.
        if made.exit_code and late:
            return made._replace(exit_code=TIMED_OUT, timed_out=True, fact="", hint="")
        return made
    if status.get("phase") == "Failed":
        if failed is None and _is_tried_again(job, pod):
            return Waiting()
        return _lost(pod, status)
    if status.get("phase") == "Succeeded":
        return Ended(0, pod=name, restarts=restarts)
    if (ours.get("state") or {}).get("running") is not None:
        return Running(name, restarts)
    crashed = _crashed_init(pod)
    # The Job ends it at the same time, and the pod with it.
    over = not late and (failed or int((crashed or {}).get("restartCount") or 0) >= _limit(job))
    if crashed and over:
        return Ended(1, _init_fact(crashed), pod=name, init=crashed["name"])
    return next(_troubles(pod, ours), Waiting(events="pod"))


def _troubles(pod: Object, ours: Mapping[str, Any]) -> Iterator[Waiting]:
    """Yield what keeps a pod from running."""
    for item in (*((pod.get("status") or {}).get("initContainerStatuses") or ()), ours):
        waiting = (item.get("state") or {}).get("waiting") or {}
        reason, words = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in _FINAL:
            hint = _NON_ROOT_HINT if _NON_ROOT.search(words) else _HINTS.get(reason, "")
            yield Waiting(reason, words, "final", hint)
        elif reason in _PULLING:
            yield Waiting(reason, words, "pull", _PULL_HINT if item is ours else _INIT_HINT)
        elif reason == "CrashLoopBackOff" and item is not ours:
            yield Waiting(reason, _init_fact(item), "retry")
        elif reason not in _ORDINARY:
            yield Waiting(reason, words, "pull")
    if found := _condition(pod, "PodScheduled", holds="False"):
        reason, words = found.get("reason") or "Unschedulable", str(found.get("message") or "")
        yield Waiting(str(reason), words, "schedule", _HINTS["Unschedulable"])


def _ended(pod: Object, ended: Mapping[str, Any], restarts: int) -> Ended:  # noqa: PLR0911
    """Return what the end of a container means."""
    status, reason = pod.get("status") or {}, ended.get("reason")
    code, message = int(ended.get("exitCode") or 0), str(ended.get("message") or "")
    made = Ended(code, pod=pod["metadata"]["name"], restarts=restarts, message=message)
    if status.get("reason") == "DeadlineExceeded":
        return made._replace(exit_code=TIMED_OUT, timed_out=True)
    if reason == "OOMKilled":
        limits = (pod["spec"]["containers"][0].get("resources") or {}).get("limits") or {}
        limit = f"; its limit is {limits['memory']}" if limits.get("memory") else ""
        return made._replace(
            fact=f"the container ran out of memory (OOMKilled){limit}",
            hint="raise `resources.limits.memory` in the backend config or the Job template",
        )
    if reason in ("StartError", "ContainerCannotRun"):
        hints = [
            f"the image must have `{program}`, for {use}"
            for program, use in _PROGRAMS.items()
            if f'"{program}"' in message and "not found" in message
        ]
        fact = f"the command cannot be started: {message or reason}"
        return made._replace(exit_code=code or 128, fact=fact, hint="".join(hints[:1]))
    if status.get("reason"):
        fact, hint = _pod_fact(status)
        return made._replace(exit_code=code or 1, fact=fact, hint=hint)
    if code and (found := _condition(pod, "DisruptionTarget")):
        words = found.get("message") or found.get("reason")
        return made._replace(fact=f"the cluster has ended the pod: {words}")
    if code and pod["metadata"].get("deletionTimestamp") and not _starts_anew(pod["spec"]):
        return made._replace(fact=_DELETED, hint=_DELETED_HINT)
    if code and (hint := _refused(pod["spec"], message)):
        return made._replace(fact="a file was refused to the command", hint=hint)
    return made


def _refused(spec: Mapping[str, Any], words: str) -> str:
    """Return the remedy where a command's last words blame rights that the pod lacks."""
    hint = write_hint(words)
    groups = (spec.get("securityContext") or {}).get("supplementalGroups") or ()
    limited = hint == _READ_ONLY or not runs_as_root(spec) or 0 in groups
    return hint if limited else ""


def _lost(pod: Object, status: Mapping[str, Any]) -> Ended:
    """Return what became of a pod whose container tells nothing."""
    name = pod["metadata"]["name"]
    if status.get("reason") == "DeadlineExceeded":
        return Ended(TIMED_OUT, pod=name, timed_out=True)
    if crashed := _crashed_init(pod):
        return Ended(1, _init_fact(crashed), pod=name, init=crashed["name"])
    return Ended(1, *_pod_fact(status), pod=name)


def _pod_fact(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return what a pod that has failed says of itself, and a hint."""
    reason = str(status.get("reason") or "")
    words = str(status.get("message") or "").strip()
    if reason == "Evicted":
        hint = "ask for what it needs under `resources.requests`, so that a fitting node is chosen"
        return f"the pod was evicted: {words}", hint
    return ": ".join(filter(None, ("the pod failed", reason, words))), ""


def _crashed_init(pod: Object | None) -> Mapping[str, Any] | None:
    """Return the status of the init container that has failed, at least the last time it ran."""
    statuses = ((pod or {}).get("status") or {}).get("initContainerStatuses") or ()
    return next((item for item in statuses if last_end(item).get("exitCode")), None)


def _init_fact(item: Mapping[str, Any]) -> str:
    ended = last_end(item)
    words = ended.get("message") or ended.get("reason") or ""
    fact = f"the init container `{item['name']}` ended with exit code {ended.get('exitCode')}"
    # Its log tells more than the bare "Error".
    return fact if words in ("", "Error") else f"{fact}: {words}"


def _starts_anew(spec: Mapping[str, Any]) -> bool:
    """Return whether containers start anew in their pod; then the Job itself deletes it."""
    return bool(spec.get("restartPolicy") == "OnFailure")


def _limit(job: Object) -> int:
    """Return how often containers may be started anew before the Job fails, at least once."""
    limit = job["spec"].get("backoffLimit")
    return max(1, 6 if limit is None else limit)


def _is_tried_again(job: Object, pod: Object) -> bool:
    if job["spec"].get("backoffLimit") == 0:
        return False
    failed = int((job.get("status") or {}).get("failed") or 0)
    return _starts_anew(pod["spec"]) or failed <= _limit(job)


def _failure(job: Object) -> Mapping[str, Any] | None:
    return _condition(job, "Failed", "FailureTarget")


def _is_late(failed: Mapping[str, Any]) -> bool:
    return failed.get("reason") == "DeadlineExceeded"


def _condition(item: Object, *types: str, holds: str = "True") -> Mapping[str, Any] | None:
    """Return the first of an object's conditions that is of one of the types."""
    for found in (item.get("status") or {}).get("conditions") or ():
        if found.get("type") in types and found.get("status") == holds:
            return dict(found)
    return None


def _of_container(pod: Object | None, container: str) -> Mapping[str, Any]:
    for item in ((pod or {}).get("status") or {}).get("containerStatuses") or ():
        if item.get("name") == container:
            return dict(item)
    return {}
