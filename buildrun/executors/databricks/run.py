"""One step as a run at Databricks, from its submission to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors import submitted
from buildrun.executors.base import TIMED_OUT, OutputSink, ProcessRunner, Result
from buildrun.executors.databricks.claim import Claim, StepRun
from buildrun.executors.databricks.errors import ApiError, NoAnswer
from buildrun.executors.databricks.jobs import Jobs, Output, RunState, exit_code
from buildrun.executors.kubernetes.pod_runner import DAMAGES
from buildrun.executors.submitted import DatabricksRun

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.executors.databricks.files import Place

# What failed on the driver in place of the command, and what to do.
_FAILED = {
    "fetch": "the files cannot be had on the driver, or not be unpacked",
    "start": "the command cannot be started",
    "deliver": "the outputs cannot be delivered",
}
_REACH = "the cluster must be allowed to read and write `{}`, see docs/databricks.md"


class Workspace(NamedTuple):
    """Where runs are. run_id, directory: of buildrun's run, where they are recorded."""

    jobs: Jobs
    place: Place
    console: Console
    run_id: str
    directory: str
    profile: str | None


def run_step(
    workspace: Workspace,
    spec: StepRun,
    runner: ProcessRunner,
    sink: OutputSink,
    *,
    detach: bool = False,
) -> Result:
    """Run a step to its end, or follow the run that is there for the same.

    detach: return as soon as it is submitted. Raises ExecutionError where it does not run; then
    nothing of it is left.
    """
    run = _Following(workspace, spec, runner, sink)
    with runner.on_interrupt(run.interrupt):
        try:
            run.submit()
        except (NoAnswer, ApiError) as error:
            return run.tell_refusal(error)
        if run.signal is not None and not run.is_submitted:
            return Result(128 + run.signal, run.signal)
        return run.follow(detach=detach)


def _may_be_done(error: NoAnswer | ApiError) -> bool:
    """Return whether what was asked for may have been done all the same."""
    return isinstance(error, NoAnswer) or error.status >= 500


def _may_pass(error: NoAnswer | ApiError) -> bool:
    """Return whether it says nothing of the run, which can be followed later."""
    return _may_be_done(error) or (isinstance(error, ApiError) and error.status in (401, 429))


