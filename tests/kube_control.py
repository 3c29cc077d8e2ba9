"""What goes on in a Kubernetes stand-in by itself: the controllers, and kubelets for the pods."""

from __future__ import annotations

import threading
import time

from kube_deletion import collect
from kube_jobs import Jobs
from kube_kubelet import Kubelet, Pod
from kube_status import Refused
from kube_store import Object, Store, seconds


class Control:
    """Follows all changes in a thread of its own, and plays each pod in another.

    troubles: gets what plays raise. closing: ends it, with a notification of the store's.
    """

    def __init__(
        self,
        store: Store,
        kubelet: Kubelet,
        jobs: Jobs,
        troubles: list[BaseException],
        closing: threading.Event,
    ) -> None:
        self._store = store
        self._kubelet = kubelet
        self._jobs = jobs
        self._troubles = troubles
        self._closing = closing
        self._wakes: dict[str, float] = {}  # when to look again, by the uid of Job or pod
        self._kicked = False
        self.pods: dict[str, Pod] = {}

    def kick(self) -> None:
        """Have Jobs whose pods were refused ask for them again at once."""
        with self._store.changed:
            self._jobs.retry()
            self._kicked = True
            self._store.changed.notify_all()

    def end(self, limit: float) -> list[str]:
        """End all pods; return the names of those whose plays go on after so many seconds."""
        with self._store.changed:
            pods = list(self.pods.values())
        for pod in pods:
            pod.deleted.set()
            pod.again()
        for pod in pods:
            for logs in list(pod.logs.values()):
                for log in logs:
                    log.close()
        deadline = time.monotonic() + limit
        for pod in pods:
            if pod.thread is not None:
                pod.thread.join(max(0.0, deadline - time.monotonic()))
        return [pod.name for pod in pods if pod.thread is not None and pod.thread.is_alive()]

    def run(self) -> None:
        """Look after all until the cluster closes."""
        seen = 0
        while not self._closing.is_set():
            try:
                seen = self._look(seen)
            except Exception as error:
                self._troubles.append(error)
                return

    def _look(self, seen: int) -> int:
        with self._store.changed:
            if self._store.version == seen and not self._kicked and not self._closing.is_set():
                due = min(self._wakes.values(), default=None)
                self._store.changed.wait(None if due is None else max(0.0, due - time.time()))
            changes = self._store.since(seen)
            seen = self._store.version
            jobs = {uid for uid, due in self._wakes.items() if due <= time.time()}
            for uid in jobs:
                del self._wakes[uid]  # also of what is gone
            jobs |= set(self._wakes) if self._kicked else set()
            self._kicked = False
            for change in changes:
                if change.resource != "events":
                    collect(self._store, change.object)
                if change.resource == "jobs":
                    jobs.add(change.object["metadata"]["uid"])
                if change.resource == "pods":
                    owners = change.object["metadata"].get("ownerReferences") or ()
                    jobs |= {owner["uid"] for owner in owners}
                    self._follow(change.object, gone=change.after is None)
            for job in self._store.all("jobs"):
                if job["metadata"]["uid"] in jobs:
                    self._wake(job["metadata"]["uid"], self._jobs.sync(job))
            for uid in jobs & set(self.pods):
                self._expired(self.pods[uid])
            return seen

    def _wake(self, uid: str, due: float | None) -> None:
        if due is None:
            self._wakes.pop(uid, None)
        else:
            self._wakes[uid] = due

    def _follow(self, object: Object, *, gone: bool) -> None:
        """Have a kubelet do what the API says of a pod."""
        uid = object["metadata"]["uid"]
        if uid not in self.pods and not gone:
            pod = self.pods[uid] = Pod(self._store, object)
            pod.thread = threading.Thread(
                target=self._play, args=(pod,), name=f"pod-{pod.name}", daemon=True
            )
            pod.thread.start()
        found = self.pods.get(uid)
        if found is None:
            return
        if gone:
            found.deleted.set()
            self._wake(uid, None)
        elif "deletionTimestamp" in object["metadata"]:
            found.deleted.set()
            due = seconds(object["metadata"]["deletionTimestamp"]) + self._kubelet.slack
            self._wake(uid, due)
            if found.idle:
                self._finalize(found)

    def _expired(self, pod: Pod) -> None:
        self._wake(pod.uid, None)
        self._finalize(pod)

    def _play(self, pod: Pod) -> None:
        try:
            self._kubelet.play(pod)
        except BaseException as error:
            self._troubles.append(error)
        with self._store.changed:
            pod.idle = True
            self._store.changed.notify_all()
            if pod.deleted.is_set() and not self._closing.is_set():
                self._finalize(pod)

    def _finalize(self, pod: Pod) -> None:
        """Let a pod go whose containers have ended."""
        for logs in list(pod.logs.values()):
            for log in logs:
                log.close()

        try:
            meta = self._store.get("pods", pod.namespace, pod.name)["metadata"]
            if meta["uid"] == pod.uid and "deletionTimestamp" in meta:
                self._store.remove("pods", pod.namespace, pod.name)
        except Refused:
            pass  # it is gone
