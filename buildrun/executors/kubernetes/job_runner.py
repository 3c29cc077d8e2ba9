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
from buildrun.executors.base import OutputSink, ProcessRunner, Result
from buildrun.executors.kubernetes import manifest
from buildrun.executors.kubernetes import manifest as names
from buildrun.executors.kubernetes.api import HURRY
from buildrun.executors.kubernetes.errors import ApiError, NoAnswer, admission_hint
from buildrun.executors.kubernetes.job_state import (
    Ended,
    Gone,
    Running,
    Waiting,
    classify,
    is_over,
    restarts_of,
    write_hint,
)
from buildrun.executors.kubernetes.logs import Follower

if TYPE_CHECKING:
    from buildrun.executors.kubernetes.cluster import Cluster
    from buildrun.executors.kubernetes.manifest import JobSpec
    from buildrun.executors.kubernetes.watch import Object, View

# Seconds before the events of a Job without a pod, or of a pod that does not start, are asked for;
# and between two such looks.
_FIRST_LOOK = {"job": 1.0, "pod": 15.0}
_LOOK = 5.0

# Seconds that the rest of a log may take once the container has ended; and between two looks
# whether the user asks to end.
_REST = 60.0
_SLICE = 0.5

_TRIES = 10

# Lines that are shown of an init container that has failed.
_TAIL = "20"

_REACH = (
    "pods must reach the remote cache, and trust its certificate; `object-store-endpoint` in the "
    "backend config is its address for them"
)

_LATE = "`activeDeadlineSeconds` in the Job template is how long it may take"


def run_job(
    cluster: Cluster,
    job_spec: JobSpec,
    runner: ProcessRunner,
    sink: OutputSink,
    collect_outputs: Callable[[bool], None],
    *,
    detach: bool = False,
) -> Result:
    """Run a step as a Job, or attach to the one that runs it already.

    collect_outputs: is called when it has succeeded, before the Job goes, with whether nobody else
    needs what it has delivered. detach: return as soon as it is submitted.
    Raises BuildrunError where the cluster does not run it; then it is deleted.
    """
    attempt = _JobRun(cluster, job_spec, runner, sink)
    with runner.on_interrupt(attempt.interrupt):
        try:
            attempt.submit()
            if detach:
                attempt.tell_warnings(coming=False)
                return Result(0, detached=True)
            return attempt.to_its_end(collect_outputs)
        except NoAnswer:
            if attempt.number is None:
                raise
            return attempt.cancel(attempt.number, ask=False)


