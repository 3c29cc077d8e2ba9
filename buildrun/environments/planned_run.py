"""A run before it begins: what is going to run in which environment; made, or remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from buildrun.console import Console
from buildrun.planning.context import (
    CacheSettings,
    PlanSummary,
    ProjectOptions,
    RunContext,
    RunOptions,
)
from buildrun.reports import report_file
from buildrun.store import home
from buildrun.store.memo import DependencyTracker, Memo, frozen

if TYPE_CHECKING:
    from buildrun.environments.images.provider import ImageProvider
    from buildrun.environments.provider import EnvironmentProvider, PrefixProvider
    from buildrun.environments.remote import RemoteProvider
    from buildrun.executors.base import Executor
    from buildrun.planning.model import Plan
    from buildrun.planning.plan_cache import PlanLease, RunRecord
    from buildrun.planning.quick_check import Watched
    from buildrun.project.model import ProjectSpec
    from buildrun.tracking.config import RunSpec


class PlannedRun(Protocol):
    """A plan with all that a run of it needs: made from a command line, or remembered."""

    @property
    def context(self) -> RunContext: ...

    @property
    def options(self) -> RunOptions: ...

    # The variables that commands see where nothing is tracked.
    @property
    def untracked(self) -> Mapping[str, str | None]: ...

    # Says what there is to warn of, and returns what is going to run; raises BuildrunError.
    def open(self) -> PlanSummary: ...

    # The plan; its environment may still be unknown. This and all below it is there once opened.
    @property
    def plan(self) -> Plan: ...

    # What commands are executed in.
    @property
    def provider(self) -> EnvironmentProvider: ...

    # What is recorded at a tracking server, None for nothing.
    @property
    def spec(self) -> RunSpec | None: ...

    # The files by which a quick check tells that all steps are up to date, None where they do not.
    @property
    def watched(self) -> Watched | None: ...

    # Returns the plan with its environment, and with what takes a download.
    def complete(self, executor: Executor) -> Plan: ...

    # Leaves the complete plan for the next run of the same command line.
    def keep(self, plan: Plan, lease: PlanLease) -> None: ...

    # Lets go of the environment, and removes what is temporary.
    def close(self) -> None: ...


class RememberedRun:
    """A plan that an earlier run of the same command line left, see ``PlannedRun``."""

    def __init__(self, record: RunRecord, environ: Mapping[str, str], cwd: str) -> None:
        """Take the record; raises PlanOutdated where its image would be another one by now."""
        self._record = record
        store = home.locate(environ)
        project, run = record["project_options"], record["run_options"]
        project = ProjectOptions(**{**project, "docker_args": frozen(project["docker_args"])})
        frozen_options = {
            "cache": CacheSettings(*frozen(run["cache"])),
            "reports": frozen(run["reports"]),
        }
        self.options = RunOptions(**{**run, **frozen_options})
        tracker = DependencyTracker(environ)
        console = Console(environ, quiet=self.options.quiet)
        self.context = RunContext(
            project, environ, cwd, store, console, Memo(store.memo, parent=tracker), tracker
        )
        self.untracked: Mapping[str, str | None] = record["untracked"]
        self._opened: EnvironmentProvider | None = None
        if "image" in record["environment"]:
            self._opened = self._open_image()

    def open(self) -> PlanSummary:
        """See ``PlannedRun``; a line stands for the warnings that were said when it was made."""
        record = self._record
        for report in self.options.reports:
            report_file.resolve(report, self.context.cwd)
        if self.options.provenance:
            report_file.resolve_provenance(self.options.provenance, self.context.cwd)
        if record["notice"]:
            self.context.console.note(record["notice"])
        steps = record["plan"]["steps"]
        return PlanSummary(
            record["plan"]["project"],
            record["root"],
            record["where"],
            steps[-1]["backend"],
            [(step["id"], step["entry_point"]) for step in steps],
        )

    @cached_property
    def plan(self) -> Plan:
        """Return the plan; it is complete."""
        from buildrun.planning.plan_cache import load_plan

        return load_plan(self._record["plan"])

    @property
    def provider(self) -> EnvironmentProvider:
        """Return what provides the environment; it is built again where it is gone."""
        if self._opened is None and "remote" in self._record["environment"]:
            from buildrun.environments.remote import remembered

            self._opened = remembered(self._record["environment"])
        elif self._opened is None:
            from buildrun.environments.provider import RememberedPrefix

            record = self._record
            self._opened = RememberedPrefix(
                self.context, record["environment"], record["root"], self._load_project
            )
        return self._opened

    @property
    def spec(self) -> RunSpec | None:
        """See ``PlannedRun``."""
        spec = self._record["tracking"]
        if spec is None:
            return None
        from buildrun.tracking.config import RunSpec

        return RunSpec(*frozen(spec))

    @property
    def watched(self) -> Watched | None:
        """See ``PlannedRun``."""
        watched = self._record["watched"]
        if watched is None:
            return None
        from buildrun.planning.quick_check import Watched

        return Watched(*watched)

    def complete(self, executor: Executor) -> Plan:
        """See ``PlannedRun``."""
        executor.check([step.task() for step in self.plan.steps])
        return self.plan

    def keep(self, plan: Plan, lease: PlanLease) -> None:
        """Do nothing: it is kept."""

    def close(self) -> None:
        """See ``PlannedRun``."""
        if self._opened is not None:
            self._opened.close()

    def _open_image(self) -> EnvironmentProvider:
        from buildrun.environments.images.provider import RememberedImage

        return RememberedImage(self.context, self._record["environment"], self._record["plan"])

    def _load_project(self) -> ProjectSpec:
        from buildrun.planning.project_loader import project_at

        return project_at(self.context, self._record["root"])


def open_provider(
    context: RunContext,
    project: ProjectSpec,
    commands: Sequence[str] = (),
    *,
    refresh: bool = False,
) -> PrefixProvider | ImageProvider | RemoteProvider:
    """Return the environment, image or packages that the executor of the user's choice needs.

    commands: what is going to run in it. refresh: it is built anew. Raises UsageError where there
    is no such executor, it runs no containers and the project names an image, or the project is a
    job of Databricks alone.
    """
    from buildrun.executors import base as executors
    from buildrun.planning.model import backend_of, docker_env, is_job

    executor = backend_of(project, context.options.backend)
    kind = executors.load(executor)
    is_remote = executors.builds_nothing_here(kind)
    if is_job(project) and not is_remote:
        from buildrun.errors import UsageError

        raise UsageError(
            "the project is a job of Databricks alone: `databricks_spark_job` with `python_file`",
            place=project.file,
            hint="run it there, with `-b databricks -c cluster.json`; for other places declare the "
            "command under `entry_points`",
        )
    if kind.USES_IMAGE:
        from buildrun.environments.images.provider import ImageProvider

        return ImageProvider(context, project, commands, refresh=refresh)
    if docker_env(project) is not None:
        from buildrun.errors import UsageError

        raise UsageError(
            f"the executor `{executor}` runs no containers, and the project names an image",
            place=project.file,
            hint="use `-b docker` or `-b kubernetes`",
        )
    if is_remote:
        from buildrun.environments.remote import RemotePackages, RemoteProvider

        def resolve() -> RemotePackages:
            from buildrun.environments import remote_packages

            return remote_packages.resolve(context, project)

        return RemoteProvider(resolve)
    from buildrun.environments.provider import PrefixProvider

    return PrefixProvider(context, lambda: project, refresh=refresh)
