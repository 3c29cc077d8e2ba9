"""How a run goes, for its report and its record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from buildrun.commands import run_steps
from buildrun.errors import FAILURE, BuildrunError, Interrupted
from buildrun.executors.base import Result
from buildrun.prepared import Prepared, log_of, mend_alone, report
from buildrun.scheduler import Progress
from buildrun.store import runs

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext
    from buildrun.commands.tracked import Tracking
    from buildrun.plan.model import Plan
    from buildrun.store.locks import Lock


class RunRecorder:
    """What is known of a run at any moment.

    prepared: the lone command that runs; progress: how far a plan of steps has come. lock: the
    hold on the environment in use. tracking: of the run at a tracking server. where: the
    project's place, as its record tells it; "" for its directory.
    """

    def __init__(self, running: RunContext, tracking: Tracking) -> None:
        """Start with nothing known."""
        self._running = running
        self.tracking = tracking
        self._started = time.monotonic()
        self._record: runs.Record | None = None
        self._intended: Plan | None = None
        self._own_id = running.options.run_id or runs.new_id()
        self.where = ""
        self.prepared: Prepared | None = None
        self.progress: Progress | None = None
        self.result = Result(FAILURE)
        self.lock: Lock | None = None

    @property
    def run_id(self) -> str:
        """Return the run's id: that of MLflow's run, once there is one."""
        return self.tracking.run_id or self._own_id

    @property
    def log(self) -> str | None:
        """Return where the output of the lone command is kept, see ``prepared.log_of``."""
        if self.prepared is None:
            return None
        return log_of(self.prepared, self._running.home.runs, self.run_id)

    @property
    def exit_code(self) -> int:
        """Return the code that buildrun will exit with."""
        return self.result.exit_code

    def intend(self, first: Plan) -> None:
        """Note what is going to run, for the record of a run whose environment cannot be built."""
        self._intended = first

    def begin(self, made: Plan) -> None:
        """Record that the run of a lone command has begun, and mend what killed ones have left."""
        self._begin(made)
        running = self._running
        directory = runs.directory(running.home.runs, self.run_id)
        mend_alone(made.project.root, directory, running.console)

    def _begin(self, made: Plan) -> None:
        project, name = made.project, made.steps[-1].entry_point
        where = self.where or project.root
        self._record = runs.begin(self.run_id, project.name, where, name)
        runs.write(self._running.home.runs, self._record)

    def begin_steps(self, made: Plan) -> Progress:
        """Record that a run of steps has begun, and return what is to tell how far it has come."""
        self.progress = Progress(made)
        self._begin(made)
        return self.progress

    def interrupt(self, number: int) -> None:
        """Note that a signal ended it."""
        self.result = Result(128 + number, number)
        if self.progress is not None:
            self.progress.interrupted = number

    def fail(self, error: BuildrunError) -> None:
        """Note what stopped it."""
        if isinstance(error, Interrupted):
            self.interrupt(error.exit_code - 128)
        else:
            self.result = Result(error.exit_code)

    def close(self) -> None:
        """Let go of the environment, and record how the run went."""
        if self.lock is not None:
            self.lock.release()
        if self.progress is not None:
            self.progress.close()
        if self._record is None and self._intended is not None:
            self.begin(self._intended)
        if self._record is not None:
            value = self.report()
            seconds = time.monotonic() - self._started
            record = runs.end(
                self._record, value["status"], value["exit_code"], seconds, value["steps"]
            )
            runs.write(self._running.home.runs, record)
        if self._is_submitted:
            self.tracking.leave()  # it goes on
        else:
            self.tracking.end(self.result.exit_code, self.result.interrupted)

    @property
    def _is_submitted(self) -> bool:
        """Return whether steps were left to a cluster."""
        outcomes = self.progress.outcomes.values() if self.progress is not None else ()
        return any(outcome.state == "submitted" for outcome in outcomes)

    def report(self) -> Any:
        """Return the run in the stable shape of `--report`."""
        seconds = time.monotonic() - self._started
        value = report(self.run_id, self.prepared, self.result, seconds, self.log)
        if self.progress is not None:
            value["steps"] = [
                run_steps.to_json(self.progress.outcomes[step.id])
                for step in self.progress.plan.steps
                if step.id in self.progress.outcomes
            ]
            if self._is_submitted and value["status"] == "ok":
                value["status"] = "submitted"
        return value

    def summary(self) -> None:
        """Say how the steps went."""
        if self.progress is not None:
            self.progress.close()
            seconds = time.monotonic() - self._started
            self._running.console.note(run_steps.summary(self.progress, seconds))