class _JobRun:
    def __init__(
        self, cluster: Cluster, job_spec: JobSpec, runner: ProcessRunner, sink: OutputSink
    ) -> None:
        self._cluster = cluster
        self._job_spec = job_spec
        self._runner = runner
        self._sink = sink
        self._container = names.dns(job_spec.identity.project)
        # The signal by which the user asks to end.
        self.number: int | None = None
        self._impatient = threading.Event()
        self._follower: Follower | None = None
        self._followed: tuple[str, int] = ("", -1)
        self._over = threading.Event()
        self._earlier: set[str] = set()
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
        self._cluster.watcher.stir(self._job_spec.name)

    # -- the beginning -------------------------------------------------------------------------

    def submit(self) -> None:
        """Make the Secret and the Job, or find the Job that is there for the same."""
        cluster, job_spec = self._cluster, self._job_spec
        for _ in range(_TRIES):
            made = self._create()
            for text in cluster.api.warnings():
                if cluster.is_news(text):
                    self._foretold.append(text)
            if made is not None:
                cluster.watcher.learn(made)
                cluster.record(job_spec.identity.step, job_spec.name)
                return
        raise ExecutionError(
            f"the Job `{job_spec.name}` can neither be made nor followed: it comes and goes",
            hint="somebody else may be at the same; wait, and run again",
        )

    def _create(self) -> Object | None:
        """Return the Job that was made or is attached to; None where another try may help."""
        cluster, job_spec = self._cluster, self._job_spec
        if job_spec.has_secret:
            self._put_secret()
        try:
            made = cluster.api.create(
                cluster.job(), manifest.job(cluster.config, job_spec, cluster.namespace)
            )
        except ApiError as error:
            if error.status != 409:
                self._drop_secret()
                raise
            return self._attach()
        if job_spec.has_secret:
            self._give_secret(made)
        return made

    def _put_secret(self) -> None:
        cluster, job_spec = self._cluster, self._job_spec
        body = manifest.secret(job_spec, cluster.namespace)
        try:
            cluster.api.create(cluster.secret(), body)
        except ApiError as error:
            if error.status != 409:
                raise
            # Of a Job that runs already, or of a killed client; the newer URLs hold longer.
            cluster.api.patch(cluster.secret(job_spec.name), body)

    def _drop_secret(self) -> None:
        """Delete the Secret, which the cluster might still remove together with an older Job."""
        if self._job_spec.has_secret:
            self._cluster.api.delete(self._cluster.secret(self._job_spec.name))

    def _give_secret(self, job: Object) -> None:
        """Make the Secret the Job's, so that the cluster removes it with it."""
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": job["metadata"]["name"],
            "uid": job["metadata"]["uid"],
        }
        self._cluster.api.patch(
            self._cluster.secret(self._job_spec.name), {"metadata": {"ownerReferences": [owner]}}
        )

    def _attach(self) -> Object | None:
        cluster, job_spec = self._cluster, self._job_spec
        try:
            job = cluster.api.get(cluster.job(job_spec.name))
        except ApiError as error:
            if error.status == 404:
                return None  # it has just gone
            raise
        metadata = job["metadata"]
        notes = metadata.get("annotations") or {}
        if metadata.get("deletionTimestamp"):
            cluster.watcher.learn(job)
            cluster.await_gone(job_spec.name)
            self._drop_secret()
            return None
        ours = (notes.get(names.KEY), notes.get(names.OWNER)) == (
            job_spec.identity.key,
            job_spec.identity.owner,
        )
        if not ours or notes.get(names.HARVESTED):
            cluster.watcher.learn(job)
            cluster.delete(job_spec.name, secret=False)
            cluster.await_gone(job_spec.name)
            self._drop_secret()
            return None
        if notes.get(names.RUN) != job_spec.run_id:
            body = {"metadata": {"annotations": {names.FOLLOWER: job_spec.run_id}}}
            job = cluster.api.patch(cluster.job(job_spec.name), body)
            how = "has ended meanwhile" if is_over(job) else "runs already"
            self._note(f"attached to the Job `{job_spec.name}`, which {how}")
        return job

    # -- the end -------------------------------------------------------------------------------

    def to_its_end(self, collect_outputs: Callable[[bool], None]) -> Result:
        """Follow the Job until it has ended."""
        revision, looked = -1, False
        seconds: float | None = 0.0
        try:
            while True:
                if self.number is not None:
                    return self.cancel(self.number)
                view = self._look(revision, seconds)
                revision = view.revision
                state = classify(view, self._container)
                seconds = None
                if isinstance(state, Ended) and not state.pod and not looked:
                    # The watch of Jobs may be ahead of that of pods.
                    looked, view = True, self._cluster.look_at_pods(view)
                    state = classify(view, self._container)
                self._read_earlier(view)
                self.tell_warnings(coming=view.pod is None)
                if isinstance(state, Ended):
                    return self._end(state, collect_outputs)
                if isinstance(state, Gone):
                    return self._vanished(collect_outputs)
                if isinstance(state, Running):
                    self._trouble = ""
                    self._read(state.pod, state.restarts)
                    self._say_what_ended_the_log()
                else:
                    self._wait(state, view)
                    seconds = 1.0
        finally:
            if self._follower is not None:
                self._follower.leave()

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
            return self._cluster.watcher.wait(self._job_spec.name, revision, seconds)
        except ApiError:
            with suppress(ExecutionError):
                self._cluster.delete(self._job_spec.name, secret=self._job_spec.has_secret)
            raise

    def _wait(self, state: Waiting, view: View) -> None:
        """Say what it waits for, and give up where that will not come."""
        now = time.monotonic()
        config = self._cluster.config
        # Time in a queue is not time without a place.
        trouble = "queue" if state.reason == "Suspended" else state.trouble
        if trouble != self._trouble:
            self._trouble, self._since = trouble, now
        waited = now - self._since
        if state.reason == "Suspended":
            self._say_once("the Job is queued: it is suspended until there is room for it")
        if state.trouble == "final":
            self._refuse(state)
        limit = {"pull": config.pull, "schedule": config.schedule}.get(state.trouble)
        if limit is not None and waited >= limit:
            self._refuse(state)
        if limit is not None or state.trouble == "retry":
            # ErrImagePull and ImagePullBackOff take turns, and have the same to say.
            self._warn_once(f"{state.reason}: {state.words}", state.hint, state.trouble)
        if state.events and now >= self._look_at and waited >= _FIRST_LOOK[state.events]:
            self._look_at = now + _LOOK
            self._look_at_events(state.events, view, waited)

    def _look_at_events(self, whose: str, view: View, waited: float) -> None:
        pod = view.pod
        if whose == "pod" and pod is not None:
            event = self._cluster.event("Pod", pod)
            if event is not None:
                self._warn_once(f"the pod does not start: {event.reason}: {event.words}", "")
            return
        event = self._cluster.event("Job", view.job) if view.job is not None else None
        if event is None:
            if waited >= self._cluster.config.schedule:
                self._refuse(Waiting("NoPod", "no pod has come, and no event says why", "schedule"))
            return
        quota = "exceeded quota" in event.words
        hint = (
            "ask for less in `resources`, or wait until others have ended; "
            f"{self._cluster.kubectl} describe quota"
            if quota
            else admission_hint(event.words)
        )
        state = Waiting(event.reason, event.words, "schedule", hint)
        if event.reason == "FailedCreate" and not quota:
            self._refuse(state)
        # Each try has a pod of another name, and all the same to say.
        self._warn_once(f"{event.reason}: {event.words}", hint, event.reason)
        if waited >= self._cluster.config.schedule:
            self._refuse(state)

    def _refuse(self, state: Waiting) -> None:
        """Delete what cannot run, since it might begin to later, and say why."""
        self._clean(failed=True)
        raise ExecutionError(
            f"the cluster cannot run it: {state.reason}: {printable(state.words)}",
            hint=state.hint or None,
        )

    def _end(self, state: Ended, collect_outputs: Callable[[bool], None]) -> Result:
        self._read_to_the_end(state)
        if state.init:
            self._show_end_of(state.pod, state.init)
        failure, late = (
            _of_pod_runner(state.message),
            state.timed_out and self._job_spec.timeout is None,
        )
        if state.exit_code == 0:
            try:
                collect_outputs(self._is_ours())
            except BaseException:
                self._clean(failed=True, ended=True)
                raise
        elif late:
            self._error("the Job was ended at its deadline", _LATE)
        elif failure or state.fact:
            hint = write_hint(failure) or _REACH if "in the pod" in failure else state.hint
            self._error(failure or state.fact, hint)
        self._clean(failed=state.exit_code != 0, ended=True)
        return Result(state.exit_code, timed_out=state.timed_out and not late)

    def _vanished(self, collect_outputs: Callable[[bool], None]) -> Result:
        """Take the result of a Job that somebody has deleted, if it has left one."""
        if self._job_spec.files:
            try:
                collect_outputs(True)
            except ExecutionError:
                pass
            else:
                return Result(0)
        raise ExecutionError(
            f"the Job `{self._job_spec.name}` was deleted before its end was known",
            hint="another buildrun, a user or a time to live may have done that; run again",
        )

    def cancel(self, number: int, *, ask: bool = True) -> Result:
        """Delete the Job and wait until its pod is gone; a second signal ends the waiting.

        ask: whether the server is asked how the Job is, which the watch may not have told yet.
        """
        cluster, name = self._cluster, self._job_spec.name
        try:
            job = self._ask_for_job() if ask else cluster.watcher.look(name).job
            if not self._is_for_us(job):
                self._note(f"the Job `{name}` is left to the other run that follows it")
                return Result(128 + number, number)
            self._note("ending the Job and waiting for its pod; Ctrl-C again does not wait")
            cluster.delete(name, secret=self._job_spec.has_secret)
        except NoAnswer as error:
            kinds = "jobs,secrets" if self._job_spec.has_secret else "jobs"
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

    def _ask_for_job(self) -> Object | None:
        """Return the Job as the server has it; as it was seen last where that cannot be known."""
        try:
            return self._cluster.api.get(self._cluster.job(self._job_spec.name))
        except ApiError:
            return self._cluster.watcher.look(self._job_spec.name).job

    def _is_ours(self) -> bool:
        """Return whether it is for us to clean up: whoever came last does."""
        return self._is_for_us(self._cluster.watcher.look(self._job_spec.name).job)

    def _is_for_us(self, job: Object | None) -> bool:
        notes = (job["metadata"].get("annotations") or {}) if job is not None else {}
        return notes.get(names.FOLLOWER) in (None, self._job_spec.run_id)

    def _clean(self, *, failed: bool, ended: bool = False) -> None:
        cluster, job_spec = self._cluster, self._job_spec
        if not self._is_ours():
            return
        keep = cluster.config.keep
        if keep == "always" or (keep == "failed" and failed):
            self._end_sidecars()
            body = {"metadata": {"annotations": {names.HARVESTED: "true"}}}
            cluster.api.patch(cluster.job(job_spec.name), body)
            self._note(f"the Job `{job_spec.name}` is kept, as `keep-jobs` says")
            return
        cluster.delete(job_spec.name, secret=job_spec.has_secret, ended=ended)

    def _end_sidecars(self) -> None:
        """Have what still runs beside the command end; pod and log stay with the kept Job."""
        cluster = self._cluster
        view = cluster.watcher.look(self._job_spec.name)
        if view.job is None or view.pod is None or not _has_sidecars(view.pod):
            return
        # Or the Job would make another pod for the one that a deadline has ended.
        limit = int((view.job.get("status") or {}).get("failed") or 0)
        pod = view.pod["metadata"]["name"]
        try:
            cluster.api.patch(cluster.job(self._job_spec.name), {"spec": {"backoffLimit": limit}})
            cluster.api.patch(cluster.pod(pod), {"spec": {"activeDeadlineSeconds": 1}})
        except ApiError as error:
            if error.status == 404:
                return
            self._warn_once(
                f"what runs beside the command goes on: {error.message}", error.hint or ""
            )

    # -- the log -------------------------------------------------------------------------------

    def _read(self, pod: str, restarts: int) -> None:
        """Read the log of a container, and to its end that of the one before."""
        if (pod, restarts) == self._followed:
            return
        self._finish_log(previous=self._followed[0] == pod)
        if self._followed[0] != pod and restarts:
            self._follow(pod, restarts - 1, previous=True)
            self._finish_log(previous=True)
        self._follow(pod, restarts, previous=False)

    def _follow(self, pod: str, restarts: int, *, previous: bool) -> None:
        self._followed, self._over = (pod, restarts), threading.Event()
        if previous:
            self._over.set()
        self._follower = Follower(
            self._cluster.api,
            self._cluster.pod(pod),
            self._container,
            lambda text: self._runner.call_in_loop(lambda: self._sink(1, text)),
            self._over.is_set,
            previous=previous,
            failed=lambda: self._cluster.watcher.stir(self._job_spec.name),
        )

    def _read_earlier(self, view: View) -> None:
        """Read the logs of pods that others have replaced already, each once."""
        for pod in view.pods[:-1]:
            name = pod["metadata"]["name"]
            if name not in self._earlier:
                self._earlier.add(name)
                self._read(name, restarts_of(pod, self._container))
                self._finish_log(previous=False)

    def _show_end_of(self, pod: str, container: str) -> None:
        """Pass on the last lines of an init container, as what its step says on standard error."""
        target = self._cluster.pod(pod)._replace(sub="log")
        query = {"container": container, "tailLines": _TAIL}
        try:
            # One that was started anew has written nothing yet.
            text = self._cluster.api.text(target, **query) or self._cluster.api.text(
                target, **query, previous="true"
            )
        except ExecutionError:
            return  # what it ended with is told all the same
        self._runner.call_in_loop(lambda: self._sink(2, text))

    def _read_to_the_end(self, state: Ended) -> None:
        if state.pod and not state.init:
            self._read(state.pod, state.restarts)
        self._finish_log(previous=False)

    def _finish_log(self, *, previous: bool) -> None:
        follower = self._follower
        if follower is None:
            return
        self._over.set()
        follower.wake(previous=previous)
        waited = 0.0
        while not follower.finish(_SLICE):
            waited += _SLICE
            if waited >= (_REST if self.number is None else HURRY):
                self._warn_once("the rest of the log does not come", "")
                follower.leave()
                break
        self._say_what_ended_the_log()

    def _say_what_ended_the_log(self) -> None:
        error = self._follower.error if self._follower is not None else None
        if isinstance(error, ExecutionError):
            self._warn_once(f"the log is not whole: {error.message}", error.hint or "")
        elif error is not None:
            raise error

    # -- words ---------------------------------------------------------------------------------

    def _head(self, text: str) -> str:
        return f"[{printable(self._job_spec.identity.step)}] {printable(text)}"

    def _tell(self, call: Callable[[], None]) -> None:
        self._runner.call_in_loop(call)

    def _note(self, text: str) -> None:
        self._tell(lambda: self._cluster.console.note(self._head(text)))

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._note(text)

    def _warn_once(self, text: str, hint: str, fact: str = "") -> None:
        """Warn, but not twice of the same; fact: what makes it that, by default the text."""
        if (fact or text) not in self._said:
            self._said.add(fact or text)
            self._tell(lambda: self._cluster.console.warn(self._head(text), hint))

    def _error(self, text: str, hint: str) -> None:
        self._tell(lambda: self._cluster.console.error(self._head(text), hint))


def _has_sidecars(pod: Object) -> bool:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return any((item.get("state") or {}).get("running") is not None for item in statuses)


def _of_pod_runner(message: str) -> str:
    """Return what kept files from travelling, where the container's last words tell of that."""
    try:
        value = json.loads(message)
        what, words = value["buildrun"], str(value["message"])
    except (ValueError, KeyError, TypeError):
        return ""
    doing = {
        "fetch": "the inputs cannot be fetched in the pod",
        "start": "the command cannot be started",
        "deliver": "the outputs cannot be delivered in the pod",
    }
    return f"{doing.get(str(what), 'the pod failed')}: {words}"
