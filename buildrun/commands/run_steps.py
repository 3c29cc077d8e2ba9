"""Running a plan of several steps, or of one whose result is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun import scheduler
from buildrun.executors import output
from buildrun.plan import graph
from buildrun.plan import state as place
from buildrun.plan.model import Outcome
from buildrun.scheduler import Limits, Progress
from buildrun.step_runner import Perform, StepRunner
from buildrun.store import runs

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext
    from buildrun.environments.base import Environment
    from buildrun.plan.state import CacheSettings, ProjectState


class RunOptions(NamedTuple):
    """What the user asked of a run of steps.

    shown: how output is shown, None for what suits. detach: steps are only submitted.
    """

    settings: CacheSettings
    manner: Limits
    shown: str | None
    detach: bool = False


def run_steps(
    running: RunContext,
    progress: Progress,
    run_id: str,
    wanted: RunOptions,
    provide: Callable[[], Environment],
    changes: Mapping[str, str | None],
    perform: Perform | None = None,
    origins: dict[str, str] | None = None,
) -> None:
    """Bring the plan's steps to their end; how it went is in ``progress``.

    provide: returns the environment, built if need be; it is called when a command has to run.
    changes: variables that commands see set to a text, or removed (None).
    perform: see ``work.Worker``. origins: the MLflow runs that made the results, by step; perform
    adds those of this run, and this those of earlier ones.
    """
    made, console = progress.plan, running.console
    directory = runs.directory(running.home.runs, run_id)
    where = place.open_state(
        made, running.home, wanted.settings, running.environ, console, logs=directory
    )
    where = where._replace(origins=origins)
    mode = output.choose(wanted.shown, jobs=wanted.manner.jobs, steps=made.steps)
    worker = StepRunner(where, output.Display(mode, console), perform)
    try:
        scheduler.resolve_cached(progress, worker, console)
        if scheduler.may_continue(progress, wanted.manner):
            environment = provide()
            environ = _environ(running.environ, {**environment.variables, **changes})
            weights = graph.critical_path(
                {step.id: step.depends_on for step in made.steps}, where.history.seconds()
            )
            scheduler.run_remaining(progress, worker, environ, weights, wanted.manner, console)
            _look_for_damage(progress, environment, console)
        if origins is not None:
            earlier = place.origins_of(where.history, [step.id for step in made.steps])
            origins.update({**earlier, **origins})
    finally:
        place.close(where)
        _finish(where, progress)


def _finish(where: ProjectState, progress: Progress) -> None:
    if progress.interrupted is not None:
        where.results.abandon()
    else:
        where.results.finish()


def summary(progress: Progress, seconds: float) -> str:
    """Return one line on how it went and what the cache saved."""
    outcomes = list(progress.outcomes.values())
    counts = []
    for state, word in (
        ("ok", "ran"),
        ("cached", "from the cache"),
        ("up-to-date", "up to date"),
        ("failed", "failed"),
        ("skipped", "skipped"),
        ("cancelled", "cancelled"),
        ("submitted", "submitted"),
    ):
        count = sum(outcome.state == state for outcome in outcomes)
        if count:
            counts.append(f"{count} {word}")
    steps = "1 step" if len(outcomes) == 1 else f"{len(outcomes)} steps"
    saved = sum(outcome.saved for outcome in outcomes)
    rest = f", {saved:.1f} s saved" if saved >= 0.05 else ""
    return f"{steps}: {', '.join(counts)} in {seconds:.1f} s{rest}"


def to_json(outcome: Outcome) -> dict[str, Any]:
    """Return how a step ended, in the stable shape of `run --report`."""
    return {
        "id": outcome.step.id,
        "entry_point": outcome.step.entry_point,
        "state": outcome.state,
        "exit_code": outcome.exit_code,
        "seconds": round(outcome.seconds, 3),
        "log": outcome.log,
        "reasons": [reason._asdict() for reason in outcome.reasons],
    }


def _environ(caller: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    seen = {name: value for name, value in caller.items() if name not in changes}
    seen.update({name: text for name, text in changes.items() if text is not None})
    # Its output goes through a pipe: without this a Python program's lines come late.
    seen.setdefault("PYTHONUNBUFFERED", "1")
    return seen


def _look_for_damage(progress: Progress, environment: Environment, console: Any) -> None:
    from buildrun.prepared import look_for_damage

    if environment.prefix is not None and progress.failures():
        look_for_damage(environment.manager, environment.prefix, console)
