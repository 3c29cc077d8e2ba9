"""Jobs that a run has left on a cluster: how they stand, what they wrote, and their end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes.api import Api, Target
from buildrun.executors.kubernetes.auth import connect
from buildrun.executors.kubernetes.errors import ApiError, kubectl
from buildrun.executors.kubernetes.job_state import Ended, Running, classify
from buildrun.executors.kubernetes.logs import Follower
from buildrun.executors.kubernetes.watch import View

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.cluster import Submitted

# Seconds between two looks at a Job, and that a Job's pods may take to go beyond their grace.
_LOOK = 1.0
_GOING = 60.0


class DetachedState(NamedTuple):
    """A Job that a run has submitted, and how it stands now.

    state: ``waiting``, ``running``, ``ended`` or ``gone``. exit_code: of one that has ended.
    """

    job: Submitted
    state: str
    exit_code: int | None = None


class Detached:
    """The Jobs of one run, on the cluster that they were submitted to."""

    def __init__(self, jobs: Sequence[Submitted], environ: Mapping[str, str]) -> None:
        """Connect; raises ExecutionError without a kubeconfig."""
        self.jobs = tuple(jobs)
        first = jobs[0]
        known = {**environ, "KUBECONFIG": first.kubeconfig} if first.kubeconfig else environ
        self._api = Api(connect(first.context, known))

    def look(self) -> list[DetachedState]:
        """Return how each Job stands; raises Refusal, ExecutionError."""
        return [self._look(job) for job in self.jobs]

    def follow(self, job: Submitted, sink: Callable[[bytes], None], *, to_its_end: bool) -> None:
        """Pass on what a Job has written, and with ``to_its_end`` what it still writes.

        Raises ExecutionError, also where the Job is gone.
        """
        while True:
            view = self._view(job)
            pod = view.pod
            state = classify(view, _container(view)) if view.job is not None else None
            if state is None or pod is None or isinstance(state, (Running, Ended)):
                break
            if not to_its_end:
                break
            time.sleep(_LOOK)
        if state is None:
            raise ExecutionError(
                f"the Job `{job.job}` is gone, and its log with it", hint="run it again"
            )
        if pod is None or not isinstance(state, (Running, Ended)):
            return
        target = Target("pods", job.namespace, pod["metadata"]["name"])
        reader = Follower(self._api, target, _container(view), sink, ended=not to_its_end)
        while to_its_end and not isinstance(state, Ended) and view.job is not None:
            time.sleep(_LOOK)
            view = self._view(job)
            state = classify(view, _container(view)) if view.job is not None else state
        reader.end(previous=False)
        reader.finish(None)
        if reader.error is not None:
            raise reader.error

    def cancel(self) -> list[DetachedState]:
        """Delete the Jobs with all that is theirs, and wait until it is gone.

        Returns how each stood before. Raises Refusal, and ExecutionError where pods do not go.
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

    def _await_gone(self, job: Submitted) -> None:
        view = self._view(job)
        graces = [pod["spec"].get("terminationGracePeriodSeconds") or 30 for pod in view.pods]
        end = time.monotonic() + max(graces, default=0) + _GOING
        there = kubectl(job.namespace, job.context, job.kubeconfig)
        while view.job is not None or view.pods:
            if time.monotonic() >= end:
                raise ExecutionError(
                    f"the Job `{job.job}` was deleted, and its pod is still there",
                    hint=f"look at it: {there} get pods -l job-name={job.job}",
                )
            time.sleep(_LOOK / 4)
            view = self._view(job)

    def _look(self, job: Submitted) -> DetachedState:
        view = self._view(job)
        if view.job is None:
            return DetachedState(job, "gone")
        state = classify(view, _container(view))
        if isinstance(state, Ended):
            return DetachedState(job, "ended", state.exit_code)
        return DetachedState(job, "running" if isinstance(state, Running) else "waiting")

    def _view(self, job: Submitted) -> View:
        found: dict[str, Any] | None
        try:
            found = self._api.get(Target("jobs", job.namespace, job.job))
        except ApiError as error:
            if error.status != 404:
                raise
            found = None
        pods = self._api.get(Target("pods", job.namespace), labelSelector=f"job-name={job.job}")
        items = sorted(
            pods.get("items") or (), key=lambda pod: str(pod["metadata"]["creationTimestamp"])
        )
        return View(found, tuple(items), found is None, 0)


def _container(view: View) -> str:
    source = view.job or view.pod or {}
    spec = source["spec"].get("template", source).get("spec", source["spec"])
    return str(spec["containers"][0]["name"])
