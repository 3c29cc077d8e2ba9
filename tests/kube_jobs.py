"""The controller of Jobs: pods for them, and what becomes of them."""

from __future__ import annotations

import copy
import secrets
import time
from collections.abc import Callable
from typing import Any

from kube_deletion import delete
from kube_status import Refused
from kube_store import Object, Store, now, seconds

FINISHED = ("Complete", "Failed")
ENDED = ("Succeeded", "Failed")

# What a Job's condition says: reason and message.
COMPLETED = ("CompletionsReached", "Reached expected number of succeeded pods")
TOO_OFTEN = ("BackoffLimitExceeded", "Job has reached the specified backoff limit")
TOO_LONG = ("DeadlineExceeded", "Job was active longer than specified deadline")

# Seconds before a pod that was refused is asked for again, and the most of them.
AGAIN, AGAIN_LIMIT = 1.0, 60.0


class Tally:
    """What the controller remembers of a Job between two looks; pods by their uids."""

    def __init__(self) -> None:
        self.seen: set[str] = set()
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        self.suspended: set[str] = set()  # ended because the Job was suspended
        self.not_before = 0.0  # no new pod before this time
        self.refusals = 0


class Jobs:
    """Brings Jobs to what they declare, with one pod at a time.

    create: makes a pod, or raises Refused. backoff: seconds before the first new attempt.
    """

    def __init__(self, store: Store, create: Callable[[Object], Object], backoff: float) -> None:
        self._store = store
        self._create = create
        self._backoff = backoff
        self._tallies: dict[str, Tally] = {}

    def retry(self) -> None:
        """Forget what was refused, so that pods are asked for at once."""
        for tally in self._tallies.values():
            if tally.refusals:
                tally.refusals, tally.not_before = 0, 0.0

    def sync(self, job: Object) -> float | None:
        """Look after a Job; return when it must be looked after again, if nothing changes."""
        if "deletionTimestamp" in job["metadata"]:
            return None
        if condition := _condition(job, *FINISHED):
            return self._expire(job, seconds(condition["lastTransitionTime"]))
        tally = self._tallies.setdefault(job["metadata"]["uid"], Tally())
        pods, failed = self._pods(job), len(tally.failed)
        _count(tally, pods)
        if len(tally.failed) > failed:
            tally.not_before = time.time() + self._backoff * 2 ** (len(tally.failed) - 1)
        status: Object = copy.deepcopy(job["status"])
        wake = self._decide(job, status, tally, [pod for pod in pods if _active(pod)])
        if all(_phase(pod) in ENDED for pod in self._pods(job)):
            for early, late in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
                if condition := _condition({"status": status}, early):
                    _add(status, late, condition["reason"], condition["message"])
        status.update(succeeded=len(tally.succeeded), failed=len(tally.failed))
        meta = job["metadata"]
        self._store.update(
            "jobs", meta["namespace"], meta["name"], lambda job: job.update(status=status)
        )
        return wake

    def _pods(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for pod in self._store.all("pods", job["metadata"]["namespace"])
            if any(owner["uid"] == uid for owner in pod["metadata"].get("ownerReferences") or ())
        ]

    def _decide(
        self, job: Object, status: Object, tally: Tally, active: list[Object]
    ) -> float | None:
        spec = job["spec"]
        if spec["suspend"]:
            tally.suspended |= {pod["metadata"]["uid"] for pod in active}
            tally.not_before = 0.0
            status.pop("startTime", None)
            self._delete(active)
            return None
        status.setdefault("startTime", now())
        decided = ("FailureTarget", "SuccessCriteriaMet")
        if not _condition({"status": status}, *decided):
            _judge(spec, status, tally, active)
        if _condition({"status": status}, *decided):
            self._delete(active)
            return None
        wakes = [] if active else [self._fill(job, tally)]
        if spec.get("activeDeadlineSeconds") is not None:
            wakes.append(seconds(status["startTime"]) + spec["activeDeadlineSeconds"])
        return min((wake for wake in wakes if wake is not None), default=None)

    def _fill(self, job: Object, tally: Tally) -> float | None:
        """Make a pod, or return when to try it."""
        if tally.not_before > time.time():
            return tally.not_before
        try:
            pod = self._create(_pod(job))
        except Refused as refused:
            _warn(self._store, job, "FailedCreate", f"Error creating: {refused}")
            wait = min(AGAIN_LIMIT, AGAIN * 2**tally.refusals)
            tally.refusals += 1
            tally.not_before = time.time() + wait
            return tally.not_before
        tally.refusals = 0
        tally.seen.add(pod["metadata"]["uid"])
        return None

    def _expire(self, job: Object, finished: float) -> float | None:
        kept = job["spec"].get("ttlSecondsAfterFinished")
        if kept is None:
            return None
        if finished + kept > time.time():
            return float(finished + kept)
        meta = job["metadata"]
        delete(self._store, "jobs", meta["namespace"], meta["name"])
        return None

    def _delete(self, pods: list[Object]) -> None:
        for pod in pods:
            meta = pod["metadata"]
            delete(self._store, "pods", meta["namespace"], meta["name"])


