"""The flow of a run: a plan, an environment, an executor, the steps, and the record of it all.

The plan is made from a command line, or remembered from the last run of the same one; all that
follows is the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun.errors import BuildrunError
from buildrun.planning.plan_cache import PlanCache, PlanLease, PlanOutdated
from buildrun.store import home, runs
from buildrun.tracking.recorder import RunRecorder

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.planned_run import PlannedRun
    from buildrun.executors.base import (
        Environment,
        Executor,
        ExecutorContext,
        Job,
        OutputSink,
        Perform,
        ProcessRunner,
        Result,
    )
    from buildrun.planning.context import PlanSummary, RunContext
    from buildrun.planning.model import Plan
    from buildrun.planning.progress import Progress
    from buildrun.planning.quick_check import QuickCheck, Watched
    from buildrun.planning.state import ProjectState
    from buildrun.step_runner import StepRunner


# Options of `run` with which nothing is run, or not by this command line.
_REQUESTS_NO_RUN = frozenset({"--dry-run", "--watch", "--all", "--help", "-h"})


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    plan_and_run: Callable[[PlanLease], int],
) -> int:
    """Run what a command line asks for, and return the exit code.

    plan_and_run: is called where no plan is remembered, makes one, and calls ``carry_out`` with
    it as a remembered one does. Raises BuildrunError.
    """
    if not _REQUESTS_NO_RUN.isdisjoint(argv):
        return plan_and_run(PlanLease())
    cache = PlanCache(argv, environ, cwd)
    code = _run_remembered(cache, environ, cwd)
    if code is not None:
        return code
    # Of many that start at once one makes the plan, and the others find it; they wait for that
    # alone, not for each other's commands.
    lease = cache.lease()
    try:
        code = _run_remembered(cache, environ, cwd, lease)
        return plan_and_run(lease) if code is None else code
    finally:
        lease.release()


def carry_out(planned: PlannedRun, lease: PlanLease) -> int:
    """Bring a run to its end, and return its exit code; raises BuildrunError.

    lease: is released before commands start, when the plan is there for other runs.
    """
    options = planned.options
    recorder = RunRecorder(planned.context, options.reports, planned.untracked, options.provenance)
    try:
        summary = planned.open()
        recorder.expect(summary)
        _Run(planned, summary, recorder, lease).go()
    except KeyboardInterrupt:
        recorder.interrupt(signal.SIGINT)
        raise
    except BuildrunError as error:
        recorder.fail(error)
        raise
    finally:
        try:
            recorder.write_provenance()
        finally:
            try:
                planned.close()
            finally:
                recorder.close()
    return recorder.exit_code


class _Run:
    """One run on its way, from its plan to the end of its last step."""

    def __init__(
        self, planned: PlannedRun, summary: PlanSummary, recorder: RunRecorder, lease: PlanLease
    ) -> None:
        self._planned = planned
        self._summary = summary
        self._recorder = recorder
        self._tracking = recorder.tracking
        self._lease = lease
        self._context = planned.context
        self._options = planned.options
        self._environment: Environment | None = None

    def go(self) -> None:
        """Do nothing where all is up to date; else open the executor, and run."""
        planned, tracking, spec = self._planned, self._tracking, self._planned.spec
        quick = _quick_check(planned.watched, self._summary.root, self._context)
        if quick is not None and quick.is_up_to_date:
            tracking.begin(spec, (), may_wait=False)
            if tracking.is_open:
                tracking.tag_image(planned.provider.image)
            self._recorder.nothing_to_do(
                quick.seconds, lambda: (planned.plan, planned.provider.image)
            )
            return
        from buildrun.executors import base
        from buildrun.planning.model import is_passthrough

        kind, prefix = base.load(self._summary.executor), planned.provider.prefix
        tracking.begin(
            spec,
            () if spec is None else planned.plan.steps,
            () if prefix is None else (prefix,),
            may_wait=prefix is None and not kind.USES_IMAGE and not base.builds_nothing_here(kind),
        )
        if not tracking.needs_environment:
            runs.announce(self._recorder.run_id)
        executor = kind.open(self._executor_context())
        failed = True
        try:
            plan = planned.complete(executor)
            self._recorder.image = planned.provider.image
            tracking.tag_image(planned.provider.image)
            alone = is_passthrough(plan) and self._options.output is None
            if alone and executor.HAS_TERMINAL:
                self._run_alone(plan, executor)
            else:
                self._run_steps(plan, executor, quick)
            failed = False
        finally:
            executor.close(interrupted=failed)

    def _executor_context(self) -> ExecutorContext:
        from buildrun.executors.base import ExecutorContext

        context, planned = self._context, self._planned
        return ExecutorContext(
            project=self._summary.project,
            root=self._summary.root,
            outputs=planned.plan.outputs,
            config=context.options.backend_config,
            config_given=context.options.config_given,
            environ=context.environ,
            cwd=context.cwd,
            home=context.home,
            console=context.console,
            run_id=self._recorder.run_id,
            remote=self._options.cache.remote,
            detach=self._options.detach,
            containers=planned.provider.containers,
            packages=planned.provider.packages,
        )

    def _provide(self) -> Environment:
        """Return the environment, built if need be; a late run at the tracking server begins."""
        if self._environment is None:
            self._environment = self._planned.provider.provide()
            self._tracking.begin_with_environment(self._environment.prefix)
        return self._environment

    def _keep(self, plan: Plan) -> None:
        """Leave the plan for other runs of the same command line, and let them look for it."""
        self._planned.keep(plan, self._lease)
        self._lease.release()

    def _run_alone(self, plan: Plan, executor: Executor) -> None:
        """Run a lone command as MLflow does: always, with our own streams and terminal."""
        from buildrun.executors.base import Job

        context, console, root = self._context, self._context.console, self._summary.root
        environment, step = self._provide(), plan.steps[-1]
        changes = {**environment.variables, **self._tracking.variables, **dict(step.env)}
        log = self._recorder.begin_alone(step, changes)
        if home.has_staging(root):
            from buildrun.workspace.previous_outputs import mend

            mend(root, runs.directory(context.home.runs, self._recorder.run_id), console)
        self._keep(plan)
        job = Job(
            step.command,
            root,
            _environ(context.environ, changes),
            log=log,
            task=step.task(),
            image=self._planned.provider.image,
            tracking=self._tracking.variables,
            artifacts=self._tracking.artifacts,
        )
        console.note(console.style(f"[{step.id}] {step.shown}", "dim"))
        result = executor.run(job, None, None)
        self._recorder.end_alone(result)
        if result.exit_code != 0 and result.interrupted is None:
            _look_for_damage(environment, console)

    def _run_steps(self, plan: Plan, executor: Executor, quick: QuickCheck | None) -> None:
        """Run the steps whose results are not there yet, and account for all."""
        from buildrun.executors import output
        from buildrun.planning.progress import Progress
        from buildrun.planning.state import close, conditions_of, open_state, origins_of
        from buildrun.step_runner import StepRunner

        context, options, tracking = self._context, self._options, self._tracking
        if tracking.needs_environment:
            self._provide()
        origins: dict[str, str] | None = {} if tracking.is_open else None
        progress = Progress(plan)
        self._recorder.begin_steps(progress)
        self._keep(plan)
        state = open_state(
            plan, context.home, options.cache, context.environ, context.console,
            logs=runs.directory(context.home.runs, self._recorder.run_id),
        )._replace(origins=origins)  # fmt: skip
        display = output.open_display(
            options.output, context.console, context.environ,
            at_once=options.jobs > 1 and len(plan.steps) > 1,
        )  # fmt: skip
        perform = tracking.with_nested_runs(self._performing(executor), origins)
        step_runner = StepRunner(state, display, perform)
        try:
            self._go_through(progress, step_runner, state)
            if origins is not None:
                earlier = origins_of(state.history, [step.id for step in plan.steps])
                origins.update({**earlier, **origins})
        finally:
            close(state)
            if progress.interrupted is not None:
                state.results.abandon()
            else:
                state.results.finish()
        self._recorder.finish_steps(origins or {})
        if quick is not None:
            quick.note(progress.outcomes.values(), lambda: conditions_of(state.history, plan))

    def _go_through(
        self,
        progress: Progress,
        step_runner: StepRunner,
        state: ProjectState,
    ) -> None:
        """Do what needs no command, then the rest."""
        from buildrun import scheduler
        from buildrun.planning import graph

        context, options = self._context, self._options
        limits = scheduler.Limits(options.jobs, options.keep_going)
        scheduler.resolve_cached(progress, step_runner, context.console)
        if not scheduler.may_continue(progress, limits):
            return
        remaining = progress.remaining()
        state.staleness.require_inputs(remaining)
        if any(step.sandbox is not None for step in remaining):
            from buildrun.input_check import why_without_sandbox

            for step in remaining:  # told before an environment is built
                why_without_sandbox(step)
        environment = self._provide()
        changes = {**environment.variables, **self._tracking.variables}
        environ = _environ(context.environ, changes)
        # Its output goes through a pipe: without this a Python program's lines come late.
        environ.setdefault("PYTHONUNBUFFERED", "1")
        depends_on = {step.id: step.depends_on for step in progress.plan.steps}
        weights = graph.critical_path(depends_on, state.history.seconds())
        scheduler.run_remaining(progress, step_runner, environ, weights, limits, context.console)
        if progress.failures():
            _look_for_damage(environment, context.console)

    def _performing(self, executor: Executor) -> Perform:
        """Return what has the executor run a job in the run's environment."""
        provider, tracking = self._planned.provider, self._tracking

        def perform(job: Job, runner: ProcessRunner, sink: OutputSink) -> Result:
            job = job._replace(
                image=provider.image,
                tracking={**tracking.variables, **job.tracking},
                artifacts=tracking.artifacts,
            )
            return executor.run(job, runner, sink)

        return perform