class _Following:
    def __init__(
        self, workspace: Workspace, spec: StepRun, runner: ProcessRunner, sink: OutputSink
    ) -> None:
        self._jobs = workspace.jobs
        self._place = workspace.place
        self._workspace = workspace
        self._spec = spec
        self._runner = runner
        self._sink = sink
        # The signal by which the user asks to end; set by another thread, as the events are.
        self.signal: int | None = None
        self._wake = threading.Event()
        self._impatient = threading.Event()
        self._number = 0
        self._url = f"{workspace.jobs.api.connection.host}/#job/list"
        self._claim = Claim(workspace.place, spec, workspace.run_id)
        self._is_over = False
        self._said = ""

    def interrupt(self, number: int) -> None:
        """Take note of a signal by which the user asks to end."""
        if self.signal is not None:
            self._impatient.set()
        self.signal = self.signal or number
        self._jobs.api.hurry()
        self._wake.set()

    # -- the beginning -------------------------------------------------------------------------

    def submit(self) -> None:
        """Submit the run, or find the one that is there for the same; not after a signal."""
        if self._wake.is_set():
            return
        self._claim.take()
        if self._wake.is_set() and not self._claim.is_attached:
            self._discard()
            return
        self._submit_again()
        is_found = self._claim.is_attached and self._spec.anew
        if is_found and self._jobs.look(self._number, self._wake).is_over:
            self._claim.leave()
            self._claim.take()
            self._submit_again()
        self._record()

    def tell_refusal(self, error: NoAnswer | ApiError) -> Result:
        """Say that a run may be there whose submission failed; raises the error without Ctrl-C."""
        may_be_there = _may_be_done(error)
        if self.signal is None:
            if not may_be_there:
                raise error
            hint = f"{error.hint}; the same command follows the run, if it was submitted"
            raise ExecutionError(error.message, place=error.place, hint=hint) from None
        if may_be_there:
            self.warn(f"{error.message}; the run may be there", f"see its list: {self._url}")
        return Result(128 + self.signal, self.signal)

    @property
    def is_submitted(self) -> bool:
        """Return whether there is a run."""
        return self._number != 0

    def _submit_again(self) -> None:
        """Submit the task; anew where the run that was found is gone."""
        try:
            self._submit()
        except ApiError as error:
            if not self._is_gone(error):
                raise
            self._claim.take()
            self._submit()

    def _submit(self) -> None:
        """Submit the task that is laid down; it stays where there may be a run of it."""
        body = self._spec.body(self._place.at(self._spec.task_name))
        try:
            self._number = self._jobs.submit({**body, "idempotency_token": self._claim.token})
        except ApiError as error:
            may_be_there = self._claim.is_attached or _may_be_done(error)
            if self._is_gone(error) or not may_be_there:
                self._discard()
            raise

    def _is_gone(self, error: ApiError) -> bool:
        """Return whether the run that was found is too long ago, or was deleted."""
        return self._claim.is_attached and error.status in (400, 404)

    def _record(self) -> None:
        spec, place, host = self._spec, self._place, self._jobs.api.connection.host
        names = self._claim.names
        made = DatabricksRun(
            spec.step, str(self._number), host, self._workspace.profile, place.path, names
        )
        submitted.record(self._workspace.directory, made)

    # -- the end -------------------------------------------------------------------------------

    def follow(self, *, detach: bool) -> Result:
        """Say where the run is, and follow it until it has ended; a signal ends it."""
        try:
            self._announce(self._jobs.look(self._number, self._wake))
            if detach and self.signal is None:
                return Result(0, detached=True)
            state = self._jobs.await_end(self._number, self._wake, self._tell_waiting)
            if self.signal is not None and not state.is_over:
                return self._cancel(self.signal)
            self._is_over = state.is_over
            output, is_ours = self._jobs.output(state), self._claim.is_ours()
            result = self._end(state, output, last=is_ours)
        except (NoAnswer, ApiError) as error:
            return self._leave(error)
        except BaseException:
            self._abandon()
            raise
        if is_ours:
            self._discard()
        return result

    def _announce(self, state: RunState) -> None:
        self._url = printable(state.url)
        how = "submitted"
        if self._claim.is_attached:
            how = "has ended meanwhile" if state.is_over else "runs already"
            how = f"attached to the one that {how}"
        self._note(f"run {self._number} {how}: {self._url}")

    def _end(self, state: RunState, output: Output, *, last: bool) -> Result:
        self._show(output)
        code = exit_code(state, output)
        if code is None:
            words = f"{state.reason}; {printable(output.error)}"
            fact = state.reason if output.error in ("", state.message) else words
            path = self._place.path
            hint = _REACH.format(path) if path in output.error else state.hint
            raise ExecutionError(f"the run has failed: {fact}", hint=hint)
        if state.result == "TIMEDOUT":
            hint = f"`timeout` in the backend config is how long it may take; {self._url}"
            self._say(self._workspace.console.error, "the run was ended at its timeout", hint)
        elif output.kind in _FAILED:
            hint = _REACH.format(self._place.path)
            if output.kind == "fetch" and any(words in output.text for words in DAMAGES):
                self._spec.forget()
                hint = "they were damaged there; run it again, and they are sent anew"
            self._say(self._workspace.console.error, _FAILED[output.kind], hint)
        usage = self._spec.collect(self._claim.token, last) if code == 0 else None
        late = output.kind == "timeout" and code == TIMED_OUT
        return Result(code, timed_out=late, usage=usage)

    def _show(self, output: Output) -> None:
        if output.is_cut:
            hint = f"Databricks keeps the last 5 MB; all of it may be at {self._url}"
            self.warn("the beginning of the log is lost", hint)
        data = output.text.encode(errors="surrogatepass")
        if data:
            self._runner.call_in_loop(lambda: self._sink(1, data))

    def _cancel(self, number: int) -> Result:
        """End the run and wait for that; a second signal ends the waiting."""
        try:
            if not self._claim.is_ours():
                self._note(f"run {self._number} is left to the other call that follows it")
                return Result(128 + number, number)
            self._note("ending the run and waiting for its end; Ctrl-C again does not wait")
            self._jobs.cancel(self._number)
            state = self._jobs.await_end(self._number, self._impatient)
            self._discard()
        except ExecutionError as error:
            return self._unknown(number, error)
        if not state.is_over:
            self.warn("the run was cancelled, and is still ending", f"its page: {self._url}")
        return Result(128 + number, number)

    def _leave(self, error: NoAnswer | ApiError) -> Result:
        """Leave the run to a later call where the trouble may pass, else end it; raises."""
        if not _may_pass(error):
            self._abandon()
            raise error
        if self.signal is not None:
            return self._unknown(self.signal, error)
        how = "has ended" if self._is_over else "may go on"
        hint = f"the run {how}, and the same command follows it; its page: {self._url}"
        raise ExecutionError(error.message, place=error.place, hint=hint) from None

    def _abandon(self) -> None:
        """Leave nothing of the run, unless another call follows it; say what cannot be ended."""
        try:
            if not self._claim.is_ours():
                return
            if not self._is_over:
                self._jobs.cancel(self._number)
        except ExecutionError as error:
            if not self._is_over:
                text = f"the run {self._number} cannot be cancelled, and may go on"
                hint = f"the same command follows it; its page: {self._url}"
                self.warn(f"{text}: {error.message}", hint)
        else:
            self._discard()

    def _unknown(self, number: int, error: ExecutionError) -> Result:
        text, hint = f"the run {self._number} may go on", "cancel it once Databricks answers"
        if self._is_over:
            text, hint = "the run has ended", "the same command follows it"
        self.warn(f"{error.message}; {text}", f"{hint}: {self._url}")
        return Result(128 + number, number)

    def _discard(self) -> None:
        """Let go of the task; where that cannot be, it is said."""
        try:
            self._claim.release()
        except ExecutionError as error:
            name = self._claim.names[-1]
            self.warn(f"`{self._place.at(name)}` stays: {error.message}", "delete it there")

    # -- words ---------------------------------------------------------------------------------

    def _tell_waiting(self, state: RunState) -> None:
        """Say once what a run waits for that does not begin."""
        if state.life in ("QUEUED", "BLOCKED") and state.life != self._said:
            self._said = state.life
            self._note(f"the run is {state.life.lower()}: {printable(state.message)}")

    def _note(self, text: str) -> None:
        self._say(self._workspace.console.note, text)

    def warn(self, text: str, hint: str) -> None:
        """Say what the user should know."""
        self._say(self._workspace.console.warn, text, hint)

    def _say(self, say: Callable[..., None], text: str, *hint: str) -> None:
        text = f"[{printable(self._spec.step)}] {text}"
        self._runner.call_in_loop(lambda: say(text, *hint))
