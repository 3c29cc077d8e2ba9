"""One step to its end: up to date, restored, or run; its result is kept, or why not."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING

from buildrun import step_locks
from buildrun.console import printable
from buildrun.errors import ExecutionError, Interrupted, StoreError
from buildrun.executors.base import Job, Perform, ProcessRunner, Result
from buildrun.planning.evidence import DECLARED, Evidence
from buildrun.planning.model import Outcome, OutcomeState, Reason, Step, failure_reasons, label
from buildrun.planning.result_publisher import ResultPublisher
from buildrun.step_locks import WaitNotice
from buildrun.store.files import make_directory
from buildrun.workspace.previous_outputs import PreviousOutputs, mend

if TYPE_CHECKING:
    from buildrun.executors.output import Display, Log
    from buildrun.input_check import InputCheck, Verdict
    from buildrun.planning.state import ProjectState
    from buildrun.planning.uptodate import StepStatus
    from buildrun.store.manifest import Manifest
    from buildrun.workspace.select import FileSet

_LOST = Reason("result-lost", "the stored result is incomplete")


class StepRunner:
    """Carries out the steps of one plan; safe to be used by several threads.

    Locks are taken in this order, each only by steps with outputs where nothing else is said:

    - the step in this project, exclusively, until its command ends: two runs of the same step;
    - its key in the whole store, exclusively: the same result is made once, by one of all runs;
    - the steps before it in this project, shared, by any step: nobody makes anew what it reads;
    - the staging directory of its displaced outputs, until its command ends.
    """

    def __init__(self, state: ProjectState, display: Display, perform: Perform) -> None:
        """Take the project; perform: runs a step's job where it belongs."""
        self._state = state
        self._perform = perform
        self._previous = PreviousOutputs(state)
        self._display = display
        # The index, the history and the staleness check are for one thread at a time.
        self._mutex = threading.RLock()
        self._steps = {step.id: step for step in state.plan.steps}
        self._numbers = {step.id: number for number, step in enumerate(state.plan.steps, 1)}
        self._outputs: dict[str, FileSet] = {}
        self._publisher = ResultPublisher(state, self._mutex)

    def recover(self) -> None:
        """Put right what killed runs have left in the project."""
        mend(self._state.plan.root, self._state.logs, self._state.console)

    def try_without_command(self, step: Step, on_wait: WaitNotice) -> Outcome | None:
        """Do what takes no command: nothing, or a restore; None where the step has to run.

        on_wait: is entered for as long as another process is at the same. Raises BuildrunError.
        """
        started = time.monotonic()
        with self._mutex:
            status = self._state.staleness.check(step)
            if status.state == "up-to-date":
                return self._up_to_date(step, status, started)
        if status.state != "hit":
            return None
        with ExitStack() as stack:
            self._lock_step(step, stack, on_wait)
            return self._without_command(step, self._check(step), started)

    def run(
        self, step: Step, runner: ProcessRunner, environ: Mapping[str, str], on_wait: WaitNotice
    ) -> Outcome:
        """Bring the step to its end; on_wait: as for ``try_without_command``.

        Raises BuildrunError where something else than the command failed.
        """
        started = time.monotonic()
        with ExitStack() as stack, ExitStack() as key_lock:
            self._lock_step(step, stack, on_wait)
            status = self._check(step)
            key: str | None = None
            while True:
                if done := self._without_command(step, status, started):
                    return done
                if status.state == "hit":
                    status = status._replace(state="miss", reasons=(*status.reasons, _LOST))
                    break
                if status.key in (None, key) or not self._state.store_results:
                    break
                # Another process may make it while we wait, and inputs may change.
                key = status.key
                key_lock.close()
                others_held = step_locks.hold(self._state.home, key, key_lock, on_wait)
                status = self._check(step, rescan=others_held)
            self._lock_upstream(step, stack, on_wait)
            return self._run(step, status, runner, environ)

    def _check(self, step: Step, *, rescan: bool = True) -> StepStatus:
        """Return the status; rescan: by a look at the disk, where others may have been busy."""
        with self._mutex:
            if rescan:
                self._state.fingerprints.forget()
            return self._state.staleness.check(step)

    # -- without a command ---------------------------------------------------------------------

    def _without_command(self, step: Step, status: StepStatus, started: float) -> Outcome | None:
        if status.state == "up-to-date":
            with self._mutex:
                return self._up_to_date(step, status, started)
        return self._restored(step, status, started) if status.state == "hit" else None

    def _up_to_date(self, step: Step, status: StepStatus, started: float) -> Outcome:
        state = self._state
        last = state.history.last(step.id)
        if status.manifest is not None:
            seconds = status.manifest.seconds
            self._publisher.record(step, status, status.outputs or "", seconds)
        else:
            seconds = last.seconds if last is not None else 0.0
        if status.on_disk is not None:
            self._outputs[step.id] = status.on_disk
        if status.key is not None:
            state.results.upload_if_missing(status.key)
        state.staleness.record_outputs(step.id, status.outputs or "")
        return self._outcome(step, "up-to-date", status, started, saved=seconds)

    def _restored(self, step: Step, status: StepStatus, started: float) -> Outcome | None:
        """Restore the result of a hit; None where it is not whole any more."""
        from buildrun.store.cas import MissingBlob

        state, manifest = self._state, status.manifest
        if manifest is None:
            return None
        try:
            restored = self._restore(step, status, manifest)
        except MissingBlob:
            return None
        except StoreError as error:
            state.console.warn(f"{label(step)} {error.message}", error.hint or "")
            return None
        except Interrupted:
            raise
        except Exception as error:  # a result may have come from anybody who can write the remote
            state.console.warn(f"{label(step)} its result cannot be restored: {error!r}")
            return None
        with self._mutex:
            state.fingerprints.forget()
            state.fingerprints.learn(restored)
            outputs = state.fingerprints.outputs(step.outputs)
            if outputs.digest != manifest.outputs:
                state.results.invalidate(manifest)
                return None
            self._outputs[step.id] = outputs
            state.results.upload_if_missing(manifest.key)
            self._publisher.record(step, status, manifest.outputs, manifest.seconds)
            state.staleness.record_outputs(step.id, manifest.outputs)
        log = self._replay(step, status)
        outcome = self._outcome(step, "cached", status, started, saved=manifest.seconds)
        return outcome._replace(log=log)

    def _restore(
        self, step: Step, status: StepStatus, manifest: Manifest
    ) -> Mapping[str, tuple[bytes, str]]:
        """Restore the outputs; what they replace and the cache does not know is moved away."""
        from buildrun.workspace.outputs import displace

        with self._mutex:
            unknown = self._previous.unknown(step, status.on_disk)
        if not unknown:
            return self._restore_outputs(manifest, status.on_disk)
        displaced = displace(self._state.plan.root, step.outputs)
        try:
            restored = self._restore_outputs(manifest, None)
        except BaseException:
            displaced.put_back()
            raise
        with self._mutex:
            self._previous.rescue(displaced, unknown)
        displaced.discard()
        return restored

    def _restore_outputs(
        self, manifest: Manifest, on_disk: FileSet | None
    ) -> Mapping[str, tuple[bytes, str]]:
        """Make the project's outputs those of the result; raises MissingBlob, StoreError.

        on_disk: the outputs as they are; those that match already are left alone. Returns what is
        known of the files that were made, for ``Fingerprints.learn``.
        """
        from buildrun.workspace.restore import restore

        state = self._state
        state.results.fetch_contents(manifest)
        matching = state.results.matching_outputs(manifest, on_disk)
        return restore(state.home, state.plan.root, manifest, matching=matching).made

    def _replay(self, step: Step, status: StepStatus) -> str | None:
        from buildrun.executors.output import replay

        state, manifest = self._state, status.manifest
        if manifest is None:
            return None
        state.console.note(state.console.style(f"{label(step)} restored from the cache", "dim"))
        path = self._log_path(step)
        try:
            make_directory(self._state.logs)
            if not state.results.fetch_log(manifest, path):
                return None
        except OSError:
            return None
        replay(path, manifest.streams, step.id, self._display)
        return path

    # -- with a command ------------------------------------------------------------------------

    def _run(
        self, step: Step, status: StepStatus, runner: ProcessRunner, environ: Mapping[str, str]
    ) -> Outcome:
        from buildrun.executors.output import Log
        from buildrun.workspace.outputs import displace

        state = self._state
        console, root = state.console, state.plan.root
        log = Log(self._log_path(step), step.id, self._display)
        ended_as: OutcomeState = "failed"
        console.note(console.style(f"{label(step)} {step.shown.rstrip()}", "dim"))
        try:
            unknown: Sequence[str] = ()
            displaced = None
            if step.outputs:
                with self._mutex:
                    unknown = self._previous.unknown(step, status.on_disk)
                displaced = displace(root, step.outputs)
                with self._mutex:
                    self._previous.note_running(step)
            try:
                if displaced is not None:
                    step_locks.let_inherit(displaced.descriptor)
                check = self._input_check(step, status)
                result, started, seconds = self._attempts(step, status, runner, environ, log, check)
                verdict = check.conclude(result, log.path) if check is not None else None
                outcome = self._finish(step, status, result, seconds, log, verdict)
                ended_as = outcome.state
                outcome = self._detailed(outcome, status, started)._replace(usage=result.usage)
            finally:
                if displaced is not None:
                    with self._mutex:
                        if ended_as != "ok":
                            self._previous.put_back(step, displaced, unknown)
                        elif unknown:
                            self._previous.rescue(displaced, unknown)
                    displaced.discard()
        finally:
            log.close(failed=ended_as == "failed")
        return outcome

    def _attempts(
        self,
        step: Step,
        status: StepStatus,
        runner: ProcessRunner,
        environ: Mapping[str, str],
        log: Log,
        check: InputCheck | None,
    ) -> tuple[Result, float, float]:
        """Run the command, again where it may; returns when the last try began, and its seconds."""

        def identity() -> str:
            with self._mutex:
                return status.key or self._state.staleness.identity(step)

        job = Job(
            step.command,
            self._state.plan.root,
            {**environ, **dict(step.env)},
            timeout=step.timeout,
            task=step.task(),
            identity=identity,
            anew=any(reason.code == "forced" for reason in status.reasons),
        )
        for attempt in range(step.retries + 1):
            started, began = time.time(), time.monotonic()
            with check.watch(job) if check is not None else nullcontext(job) as watched:
                result = self._perform(watched, runner, log.sink)
            seconds = time.monotonic() - began
            if result.exit_code == 0 or result.interrupted is not None or attempt == step.retries:
                break
            if step.outputs:
                from buildrun.workspace.outputs import displace

                displace(job.cwd, step.outputs).discard()
            self._state.console.warn(
                f"{label(step)} {result.describe(step.timeout)}; "
                f"try {attempt + 2} of {step.retries + 1}"
            )
        return result, started, seconds

    def _finish(
        self,
        step: Step,
        status: StepStatus,
        result: Result,
        seconds: float,
        log: Log,
        verdict: Verdict | None,
    ) -> Outcome:
        state = self._state
        if verdict is not None:
            status = status._replace(reasons=(*status.reasons, *verdict.reasons()))
        if result.detached:
            return Outcome(step, "submitted", status.reasons, None, seconds)
        if result.exit_code != 0 or result.interrupted is not None or (verdict and verdict.refused):
            return self._failed(step, status, result, seconds, log)
        assurance = None
        with self._mutex:
            state.fingerprints.forget()
            if step.outputs:
                outputs = state.fingerprints.outputs(step.outputs)
                if outputs.unmatched:
                    return self._without_output(step, status, outputs, seconds, log)
                self._outputs[step.id] = outputs
                state.staleness.record_outputs(step.id, outputs.digest)
            else:
                state.staleness.record_outputs(
                    step.id, status.outputs or state.staleness.identity(step)
                )
                if state.store_results:  # for the order of steps
                    state.history.record_duration(step.id, seconds)
        if step.outputs and state.store_results:
            evidence = verdict.evidence if verdict is not None else _evidence(result)
            upstream = self._upstream(step)
            if self._publisher.publish(step, status, outputs, seconds, log, upstream, evidence):
                assurance = evidence.assurance
        elif step.outputs:
            with self._mutex:
                state.history.record_leftover(step.id, outputs.digest)
        return Outcome(step, "ok", status.reasons, 0, seconds, log=log.path, assurance=assurance)

    def _failed(
        self, step: Step, status: StepStatus, result: Result, seconds: float, log: Log
    ) -> Outcome:
        """Tell how a command ended badly, or that it was kept from what it needs."""
        ended_as: OutcomeState = "cancelled" if result.interrupted is not None else "failed"
        reasons, code = status.reasons, result.exit_code
        if code == 0 and ended_as == "failed":
            text, hint, code = "the command needs what it does not declare", "", 1
        else:
            text = result.describe(step.timeout)
            hint = f"its log: {printable(log.path)}" if log.path is not None else ""
            hint += "; its sandbox holds its declared files alone" if result.sandboxed else ""
            reasons = (*reasons, *failure_reasons(result, step))
        if ended_as == "failed":
            self._state.console.error(f"{label(step)} {text}", hint)
        return Outcome(step, ended_as, reasons, code, seconds, log=log.path)

    def _input_check(self, step: Step, status: StepStatus) -> InputCheck | None:
        """Return what watches the step's command, None where nobody asks or it runs elsewhere."""
        with self._mutex:
            is_known = self._state.staleness.looks_for_files(step, status)
        if not (step.check_inputs or step.sandbox or is_known) or step.backend != "local":
            return None
        from buildrun.input_check import InputCheck

        with self._mutex:
            staleness = self._state.staleness
            inputs = status.inputs or staleness.inputs(step)
            made = [path for name in staleness.upstream(step) for path in self._steps[name].outputs]
        return InputCheck(self._state, step, inputs, made)

    def _without_output(
        self, step: Step, status: StepStatus, outputs: FileSet, seconds: float, log: Log
    ) -> Outcome:
        names = ", ".join(f"`{printable(path)}`" for path in outputs.unmatched)
        fact = f"the command succeeded without making its output {names}"
        self._state.console.error(
            f"{label(step)} {outputs.problems[0] if outputs.problems else fact}",
            "correct `outputs`, which are relative to the project, or the command",
        )
        reasons = (*status.reasons, Reason("output-not-made", f"{names} was not made"))
        return Outcome(step, "failed", reasons, 1, seconds, log=log.path)

    def _upstream(self, step: Step) -> dict[str, FileSet]:
        """Return what the steps have made that this one may read."""
        with self._mutex:
            names = self._state.staleness.upstream(step)
            return {name: self._outputs[name] for name in names if name in self._outputs}

    def _outcome(
        self, step: Step, state: OutcomeState, status: StepStatus, started: float, *, saved: float
    ) -> Outcome:
        seconds = time.monotonic() - started
        outcome = Outcome(
            step, state, status.reasons, None, seconds, saved=saved, assurance=status.assurance
        )
        return self._detailed(outcome, status, time.time() - seconds)

    def _detailed(self, outcome: Outcome, status: StepStatus, started: float) -> Outcome:
        """Return the outcome with its key, and with what it has made."""
        files = self._outputs.get(outcome.step.id)
        made = files.sizes() if files is not None else ()
        return outcome._replace(started=started, key=status.key or None, outputs=made)

    def _log_path(self, step: Step) -> str:
        from buildrun.store.runs import file_name

        return os.path.join(self._state.logs, file_name(self._numbers[step.id], step.id))

    def _lock_step(self, step: Step, stack: ExitStack, on_wait: WaitNotice) -> None:
        """Hold the step in this project, and put right what a killed run has left."""
        if not step.outputs:
            return  # nobody is kept from running such a command twice at once
        root = self._state.plan.root
        step_locks.hold(
            self._state.home, f"{root}\0{step.entry_point}", stack, on_wait, until_command_ends=True
        )
        self.recover()

    def _lock_upstream(self, step: Step, stack: ExitStack, on_wait: WaitNotice) -> None:
        """Keep other runs from making anew what this step reads while its command runs.

        Whoever waits here waits for a step further up, so nobody waits in a circle. Raises
        ExecutionError where that has happened already.
        """
        root = self._state.plan.root
        upstream = self._upstream(step)
        for name in upstream:
            entry_point = self._steps[name].entry_point
            step_locks.hold(self._state.home, f"{root}\0{entry_point}", stack, on_wait, shared=True)
        for name, outputs in upstream.items():
            with self._mutex:
                changed = self._state.fingerprints.changed(outputs)
            if changed:
                raise ExecutionError(
                    f"`{printable(changed[0])}`, which `{name}` makes, was changed meanwhile",
                    hint="run again; runs with other parameters at the same time need a checkout "
                    "each",
                )


def _evidence(result: Result) -> Evidence:
    """Return what is known of a command that was not watched."""
    return Evidence("sandboxed") if result.sandboxed else DECLARED
