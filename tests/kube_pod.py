"""A pod as its kubelet sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from kube_deletion import there
from kube_logs import Log
from kube_status import Refused
from kube_store import Object, Store, now

NODE = "node-1"


class Pod:
    """A pod as its kubelet sees it; what it does with a pod that is gone has no effect.

    deleted: set as soon as the pod is to end.
    """

    def __init__(self, store: Store, object: Object) -> None:
        self._store = store
        self._object = object
        meta = object["metadata"]
        self.name: str = meta["name"]
        self.namespace: str = meta["namespace"]
        self.uid: str = meta["uid"]
        self.spec: Object = object["spec"]
        self.deleted = threading.Event()
        self.logs: dict[str, list[Log]] = {}
        self.thread: threading.Thread | None = None
        self.idle = False  # its play is over

    @property
    def current(self) -> Object:
        """Return the pod as the API has it, as it was last if it is gone."""
        try:
            found = self._store.get("pods", self.namespace, self.name)
        except Refused:
            return self._object
        if found["metadata"]["uid"] == self.uid:
            self._object = found
        return self._object

    @property
    def containers(self) -> list[str]:
        return [container["name"] for container in self.spec["containers"]]

    def ending(self) -> bool:
        """Tell whether it is to end, or is gone."""
        meta = self.current["metadata"]
        if self.deleted.is_set() or "deletionTimestamp" in meta:
            return True
        return not there(self._store, self._object)

    def until(self, done: Callable[[], object], limit: float = 3600) -> bool:
        """Wait for a change that makes something so; return False if the pod is to end first."""
        self._store.wait(lambda: self.ending() or bool(done()), limit)
        return not self.ending()

    def again(self) -> None:
        """Have what waits in `until` look again."""
        with self._store.changed:
            self._store.changed.notify_all()

    def read(self, resource: str, name: str) -> Object | None:
        """Return an object of the pod's namespace, None if it is not there."""
        try:
            return self._store.get(resource, self.namespace, name)
        except Refused:
            return None

    def status(self, patch: Mapping[str, Any]) -> None:
        """Replace parts of the status."""
        self._change(lambda pod: pod["status"].update(patch))

    def scheduled(self, node: str = NODE) -> None:
        """Give the pod a node; every other step does it where it is needed."""
        with self._store.changed:
            if self.current["spec"].get("nodeName"):
                return

            def change(pod: Object) -> None:
                pod["spec"]["nodeName"] = node
                status = pod["status"]
                status.update({"hostIP": "127.0.0.1", "startTime": now()})
                _condition(status, "True")
                inits = self.spec.get("initContainers") or ()
                reason = {"reason": "PodInitializing" if inits else "ContainerCreating"}
                for key, found in (("initContainerStatuses", inits),
                                   ("containerStatuses", self.spec["containers"])):  # fmt: skip
                    if found:
                        status[key] = [_container(each, {"waiting": reason}) for each in found]

            self._change(change)

    def unschedulable(self, message: str) -> None:
        """Tell that no node takes it, such as ``0/1 nodes are available: …``."""
        self._change(lambda pod: _condition(pod["status"], "False", "Unschedulable", message))

    def waiting(self, reason: str, message: str = "", *, container: str | None = None) -> None:
        state = {"reason": reason, **({"message": message} if message else {})}
        self._set({"waiting": state}, container)

    def running(self, *, container: str | None = None) -> None:
        """Start containers, all by default."""
        with self._store.changed:
            for name in self._named(container):
                self.logs.setdefault(name, []).append(Log())
            self._set({"running": {"startedAt": now()}}, container)

    def ended(
        self,
        exit_code: int,
        reason: str = "",
        message: str = "",
        *,
        container: str | None = None,
    ) -> None:
        """End containers, all by default; what may not end so starts again after a back-off.

        reason: Completed or Error by default.
        """
        for name in self._named(container):
            for log in self.logs.get(name, ()):
                log.close()
        state = {
            "exitCode": exit_code,
            "reason": reason or ("Error" if exit_code else "Completed"),
            **({"message": message} if message else {}),
            "finishedAt": now(),
            "containerID": f"containerd://{self.uid.replace('-', '')}",
        }
        self._set({"terminated": state}, container)

    def evicted(self, message: str) -> None:
        """Have the node throw it out, such as for ``The node was low on resource: memory.``."""
        self.scheduled()
        for logs in self.logs.values():
            for log in logs:
                log.close()
        self.status({"phase": "Failed", "reason": "Evicted", "message": message})

    def log(self, data: bytes, *, container: str | None = None, at: int | None = None) -> None:
        """Let a container write, the first by default; at: nanoseconds since 1970."""
        logs = self.logs.setdefault(container or self.containers[0], [])
        if not logs:
            logs.append(Log())
        logs[-1].write(data, at)

    def wait_deleted(self, limit: float | None = None) -> bool:
        return self.deleted.wait(limit)

    def wait(self, event: threading.Event) -> bool:
        """Wait for a test's event; return False if the pod is deleted first."""
        while not event.wait(0.05):
            if self.deleted.is_set():
                return False
        return True

    def _named(self, container: str | None) -> list[str]:
        return self.containers if container is None else [container]

    def _change(self, change: Callable[[Object], object]) -> None:
        with self._store.changed:
            if not there(self._store, self._object):
                return

            def changed(pod: Object) -> None:
                change(pod)

            self._object = self._store.update("pods", self.namespace, self.name, changed)

    def _set(self, state: Mapping[str, Any], container: str | None) -> None:
        self.scheduled()

        def change(pod: Object) -> None:
            status = pod["status"]
            for each in (*status.get("initContainerStatuses", ()), *status["containerStatuses"]):
                if each["name"] in self._named(container):
                    _enter(each, state, again=self.spec["restartPolicy"])
            status["phase"] = _phase(status, self.spec["restartPolicy"])

        self._change(change)


def _container(container: Mapping[str, Any], state: Mapping[str, Any]) -> Object:
    return {
        "name": container["name"],
        "state": dict(state),
        "lastState": {},
        "ready": False,
        "restartCount": 0,
        "image": container["image"],
        "imageID": "",
    }


def _enter(status: Object, state: Mapping[str, Any], *, again: str) -> None:
    before = status["state"]
    state = dict(state)
    if "terminated" in state:
        started = before.get("running", {}).get("startedAt", now())
        state["terminated"] = {"startedAt": started, **state["terminated"]}
        failed = state["terminated"]["exitCode"] != 0
        if again == "Always" or (again == "OnFailure" and failed):
            status["lastState"] = {"terminated": state["terminated"]}
            status["restartCount"] += 1
            text = f"back-off 10s restarting failed container={status['name']}"
            state = {"waiting": {"reason": "CrashLoopBackOff", "message": text}}
    if "running" in state and "terminated" in before:
        status["lastState"] = before
        status["restartCount"] += 1
    status["state"] = state


def _phase(status: Object, again: str) -> str:
    for each in status.get("initContainerStatuses", ()):
        if each["state"].get("terminated", {}).get("exitCode"):
            return "Failed"
    states = [each["state"] for each in status["containerStatuses"]]
    if all("terminated" in state for state in states):
        failed = any(state["terminated"]["exitCode"] for state in states)
        return "Failed" if failed else "Succeeded"
    begun = any("running" in state or "terminated" in state for state in states)
    begun = begun or (again != "Never" and status.get("phase") == "Running")
    return "Running" if begun else "Pending"


def _condition(status: Object, holds: str, reason: str = "", message: str = "") -> None:
    told = {"type": "PodScheduled", "status": holds, "reason": reason, "message": message}
    status["conditions"] = [told]