def _judge(spec: Object, status: Object, tally: Tally, active: list[Object]) -> None:
    limit, deadline = spec["backoffLimit"], spec.get("activeDeadlineSeconds")
    restarts = sum(
        container["restartCount"]
        for pod in active
        for kind in ("initContainerStatuses", "containerStatuses")
        for container in pod["status"].get(kind) or ()
    )
    again = spec["template"]["spec"]["restartPolicy"] == "OnFailure"
    if len(tally.failed) > limit or (again and restarts and restarts >= max(limit, 1)):
        _add(status, "FailureTarget", *TOO_OFTEN)
    elif deadline is not None and seconds(status["startTime"]) + deadline <= time.time():
        _add(status, "FailureTarget", *TOO_LONG)
    elif tally.succeeded:
        _add(status, "SuccessCriteriaMet", *COMPLETED)


def _count(tally: Tally, pods: list[Object]) -> None:
    there = {pod["metadata"]["uid"]: pod for pod in pods}
    for uid, pod in there.items():
        if uid in tally.suspended:
            continue
        tally.seen.add(uid)
        if _phase(pod) == "Succeeded":
            tally.succeeded.add(uid)
        elif _phase(pod) == "Failed" or "deletionTimestamp" in pod["metadata"]:
            tally.failed.add(uid)
    tally.failed |= tally.seen - set(there) - tally.succeeded - tally.suspended


def _pod(job: Object) -> Object:
    meta, template = job["metadata"], job["spec"]["template"]
    owner = {
        "apiVersion": "batch/v1", "kind": "Job", "name": meta["name"], "uid": meta["uid"],
        "controller": True,
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            **{key: dict(template["metadata"].get(key) or {}) for key in ("labels", "annotations")},
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            "ownerReferences": [owner],
        },
        "spec": copy.deepcopy(template["spec"]),
    }


def _phase(pod: Object) -> str:
    return str(pod["status"].get("phase"))


def _active(pod: Object) -> bool:
    return _phase(pod) not in ENDED and "deletionTimestamp" not in pod["metadata"]


def _condition(object: Object, *types: str) -> dict[str, Any] | None:
    for condition in object["status"].get("conditions") or ():
        if condition["type"] in types and condition["status"] == "True":
            return dict(condition)
    return None


def _add(status: Object, kind: str, reason: str, message: str) -> None:
    told = {"type": kind, "status": "True", "reason": reason, "message": message}
    status.setdefault("conditions", []).append({**told, "lastTransitionTime": now()})


def _warn(store: Store, about: Object, reason: str, message: str) -> None:
    """Record a warning about an object."""
    meta = about["metadata"]
    store.create(
        "events",
        {
            "kind": "Event",
            "apiVersion": "v1",
            "metadata": {
                "name": f"{meta['name'][:200]}.{secrets.token_hex(8)}",
                "namespace": meta["namespace"],
            },
            "involvedObject": {
                "kind": about["kind"],
                "namespace": meta["namespace"],
                "name": meta["name"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message,
            "lastTimestamp": now(),
            "type": "Warning",
        },
    )