def _environ(caller: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    seen = {name: value for name, value in caller.items() if name not in changes}
    seen.update({name: text for name, text in changes.items() if text is not None})
    return seen


def _look_for_damage(environment: Environment, console: Console) -> None:
    """After a failure, see whether the environment is to blame, and have it built again if so."""
    if environment.prefix is None:
        return
    from buildrun.environments import base
    from buildrun.environments.prefix import invalidate

    damaged = base.load(environment.manager).modified_files(environment.prefix)
    if damaged:
        invalidate(environment.prefix)
        console.warn(
            f"{len(damaged)} files of the environment were changed or are gone, "
            f"such as `{os.path.basename(damaged[0])}`",
            "run again; the environment will be built anew",
        )


# -- a remembered plan -------------------------------------------------------------------------


def _run_remembered(
    cache: PlanCache, environ: Mapping[str, str], cwd: str, lease: PlanLease | None = None
) -> int | None:
    """Run what a run left for the next one; None where there is nothing that fits."""
    recipe = cache.checkout()
    workdir = None
    if recipe is not None:
        from buildrun.sources.checkout import restore_checkout

        workdir = restore_checkout(recipe, home.locate(environ), environ, _import_early)
        if workdir is None:
            return None
    try:
        record = cache.lookup(temporary=workdir is not None)
        if record is None:
            return None
        from buildrun.environments.planned_run import RememberedRun

        try:
            remembered = RememberedRun(record, environ, cwd)
        except PlanOutdated:
            return None
        if lease is not None:
            lease.release()
        return carry_out(remembered, lease or PlanLease())
    finally:
        if workdir is not None:
            workdir.close()


def _import_early() -> None:
    """Load what comes after a checkout while git is at work."""
    from buildrun.environments import prefix, provider  # noqa: F401
    from buildrun.executors import local  # noqa: F401
    from buildrun.planning import model  # noqa: F401


def _quick_check(watched: Watched | None, root: str, context: RunContext) -> QuickCheck | None:
    """Look at the files of a plan's steps; None where that cannot tell, or there are leftovers."""
    if watched is None or home.has_staging(root):
        return None  # what a killed run has left is put right by the steps
    from buildrun.planning.quick_check import QuickCheck

    return QuickCheck(watched, context)
