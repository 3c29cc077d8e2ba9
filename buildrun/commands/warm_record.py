"""What a run leaves for the next one of the same command line, see ``buildrun.warm``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from buildrun import warm
from buildrun.commands import session
from buildrun.plan import codec, quick_check
from buildrun.plan.state import CacheSettings
from buildrun.project.locate import find_mlproject
from buildrun.store import digest

if TYPE_CHECKING:
    from buildrun.commands.docker import Docker
    from buildrun.commands.run_steps import RunOptions
    from buildrun.commands.session import RunContext
    from buildrun.executors.docker import ResolvedImage
    from buildrun.plan.model import Plan
    from buildrun.prepared import Prepared
    from buildrun.tracking.config import RunSpec
    from buildrun.warm import PlanLease

# Variables of the caller that a prepared command depends on, beside those that readers note.
_VARIABLES = (
    "BUILDRUN_ENV_MANAGER", "BUILDRUN_HOME", "BUILDRUN_REMOTE_CACHE",
    "BUILDRUN_REMOTE_CACHE_WRITE", "BUILDRUN_SALT", "HOME", "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TMP_DIR", "MLFLOW_TRACKING_URI", "PATH", "SHELL",
    "XDG_CACHE_HOME",
)  # fmt: skip


def keep(
    claim: PlanLease,
    running: RunContext,
    opened: session.LoadedProject,
    prepared: Prepared,
    ask: RunSpec | None,
) -> None:
    """Leave a record for the next run of the same command line.

    ask: what a tracking server is told, None for no tracking.
    """
    for path in (prepared.entry_point, *(value for _, value in prepared.parameters)):
        running.tracker.exists(os.path.join(prepared.cwd, path))
    value = {"prepared": prepared._asdict(), "project": opened.project.name}
    _remember(claim, running, opened, prepared.changes, value, ask)


def keep_plan(
    claim: PlanLease,
    running: RunContext,
    opened: session.LoadedProject,
    made: Plan,
    wanted: RunOptions,
    ask: RunSpec | None,
) -> None:
    """Leave a record for the next run, where the plan can be looked at without a command."""
    if wanted.settings != CacheSettings(remote=wanted.settings.remote):
        return
    if opened.source.workdir is not None:
        return  # no output lies there when it is made again
    for step in made.steps:
        for path in (step.entry_point, *(value for _, value in step.parameters)):
            running.tracker.exists(os.path.join(made.project.root, path))
    # A remote's address may bear secrets; what is up to date depends only on there being one.
    settings = wanted.settings._replace(remote=wanted.settings.remote and "remote")
    encoded = codec.dump_plan(made)
    identity = digest.key("plan", [encoded, list(settings)], "xxh3")
    watched = quick_check.watched(made, identity)
    value = {"plan": encoded, "settings": list(settings), "watched": watched}
    _remember(claim, running, opened, (), value, ask)


def keep_container(
    claim: PlanLease,
    running: RunContext,
    opened: session.LoadedProject,
    docker: Docker,
    chosen: ResolvedImage,
    made: Plan,
    ask: RunSpec | None,
) -> None:
    """Leave a record for the next run, which looks whether the image is still the right one."""
    from buildrun import warm_docker
    from buildrun.commands.docker import task_of

    if ask is not None:
        from buildrun.tracking import tags

        ask = ask._replace(tags=(*ask.tags, *tags.image(chosen.reference, chosen.id)))
    step = made.steps[-1]
    for path in (step.entry_point, *(value for _, value in step.parameters)):
        running.tracker.exists(os.path.join(opened.project.root, path))
    value = {
        "docker": warm_docker.encode(chosen, docker.wants, task_of(step)),
        "image": docker.declared,
        "code": [opened.project.name, opened.project.root, list(made.outputs)],
    }
    _remember(claim, running, opened, (), value, ask)


def _remember(
    claim: PlanLease,
    running: RunContext,
    opened: session.LoadedProject,
    variables: Iterable[str],
    more: Mapping[str, Any],
    ask: RunSpec | None,
) -> None:
    seen, root = running.tracker, opened.project.root
    for name in (*_VARIABLES, *variables):
        seen.variable(name)
    value = {
        "root": root,
        "where": opened.source.where,
        "mlproject": find_mlproject(root),
        "quiet": running.console.quiet,
        "notice": session.notice(opened, running.cwd),
        "tracking": ask,
        **more,
    }
    warm.keep(claim, running.cwd, running.memo, seen, value, opened.source.recipe)
