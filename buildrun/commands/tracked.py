"""What a run of a project leaves at a tracking server."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildrun import tracking
from buildrun.errors import TrackingError
from buildrun.tracking.config import RunSpec, is_wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from buildrun.commands.session import LoadedProject, RunContext
    from buildrun.executors.base import Job, OutputSink, ProcessRunner, Result
    from buildrun.plan.model import Outcome, Plan, Step
    from buildrun.prepared import Prepared
    from buildrun.scheduler import Progress
    from buildrun.step_runner import Perform
    from buildrun.tracking.run import Status, TrackedRun
    from buildrun.tracking.tags import Checkout


class Tracking:
    """The tracking of one run of buildrun; nothing where nobody asks for it.

    mode: what `--tracking` says.
    """

    def __init__(self, running: RunContext, mode: str | None) -> None:
        """Decide whether there is any; nothing is sent yet."""
        options = running.options
        named = (options.experiment_id, options.experiment_name, options.run_id)
        self._running = running
        self._optional = mode == "optional"
        self._run: TrackedRun | None = None
        self._run_id: str | None = None
        self._late: TrackingError | None = None
        self._steps: dict[str, Step] = {}
        self.wanted = is_wanted(mode, running.environ, *named)
        # What was asked for, for the next run of the same command line.
        self.ask: RunSpec | None = None
        if mode != "off" and not is_wanted(mode, {**running.environ, "MLFLOW_RUN_ID": ""}, *named):
            # Whether the next run is tracked depends on it. Elsewhere it only names the parent,
            # and is another one each time.
            running.tracker.variable("MLFLOW_RUN_ID")

    @property
    def run_id(self) -> str | None:
        """Return the id of the run at the server, also after its end; None where there is none."""
        return self._run_id

    @property
    def artifacts(self) -> str | None:
        """Return the directory of this machine where the run's artifacts go, or None."""
        return self._run.artifacts if self._run is not None else None

    @property
    def is_late(self) -> bool:
        """Return whether an environment has to be there first, which may bring MLflow."""
        return self._late is not None

    @property
    def variables(self) -> Mapping[str, str | None]:
        """Return what commands see: a text to set, or None to remove."""
        return self._run.variables if self._run is not None else self.untracked

    @property
    def untracked(self) -> Mapping[str, str | None]:
        """Return what commands see where nothing is tracked."""
        options = self._running.options
        return tracking.variables(
            run_id=options.run_id,
            experiment_id=options.experiment_id,
            experiment_name=options.experiment_name,
        )

    def seen_by(self, prepared: Prepared) -> Prepared:
        """Return a command that sees the run."""
        return prepared._replace(changes={**prepared.changes, **self.variables})

    def begin(self, opened: LoadedProject, made: Plan) -> None:
        """Begin the run, or leave that to ``begin_late``.

        Raises TrackingError, unless tracking is optional.
        """
        if not self.wanted:
            return
        from buildrun.tracking.config import Missing

        self.ask = self._ask_for(opened, made)
        self._steps = {step.id: step for step in made.steps}
        try:
            self._begin(())
        except Missing as error:
            if made.steps[-1].backend == "local":
                self._late = error
            else:
                self._excuse(error)
        except TrackingError as error:
            self._excuse(error)

    def begin_with_environment(self, prefix: str | None) -> None:
        """Begin the run by means of the MLflow in an environment; raises as ``begin`` does."""
        error, self._late = self._late, None
        if error is None:
            return
        try:
            if prefix is None:
                raise error
            self._begin((prefix,))
        except TrackingError as trouble:
            self._excuse(trouble)

    def tag_image(self, reference: str, identity: str) -> None:
        """Tell which image the commands run in; raises as ``begin`` does."""
        if self._run is None:
            return
        from buildrun.tracking import tags

        try:
            self._run.log(tags.image(reference, identity))
        except TrackingError as error:
            self._excuse(error)

    def with_nested_runs(self, inner: Perform | None, origins: dict[str, str]) -> Perform | None:
        """Return what gives each step's command a run of its own, below the one of the last step.

        Two steps in one run could not log the same parameter. inner: performs a step, None for
        here. origins: takes the run of each step whose command was started.
        """
        run = self._run
        if run is None:
            return inner
        last = next(reversed(self._steps))

        def perform(
            step: Step,
            identity: Callable[[], str],
            job: Job,
            hands: ProcessRunner,
            sink: OutputSink,
        ) -> Result:
            below = self._nested(run, step) if step.id != last else None
            origins[step.id] = seen = (below or run).run_id
            environ = {**job.environ, "MLFLOW_RUN_ID": seen}
            status: Status = "FAILED"
            try:
                job = job._replace(environ=environ)
                if inner is None:
                    result = hands.run(job, sink)
                else:
                    result = inner(step, identity, job, hands, sink)
                status = _status(result.exit_code, result.interrupted)
                if result.detached and below is not None:
                    below.leave()
                    below = None
            finally:
                if below is not None:
                    below.end(status, self._running.console)
            return result

        return perform

    def log_steps(self, progress: Progress, origins: Mapping[str, str]) -> None:
        """Tell which results were there already; origins: the runs that made them, by step."""
        if self._run is None:
            return
        from buildrun.tracking import tags

        found = tags.outcomes(
            [(step.id, _state(progress.outcomes.get(step.id))) for step in progress.plan.steps],
            origins,
        )
        try:
            self._run.log(found)
        except TrackingError as error:
            self._running.console.warn(f"the MLflow run is not tagged: {error.message}")

    def end(self, exit_code: int, interrupted: int | None) -> None:
        """End the run, if one was begun; calling it again is harmless."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.end(_status(exit_code, interrupted), self._running.console)
        finally:
            run.close()

    def leave(self) -> None:
        """Leave the run open, since what it is about goes on without us."""
        run, self._run = self._run, None
        if run is not None:
            run.leave()
            run.close()

    def _begin(self, prefixes: tuple[str, ...]) -> None:
        from buildrun.tracking.run import begin

        if self.ask is None:
            raise AssertionError
        running = self._running
        self._run = begin(self.ask, running.environ, running.cwd, running.home, prefixes)
        self._run_id = self._run.run_id

    def _excuse(self, error: TrackingError) -> None:
        if not self._optional:
            raise error
        from buildrun.warm_tracking import excuse

        excuse(error, self._running.console)

    def _nested(self, run: TrackedRun, step: Step) -> TrackedRun | None:
        if self.ask is None:
            raise AssertionError
        tags = dict(self.ask.tags)
        tags["mlflow.project.entryPoint"] = step.entry_point
        params = self._steps.get(step.id, step).shown_parameters
        wanted = self.ask._replace(
            run_id=None, run_name=step.id, tags=tuple(tags.items()), params=params
        )
        try:
            return run.nested(wanted)
        except TrackingError as error:
            self._excuse(error)
        return None

    def _ask_for(self, opened: LoadedProject, made: Plan) -> RunSpec:
        from buildrun.tracking import auth, tags
        from buildrun.tracking import tags as git

        running, options, step = self._running, self._running.options, made.steps[-1]
        root = opened.project.root
        if opened.source.workdir is None:
            checkout = git.look(root, running.environ, running.tracker)
            origin = tags.local_name(root, checkout)
        else:
            origin, checkout = self._fetched(opened)
        for name in auth.USER:
            running.tracker.variable(name)
        return RunSpec(
            options.experiment_id,
            options.experiment_name,
            options.run_id,
            options.run_name,
            (
                *tags.source(origin, checkout, running.environ),
                *tags.execution(
                    step.entry_point, options.backend or "local", self._manager(opened)
                ),
            ),
            step.shown_parameters,
            self._optional,
        )

    def _fetched(self, opened: LoadedProject) -> tuple[str, Checkout | None]:
        """Return the name of a project that lies in a temporary directory, and its commit."""
        from buildrun.tracking import tags
        from buildrun.tracking import tags as git

        found = opened.origin
        place, commit, branch = found.repository or "", found.commit or "", found.branch or ""
        if not commit:
            return found.name, None
        if not os.path.isdir(place):
            return found.name, git.Checkout("", commit, place, branch)
        url = git.first_remote(place, self._running.environ)
        checkout = git.Checkout(place, commit, url, branch)
        return tags.local_name(os.path.join(place, found.subdirectory), checkout), checkout

    def _manager(self, opened: LoadedProject) -> str:
        """Return the environment as MLflow calls it, "" for the caller's own."""
        from buildrun.environments import base

        name = base.choose(opened.project.environment, self._running.options.env_manager)
        return "" if name in ("local", "system") else name


def _status(exit_code: int, interrupted: int | None) -> Status:
    from buildrun.tracking.run import status_of

    return status_of(exit_code, interrupted)


def _state(outcome: Outcome | None) -> str:
    return outcome.state if outcome is not None else ""
