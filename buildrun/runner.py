"""The flow of a run: a plan, an environment, an executor, the steps, and the record of it all.

The plan is made from a command line, or remembered from the last run of the same one; all that
follows is the same.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.errors import BuildrunError
from buildrun.planning.plan_cache import PlanCache, PlanLease
from buildrun.store import home, runs
from buildrun.tracking.recorder import RunRecorder

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.planned import PlannedRun, Planning
    from buildrun.executors.base import (
        Environment,
        Executor,
        Job,
        OutputSink,
        ProcessRunner,
        Result,
    )
    from buildrun.planning.context import RunContext
    from buildrun.planning.model import Plan
    from buildrun.planning.quick_check import QuickLook
    from buildrun.tracking.session import TrackingSession


# Options of `run` with which nothing is run, or by other processes.
_REQUESTS_NO_RUN = frozenset({"--dry-run", "--watch", "--help", "-h"})


def run(
    argv: Sequence[str],
    environ: Mapping[str, str],
    cwd: str,
    make: Callable[[PlanLease], int],
) -> int:
    """Run what a command line asks for, and return the exit code.

    make: plans and runs it where no plan is remembered. Raises BuildrunError.
    """
    if not _REQUESTS_NO_RUN.isdisjoint(argv):
        return make(PlanLease())
    cache = PlanCache(argv, environ, cwd)
    code = _run_remembered(cache, environ, cwd)
    if code is not None:
        return code
    # Of many that start at once one makes the plan, and the others find it; they wait for that
    # alone, not for each other's commands.
    lease = cache.lease()
    try:
        code = _run_remembered(cache, environ, cwd, lease)
        return make(lease) if code is None else code
    finally:
        lease.release()


def carry_out(planning: Planning, lease: PlanLease) -> int:
    """Bring a run to its end, and return its exit code; raises BuildrunError.

    lease: is released before commands start, when the plan is there for other runs.
    """
    recorder = RunRecorder(planning.context, planning.options.report, planning.untracked)
    try:
        planned = planning.open()
        recorder.expect(planned.project, planned.root, planned.where, planned.steps)
        _carry_out(planning, planned, recorder, lease)
    except KeyboardInterrupt:
        recorder.interrupt(signal.SIGINT)
        raise
    except BuildrunError as error:
        recorder.fail(error)
        raise
    finally:
        try:
            planning.close()
        finally:
            recorder.close()
    return recorder.exit_code


def _carry_out(
    planning: Planning, planned: PlannedRun, recorder: RunRecorder, lease: PlanLease
) -> None:
    context, options, tracking = planning.context, planning.options, recorder.tracking
    look = _quick_look(planned, context)
    if look is not None and look.saved is not None:
        tracking.begin(planned.spec, (), may_wait=False)
        recorder.nothing_to_do(look.saved)
        return
    from buildrun.executors import base
    from buildrun.planning.model import is_passthrough

    plan = planned.load_plan()
    uses_image = base.load(planned.executor).USES_IMAGE
    prefixes = () if planned.prefix is None else (planned.prefix,)
    tracking.begin(
        planned.spec, plan.steps, prefixes, may_wait=not uses_image and planned.prefix is None
    )
    if not tracking.is_late:
        runs.announce(recorder.run_id)
    executor = base.load(planned.executor).open(_executor_context(planning, planned, recorder))
    failed = True
    try:
        plan = planning.complete(planned, executor)
        if is_passthrough(plan) and options.shown is None and executor.HAS_TERMINAL:
            _run_alone(planning, planned, plan, executor, recorder, lease)
        else:
            _run_steps(planning, planned, plan, executor, recorder, lease, look)
        failed = False
    finally:
        executor.close(interrupted=failed)


def _executor_context(planning: Planning, planned: PlannedRun, recorder: RunRecorder) -> Any:
    from buildrun.executors.base import ExecutorContext

    context, options = planning.context, planning.options
    return ExecutorContext(
        project=planned.project,
        root=planned.root,
        outputs=planned.outputs,
        config=context.options.backend_config,
        config_given=context.options.config_given,
        environ=context.environ,
        cwd=context.cwd,
        home=context.home,
        console=context.console,
        run_id=recorder.run_id,
        remote=options.settings.remote,
        detach=options.detach,
        containers=planned.containers,
    )


def _provide(planned: PlannedRun, tracking: TrackingSession) -> Environment:
    """Return the environment, built if need be; a late run at the tracking server begins now."""
    environment = planned.target.provide()
    tracking.begin_with_environment(environment.prefix)
    if environment.image is not None:
        tracking.tag_image(environment.image.reference, environment.image.id)
    return environment


def _run_alone(
    planning: Planning,
    planned: PlannedRun,
    plan: Plan,
    executor: Executor,
    recorder: RunRecorder,
    lease: PlanLease,
) -> None:
    """Run a lone command as MLflow does: always, with our own streams and terminal."""
    from buildrun.environments.target import task_of
    from buildrun.executors.base import Job

    context, console, tracking = planning.context, planning.context.console, recorder.tracking
    environment, step = _provide(planned, tracking), plan.steps[-1]
    changes = {**environment.variables, **tracking.variables, **dict(step.env)}
    log = recorder.begin_alone(step, changes)
    if home.has_staging(planned.root):
        from buildrun.workspace.previous_outputs import mend

        mend(planned.root, runs.directory(context.home.runs, recorder.run_id), console)
    planning.keep(planned, plan, lease)
    lease.release()
    job = Job(
        step.command,
        planned.root,
        _environ(context.environ, changes),
        log=log,
        task=task_of(step),
        image=environment.image,
        tracking=tracking.variables,
        artifacts=tracking.artifacts,
    )
    console.note(console.style(f"[{step.id}] {step.shown}", "dim"))
    recorder.result = result = executor.run(job, None, None)
    if result.exit_code != 0 and result.interrupted is None:
        _look_for_damage(environment, console)


def _run_steps(
    planning: Planning,
    planned: PlannedRun,
    plan: Plan,
    executor: Executor,
    recorder: RunRecorder,
    lease: PlanLease,
    look: QuickLook | None,
) -> None:
    """Run the steps whose results are not there yet, and account for all."""
    from buildrun import scheduler
    from buildrun.executors import output
    from buildrun.planning import graph
    from buildrun.planning.progress import Progress
    from buildrun.planning.state import close, open_state, origins_of
    from buildrun.step_runner import StepRunner

    context, options, tracking = planning.context, planning.options, recorder.tracking
    if tracking.is_late:
        _provide(planned, tracking)
    origins: dict[str, str] | None = {} if tracking.is_open else None
    progress = Progress(plan)
    recorder.begin_steps(progress)
    planning.keep(planned, plan, lease)
    lease.release()

    def perform(job: Job, runner: ProcessRunner, sink: OutputSink) -> Result:
        environment = planned.target.provide()
        job = job._replace(
            image=environment.image,
            tracking={**tracking.variables, **job.tracking},
            artifacts=tracking.artifacts,
        )
        return executor.run(job, runner, sink)

    state = open_state(
        plan, context.home, options.settings, context.environ, context.console,
        logs=runs.directory(context.home.runs, recorder.run_id),
    )._replace(origins=origins)  # fmt: skip
    mode = output.choose(options.shown, jobs=options.jobs, steps=plan.steps)
    limits = scheduler.Limits(options.jobs, options.keep_going)
    tracked = perform if origins is None else tracking.with_nested_runs(perform, origins)
    worker = StepRunner(state, output.Display(mode, context.console), tracked)
    try:
        scheduler.resolve_cached(progress, worker, context.console)
        if scheduler.may_continue(progress, limits):
            environment = _provide(planned, tracking)
            environ = _environ(context.environ, {**environment.variables, **tracking.variables})
            # Its output goes through a pipe: without this a Python program's lines come late.
            environ.setdefault("PYTHONUNBUFFERED", "1")
            weights = graph.critical_path(
                {step.id: step.depends_on for step in plan.steps}, state.history.seconds()
            )
            scheduler.run_remaining(progress, worker, environ, weights, limits, context.console)
            if progress.failures():
                _look_for_damage(environment, context.console)
        if origins is not None:
            earlier = origins_of(state.history, [step.id for step in plan.steps])
            origins.update({**earlier, **origins})
    finally:
        close(state)
        if progress.interrupted is not None:
            state.results.abandon()
        else:
            state.results.finish()
    recorder.finish_steps(origins or {})
    if look is not None:
        look.note(progress.outcomes.values())


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
        if lease is not None:
            lease.release()
        from buildrun.environments.planned import RememberedRun
        from buildrun.environments.target import PlanOutdated

        try:
            remembered = RememberedRun(record, environ, cwd)
        except PlanOutdated:
            return None
        return carry_out(remembered, lease or PlanLease())
    finally:
        if workdir is not None:
            workdir.close()


def _import_early() -> None:
    """Load what comes after a checkout while git is at work."""
    from buildrun.environments import prefix, target  # noqa: F401
    from buildrun.executors import local  # noqa: F401
    from buildrun.planning import codec  # noqa: F401


def _quick_look(planned: PlannedRun, context: RunContext) -> QuickLook | None:
    """Look at the files of a plan's steps; None where that cannot tell, or there are leftovers."""
    if planned.watched is None or home.has_staging(planned.root):
        return None  # what a killed run has left is put right by the steps
    from buildrun.planning.quick_check import QuickLook

    return QuickLook(planned.watched, context)
