"""``buildrun run``: run an entry point."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from buildrun import runner, tracking
from buildrun.commands import all_projects
from buildrun.commands import options as command_options
from buildrun.commands.parser import group
from buildrun.console import holds_within
from buildrun.environments.planned_run import open_provider
from buildrun.environments.resolve import manager_of
from buildrun.errors import UsageError
from buildrun.executors.output import MODES
from buildrun.planning import model, plan_cache, project_loader, quick_check
from buildrun.planning.context import (
    CacheSettings,
    PlanSummary,
    RunContext,
    RunOptions,
    new_context,
)
from buildrun.planning.project_loader import LoadedProject
from buildrun.reports import report_file
from buildrun.sources.path_downloads import PathDownloads
from buildrun.store import digest
from buildrun.tracking import config as tracking_config
from buildrun.tracking.session import spec_for

if TYPE_CHECKING:
    from buildrun.environments.images.provider import ImageProvider
    from buildrun.environments.provider import PrefixProvider
    from buildrun.environments.remote import RemoteProvider
    from buildrun.executors.base import Executor
    from buildrun.planning.model import Plan
    from buildrun.planning.parameters import Download
    from buildrun.planning.plan_cache import PlanLease, RunRecord
    from buildrun.planning.quick_check import Watched
    from buildrun.project.model import ProjectSpec
    from buildrun.tracking.config import RunSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    command_options.add_cache_options(parser)
    all_projects.add_arguments(parser)
    command_options.add_project_options(parser, uri=False)
    group(parser, command_options.ENVIRONMENT).add_argument(
        "--refresh", action="store_true", help="build the environment anew"
    )
    option = group(parser, command_options.PLACE).add_argument
    option(
        "-j", "--jobs", metavar="N", type=_jobs, default="1",
        help="how many steps at once; default: 1",
    )  # fmt: skip
    option(
        "-k", "--keep-going", action="store_true",
        help="after a failure, go on with what does not depend on it",
    )  # fmt: skip
    option("--watch", action="store_true", help="run again whenever an input changes")
    option(
        "--detach", action="store_true",
        help="with Kubernetes and Databricks: return as soon as what can start is submitted",
    )  # fmt: skip
    option("--dry-run", action="store_true", help="show the plan and run nothing")
    option(
        "--check-inputs", action="store_true",
        help="tell of files that commands read or write and do not declare, and keep no result "
        "that was made from one; or set BUILDRUN_CHECK_INPUTS=1",
    )  # fmt: skip
    option(
        "--sandbox", action="store_true",
        help="keep commands from files of the project that they do not declare",
    )  # fmt: skip
    group(parser, command_options.MLFLOW).add_argument(
        "--tracking", choices=tracking_config.MODES,
        help="whether MLflow records the run: also where nothing tells of a tracking server; with "
        "a mere warning where that fails; or not at all",
    )  # fmt: skip
    option = group(parser, command_options.OUTPUT).add_argument
    option(
        "--output", metavar="MODE", choices=MODES,
        help=f"{', '.join(MODES)}: what steps write, as it comes, behind their names, when they "
        "end, or only of those that fail; default: stream, and where several run at "
        "once prefixed, in jobs of GitHub and GitLab grouped",
    )  # fmt: skip
    option("-q", "--quiet", action="store_true", help="say only what went wrong")
    option(
        "--report", metavar="FILE", action="append", default=[],
        help="write how the run went, in the form that its ending asks for: .html, .json, .md, "
        ".trace.json for Perfetto, .xml for JUnit; may be given several times",
    )  # fmt: skip
    option(
        "--provenance", metavar="FILE",
        help="write what the outputs were made from and how, as an in-toto statement with SLSA's "
        "predicate",
    )  # fmt: skip


def execute(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, lease: PlanLease
) -> int:
    """Run, and return the command's own exit code; lease: see ``runner.carry_out``."""
    if all_projects.asked_for(arguments):
        return all_projects.run(arguments, environ, cwd, execute)
    settings = command_options.read_cache_options(arguments, environ, cwd)
    options = command_options.read_project_options(arguments, environ, cwd)
    if arguments.detach and options.backend not in ("kubernetes", "databricks"):
        raise UsageError(
            "`--detach` is for Kubernetes and Databricks",
            hint="put buildrun into the background: `buildrun … &`",
        )
    if arguments.provenance and not settings.cache:
        raise UsageError(
            "`--provenance` tells what is kept of each result, and `--no-cache` keeps nothing",
            hint="leave one of them out; `--force` runs every step anew",
        )
    if arguments.dry_run:
        from buildrun.commands import plan as plan_command

        lease.release()
        return plan_command.show(
            options, settings, environ, cwd,
            form="text", check_inputs=arguments.check_inputs, sandbox=arguments.sandbox,
        )  # fmt: skip
    if arguments.watch:
        from buildrun.commands import watch

        lease.release()
        return watch.watch(options, arguments.command_line, environ, cwd)
    context = new_context(options, environ, cwd, quiet=arguments.quiet, write=True)
    run_options = RunOptions(
        settings,
        arguments.jobs,
        arguments.keep_going,
        arguments.output,
        arguments.detach,
        arguments.quiet,
        tuple(dict.fromkeys(report_file.resolve(path, cwd) for path in arguments.report)),
        arguments.provenance and report_file.resolve_provenance(arguments.provenance, cwd),
        arguments.check_inputs or command_options.checks_inputs(settings, environ),
        arguments.sandbox,
    )
    run = NewRun(context, run_options, arguments.tracking, refresh=arguments.refresh)
    return runner.carry_out(run, lease)


