"""Jobs that a run has left on a cluster: how they stand, what they wrote, and their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes.api import Api, Target
from buildrun.executors.kubernetes.auth import connect
from buildrun.executors.kubernetes.cluster import GOING, grace_of
from buildrun.executors.kubernetes.errors import ApiError, kubectl
from buildrun.executors.kubernetes.job_state import Ended, Running, State, Waiting, classify
from buildrun.executors.kubernetes.logs import Follower
from buildrun.executors.kubernetes.watch import View, pods_of
from buildrun.executors.submitted import DetachedState, KubernetesJob

# Seconds between two looks at a Job.
_LOOK = 1.0


class KubernetesJobs:
    """The Jobs of one run, on the cluster that they were submitted to.

    All methods raise ApiError and ExecutionError.
    """

    CANCELLED: ClassVar[str] = "deleted"

    def __init__(self, jobs: Sequence[KubernetesJob], environ: Mapping[str, str]) -> None:
        """Connect; raises ExecutionError without a kubeconfig."""
        self.jobs = tuple(jobs)
        first = jobs[0]
        known = {**environ, "KUBECONFIG": first.kubeconfig} if first.kubeconfig else environ
        self._api = Api(connect(first.context, known))

    def look(self) -> list[DetachedState]:
        """Return how each Job stands."""
        found = []
        for job in self.jobs:
            state = self._state(self._view(job))
            if isinstance(state, Ended):
                found.append(DetachedState(job, "ended", state.exit_code))
            else:
                is_running = isinstance(state, Running)
                word = "gone" if state is None else "running" if is_running else "waiting"
                found.append(DetachedState(job, word))
        return found

    def follow(
        self, job: KubernetesJob, sink: Callable[[bytes], None], *, to_its_end: bool
    ) -> None:
        """Pass on what a Job has written, and with ``to_its_end`` what it still writes."""
        view = self._view(job)
        state = self._state(view)
        while to_its_end and view.pod is not None and isinstance(state, Waiting):
            time.sleep(_LOOK)
            view = self._view(job)
            state = self._state(view)
        if state is None:
            raise ExecutionError(
                f"the Job `{job.job}` is gone, and its log with it", hint="run it again"
            )
        if view.pod is None or not isinstance(state, (Running, Ended)):
            return
        target = Target("pods", job.namespace, view.pod["metadata"]["name"])
        reader = Follower(self._api, target, _container(view), sink, ended=not to_its_end)
        while to_its_end and state is not None and not isinstance(state, Ended):
            time.sleep(_LOOK)
            state = self._state(self._view(job))
        reader.end(previous=False)
        reader.finish(None)
        if reader.error is not None:
            raise reader.error

    def cancel(self) -> list[DetachedState]:
        """Delete the Jobs with all that is theirs, and wait until it is gone.

        Returns how each stood before.
        """
        found = self.look()
        for job in self.jobs:
            self._api.delete(Target("jobs", job.namespace, job.job))
            try:
                self._api.delete(Target("secrets", job.namespace, job.job))
            except ApiError as error:
                if error.status != 403:  # without the right there is none of ours
                    raise
        for job in self.jobs:
            self._await_gone(job)
        return found

    def _await_gone(self, job: KubernetesJob) -> None:
        view = self._view(job)
        end = time.monotonic() + grace_of(view) + GOING
        while view.is_there:
            if time.monotonic() >= end:
                there = kubectl(job.namespace, job.context, job.kubeconfig)
                raise ExecutionError(
                    f"the Job `{job.job}` was deleted, and its pod is still there",
                    hint=f"look at it: {there} get pods -l job-name={job.job}",
                )
            time.sleep(_LOOK / 4)
            view = self._view(job)

    def _view(self, job: KubernetesJob) -> View:
        try:
            found = self._api.get(Target("jobs", job.namespace, job.job))
        except ApiError as error:
            if error.status != 404:
                raise
            return View(None, pods_of(self._api, job.namespace, job.job), True, 0)
        return View(found, pods_of(self._api, job.namespace, job.job), False, 0)

    def _state(self, view: View) -> State | None:
        """Return how a Job stands, None where it is gone."""
        return None if view.job is None else classify(view, _container(view))


def _container(view: View) -> str:
    if view.job is None:
        raise AssertionError("it is gone")
    return str(view.job["spec"]["template"]["spec"]["containers"][0]["name"])
