"""The record of a run: for `buildrun runs`, for `--report`, and for its MLflow run."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.console import Console, counted, has_credentials, printable, redact, state_counts
from buildrun.errors import FAILURE, BuildrunError, Interrupted
from buildrun.reports import report_file
from buildrun.store import runs
from buildrun.tracking.session import TrackingSession

if TYPE_CHECKING:
    from buildrun.executors.base import ResolvedImage, Result, Usage
    from buildrun.planning.context import PlanSummary, RunContext
    from buildrun.planning.model import Outcome, Plan, Step
    from buildrun.planning.progress import Progress
    from buildrun.reports.model import ReasonReport, RunReport, StepReport

_UNCHANGED: ReasonReport = {"code": "unchanged", "detail": "nothing has changed since it was made"}


class RunRecorder:
    """What is known of a run at any moment, for its record, its report and its MLflow run.

    exit_code: that buildrun will exit with. interrupted: the signal that ended the run, else None.
    image: that the commands run in, once it is known.
    """

    def __init__(
        self,
        context: RunContext,
        reports: Sequence[str],
        untracked: Mapping[str, str | None],
        provenance: str | None = None,
    ) -> None:
        """Start with nothing known; reports, provenance: absolute paths."""
        self._context = context
        self._report_paths = reports
        self._provenance_path = provenance
        self._made_from: tuple[str, bytes | None] | None = None
        if provenance is not None:
            from buildrun.reports.provenance import remove_earlier

            remove_earlier(provenance)  # a run that is killed leaves none
        self.tracking = TrackingSession(context, untracked)
        self.exit_code = FAILURE
        self._error: BuildrunError | None = None
        self.interrupted: int | None = None
        self.image: ResolvedImage | None = None
        self._summary: PlanSummary | None = None
        self._own_id = context.options.run_id or runs.new_id()
        self._began, self._started = time.time(), time.monotonic()
        self._record: runs.Record | None = None
        self._progress: Progress | None = None
        self._alone: tuple[Step, float, str | None] | None = None
        self._usage: Usage | None = None
        self._steps: list[StepReport] | None = None

    @property
    def run_id(self) -> str:
        """Return the run's id: that of MLflow's run, once there is one."""
        return self.tracking.run_id or self._own_id

    def expect(self, summary: PlanSummary) -> None:
        """Note what is going to run, also for the record of a run that ends before it begins."""
        self._summary = summary
        if self._provenance_path is not None:
            from buildrun.tracking import provenance

            self._made_from = provenance.look(summary.root, self._context)

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

    def end_alone(self, result: Result) -> None:
        """Take how a lone command has ended; one that had to be killed ends as our signal says."""
        number = result.interrupted
        killed = number is not None and result.exit_code == 128 + signal.SIGKILL
        self.exit_code = 128 + (number or 0) if killed else result.exit_code
        self.interrupted, self._usage = number, result.usage

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
        console.note(_summary(console, states, time.monotonic() - self._started, saved))
        self.tracking.log_outcomes(
            [(step.id, progress.outcomes[step.id].state) for step in progress.plan.steps],
            lambda: origins,
        )
        if self._is_submitted:
            console.note(
                "the same command follows what was submitted, and goes on with what waits for it; "
                "`buildrun runs show`, `runs logs -f` and `runs cancel` look after it"
            )

    def nothing_to_do(
        self, saved: float, decode: Callable[[], tuple[Plan, ResolvedImage | None]]
    ) -> None:
        """Record that every step is up to date.

        saved: the seconds that they once took. decode: what a report tells of beyond that.
        """
        steps = self._known().steps
        self.exit_code = 0
        if self._report_paths or self._provenance_path is not None or self._is_on_github:
            plan, self.image = decode()
            self._steps = [_step_report(each, self.image) for each in self._unchanged(plan)]
        else:
            self._steps = [_unchanged_report(*step) for step in steps]
        states = ["up-to-date"] * len(steps)
        self._begin(write=False)
        console = self._context.console
        console.note(_summary(console, states, time.monotonic() - self._started, saved))
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
            self.exit_code, self._error = error.exit_code, error

    def write_provenance(self) -> None:
        """Write the run's provenance, while the project's directory is there."""
        if self._provenance_path is not None:
            from buildrun.tracking import provenance

            root = self._summary.root if self._summary is not None else ""
            provenance.write(
                self._provenance_path, self._report(), root, self._context, self._made_from
            )

    def close(self) -> None:
        """Record how the run went, and tell the tracking server."""
        if self._progress is not None:
            self._progress.close()
        if self._record is None and self._summary is not None:
            self._begin()  # its environment could not be built
        report = self._report()
        if self._record is not None:
            record = runs.end(
                self._record, report["status"], self.exit_code, report["seconds"], report["steps"]
            )
            runs.write(self._context.home.runs, record)
        try:
            if self._is_submitted:
                self.tracking.leave()  # it goes on
            else:
                self.tracking.end(self.exit_code, self.interrupted)
        finally:
            for path in self._report_paths:
                report_file.write(path, report, self._context.home, self._context.console)
            if self._is_on_github:
                from buildrun.reports import ci

                ci.tell(report, self._context.environ, self._context.console)

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
    def _is_on_github(self) -> bool:
        return self._context.environ.get("GITHUB_ACTIONS") == "true"

    @property
    def _is_submitted(self) -> bool:
        """Return whether steps were left to a cluster."""
        outcomes = self._progress.outcomes.values() if self._progress is not None else ()
        return any(outcome.state == "submitted" for outcome in outcomes)

    def _report(self) -> RunReport:
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
            ended = [self._outcome_alone(status)]
        steps = self._steps
        if steps is None:
            steps = [_step_report(outcome, self.image) for outcome in ended]
        seconds = round(time.monotonic() - self._started, 3)
        report: RunReport = {
            "version": 1,
            "run_id": self.run_id,
            "status": status,
            "exit_code": self.exit_code,
            "started": round(self._began, 3),
            "seconds": seconds,
            "steps": steps,
        }
        if self._summary is not None:
            report["project"] = self._summary.project
            report["root"] = self._summary.where
            report["entry_point"] = self._summary.steps[-1][1]
        if self._error is not None:
            place = f"{self._error.place}: " if self._error.place else ""
            report["error"] = printable(redact(f"{place}{self._error.message}"))
        return report

    def _outcome_alone(self, status: Any) -> Outcome:
        from buildrun.planning import model

        if self._alone is None:
            raise AssertionError
        step, began, log = self._alone
        log = log if log is not None and os.path.exists(log) else None
        seconds = time.monotonic() - began
        return model.Outcome(
            step, status, (model.NO_OUTPUTS,), self.exit_code, seconds,
            log=log, started=time.time() - seconds, usage=self._usage,
        )  # fmt: skip

    def _unchanged(self, plan: Plan) -> Iterator[Outcome]:
        """Yield the steps of a plan in which nothing has changed."""
        from buildrun.planning import evidence
        from buildrun.planning.model import Outcome, Reason
        from buildrun.planning.state import fingerprints_of
        from buildrun.planning.step_history import History

        home, now = self._context.home, time.time()
        history = History(home.about(plan.root, "steps"), write=False)
        fingerprints = fingerprints_of(plan.root, home, write=False)
        for step in plan.steps:
            last, made = history.last(step.id), fingerprints.outputs(step.outputs)
            key, saved = (last.key or None, last.seconds) if last is not None else (None, 0.0)
            yield Outcome(
                step, "up-to-date", (Reason(**_UNCHANGED),),
                saved=saved, started=now, key=key, outputs=made.sizes(),
                assurance=last and evidence.assurance_of(last.details),
            )  # fmt: skip


def _step_report(outcome: Outcome, image: ResolvedImage | None) -> StepReport:
    step, started, usage = outcome.step, outcome.started, outcome.usage
    return {
        "id": step.id,
        "entry_point": step.entry_point,
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "seconds": round(outcome.seconds, 3),
        "log": outcome.log,
        "reasons": [{"code": code, "detail": detail} for code, detail in outcome.reasons],
        "started": None if started is None else round(started, 3),
        "cpu_seconds": None if usage is None else round(usage.cpu_seconds, 3),
        "peak_memory": None if usage is None else usage.peak_memory,
        "parameters": dict(step.shown_parameters),
        "command": step.shown,
        "depends_on": list(step.depends_on),
        "backend": step.backend,
        "environment": {
            "manager": step.environment.manager,
            "key": step.environment.key,
            "lock": step.environment.lock,
            "platform": step.environment.platform,
        },
        "image": None if image is None else image.pushed or image.id,
        "key": outcome.key,
        "saved": round(outcome.saved, 3),
        "outputs": [{"path": path, "bytes": size} for path, size in outcome.outputs],
        "assurance": outcome.assurance,
    }


def _unchanged_report(name: str, entry_point: str) -> StepReport:
    """Return what is known of a step that is up to date before its plan is decoded."""
    return {
        "id": name,
        "entry_point": entry_point,
        "state": "up-to-date",
        "exit_code": None,
        "seconds": 0.0,
        "log": None,
        "reasons": [_UNCHANGED],
    }


def _summary(console: Console, states: Sequence[str], seconds: float, saved: float) -> str:
    """Return one line on how the steps went and what the cache saved."""
    counts = [console.state(state, text) for state, text in state_counts(states)]
    rest = f", {saved:.1f} s saved" if saved >= 0.05 else ""
    return f"{counted(len(states), 'step')}: {', '.join(counts)} in {seconds:.1f} s{rest}"
