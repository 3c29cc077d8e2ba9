"""The MLflow runs of one run of buildrun: what is recorded, and what commands see of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildrun.errors import TrackingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from buildrun.executors.base import (
        Job,
        OutputSink,
        Perform,
        ProcessRunner,
        ResolvedImage,
        Result,
    )
    from buildrun.planning.context import RunContext
    from buildrun.planning.model import Step
    from buildrun.planning.project_loader import LoadedProject
    from buildrun.tracking.config import RunSpec, Status
    from buildrun.tracking.run import TrackedRun
    from buildrun.tracking.tags import Checkout


class TrackingSession:
    """The tracking of one run; nothing happens where there is no spec."""

    def __init__(self, context: RunContext, untracked: Mapping[str, str | None]) -> None:
        """Start without a run."""
        self._context = context
        self._untracked = untracked
        self._spec: RunSpec | None = None
        self._steps: dict[str, Step] = {}
        self._run: TrackedRun | None = None
        self._missing: TrackingError | None = None
        # The run's id at the server, also after its end; None where there is none.
        self.run_id: str | None = None

    @property
    def artifacts(self) -> str | None:
        """Return the directory of this machine where the run's artifacts go, or None."""
        return self._run.artifacts if self._run is not None else None

    @property
    def needs_environment(self) -> bool:
        """Return whether an environment has to be there first, which may bring MLflow."""
        return self._missing is not None

    @property
    def is_open(self) -> bool:
        """Return whether there is a run that has not ended."""
        return self._run is not None

    @property
    def variables(self) -> Mapping[str, str | None]:
        """Return what commands see: a text to set, or None to remove."""
        tracked = self._run.variables if self._run is not None else {}
        return {**self._untracked, **tracked}

    def begin(
        self,
        spec: RunSpec | None,
        steps: Iterable[Step],
        prefixes: Sequence[str] = (),
        *,
        may_wait: bool,
    ) -> None:
        """Begin the run, or leave that to `begin_with_environment` where one may bring MLflow.

        Raises TrackingError, unless tracking is optional.
        """
        self._spec = spec
        self._steps = {step.id: step for step in steps}
        if spec is None:
            return
        from buildrun.tracking.config import Missing

        try:
            self._begin(prefixes)
        except Missing as error:
            if not may_wait:
                self._excuse(error)
            self._missing = error if may_wait else None
        except TrackingError as error:
            self._excuse(error)

    def begin_with_environment(self, prefix: str | None) -> None:
        """Begin a late run by means of the MLflow in an environment; raises as ``begin`` does."""
        error, self._missing = self._missing, None
        if error is None:
            return
        try:
            if prefix is None:
                raise error
            self._begin((prefix,))
        except TrackingError as trouble:
            self._excuse(trouble)

    def tag_image(self, image: ResolvedImage | None) -> None:
        """Tell which image the commands run in, if one; raises as ``begin`` does."""
        if self._run is None or image is None:
            return
        from buildrun.tracking import tags

        try:
            self._run.log(tags.image(image.reference, image.id))
        except TrackingError as error:
            self._excuse(error)

    def with_nested_runs(self, perform: Perform, origins: dict[str, str] | None) -> Perform:
        """Return what gives each step's command a run of its own, below the one of the last step.

        Two steps in one run could not log the same parameter. origins: takes each step's run.
        """
        run = self._run
        if run is None or origins is None:
            return perform
        from buildrun.tracking.config import status_of

        last = next(reversed(self._steps))

        def tracked(job: Job, runner: ProcessRunner, sink: OutputSink) -> Result:
            name = job.task.id if job.task is not None else last
            below = self._nested(run, self._steps[name]) if name != last else None
            origins[name] = seen = (below or run).run_id
            job = job._replace(
                environ={**job.environ, "MLFLOW_RUN_ID": seen},
                tracking={**job.tracking, "MLFLOW_RUN_ID": seen},
            )
            status: Status = "FAILED"
            try:
                result = perform(job, runner, sink)
                status = status_of(result.exit_code, result.interrupted)
                if result.detached and below is not None:
                    below.leave()
                    below = None
            finally:
                if below is not None:
                    below.end(status, self._context.console)
            return result

        return tracked

    def log_outcomes(
        self, states: Sequence[tuple[str, str]], origins: Callable[[], Mapping[str, str]]
    ) -> None:
        """Tell which results were there already, and which runs made them."""
        if self._run is None:
            return
        from buildrun.tracking import tags

        try:
            self._run.log(tags.outcomes(states, origins()))
        except TrackingError as error:
            self._context.console.warn(f"the MLflow run is not tagged: {error.message}")

    def end(self, exit_code: int, interrupted: int | None) -> None:
        """End the run, if one was begun; calling it again is harmless."""
        run, self._run = self._run, None
        if run is None:
            return
        from buildrun.tracking.config import status_of

        try:
            run.end(status_of(exit_code, interrupted), self._context.console)
        finally:
            run.close()

    def leave(self) -> None:
        """Leave the run open, since what it is about goes on without us."""
        run, self._run = self._run, None
        if run is not None:
            run.leave()
            run.close()

    def _begin(self, prefixes: Sequence[str]) -> None:
        from buildrun.tracking.run import begin

        if self._spec is None:
            raise AssertionError
        context = self._context
        self._run = begin(self._spec, context.environ, context.cwd, context.home, prefixes)
        self.run_id = self._run.run_id

    def _excuse(self, error: TrackingError) -> None:
        if self._spec is None or not self._spec.optional:
            raise error
        place = f"{error.place}: " if error.place else ""
        self._context.console.warn(f"the run is not tracked: {place}{error.message}")

    def _nested(self, run: TrackedRun, step: Step) -> TrackedRun | None:
        if self._spec is None:
            raise AssertionError
        tags = dict(self._spec.tags)
        tags["mlflow.project.entryPoint"] = step.entry_point
        spec = self._spec._replace(
            run_id=None, run_name=step.id, tags=tuple(tags.items()), params=step.shown_parameters
        )
        try:
            return run.nested(spec)
        except TrackingError as error:
            self._excuse(error)
        return None


