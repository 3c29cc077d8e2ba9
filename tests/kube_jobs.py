"""The controller of Jobs: pods for them, and what becomes of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

from kube_deletion import delete
from kube_events import tell
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
    """What the controller remembers of a Job between two looks."""

    def __init__(self) -> None:
        self.seen: set[str] = set()  # pods, by uid, as all of these
        self.succeeded: set[str] = set()
        self.failed: set[str] = set()
        self.suspended: set[str] = set()  # ended because the Job was suspended
        self.not_before = 0.0  # no new pod before this time
        self.refusals = 0


class Jobs:
    """Brings Jobs to what they declare.

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
        pods = self._pods(job)
        failed = len(tally.failed)
        _count(tally, pods)
        if len(tally.failed) > failed:
            tally.not_before = time.time() + self._backoff * 2 ** (len(tally.failed) - 1)
        active = [pod for pod in pods if _active(pod)]
        status: Object = copy.deepcopy(job["status"])
        wake = self._decide(job, status, tally, active)
        active = [pod for pod in self._pods(job) if _active(pod)]
        ending = [pod for pod in self._pods(job) if not _active(pod) and _phase(pod) not in ENDED]
        self._finish(job, status, [*active, *ending])
        for key, number in (("active", len(active)), ("succeeded", len(tally.succeeded)),
                            ("failed", len(tally.failed))):  # fmt: skip
            status[key] = number
            if not number:
                del status[key]  # as a number in Go that is left out when it is 0
        status["ready"] = sum(map(_ready, active))
        status["terminating"] = len(ending)
        status["uncountedTerminatedPods"] = {}
        self._write(job, status)
        return wake

    def _pods(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [
            pod
            for pod in self._store.all("pods", job["metadata"]["namespace"])
            if any(
                owner["uid"] == uid and owner.get("controller")
                for owner in pod["metadata"].get("ownerReferences") or ()
            )
        ]

    def _decide(
        self, job: Object, status: Object, tally: Tally, active: list[Object]
    ) -> float | None:
        spec = job["spec"]
        if spec["suspend"]:
            self._suspend(job, status, tally, active)
            return None
        self._resume(job, status)
        if not _condition({"status": status}, "FailureTarget", "SuccessCriteriaMet"):
            self._judge(spec, status, tally, active)
        if _condition({"status": status}, "FailureTarget", "SuccessCriteriaMet"):
            for pod in active:
                self._delete(job, pod)
            return None
        wakes = [self._fill(job, tally, active)]
        if spec.get("activeDeadlineSeconds") is not None:
            wakes.append(seconds(status["startTime"]) + spec["activeDeadlineSeconds"])
        return min((wake for wake in wakes if wake is not None), default=None)

    def _judge(self, spec: Object, status: Object, tally: Tally, active: list[Object]) -> None:
        limit = spec["backoffLimit"]
        restarts = sum(
            container["restartCount"]
            for pod in active
            for kind in ("initContainerStatuses", "containerStatuses")
            for container in pod["status"].get(kind) or ()
        )
        again = spec["template"]["spec"]["restartPolicy"] == "OnFailure"
        deadline = spec.get("activeDeadlineSeconds")
        completions = spec.get("completions")
        if len(tally.failed) > limit or (again and restarts and restarts >= max(limit, 1)):
            _add(status, "FailureTarget", *TOO_OFTEN)
        elif deadline is not None and seconds(status["startTime"]) + deadline <= time.time():
            _add(status, "FailureTarget", *TOO_LONG)
        elif completions is None:
            if tally.succeeded and not active:
                _add(status, "SuccessCriteriaMet", *COMPLETED)
        elif len(tally.succeeded) >= completions:
            _add(status, "SuccessCriteriaMet", *COMPLETED)

    def _fill(self, job: Object, tally: Tally, active: list[Object]) -> float | None:
        spec = job["spec"]
        wanted: int = spec["parallelism"]
        if spec.get("completions") is not None:
            wanted = min(wanted, spec["completions"] - len(tally.succeeded))
        elif tally.succeeded:
            wanted = len(active)
        if len(active) > wanted:
            for pod in active[wanted:]:
                tally.suspended.add(pod["metadata"]["uid"])
                self._delete(job, pod)
        if len(active) >= wanted:
            return None
        if tally.not_before > time.time():
            return tally.not_before
        for _ in range(wanted - len(active)):
            try:
                pod = self._create(_pod(job))
            except Refused as refused:
                text = f"Error creating: {refused}"
                tell(self._store, job, "FailedCreate", text, kind="Warning")
                wait = min(AGAIN_LIMIT, AGAIN * 2**tally.refusals)
                tally.refusals += 1
                tally.not_before = time.time() + wait
                return tally.not_before
            tally.refusals = 0
            tally.seen.add(pod["metadata"]["uid"])
            text = f"Created pod: {pod['metadata']['name']}"
            tell(self._store, job, "SuccessfulCreate", text)
        return None

    def _suspend(self, job: Object, status: Object, tally: Tally, active: list[Object]) -> None:
        for pod in active:
            tally.suspended.add(pod["metadata"]["uid"])
            self._delete(job, pod)
        if not _condition({"status": status}, "Suspended"):
            _drop(status, "Suspended")
            _add(status, "Suspended", "JobSuspended", "Job suspended")
            status.pop("startTime", None)
            tally.not_before = 0.0
            tell(self._store, job, "Suspended", "Job suspended")

    def _resume(self, job: Object, status: Object) -> None:
        if _condition({"status": status}, "Suspended"):
            _drop(status, "Suspended")
            _add(status, "Suspended", "JobResumed", "Job resumed", holds="False")
            tell(self._store, job, "Resumed", "Job resumed")
        status.setdefault("startTime", now())

    def _finish(self, job: Object, status: Object, left: list[Object]) -> None:
        if left:
            return
        for early, late in (("FailureTarget", "Failed"), ("SuccessCriteriaMet", "Complete")):
            condition = _condition({"status": status}, early)
            if condition is None:
                continue
            _add(status, late, condition["reason"], condition["message"])
            if late == "Complete":
                status["completionTime"] = now()
                tell(self._store, job, "Completed", "Job completed")
            else:
                tell(
                    self._store, job, condition["reason"], condition["message"], kind="Warning"
                )  # fmt: skip

    def _expire(self, job: Object, finished: float) -> float | None:
        kept = job["spec"].get("ttlSecondsAfterFinished")
        if kept is None:
            return None
        if finished + kept > time.time():
            return float(finished + kept)
        meta = job["metadata"]
        delete(self._store, "jobs", meta["namespace"], meta["name"], {})
        return None

    def _delete(self, job: Object, pod: Object) -> None:
        meta = pod["metadata"]
        delete(self._store, "pods", meta["namespace"], meta["name"], {})
        tell(self._store, job, "SuccessfulDelete", f"Deleted pod: {meta['name']}")

    def _write(self, job: Object, status: Object) -> None:
        def change(job: Object) -> None:
            job["status"] = status

        meta = job["metadata"]
        self._store.update("jobs", meta["namespace"], meta["name"], change)


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
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": f"{meta['name']}-",
            "namespace": meta["namespace"],
            **{
                key: dict(template["metadata"][key])
                for key in ("labels", "annotations")
                if template["metadata"].get(key)
            },
            "ownerReferences": [
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "name": meta["name"],
                    "uid": meta["uid"],
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        "spec": copy.deepcopy(template["spec"]),
    }


def _phase(pod: Object) -> str:
    return str(pod["status"].get("phase"))


def _active(pod: Object) -> bool:
    return _phase(pod) not in ENDED and "deletionTimestamp" not in pod["metadata"]


def _ready(pod: Object) -> bool:
    return any(
        condition["type"] == "Ready" and condition["status"] == "True"
        for condition in pod["status"].get("conditions") or ()
    )


def _condition(object: Object, *types: str) -> dict[str, Any] | None:
    for condition in object["status"].get("conditions") or ():
        if condition["type"] in types and condition["status"] == "True":
            return dict(condition)
    return None


def _add(status: Object, kind: str, reason: str, message: str, holds: str = "True") -> None:
    status.setdefault("conditions", []).append(
        {
            "type": kind,
            "status": holds,
            "lastProbeTime": now(),
            "lastTransitionTime": now(),
            "reason": reason,
            "message": message,
        }
    )


def _drop(status: Object, kind: str) -> None:
    conditions = status.get("conditions") or []
    status["conditions"] = [each for each in conditions if each["type"] != kind]
