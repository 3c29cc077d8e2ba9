"""One Job from its creation to its end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.base import OutputSink, ProcessRunner, Result, Usage
from buildrun.executors.kubernetes import manifest
from buildrun.executors.kubernetes.errors import ApiError, NoAnswer, admission_hint
from buildrun.executors.kubernetes.job_state import (
    Ended,
    Gone,
    Running,
    Waiting,
    classify,
    is_over,
    write_hint,
)
from buildrun.executors.kubernetes.logs import JobLog

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.cluster import Cluster
    from buildrun.executors.kubernetes.manifest import JobSpec
    from buildrun.executors.kubernetes.watch import Object, View

# Seconds before the events of a Job without a pod, or of a pod that does not start, are asked for;
# and between two such looks.
_FIRST_LOOK = {"job": 1.0, "pod": 15.0}
_LOOK = 5.0

_TRIES = 10

# Lines that are shown of an init container that has failed.
_TAIL = "20"

_REACH = (
    "pods must reach the remote cache, and trust its certificate; `object-store-endpoint` in the "
    "backend config is its address for them"
)
_LATE = "`activeDeadlineSeconds` in the Job template is how long it may take"

# What the program in the pod was doing when it failed.
_DOING = {
    "fetch": "the inputs cannot be fetched in the pod",
    "start": "the command cannot be started",
    "deliver": "the outputs cannot be delivered in the pod",
}


def run_job(
    cluster: Cluster,
    job_spec: JobSpec,
    runner: ProcessRunner,
    sink: OutputSink,
    collect_outputs: Callable[[bool], Usage | None],
    *,
    detach: bool = False,
) -> Result:
    """Run a step as a Job, or attach to the one that runs it already.

    collect_outputs: is called when it has succeeded, before the Job goes, with whether nobody else
    needs what it has delivered, and returns what the command has used. detach: return as soon as
    it is submitted.
    Raises BuildrunError where the cluster does not run it; then it is deleted.
    """
    run = _JobRun(cluster, job_spec, runner, sink)
    with runner.on_interrupt(run.interrupt):
        try:
            run.submit()
            if detach:
                run.tell_warnings(coming=False)
                return Result(0, detached=True)
            return run.to_its_end(collect_outputs)
        except NoAnswer:
            if run.number is None:
                raise
            return run.cancel(run.number, ask=False)


class _JobRun:
    def __init__(
        self, cluster: Cluster, job_spec: JobSpec, runner: ProcessRunner, sink: OutputSink
    ) -> None:
        self._cluster = cluster
        self._spec = job_spec
        self._runner = runner
        self._sink = sink
        self._container = manifest.dns(job_spec.identity.project)
        # The signal by which the user asks to end; and whether it has come twice.
        self.number: int | None = None
        self._impatient = threading.Event()
        self._log = JobLog(
            cluster.api,
            cluster.namespace,
            self._container,
            lambda text: runner.call_in_loop(lambda: sink(1, text)),
            lambda: cluster.watcher.stir(job_spec.name),
            self._warn_once,
            lambda: self.number is not None,
        )
        self._trouble = ""
        self._since = time.monotonic()
        self._look_at = 0.0
        self._said: set[str] = set()
        self._foretold: list[str] = []

    def interrupt(self, number: int) -> None:
        """Take note of a signal by which the user asks to end."""
        if self.number is not None:
            self._impatient.set()
        self.number = self.number or number
        self._cluster.api.hurry()
        self._cluster.watcher.stir(self._spec.name)

    # -- the beginning -------------------------------------------------------------------------

    def submit(self) -> None:
        """Make the Secret and the Job, or find the Job that is there for the same."""
        cluster, spec = self._cluster, self._spec
        for _ in range(_TRIES):
            made = self._create()
            self._foretold += filter(cluster.is_news, cluster.api.warnings())
            if made is not None:
                cluster.watcher.learn(made)
                cluster.record(spec.identity.step, spec.name)
                return
        raise ExecutionError(
            f"the Job `{spec.name}` can neither be made nor followed: it comes and goes",
            hint="somebody else may be at the same; wait, and run again",
        )

    def _create(self) -> Object | None:
        """Return the Job that was made or is attached to; None where another try may help."""
        cluster, spec = self._cluster, self._spec
        if spec.has_secret:
            body = manifest.secret(spec, cluster.namespace)
            try:
                cluster.api.create(cluster.target("secrets"), body)
            except ApiError as error:
                if error.status != 409:
                    raise
                # Of a Job that runs already, or of a killed client; the newer URLs hold longer.
                cluster.api.patch(cluster.target("secrets", spec.name), body)
        body = manifest.job(cluster.config, spec, cluster.namespace)
        try:
            made = cluster.api.create(cluster.target("jobs"), body)
        except ApiError as error:
            if error.status == 409:
                return self._attach()
            self._drop_secret()
            raise
        if spec.has_secret:
            # So that the cluster removes it with the Job.
            owner = {"apiVersion": "batch/v1", "kind": "Job", "name": spec.name}
            owner["uid"] = made["metadata"]["uid"]
            cluster.api.patch(
                cluster.target("secrets", spec.name), {"metadata": {"ownerReferences": [owner]}}
            )
        return made

    def _drop_secret(self) -> None:
        """Delete the Secret, which the cluster might still remove together with an older Job."""
        if self._spec.has_secret:
            self._cluster.api.delete(self._cluster.target("secrets", self._spec.name))

    def _attach(self) -> Object | None:
        """Return the Job of our name if it is for the same; None once another one has gone."""
        cluster, spec = self._cluster, self._spec
        try:
            job = cluster.api.get(cluster.target("jobs", spec.name))
        except ApiError as error:
            if error.status == 404:
                return None  # it has just gone
            raise
        notes = job["metadata"].get("annotations") or {}
        there = (notes.get(manifest.KEY), notes.get(manifest.OWNER))
        is_same = there == (spec.identity.key, spec.identity.owner)
        is_going = bool(job["metadata"].get("deletionTimestamp"))
        if is_going or not is_same or notes.get(manifest.HARVESTED):
            cluster.watcher.learn(job)
            if not is_going:
                cluster.delete(spec.name, secret=False)
            cluster.await_gone(spec.name)
            self._drop_secret()
            return None
        if notes.get(manifest.RUN) != spec.run_id:
            body = {"metadata": {"annotations": {manifest.FOLLOWER: spec.run_id}}}
            job = cluster.api.patch(cluster.target("jobs", spec.name), body)
            how = "has ended meanwhile" if is_over(job) else "runs already"
            self._note(f"attached to the Job `{spec.name}`, which {how}")
        return job

    # -- on its way ----------------------------------------------------------------------------

    def to_its_end(self, collect_outputs: Callable[[bool], Usage | None]) -> Result:
        """Follow the Job until it has ended."""
        revision, looked = -1, False
        seconds: float | None = 0.0
        try:
            while self.number is None:
                view = self._look(revision, seconds)
                revision, seconds = view.revision, None
                state = classify(view, self._container)
                if isinstance(state, Ended) and not state.pod and not looked:
                    # The watch of Jobs may be ahead of that of pods.
                    looked, view = True, self._cluster.look_at_pods(view)
                    state = classify(view, self._container)
                self._log.read_earlier(view)
                self.tell_warnings(coming=view.pod is None)
                if isinstance(state, Ended):
                    return self._end(state, collect_outputs)
                if isinstance(state, Gone):
                    return self._vanished(collect_outputs)
                if isinstance(state, Running):
                    self._trouble = ""
                    self._log.follow(state.pod, state.restarts)
                else:
                    self._wait(state, view)
                    seconds = 1.0
            return self.cancel(self.number)
        finally:
            self._log.leave()

    def tell_warnings(self, *, coming: bool) -> None:
        """Say what the cluster has warned of, all or what is no matter of the pod that is coming.

        Of that one, a refusal would say the same again.
        """
        told = [text for text in self._foretold if not coming or "PodSecurity" not in text]
        self._foretold = [text for text in self._foretold if text not in told]
        for text in told:
            self._warn_once(f"the cluster warns: {text}", "")

    def _look(self, revision: int, seconds: float | None) -> View:
        """Return the Job as it is now; it goes where it may not be followed."""
        try:
            return self._cluster.watcher.wait(self._spec.name, revision, seconds)
        except ApiError:
            with suppress(ExecutionError):
                self._cluster.delete(self._spec.name, secret=self._spec.has_secret)
            raise

    def _wait(self, state: Waiting, view: View) -> None:
        """Say what it waits for, and give up where that will not come."""
        now, config = time.monotonic(), self._cluster.config
        # Time in a queue is not time without a place.
        trouble = "queue" if state.reason == "Suspended" else state.trouble
        if trouble != self._trouble:
            self._trouble, self._since = trouble, now
        waited = now - self._since
        if trouble == "queue" and trouble not in self._said:
            self._said.add(trouble)
            self._note("the Job is queued: it is suspended until there is room for it")
        limits = {"final": 0.0, "pull": config.pull, "schedule": config.schedule}
        if waited >= limits.get(state.trouble, waited + 1):
            self._refuse(state)
        if state.trouble:
            # ErrImagePull and ImagePullBackOff take turns, and have the same to say.
            self._warn_once(f"{state.reason}: {state.words}", state.hint, state.trouble)
        if state.events and now >= self._look_at and waited >= _FIRST_LOOK[state.events]:
            self._look_at = now + _LOOK
            if state.events == "job":
                self._look_at_events_of_job(view, waited)
            elif view.pod is not None and (event := self._cluster.event("Pod", view.pod)):
                self._warn_once(f"the pod does not start: {event.reason}: {event.words}", "")

    def _look_at_events_of_job(self, view: View, waited: float) -> None:
        """Say why there is no pod, and give up where none will come."""
        is_late = waited >= self._cluster.config.schedule
        event = self._cluster.event("Job", view.job) if view.job is not None else None
        if event is None:
            if is_late:
                self._refuse(Waiting("NoPod", "no pod has come, and no event says why"))
            return
        quota = "exceeded quota" in event.words
        hint = (
            "ask for less in `resources`, or wait until others have ended; "
            f"{self._cluster.kubectl} describe quota"
            if quota
            else admission_hint(event.words)
        )
        if is_late or (event.reason == "FailedCreate" and not quota):
            self._refuse(Waiting(event.reason, event.words, hint=hint))
        # Each try has a pod of another name, and all the same to say.
        self._warn_once(f"{event.reason}: {event.words}", hint, event.reason)

    def _refuse(self, state: Waiting) -> None:
        """Delete what cannot run, since it might begin to later, and say why."""
        self._clean(failed=True)
        raise ExecutionError(
            f"the cluster cannot run it: {state.reason}: {printable(state.words)}",
            hint=state.hint or None,
        )

    # -- the end -------------------------------------------------------------------------------

    def _end(self, state: Ended, collect_outputs: Callable[[bool], Usage | None]) -> Result:
        if state.pod and not state.init:
            self._log.follow(state.pod, state.restarts)
        self._log.finish()
        if state.init:
            self._show_end_of(state.pod, state.init)
        failure = _of_pod_runner(state.message)
        late = state.timed_out and self._spec.timeout is None
        usage = None
        if state.exit_code == 0:
            try:
                usage = collect_outputs(self._is_for_us(self._seen_job()))
            except BaseException:
                self._clean(failed=True, ended=True)
                raise
        elif late:
            self._error("the Job was ended at its deadline", _LATE)
        elif failure or state.fact:
            hint = write_hint(failure) or _REACH if "in the pod" in failure else state.hint
            self._error(failure or state.fact, hint)
        self._clean(failed=state.exit_code != 0, ended=True)
        return Result(state.exit_code, timed_out=state.timed_out and not late, usage=usage)

    def _show_end_of(self, pod: str, container: str) -> None:
        """Pass on the last lines of an init container, as what its step says on standard error."""
        api, target = self._cluster.api, self._cluster.target("pods", pod)._replace(sub="log")
        query = {"container": container, "tailLines": _TAIL}
        try:
            # One that was started anew has written nothing yet.
            text = api.text(target, **query) or api.text(target, **query, previous="true")
        except ExecutionError:
            return  # what it ended with is told all the same
        self._runner.call_in_loop(lambda: self._sink(2, text))

    def _vanished(self, collect_outputs: Callable[[bool], Usage | None]) -> Result:
        """Take the result of a Job that somebody has deleted, if it has left one."""
        if self._spec.files:
            with suppress(ExecutionError):
                return Result(0, usage=collect_outputs(True))
        raise ExecutionError(
            f"the Job `{self._spec.name}` was deleted before its end was known",
            hint="another buildrun, a user or a time to live may have done that; run again",
        )

    def cancel(self, number: int, *, ask: bool = True) -> Result:
        """Delete the Job and wait until its pod is gone; a second signal ends the waiting.

        ask: whether the server is asked how the Job is, which the watch may not have told yet.
        """
        cluster, name = self._cluster, self._spec.name
        try:
            if not self._is_for_us(self._asked_job() if ask else self._seen_job()):
                self._note(f"the Job `{name}` is left to the other run that follows it")
                return Result(128 + number, number)
            self._note("ending the Job and waiting for its pod; Ctrl-C again does not wait")
            cluster.delete(name, secret=self._spec.has_secret)
        except NoAnswer as error:
            kinds = "jobs,secrets" if self._spec.has_secret else "jobs"
            self._warn_once(
                f"{error.message}; the Job `{name}` may be there and run",
                f"delete it once the cluster answers: {cluster.kubectl} delete {kinds} {name}",
            )
            return Result(128 + number, number)
        if not cluster.await_gone(name, until=self._impatient):
            self._warn_once(
                f"the Job `{name}` was deleted, and its pod is still ending",
                f"look at it: {cluster.kubectl} get pods -l job-name={name}",
            )
        return Result(128 + number, number)

    def _asked_job(self) -> Object | None:
        try:
            return self._cluster.api.get(self._cluster.target("jobs", self._spec.name))
        except ApiError:
            return self._seen_job()

    def _seen_job(self) -> Object | None:
        return self._cluster.watcher.look(self._spec.name).job

    def _is_for_us(self, job: Object | None) -> bool:
        """Return whether it is for us to clean up: whoever came last does."""
        notes = (job["metadata"].get("annotations") or {}) if job is not None else {}
        return notes.get(manifest.FOLLOWER) in (None, self._spec.run_id)

    def _clean(self, *, failed: bool, ended: bool = False) -> None:
        """Delete the Job, or keep it as the config says; ended: its command has ended by itself."""
        cluster, spec = self._cluster, self._spec
        if not self._is_for_us(self._seen_job()):
            return
        if cluster.config.keep == "always" or (cluster.config.keep == "failed" and failed):
            self._end_sidecars()
            body = {"metadata": {"annotations": {manifest.HARVESTED: "true"}}}
            cluster.api.patch(cluster.target("jobs", spec.name), body)
            self._note(f"the Job `{spec.name}` is kept, as `keep-jobs` says")
        else:
            cluster.delete(spec.name, secret=spec.has_secret, ended=ended)

    def _end_sidecars(self) -> None:
        """Have what still runs beside the command end; pod and log stay with the kept Job."""
        api, view = self._cluster.api, self._cluster.watcher.look(self._spec.name)
        if view.job is None or view.pod is None:
            return
        statuses = (view.pod.get("status") or {}).get("containerStatuses") or ()
        if not any((item.get("state") or {}).get("running") is not None for item in statuses):
            return
        # Or the Job would make another pod for the one that a deadline has ended.
        limit = int((view.job.get("status") or {}).get("failed") or 0)
        pod = self._cluster.target("pods", view.pod["metadata"]["name"])
        try:
            api.patch(
                self._cluster.target("jobs", self._spec.name), {"spec": {"backoffLimit": limit}}
            )
            api.patch(pod, {"spec": {"activeDeadlineSeconds": 1}})
        except ApiError as error:
            if error.status != 404:
                words = f"what runs beside the command goes on: {error.message}"
                self._warn_once(words, error.hint or "")

    # -- words ---------------------------------------------------------------------------------

    def _head(self, text: str) -> str:
        return f"[{printable(self._spec.identity.step)}] {printable(text)}"

    def _note(self, text: str) -> None:
        self._runner.call_in_loop(lambda: self._cluster.console.note(self._head(text)))

    def _warn_once(self, text: str, hint: str, fact: str = "") -> None:
        """Warn, but not twice of the same; fact: what makes it that, by default the text."""
        if (fact or text) not in self._said:
            self._said.add(fact or text)
            self._runner.call_in_loop(lambda: self._cluster.console.warn(self._head(text), hint))

    def _error(self, text: str, hint: str) -> None:
        self._runner.call_in_loop(lambda: self._cluster.console.error(self._head(text), hint))


def _of_pod_runner(message: str) -> str:
    """Return what kept files from travelling, where the container's last words tell of that."""
    try:
        value = json.loads(message)
        what, words = value["buildrun"], str(value["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    return f"{_DOING.get(str(what), 'the pod failed')}: {words}"