def spec_for(
    context: RunContext, loaded: LoadedProject, step: Step, manager: str, mode: str | None
) -> RunSpec | None:
    """Return what is to be recorded of a run of the step, or None where nothing is tracked."""
    from buildrun.tracking import tags
    from buildrun.tracking.config import RunSpec, is_wanted

    options, tracker = context.options, context.tracker
    named = (options.experiment_id, options.experiment_name, options.run_id)
    if mode != "off" and not is_wanted(mode, {**context.environ, "MLFLOW_RUN_ID": ""}, *named):
        # Whether the next run is tracked depends on it. Elsewhere it only names the parent, and is
        # another one each time.
        tracker.variable("MLFLOW_RUN_ID")
    if not is_wanted(mode, context.environ, *named):
        return None
    root = loaded.project.root
    if loaded.source.workdir is None:
        checkout = tags.look(root, context.environ, tracker)
        origin = tags.local_name(root, checkout)
    else:
        origin, checkout = _fetched(context, loaded)
    for name in tags.USER:
        tracker.variable(name)
    # MLflow has no name for the caller's own environment.
    manager = "" if manager in ("local", "system") else manager
    return RunSpec(
        options.experiment_id,
        options.experiment_name,
        options.run_id,
        options.run_name,
        (
            *tags.source(origin, checkout, context.environ),
            *tags.execution(step.entry_point, options.backend or "local", manager),
        ),
        step.shown_parameters,
        mode == "optional",
    )


def _fetched(context: RunContext, loaded: LoadedProject) -> tuple[str, Checkout | None]:
    """Return the name of a project that lies in a temporary directory, and its commit."""
    from buildrun.tracking import tags

    found = loaded.origin
    place, commit, branch = found.repository or "", found.commit or "", found.branch or ""
    if not commit:
        return found.name, None
    if not os.path.isdir(place):
        return found.name, tags.Checkout("", commit, place, branch)
    url = tags.first_remote(place, context.environ)
    checkout = tags.Checkout(place, commit, url, branch)
    return tags.local_name(os.path.join(place, found.subdirectory), checkout), checkout
