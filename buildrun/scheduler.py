"""The loop over a plan: first what needs no command, then the rest, several at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import printable
from buildrun.errors import BuildrunError, Interrupted
from buildrun.planning.model import Outcome, Reason, Step

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.executors.supervisor import Supervisor
    from buildrun.planning.progress import Progress
    from buildrun.step_runner import StepRunner

# Seconds between two looks of the live line.
_LIVE = 0.25


class Limits(NamedTuple):
    """How the steps are gone through.

    jobs: how many at once. keep_going: whether a failure stops only what depends on it.
    """

    jobs: int = 1
    keep_going: bool = False


def resolve_cached(progress: Progress, step_runner: StepRunner, console: Console) -> None:
    """Do all that takes no command, as far as that is known now."""
    step_runner.recover()
    for step in progress.plan.steps:
        if progress.settled(step) and step.outputs:
            try:
                outcome = step_runner.try_without_command(step, partial(_waiting, step, console))
            except Interrupted:
                raise
            except BuildrunError as error:
                outcome = _failure(step, error, console)
            if outcome is not None:
                progress.outcomes[step.id] = outcome


def may_continue(progress: Progress, limits: Limits) -> bool:
    """Return whether there are steps that may still start."""
    return bool(progress.remaining()) and (limits.keep_going or not progress.failures())


def run_remaining(
    progress: Progress,
    step_runner: StepRunner,
    environ: Mapping[str, str],
    weights: Mapping[str, float],
    limits: Limits,
    console: Console,
) -> None:
    """Carry out the remaining steps, those with the largest weight first.

    environ: what commands see, those variables aside that a step sets for itself.
    Raises what is a defect; failures of steps are in ``progress``.
    """
    from buildrun.executors.supervisor import Supervisor

    with Supervisor() as supervisor:
        loop = _Scheduler(progress, step_runner, environ, weights, limits, console, supervisor)
        loop.start_ready()
        if console.live and limits.jobs > 1:
            supervisor.tick(_LIVE, loop.show)
        progress.interrupted = supervisor.loop(loop.is_done)
    console.done()
    if progress.defect is not None:
        raise progress.defect


class _Scheduler:
    """The state of the loop; everything but `_work` is called in the supervisor's thread."""

    def __init__(
        self,
        progress: Progress,
        step_runner: StepRunner,
        environ: Mapping[str, str],
        weights: Mapping[str, float],
        limits: Limits,
        console: Console,
        supervisor: Supervisor,
    ) -> None:
        self._progress = progress
        self._step_runner = step_runner
        self._environ = environ
        self._limits = limits
        self._console = console
        self._supervisor = supervisor
        self._running: dict[str, float] = {}
        # Steps that wait for another process; once the run is interrupted they are left alone.
        self._blocked: set[str] = set()
        self._abandoned = False
        self._mutex = threading.Lock()
        self._waiting = sorted(progress.remaining(), key=lambda step: -weights.get(step.id, 0.0))

    def start_ready(self) -> None:
        """Start what can be, as long as there is room."""
        for step in list(self._waiting):
            if len(self._running) >= self._limits.jobs or self._is_stopped():
                return
            if self._progress.settled(step):
                self._waiting.remove(step)
                self._running[step.id] = time.monotonic()
                threading.Thread(target=self._run_step, args=(step,), daemon=True).start()

    def is_done(self) -> bool:
        """Return whether nothing runs and nothing can be started any more."""
        if not self._running:
            return True
        with self._mutex:
            if self._supervisor.interrupted is not None and self._blocked == set(self._running):
                self._abandoned = True
            return self._abandoned

    def show(self) -> None:
        """Draw the live line."""
        now = time.monotonic()
        done = len(self._progress.outcomes)
        running = ", ".join(f"{name} {now - since:.0f} s" for name, since in self._running.items())
        self._console.progress(f"[{done}/{len(self._progress.plan.steps)}] {running}"[:120])

    def _is_stopped(self) -> bool:
        if self._supervisor.interrupted is not None or self._progress.defect is not None:
            return True
        return bool(self._progress.failures()) and not self._limits.keep_going

    def _run_step(self, step: Step) -> None:
        """Carry the step out, in a thread of its own."""
        try:
            outcome = self._step_runner.run(
                step, self._supervisor, self._environ, partial(self._wait, step)
            )
        except _Abandoned:
            return
        except BrokenPipeError:
            outcome = Outcome(step, "failed", (Reason("error", "nobody reads the output"),), 1)
        except (BuildrunError, OSError) as error:
            outcome = _failure(step, error, self._console)
        except BaseException as error:
            self._progress.defect = error
            outcome = Outcome(step, "failed", (Reason("error", str(error)),), 1)
        self._supervisor.post(lambda: self._ended(outcome))

    @contextmanager
    def _wait(self, step: Step) -> Iterator[None]:
        """Wait for another process; raises _Left where the run has ended without this step."""
        with self._mutex:
            self._blocked.add(step.id)
        self._supervisor.post(_nothing)  # an interruption may have been before this
        with _waiting(step, self._console):
            yield
        with self._mutex:
            self._blocked.discard(step.id)
            if self._abandoned:
                raise _Abandoned

    def _ended(self, outcome: Outcome) -> None:
        self._progress.outcomes[outcome.step.id] = outcome
        del self._running[outcome.step.id]
        self.start_ready()


class _Abandoned(BaseException):
    """The run has ended while a step waited for another process."""


@contextmanager
def _waiting(step: Step, console: Console) -> Iterator[None]:
    console.note(f"[{printable(step.id)}] waiting for another run of it")
    yield


def _failure(step: Step, error: BuildrunError | OSError, console: Console) -> Outcome:
    """Tell of what stopped a step, other than its command."""
    if isinstance(error, OSError):
        place = error.filename if isinstance(error.filename, str) else None
        error = BuildrunError((error.strerror or str(error)).lower(), place=place)
    place = f"{printable(error.place)}: " if error.place else ""
    console.error(f"[{printable(step.id)}] {place}{error.message}", error.hint or "")
    return Outcome(step, "failed", (Reason("error", error.message),), error.exit_code)


def _nothing() -> None:
    pass