class NewRun:
    """A run whose plan is made from the command line, see ``PlannedRun``."""

    plan: Plan
    provider: PrefixProvider | ImageProvider | RemoteProvider
    spec: RunSpec | None
    watched: Watched | None = None

    def __init__(
        self, context: RunContext, options: RunOptions, tracking_mode: str | None, *, refresh: bool
    ) -> None:
        """Take the options; refresh: the environment is built anew."""
        self.context = context
        self.options = options
        given = context.options
        self.untracked = tracking.variables(
            run_id=given.run_id,
            experiment_id=given.experiment_id,
            experiment_name=given.experiment_name,
        )
        self._tracking_mode = tracking_mode
        self._refresh = refresh
        self._loaded: LoadedProject | None = None
        self._downloads = PathDownloads(
            given.storage_dir and os.path.join(context.cwd, given.storage_dir),
            context.console,
            offline=given.offline,
        )
        self._cleanup = ExitStack()
        self._cleanup.callback(self._downloads.close)

    def open(self) -> PlanSummary:
        """Read and check the project, and plan its steps; raises BuildrunError."""
        context = self.context
        _watch_config(context)
        self._loaded = loaded = project_loader.open_project(context)
        self._cleanup.callback(loaded.source.close)
        project_loader.require_valid(context, loaded)
        project = loaded.project
        # What no environment can mend is found before one is built.
        plan = self._make_plan(project)
        bears = any(step.secrets for step in plan.steps) or holds_within(
            context.options.backend_config
        )
        if self._refresh or bears:
            context.tracker.untrackable = True  # no record for the next run, which would hold them
        command_options.refuse_unknown(self.options.cache, plan)
        for problem in plan.problems:
            raise problem
        if self.options.provenance and not any(step.outputs for step in plan.steps):
            raise UsageError(
                "no step declares outputs, so there is nothing that `--provenance` could tell of",
                place=project.file or project.root,
                hint="declare what the command makes under `outputs`",
            )
        step = plan.steps[-1]
        self.plan = plan
        commands = [each.command for each in plan.steps]
        self.provider = open_provider(context, project, commands, refresh=self._refresh)
        self._cleanup.callback(self.provider.close)
        manager = manager_of(context, project)
        self.spec = spec_for(context, loaded, step, manager, self._tracking_mode)
        steps = [(each.id, each.entry_point) for each in plan.steps]
        return PlanSummary(project.name, project.root, loaded.source.where, step.backend, steps)

    def complete(self, executor: Executor) -> Plan:
        """Return the plan with its downloads and its environment; raises BuildrunError."""
        context, plan = self.context, self.plan
        if plan.spec is not None and any(step.downloads for step in plan.steps):
            plan = self._make_plan(plan.spec, self._downloads.fetch)
            context.tracker.untrackable = True  # they are there for this run alone
        executor.check([step.task() for step in plan.steps])
        state, content = self.provider.identify(executor.repository)
        return model.with_environment(plan, state, content)

    def keep(self, plan: Plan, lease: PlanLease) -> None:
        """Leave the plan for the next run of the same command line."""
        environment, loaded, context = self.provider.record(), self._loaded, self.context
        if environment is None or loaded is None or context.tracker.untrackable:
            return
        alone = model.is_passthrough(plan) and self.options.output is None
        if not alone and loaded.source.workdir is not None:
            return  # no output lies there when it is made again
        encoded = plan_cache.dump_plan(plan)
        record: RunRecord = {
            "plan": encoded,
            "root": plan.root,
            "where": loaded.source.where,
            "notice": project_loader.notice(loaded, context.cwd),
            "environment": environment,
            "tracking": self.spec,
            "watched": None if alone else self._watched(plan, encoded),
            "project_options": context.options._asdict(),
            "run_options": self.options._asdict(),
            "untracked": self.untracked,
        }
        paths = [
            path
            for step in plan.steps
            for path in (step.entry_point, *(value for _, value in step.parameters))
        ]
        for name in self.untracked:
            context.tracker.variable(name)
        for step in plan.steps:
            for name, _ in (*step.env, *step.key_env):
                context.tracker.variable(name)
        plan_cache.keep(
            lease, context.cwd, context.memo, context.tracker, record, paths, loaded.source.recipe
        )

    def close(self) -> None:
        """Remove what is temporary, and let go of the environment."""
        self._cleanup.close()

    def _make_plan(self, project: ProjectSpec, download: Download | None = None) -> Plan:
        request, options = project_loader.plan_request(self.context), self.options
        plan = model.make_plan(project, request, _UNKNOWN, download)
        return model.guarded(plan, check_inputs=options.check_inputs, sandbox=options.sandbox)

    def _watched(self, plan: Plan, encoded: Any) -> Watched | None:
        """Return what tells that all steps are up to date, None where a look at files does not."""
        settings = self.options.cache
        plain = CacheSettings()
        if (settings.force, settings.cache) != (plain.force, plain.cache):
            return None
        return quick_check.watched(plan, digest.key("plan", [encoded, settings.strict]))


_UNKNOWN = model.EnvironmentState("", None, False)


def _watch_config(context: RunContext) -> None:
    """Note that the plan depends on the file of a backend config, where it is one."""
    given = context.options.config_given
    if given is None or not given.endswith(".json"):
        return
    try:
        context.tracker.read(os.path.abspath(given))
    except OSError:
        context.tracker.untrackable = True  # gone since it was read


def _jobs(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 10_000:
        return int(text)
    raise UsageError(f"`-j {text}` is not a number of steps", hint="give a number, such as `-j 4`")
