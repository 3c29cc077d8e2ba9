"""A run before it begins: what is going to run in which environment; made, or remembered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from buildrun.console import Console
from buildrun.planning.context import CacheSettings, ProjectOptions, RunContext, RunOptions
from buildrun.store import home, report_file
from buildrun.store.memo import DependencyTracker, Memo, frozen

if TYPE_CHECKING:
    from buildrun.environments.target import Target
    from buildrun.executors.base import ContainerOptions, Executor
    from buildrun.planning.model import Plan
    from buildrun.planning.plan_cache import PlanLease
    from buildrun.planning.quick_check import Watched
    from buildrun.project.model import ProjectSpec
    from buildrun.tracking.config import RunSpec


class PlannedRun(NamedTuple):
    """What is known of a run before its environment.

    load_plan: returns the plan; its environment may still be unknown. steps: ids and entry points.
    where: the project's place, as records of runs tell it. spec: what is tracked. prefix: of the
    environment, where it is known already. watched: what tells that all steps are up to date.
    """

    load_plan: Callable[[], Plan]
    steps: Sequence[tuple[str, str]]
    project: str
    root: str
    where: str
    notice: str
    executor: str
    outputs: tuple[str, ...]
    containers: ContainerOptions
    target: Target
    spec: RunSpec | None
    prefix: str | None = None
    watched: Watched | None = None


class Planning(Protocol):
    """A plan on its way: made from a command line, or remembered."""

    @property
    def context(self) -> RunContext: ...

    @property
    def options(self) -> RunOptions: ...

    # The variables that commands see where nothing is tracked.
    @property
    def untracked(self) -> Mapping[str, str | None]: ...

    # Returns what is going to run; raises BuildrunError.
    def open(self) -> PlannedRun: ...

    # Returns the plan with what takes a download, and is told the environment.
    def complete(self, planned: PlannedRun, executor: Executor) -> Plan: ...

    # Leaves the plan for the next run of the same command line.
    def keep(self, planned: PlannedRun, plan: Plan, lease: PlanLease) -> None: ...

    # Removes what is temporary.
    def close(self) -> None: ...


class RememberedRun:
    """A plan that an earlier run of the same command line left."""

    def __init__(self, record: Any, environ: Mapping[str, str], cwd: str) -> None:
        """Take the record; raises PlanOutdated where its image would be another one by now."""
        self._record = record
        store = home.locate(environ)
        given = record["options"]
        project = ProjectOptions(**{**given, "docker_args": frozen(given["docker_args"])})
        settings = CacheSettings(*frozen(record["run"][0]))
        self.options = RunOptions(settings, *record["run"][1:])
        tracker = DependencyTracker(environ)
        console = Console(environ, quiet=self.options.quiet)
        self.context = RunContext(
            project, environ, cwd, store, console, Memo(store.memo, parent=tracker), tracker
        )
        self.untracked: Mapping[str, str | None] = record["untracked"]
        self._target = self._open_target()

    def open(self) -> PlannedRun:
        """Return the run, and say what stands for the warnings that were said when it was made."""
        from buildrun.executors.base import ContainerOptions
        from buildrun.planning.quick_check import Watched
        from buildrun.tracking.config import RunSpec

        record, context = self._record, self.context
        if self.options.report is not None:
            report_file.resolve(self.options.report, context.cwd)
        if record["notice"]:
            context.console.note(record["notice"])
        spec, watched = record["tracking"], record["watched"]
        return PlannedRun(
            load_plan=self._load_plan,
            steps=record["steps"],
            project=record["project"],
            root=record["root"],
            where=record["where"],
            notice=record["notice"],
            executor=record["executor"],
            outputs=tuple(record["plan"]["outputs"]),
            containers=ContainerOptions(*frozen(record["containers"])),
            target=self._target,
            spec=None if spec is None else RunSpec(*frozen(spec)),
            prefix=getattr(self._target, "prefix", None),
            watched=None if watched is None else Watched(*watched),
        )

    def complete(self, planned: PlannedRun, executor: Executor) -> Plan:
        """Return the plan: it is complete."""
        from buildrun.environments.target import task_of

        plan = planned.load_plan()
        executor.check([task_of(step) for step in plan.steps])
        return plan

    def keep(self, planned: PlannedRun, plan: Plan, lease: PlanLease) -> None:
        """Do nothing: it is kept."""

    def close(self) -> None:
        """Let go of the environment."""
        self._target.close()

    def _load_plan(self) -> Plan:
        from buildrun.planning.codec import load_plan

        return load_plan(self._record["plan"])

    def _open_target(self) -> Target:
        from buildrun.environments.target import RememberedImage, RememberedPrefix
        from buildrun.executors.base import ContainerOptions

        record, context = self._record, self.context
        if "image" in record["target"]:
            containers = ContainerOptions(*frozen(record["containers"]))
            return RememberedImage(context, record["target"], containers, record["plan"]["content"])
        return RememberedPrefix(context, record["target"], record["root"], self._load_project)

    def _load_project(self) -> ProjectSpec:
        from buildrun.planning.load import project_at

        return project_at(self.context, self._record["root"])
