"""Carrying out one step: up to date, restored, or run; then kept for the next time.

Nothing is held while a command runs but the lock of the step in its project, and that of its key:
whoever wants the same at the same time waits, and finds it done.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import xxhash

from buildrun import __version__, locks
from buildrun.errors import StoreError
from buildrun.executors.job import Job, Result
from buildrun.history import Last
from buildrun.judge import Verdict
from buildrun.keys import printable
from buildrun.outcome import Outcome, State
from buildrun.plan import Reason, Step

if TYPE_CHECKING:
    from buildrun.output import Display, Log
    from buildrun.place import Place
    from buildrun.store.manifest import Manifest
    from buildrun.tree.taken import Taken

# Runs a job with its output given to a sink, and returns how it ended.
Execute = Callable[[Job, Callable[[int, bytes], None]], Result]

_LOST = Reason("result-lost", "the stored result is incomplete")


class Worker:
    """Carries out the steps of one plan; safe to be used by several threads."""

    def __init__(self, place: Place, display: Display) -> None:
        """Take the place."""
        self._place = place
        self._display = display
        # The index, the history and the judge's memory are for one thread at a time.
        self._mutex = threading.RLock()
        self._numbers = {step.id: number for number, step in enumerate(place.plan.steps, 1)}
        self._taken: dict[str, Taken] = {}
        self._recovered = False

    def settle(self, step: Step) -> Outcome | None:
        """Do what takes no command: nothing, or a restore; None where the step has to run."""
        started = time.monotonic()
        with self._mutex:
            verdict = self._place.judge.verdict(step)
            if verdict.state == "up-to-date":
                return self._up_to_date(step, verdict, started)
        if verdict.state != "hit":
            return None
        with self._lock(step):
            return self._restored(step, verdict, started)

    def carry_out(
        self, step: Step, execute: Execute, environ: Mapping[str, str], *, waits: Callable[[], None]
    ) -> Outcome:
        """Bring the step to its end; waits: is called where another process is at the same.

        Raises BuildrunError where something else than the command failed.
        """
        started = time.monotonic()
        with self._lock(step, waits):
            with self._mutex:
                verdict = self._place.judge.verdict(step)
                if verdict.state == "up-to-date":
                    return self._up_to_date(step, verdict, started)
            if verdict.state == "hit" and (done := self._restored(step, verdict, started)):
                return done
            if verdict.state == "hit":
                verdict = verdict._replace(state="miss", reasons=(*verdict.reasons, _LOST))
            key_lock = self._key_lock(verdict, waits)
            try:
                if key_lock is not None and (again := self._made_meanwhile(step, verdict, started)):
                    return again
                return self._run(step, verdict, execute, environ)
            finally:
                if key_lock is not None:
                    key_lock.release()

    # -- without a command ---------------------------------------------------------------------

    def _up_to_date(self, step: Step, verdict: Verdict, started: float) -> Outcome:
        place = self._place
        last = place.history.last(step.id)
        if verdict.manifest is not None:
            seconds = verdict.manifest.seconds
            self._note(step, verdict, verdict.outputs or "", seconds)
        else:
            seconds = last.seconds if last is not None else 0.0
        if verdict.on_disk is not None:
            self._taken[step.id] = verdict.on_disk
        place.judge.settle(step.id, verdict.outputs or "")
        return self._outcome(step, "up-to-date", verdict, started, saved=seconds)

    def _restored(self, step: Step, verdict: Verdict, started: float) -> Outcome | None:
        """Restore the result of a hit; None where it is not whole any more."""
        from buildrun.errors import StoreError
        from buildrun.store.blobs import Lost

        place, manifest = self._place, verdict.manifest
        if manifest is None:
            return None
        try:
            place.results.restore(manifest, verdict.on_disk)
        except Lost:
            return None
        except StoreError as error:
            place.console.warn(f"[{step.id}] {error.message}", error.hint or "")
            return None
        with self._mutex:
            place.fingerprints.forget()
            taken = place.fingerprints.outputs(step.outputs)
            if taken.digest != manifest.outputs:
                place.results.distrust(manifest)
                return None
            self._taken[step.id] = taken
            self._note(step, verdict, manifest.outputs, manifest.seconds)
            place.judge.settle(step.id, manifest.outputs)
        log = self._replay(step, verdict)
        outcome = self._outcome(step, "cached", verdict, started, saved=manifest.seconds)
        return outcome._replace(log=log)

    def _replay(self, step: Step, verdict: Verdict) -> str | None:
        from buildrun.output import replay

        place, manifest = self._place, verdict.manifest
        if manifest is None:
            return None
        place.console.note(place.console.style(f"[{step.id}] restored from the cache", "dim"))
        path = self._log_path(step)
        try:
            if not place.results.fetch_log(manifest, path):
                return None
            replay(path, manifest.streams, self._display)
        except BrokenPipeError:
            raise
        except OSError:
            return None
        return path

    def _made_meanwhile(self, step: Step, verdict: Verdict, started: float) -> Outcome | None:
        """Look again, under the key's lock, for a result that another process has made."""
        if verdict.key is None or any(reason.code == "forced" for reason in verdict.reasons):
            return None
        manifest = self._place.results.find(verdict.key)
        if manifest is None or any(reason.code == "result-lost" for reason in verdict.reasons):
            return None
        return self._restored(step, verdict._replace(state="hit", manifest=manifest), started)

    # -- with a command ------------------------------------------------------------------------

    def _run(
        self, step: Step, verdict: Verdict, execute: Execute, environ: Mapping[str, str]
    ) -> Outcome:
        from buildrun.output import Log
        from buildrun.secrets import redact
        from buildrun.store.aside import set_aside

        place = self._place
        console, root = place.console, place.plan.project.root
        log = Log(self._log_path(step), step.id, self._display)
        failed = True
        console.note(console.style(f"[{step.id}] {redact(step.command)}", "dim"))
        try:
            aside = set_aside(root, step.outputs) if step.outputs else None
            try:
                result, seconds = self._attempts(step, execute, environ, log)
                failed = result.exit_code != 0 or result.interrupted is not None
                outcome = self._ended(step, verdict, result, seconds, log)
                failed = outcome.state != "ok"
            finally:
                if aside is not None:
                    if failed:
                        aside.put_back()
                    aside.discard()
        finally:
            log.close(failed=failed)
        return outcome

    def _attempts(
        self, step: Step, execute: Execute, environ: Mapping[str, str], log: Log
    ) -> tuple[Result, float]:
        job = Job(
            step.command,
            self._place.plan.project.root,
            {**environ, **dict(step.env)},
            timeout=step.timeout,
        )
        for attempt in range(step.retries + 1):
            started = time.monotonic()
            result = execute(job, log.sink)
            seconds = time.monotonic() - started
            if result.exit_code == 0 or result.interrupted is not None or attempt == step.retries:
                break
            if step.outputs:
                from buildrun.store.aside import set_aside

                set_aside(job.cwd, step.outputs).discard()
            self._place.console.warn(
                f"[{step.id}] {_ending(result, step)}; try {attempt + 2} of {step.retries + 1}"
            )
        return result, seconds

    def _ended(
        self, step: Step, verdict: Verdict, result: Result, seconds: float, log: Log
    ) -> Outcome:
        place = self._place
        if result.interrupted is not None or result.exit_code != 0:
            state: State = "cancelled" if result.interrupted is not None else "failed"
            if state == "failed":
                place.console.error(f"[{step.id}] {_ending(result, step)}", f"its log: {log.path}")
            return Outcome(
                step,
                state,
                verdict.reasons,
                result.exit_code,
                seconds,
                log=log.path,
            )
        with self._mutex:
            place.fingerprints.forget()
            if step.outputs:
                taken = place.fingerprints.outputs(step.outputs)
                if taken.unmatched:
                    return self._without_output(step, verdict, taken, seconds, log)
                self._taken[step.id] = taken
                place.judge.settle(step.id, taken.digest)
                self._keep(step, verdict, taken, seconds, log)
            else:
                place.judge.settle(step.id, verdict.outputs or place.judge.identity(step))
        return Outcome(step, "ok", verdict.reasons, 0, seconds, log=log.path)

    def _without_output(
        self, step: Step, verdict: Verdict, taken: Taken, seconds: float, log: Log
    ) -> Outcome:
        names = ", ".join(f"`{printable(path)}`" for path in taken.unmatched)
        self._place.console.error(
            f"[{step.id}] the command succeeded without making its output {names}",
            "correct `outputs`, which are relative to the project, or the command",
        )
        reasons = (*verdict.reasons, Reason("output-not-made", f"{names} was not made"))
        return Outcome(step, "failed", reasons, 1, seconds, log=log.path)

    def _keep(self, step: Step, verdict: Verdict, taken: Taken, seconds: float, log: Log) -> None:
        """Keep the result, if what it was made from is known for certain."""
        place = self._place
        if not place.keep:
            return
        obstacle = (
            verdict.obstacle
            or self._changed(verdict, step)
            or (taken.problems[0] if taken.problems else "")
        )
        if obstacle:
            place.console.warn(
                f"[{step.id}] the result is not cached: {obstacle}",
                "declare what the command writes under `outputs`, or name its `inputs`",
            )
            self._note(step, verdict._replace(key=""), taken.digest, seconds)
            return
        if verdict.key is None or verdict.parts is None or verdict.inputs is None:
            return
        try:
            place.results.save(
                self._manifest(step, verdict, taken, seconds, log), taken, verdict.inputs, log.path
            )
        except StoreError as error:
            place.console.warn(f"[{step.id}] the result is not cached: {error}", error.hint or "")
        self._note(step, verdict, taken.digest, seconds)

    def _changed(self, verdict: Verdict, step: Step) -> str:
        """Return which input changed while the command ran, or ""."""
        sources = [verdict.inputs] if verdict.inputs is not None else []
        sources += [self._taken[name] for name in step.depends_on if name in self._taken]
        for taken in sources:
            changed = self._place.fingerprints.changed(taken)
            if changed:
                more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
                return f"`{printable(changed[0])}`{more} changed while the command ran"
        return ""

    def _manifest(
        self, step: Step, verdict: Verdict, taken: Taken, seconds: float, log: Log
    ) -> Manifest:
        from buildrun.store.manifest import Manifest

        if verdict.key is None or verdict.parts is None or verdict.inputs is None:
            raise AssertionError(step.id)
        return Manifest(
            key=verdict.key,
            parts=verdict.parts.key_parts,
            project=self._place.plan.project.name,
            step=step.id,
            entry_point=step.entry_point,
            inputs=verdict.inputs.digest,
            outputs=taken.digest,
            declared=step.outputs,
            log="",
            streams=tuple(log.streams),
            seconds=round(seconds, 3),
            created=time.time(),
            producer=__version__,
            details=verdict.parts.details,
        )

    # -- both ----------------------------------------------------------------------------------

    def _note(self, step: Step, verdict: Verdict, outputs: str, seconds: float) -> None:
        parts = verdict.parts
        if parts is None or verdict.inputs is None:
            return
        last = Last(
            verdict.key or "",
            parts.key_parts,
            parts.details,
            verdict.inputs.digest,
            outputs,
            round(seconds, 3),
        )
        if self._place.keep and self._place.history.last(step.id) != last:
            self._place.history.add(step.id, last)

    def _outcome(
        self, step: Step, state: State, verdict: Verdict, started: float, *, saved: float
    ) -> Outcome:
        seconds = time.monotonic() - started
        return Outcome(step, state, verdict.reasons, None, seconds, saved=saved)

    def _log_path(self, step: Step) -> str:
        from buildrun.output import file_name

        path = os.path.join(self._place.logs, file_name(self._numbers[step.id], step.id))
        try:
            os.makedirs(self._place.logs, mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"no log can be written: {(error.strerror or str(error)).lower()}",
                place=self._place.logs,
                hint="set BUILDRUN_HOME to a directory that you may write to",
            ) from None
        return path

    def _lock(self, step: Step, waits: Callable[[], None] | None = None) -> locks.Lock:
        """Return the only hold on the step in this project, after what a killed run has left."""
        name = f"{self._place.plan.project.root}\0{step.entry_point}"
        lock = self._exclusive(name, waits)
        if step.outputs and not self._recovered:
            from buildrun.store.staging import recover

            recover(self._place.plan.project.root)
            self._recovered = True
        return lock

    def _key_lock(self, verdict: Verdict, waits: Callable[[], None]) -> locks.Lock | None:
        return self._exclusive(verdict.key, waits) if verdict.key and self._place.keep else None

    def _exclusive(self, name: str, waits: Callable[[], None] | None) -> locks.Lock:
        directory = os.path.join(self._place.home.memory, "locks")
        digest = xxhash.xxh3_128_hexdigest(name.encode(errors="surrogateescape"))
        try:
            os.makedirs(directory, exist_ok=True)
            return locks.exclusive(os.path.join(directory, digest), waiting=waits)
        except OSError:
            return locks.Lock(-1)  # a store that may only be read: nobody else can wait either


def _ending(result: Result, step: Step) -> str:
    if result.timed_out:
        return f"the command was ended after its timeout of {step.timeout:g} seconds"
    if result.exit_code > 128:
        return (
            f"the command ended with exit code {result.exit_code} (signal {result.exit_code - 128})"
        )
    return f"the command ended with exit code {result.exit_code}"
