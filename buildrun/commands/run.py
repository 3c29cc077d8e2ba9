"""``buildrun run``: run an entry point."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from buildrun.commands import notify, run_steps, session, warm_record
from buildrun.commands import options as cache_options
from buildrun.commands import options as project_options
from buildrun.commands.account import RunRecorder
from buildrun.commands.downloads import Downloads
from buildrun.commands.options import report_path, write_report
from buildrun.commands.run_steps import RunOptions
from buildrun.commands.tracked import Tracking
from buildrun.environments import provision
from buildrun.environments.base import Environment
from buildrun.errors import BuildrunError, UsageError
from buildrun.executors.base import Result
from buildrun.executors.output import MODES
from buildrun.plan import model
from buildrun.prepared import Prepared, perform
from buildrun.scheduler import Limits, Progress
from buildrun.tracking import config as ask

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext
    from buildrun.step_runner import Perform
    from buildrun.warm import PlanLease


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add_project_options(parser, uri=False)
    cache_options.add_cache_options(parser)
    option = parser.add_argument
    option("-j", "--jobs", metavar="N", default="1", help="how many steps at once; default: 1")
    option(
        "-k", "--keep-going", action="store_true",
        help="after a failure, go on with what does not depend on it",
    )  # fmt: skip
    option(
        "--output", choices=MODES,
        help="what steps write: as it comes, behind their names, when they end, or only of those "
        "that fail; default: stream, and prefixed where several run at once",
    )  # fmt: skip
    option("--watch", action="store_true", help="run again whenever an input changes")
    option("-q", "--quiet", action="store_true", help="say only what went wrong")
    option(
        "--detach", action="store_true",
        help="with Kubernetes: return as soon as what can start is submitted",
    )  # fmt: skip
    option("--dry-run", action="store_true", help="show the plan and run nothing")
    option("--refresh", action="store_true", help="build the environment anew")
    option("--report", metavar="FILE", help="write how the run went, as JSON")
    option(
        "--tracking", choices=ask.MODES,
        help="whether MLflow records the run: also where nothing tells of a tracking server; with "
        "a mere warning where that fails; or not at all",
    )  # fmt: skip


def execute(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, claim: PlanLease
) -> int:
    """Run, and return the command's own exit code.

    claim: is released before the command starts, when its record is there for other runs.
    """
    settings = cache_options.read_cache_options(arguments, environ, cwd)
    options = project_options.read_project_options(arguments, environ, cwd)
    manner = Limits(_jobs(arguments.jobs), arguments.keep_going)
    wanted = RunOptions(settings, manner, arguments.output, arguments.detach)
    if arguments.detach and options.backend != "kubernetes":
        raise UsageError(
            "`--detach` is for Kubernetes", hint="put buildrun into the background: `buildrun … &`"
        )
    if arguments.dry_run:
        from buildrun.commands import plan as plan_command

        return plan_command.show(options, settings, environ, cwd, form="text")
    if arguments.watch:
        from buildrun.commands import watch

        return watch.watch(options, arguments.command_line, environ, cwd)
    running = session.new_context(options, environ, cwd, quiet=arguments.quiet, write=True)
    session.watch_config(running, arguments.backend_config)
    report_file = report_path(arguments.report, cwd)
    account = RunRecorder(running, Tracking(running, arguments.tracking))
    downloads = Downloads(running)
    try:
        with session.open_project(running) as opened:
            account.where = opened.source.where
            session.require_valid(running, opened)
            _run(running, opened, wanted, account, downloads, claim, refresh=arguments.refresh)
    except KeyboardInterrupt:
        account.interrupt(signal.SIGINT)
        raise
    except BuildrunError as error:
        account.fail(error)
        raise
    finally:
        downloads.close()
        account.close()
        if report_file is not None:
            write_report(report_file, account, running.console)
    return account.exit_code


def _run(
    running: RunContext,
    opened: session.LoadedProject,
    wanted: RunOptions,
    account: RunRecorder,
    downloads: Downloads,
    claim: PlanLease,
    *,
    refresh: bool,
) -> None:
    # What no environment can mend is found before one is built.
    first = model.make_plan(opened.project, session.plan_request(running), _UNKNOWN)
    if any(step.secrets for step in first.steps):
        running.tracker.untrackable = True  # no record for the next run, which would hold them
    cache_options.refuse_unknown(wanted.settings, first)
    _refuse(first)
    _supported(running)
    account.intend(first)
    tracking = account.tracking
    tracking.begin(opened, first)
    if not tracking.is_late:
        notify.notify_id(account.run_id)
    if first.steps[-1].backend == "kubernetes":
        _run_in_kubernetes(running, opened, wanted, account, downloads, claim, refresh=refresh)
        return
    if first.steps[-1].backend == "docker":
        _run_in_docker(running, opened, wanted, account, downloads, claim, refresh=refresh)
        return
    manager, request, identity = session.environment_of(running, opened.project, fetch=True)
    if manager is None or identity is None:
        raise AssertionError("docker projects run elsewhere")

    @cache
    def provide() -> Environment:
        environment, account.lock = provision.provide(
            manager, identity, request, running.home, running.console, refresh=refresh
        )
        tracking.begin_with_environment(environment.prefix)
        return environment

    def make() -> model.Plan:
        state = session.environment_state(running, manager, identity)
        content = session.environment_content(request, identity)
        wish = session.plan_request(running)
        return model.make_plan(opened.project, wish, state, downloads.fetch, content=content)

    if model.is_passthrough(first) and wanted.shown is None:
        environment = provide()
        made = make()
        prepared = _prepared(made, environment, tracking.untracked)
        account.prepared = tracking.seen_by(prepared)
        account.begin(made)
        if not downloads.used:
            warm_record.keep(claim, running, opened, prepared, tracking.ask)
        claim.release()
        account.result = perform(account.prepared, running.environ, running.console, account.log)
        return
    if tracking.is_late:
        provide()
    made = make()
    progress = account.begin_steps(made)
    if not downloads.used:
        warm_record.keep_plan(claim, running, opened, made, wanted, tracking.ask)
    claim.release()
    _run_steps(running, account, wanted, progress, provide, tracking.variables)


def _run_in_docker(
    running: RunContext,
    opened: session.LoadedProject,
    wanted: RunOptions,
    account: RunRecorder,
    downloads: Downloads,
    claim: PlanLease,
    *,
    refresh: bool,
) -> None:
    from buildrun.commands.docker import Docker

    tracking = account.tracking
    docker = Docker(running, opened.project, tracking)
    state = model.EnvironmentState("docker", None, True)
    made = model.make_plan(opened.project, session.plan_request(running), state, downloads.fetch)
    chosen = docker.choose(made, refresh=refresh)
    tracking.tag_image(chosen.reference, chosen.id)
    made = made._replace(content=docker.content(chosen))
    if model.is_passthrough(made) and wanted.shown is None:
        account.prepared = _prepared(made, _IMAGE, tracking.variables)
        account.begin(made)
        if not downloads.used:
            warm_record.keep_container(claim, running, opened, docker, chosen, made, tracking.ask)
        claim.release()
        account.result = docker.run(made.steps[-1], account.log)
        return
    progress = account.begin_steps(made)
    claim.release()
    _run_steps(
        running, account, wanted, progress, lambda: _IMAGE, tracking.variables, docker.perform
    )


def _run_in_kubernetes(
    running: RunContext,
    opened: session.LoadedProject,
    wanted: RunOptions,
    account: RunRecorder,
    downloads: Downloads,
    claim: PlanLease,
    *,
    refresh: bool,
) -> None:
    from buildrun.commands.kubernetes import Kubernetes
    from buildrun.executors.kubernetes import config as kubernetes_config

    given = running.options.config_given or "{}"
    config = kubernetes_config.read(given, running.environ, running.cwd, running.console.warn)
    tracking = account.tracking
    cluster = Kubernetes(
        running, opened.project, config, wanted.settings, account.run_id, detach=wanted.detach
    )
    state = model.EnvironmentState("docker", None, True)
    made = model.make_plan(opened.project, session.plan_request(running), state, downloads.fetch)
    with cluster:
        chosen = cluster.choose(made, refresh=refresh)
        tracking.tag_image(chosen.reference, chosen.id)
        progress = account.begin_steps(made._replace(content=cluster.content(chosen)))
        claim.release()
        _run_steps(
            running, account, wanted, progress, lambda: _IMAGE, tracking.variables, cluster.perform
        )
    if any(outcome.state == "submitted" for outcome in progress.outcomes.values()):
        running.console.note(
            "the same command follows what was submitted, and goes on with what waits for it; "
            "`buildrun runs show`, `runs logs -f` and `runs cancel` look after it"
        )


def _run_steps(
    running: RunContext,
    account: RunRecorder,
    wanted: RunOptions,
    progress: Progress,
    provide: Callable[[], Environment],
    changes: Mapping[str, str | None],
    perform: Perform | None = None,
) -> None:
    """Run the steps, and account for them; the last three are as for ``run_steps``."""
    origins: dict[str, str] = {}
    perform = account.tracking.with_nested_runs(perform, origins)
    run_steps.run_steps(
        running, progress, account.run_id, wanted, provide, changes, perform, origins
    )
    account.result = Result(progress.exit_code(), progress.interrupted)
    account.summary()
    account.tracking.log_steps(progress, origins)


def _jobs(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 10_000:
        return int(text)
    raise UsageError(f"`-j {text}` is not a number of steps", hint="give a number, such as `-j 4`")


def _prepared(
    made: model.Plan, environment: Environment, variables: Mapping[str, str | None]
) -> Prepared:
    step = made.steps[-1]
    changes = {**environment.variables, **variables, **dict(step.env)}
    return Prepared(
        step=step.id,
        entry_point=step.entry_point,
        parameters=step.parameters,
        command=step.command,
        cwd=made.project.root,
        manager=environment.manager,
        key=environment.key or "",
        prefix=environment.prefix,
        changes=changes,
        reasons=(model.NO_OUTPUTS,),
        shown=step.shown,
    )


# What stands for an environment where it is in the image.
_IMAGE = Environment("docker", None, None, True, {})

_UNKNOWN = model.EnvironmentState("", None, False)


def _refuse(made: model.Plan) -> None:
    for problem in made.problems:
        raise problem


def _supported(running: RunContext) -> None:
    backend = running.options.backend
    if backend == "databricks":
        raise UsageError("buildrun does not run projects on Databricks", hint="use `mlflow run`")
