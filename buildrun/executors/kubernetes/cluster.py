"""A cluster as a run uses it: where its Jobs are, what is known of them, and what is to go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun.errors import ExecutionError
from buildrun.executors import submitted
from buildrun.executors.kubernetes import manifest
from buildrun.executors.kubernetes.api import Api, Target
from buildrun.executors.kubernetes.errors import kubectl
from buildrun.executors.kubernetes.watch import Event, Events, Watcher, pods_of
from buildrun.executors.submitted import KubernetesJob

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.executors.kubernetes.auth import Connection
    from buildrun.executors.kubernetes.config import Config
    from buildrun.executors.kubernetes.watch import View

# Seconds that what was deleted may take to go, beyond what its pods are given, by default.
GOING = 60.0
_GRACE = 30.0

# Seconds that the cluster's answers are waited for while watches go on.
_PATIENCE = 300.0


class Cluster:
    """The Jobs of one owner in one namespace, from entry to exit; used by several threads.

    directory: of the run, where its Jobs are recorded, with the kubeconfig that the user named.
    """

    def __init__(
        self,
        connection: Connection,
        config: Config,
        owner: str,
        directory: str,
        console: Console,
        kubeconfig: str,
    ) -> None:
        """Take the connection; nothing is asked before entry."""
        self.config = config
        self.owner = owner
        self.console = console
        self.namespace = manifest.namespace(config, connection.namespace)
        self.api = Api(connection)
        self.watcher = Watcher(
            Api(connection, patience=_PATIENCE), self.namespace, manifest.selector(owner)
        )
        self._events = Events(self.api, self.namespace)
        self._directory = directory
        # `runs` may be called elsewhere.
        paths = [os.path.abspath(path) for path in kubeconfig.split(os.pathsep) if path]
        self._kubeconfig = os.pathsep.join(paths)
        self._mutex = threading.Lock()
        self._leaving: set[str] = set()
        self._told: set[str] = set()

    def __enter__(self) -> Cluster:
        """Start to follow the owner's Jobs."""
        self.watcher.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait until what was deleted is gone, and follow no more."""
        try:
            if kind is None:
                self._await_leaving()
        finally:
            self.watcher.__exit__()

    @property
    def kubectl(self) -> str:
        """Return how the user calls kubectl for the same place."""
        return kubectl(self.namespace, self.config.context)

    def target(self, kind: str, name: str = "") -> Target:
        """Return the place of an object on the server, or of all of a kind."""
        return Target(kind, self.namespace, name)

    def record(self, step: str, job: str) -> None:
        """Note that the run has submitted a Job."""
        context, kubeconfig = self.config.context, self._kubeconfig
        made = KubernetesJob(step, job, self.namespace, context, kubeconfig)
        submitted.record(self._directory, made)

    def is_news(self, warning: str) -> bool:
        """Return whether the run is told something for the first time; each step's Job may."""
        with self._mutex:
            there = warning in self._told
            self._told.add(warning)
            return not there

    def delete(self, name: str, *, secret: bool, ended: bool = False) -> None:
        """Delete a Job with its pods and its Secret; the exit waits until they are gone.

        ended: its command has ended by itself, so nothing is waited for.
        """
        self.api.delete(self.target("jobs", name))
        if secret:
            self.api.delete(self.target("secrets", name))
        if not ended:
            with self._mutex:
                self._leaving.add(name)

    def await_gone(self, name: str, *, until: threading.Event | None = None) -> bool:
        """Wait until a Job and its pods are gone; False where that takes too long.

        until: what else ends the waiting.
        """
        view = self.watcher.look(name)
        end = time.monotonic() + grace_of(view) + GOING
        while view.is_there and not (until is not None and until.is_set()):
            left = end - time.monotonic()
            if left <= 0:
                return False
            view = self.watcher.wait(name, view.revision, left)
        with self._mutex:
            # Another of its name may come, and stay; or nobody wants to wait for this one.
            self._leaving.discard(name)
        return not view.is_there

    def look_at_pods(self, view: View) -> View:
        """Return a Job's view with the pods that it has by now."""
        if view.job is None:
            return view
        found = pods_of(self.api, self.namespace, view.job["metadata"]["name"])
        return view._replace(pods=found or view.pods)

    def event(self, kind: str, item: Mapping[str, Any]) -> Event | None:
        """Return the last warning about an object; None where there is none, or no right to see."""
        return self._events.last(kind, str(item["metadata"].get("uid")))

    def _await_leaving(self) -> None:
        for name in sorted(self._leaving):  # a copy: what has gone is taken out
            try:
                gone = self.await_gone(name)
            except ExecutionError:
                return  # whoever was told that the watch has ended
            if not gone:
                self.console.warn(
                    f"the Job `{name}` was deleted, and its pod is still there",
                    f"look at it: {self.kubectl} get pods -l job-name={name}",
                )


def grace_of(view: View) -> float:
    """Return the seconds that the pods of a Job have to end."""
    found = [pod["spec"].get("terminationGracePeriodSeconds") for pod in view.pods]
    return max((float(_GRACE if item is None else item) for item in found), default=_GRACE)
