"""The record of a run: for `buildrun runs`, for `--report`, and for its MLflow run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.console import has_credentials
from buildrun.errors import FAILURE, BuildrunError, Interrupted
from buildrun.reports import report_file
from buildrun.store import runs
from buildrun.tracking.session import TrackingSession

if TYPE_CHECKING:
    from buildrun.planning.context import PlanSummary, RunContext
    from buildrun.planning.model import Outcome, Step
    from buildrun.planning.progress import Progress

_UNCHANGED = {"code": "unchanged", "detail": "nothing has changed since it was made"}

# States of steps, in the words of the line at the end.
_WORDS = (
    ("ok", "ran"),
    ("cached", "from the cache"),
    ("up-to-date", "up to date"),
    ("failed", "failed"),
    ("skipped", "skipped"),
    ("cancelled", "cancelled"),
    ("submitted", "submitted"),
)


class RunRecorder:
    """What is known of a run at any moment, for its record, its report and its MLflow run.

    exit_code: that buildrun will exit with. interrupted: the signal that ended the run, else None.
    """

    def __init__(
        self, context: RunContext, report: str | None, untracked: Mapping[str, str | None]
    ) -> None:
        """Start with nothing known; report: a path."""
        self._context = context
        self._report_path = report
        self.tracking = TrackingSession(context, untracked)
        self.exit_code = FAILURE
        self.interrupted: int | None = None
        self._summary: PlanSummary | None = None
        self._own_id = context.options.run_id or runs.new_id()
        self._started = time.monotonic()
        self._record: runs.Record | None = None
        self._progress: Progress | None = None
        self._alone: tuple[Step, float, str | None] | None = None
        self._steps: Sequence[Any] | None = None

    @property
    def run_id(self) -> str:
        """Return the run's id: that of MLflow's run, once there is one."""
        return self.tracking.run_id or self._own_id

    def expect(self, summary: PlanSummary) -> None:
        """Note what is going to run, also for the record of a run that ends before it begins."""
        self._summary = summary

    def begin_alone(self, step: Step, changes: Mapping[str, str | None]) -> str | None:
        """Record that a lone command begins; return where its output is kept, unless secret."""
        given = [value for value in changes.values() if value is not None]
        log = None
        if step.shown == step.command and not any(map(has_credentials, given)):
            directory = runs.directory(self._context.home.runs, self.run_id)
            log = os.path.join(directory, runs.file_name(0, step.id))
        self._alone = (step, time.monotonic(), log)
        self._begin()
        return log

    def end_alone(self, exit_code: int, interrupted: int | None) -> None:
        """Take how a lone command has ended; one that had to be killed ends as our signal says."""
        killed = interrupted is not None and exit_code == 128 + signal.SIGKILL
        self.exit_code = 128 + (interrupted or 0) if killed else exit_code
        self.interrupted = interrupted

    def begin_steps(self, progress: Progress) -> None:
        """Record that a run of steps begins; progress: tells how far it has come."""
        self._progress = progress
        self._begin()

    def finish_steps(self, origins: Mapping[str, str]) -> None:
        """Take how the steps have ended, and say it; origins: the MLflow runs of their results."""
        progress, console = self._progress, self._context.console
        if progress is None:
            return
        self.exit_code, self.interrupted = progress.exit_code(), progress.interrupted
        progress.close()
        outcomes = progress.outcomes.values()
        states = [outcome.state for outcome in outcomes]
        saved = sum(outcome.saved for outcome in outcomes)
        console.note(_summary(states, time.monotonic() - self._started, saved))
        self.tracking.log_outcomes(
            [(step.id, progress.outcomes[step.id].state) for step in progress.plan.steps],
            lambda: origins,
        )
        if self._is_submitted:
            console.note(
                "the same command follows what was submitted, and goes on with what waits for it; "
                "`buildrun runs show`, `runs logs -f` and `runs cancel` look after it"
            )

    def nothing_to_do(self, saved: float) -> None:
        """Record that every step is up to date; saved: the seconds that they once took."""
        steps = self._known().steps
        self.exit_code = 0
        self._steps = [_step_to_json(*step, "up-to-date") for step in steps]
        states = ["up-to-date"] * len(steps)
        self._begin(write=False)
        self._context.console.note(_summary(states, time.monotonic() - self._started, saved))
        names = [name for name, _ in steps]
        self.tracking.log_outcomes([(name, "up-to-date") for name in names], self._origins)

    def interrupt(self, number: int) -> None:
        """Note that a signal ended it."""
        self.exit_code, self.interrupted = 128 + number, number
        if self._progress is not None:
            self._progress.interrupted = number

    def fail(self, error: BuildrunError) -> None:
        """Note what stopped it."""
        if isinstance(error, Interrupted):
            self.interrupt(error.exit_code - 128)
        else:
            self.exit_code = error.exit_code

    def close(self) -> None:
        """Record how the run went, and tell the tracking server."""
        if self._progress is not None:
            self._progress.close()
        if self._record is None and self._summary is not None:
            self._begin()  # its environment could not be built
        report = self._report()
        if self._record is not None:
            seconds = time.monotonic() - self._started
            record = runs.end(
                self._record, report["status"], report["exit_code"], seconds, report["steps"]
            )
            runs.write(self._context.home.runs, record)
        try:
            if self._is_submitted:
                self.tracking.leave()  # it goes on
            else:
                self.tracking.end(self.exit_code, self.interrupted)
        finally:
            if self._report_path is not None:
                report_file.write(self._report_path, report, self._context.console)

    def _begin(self, *, write: bool = True) -> None:
        known = self._known()
        self._record = runs.begin(self.run_id, known.project, known.where, known.steps[-1][1])
        if write:
            runs.write(self._context.home.runs, self._record)

    def _origins(self) -> Mapping[str, str]:
        """Return the MLflow runs that made the last results of the steps."""
        from buildrun.planning.state import origins_of
        from buildrun.planning.step_history import History

        known = self._known()
        history = History(self._context.home.about(known.root, "steps"), write=False)
        return origins_of(history, [name for name, _ in known.steps])

    def _known(self) -> PlanSummary:
        if self._summary is None:
            raise AssertionError
        return self._summary

    @property
    def _is_submitted(self) -> bool:
        """Return whether steps were left to a cluster."""
        outcomes = self._progress.outcomes.values() if self._progress is not None else ()
        return any(outcome.state == "submitted" for outcome in outcomes)

    def _report(self) -> Any:
        """Return the run in the stable shape of `run --report`."""
        status: Any = "ok" if self.exit_code == 0 else "failed"
        if self.interrupted is not None:
            status = "cancelled"
        ended: list[Outcome] = []
        if self._progress is not None:
            outcomes = self._progress.outcomes
            ended = [outcomes[step.id] for step in self._progress.plan.steps if step.id in outcomes]
            status = "submitted" if self._is_submitted and status == "ok" else status
        elif self._alone is not None:
            from buildrun.planning import model

            step, began, log = self._alone
            log = log if log is not None and os.path.exists(log) else None
            seconds = time.monotonic() - began
            reasons = (model.NO_OUTPUTS,)
            ended = [model.Outcome(step, status, reasons, self.exit_code, seconds, log=log)]
        steps = self._steps
        if steps is None:
            steps = [_outcome_to_json(outcome) for outcome in ended]
        return {
            "version": 1,
            "run_id": self.run_id,
            "status": status,
            "exit_code": self.exit_code,
            "steps": steps,
        }


def _outcome_to_json(outcome: Outcome) -> dict[str, Any]:
    return {
        **_step_to_json(outcome.step.id, outcome.step.entry_point, outcome.state),
        "exit_code": outcome.exit_code,
        "seconds": round(outcome.seconds, 3),
        "log": outcome.log,
        "reasons": [reason._asdict() for reason in outcome.reasons],
    }


def _step_to_json(name: str, entry_point: str, state: str) -> dict[str, Any]:
    """Return how a step ended of which no command ran, in the stable shape of `run --report`."""
    how = {"state": state, "exit_code": None, "seconds": 0.0, "log": None}
    return {"id": name, "entry_point": entry_point, **how, "reasons": [_UNCHANGED]}


def _summary(states: Sequence[str], seconds: float, saved: float) -> str:
    """Return one line on how the steps went and what the cache saved."""
    counts = [f"{states.count(state)} {word}" for state, word in _WORDS if state in states]
    steps = "1 step" if len(states) == 1 else f"{len(states)} steps"
    rest = f", {saved:.1f} s saved" if saved >= 0.05 else ""
    return f"{steps}: {', '.join(counts)} in {seconds:.1f} s{rest}"
