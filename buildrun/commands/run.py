"""``buildrun run``: run an entry point."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from buildrun import digest, glance, plan, plan_record, runs, tracking, warm
from buildrun.commands import cache_options, project_options, run_steps, session
from buildrun.commands.report_file import report_path, write_report
from buildrun.commands.run_steps import Wanted
from buildrun.environments import provision
from buildrun.environments.contract import Environment
from buildrun.errors import (
    FAILURE,
    BuildrunError,
    ExecutionError,
    Interrupted,
    ParameterError,
    UsageError,
)
from buildrun.executors.job import Result
from buildrun.output import MODES
from buildrun.project.locate import find_mlproject
from buildrun.run import Prepared, perform, report
from buildrun.schedule import Manner, Progress
from buildrun.secrets import redact
from buildrun.warm import Claim

if TYPE_CHECKING:
    from buildrun.commands.docker import Docker
    from buildrun.commands.session import Session
    from buildrun.containers import Chosen
    from buildrun.locks import Lock


# Variables of the caller that a prepared command depends on, beside those that readers note.
_VARIABLES = (
    "BUILDRUN_HOME", "BUILDRUN_REMOTE_CACHE", "BUILDRUN_REMOTE_CACHE_WRITE", "BUILDRUN_SALT",
    "HOME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TMP_DIR", "PATH", "SHELL",
    "XDG_CACHE_HOME",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add(parser, uri=False)
    cache_options.add(parser)
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
    option("--dry-run", action="store_true", help="show the plan and run nothing")
    option("--refresh", action="store_true", help="build the environment anew")
    option("--report", metavar="FILE", help="write how the run went, as JSON")


def execute(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, claim: Claim
) -> int:
    """Run, and return the command's own exit code.

    claim: is released before the command starts, when its record is there for other runs.
    """
    settings = cache_options.read(arguments, environ, cwd)
    options = project_options.read(arguments, environ)
    wanted = Wanted(settings, Manner(_jobs(arguments.jobs), arguments.keep_going), arguments.output)
    if arguments.dry_run:
        from buildrun.commands import plan as plan_command

        return plan_command.show(options, settings, environ, cwd, form="text")
    if arguments.watch:
        from buildrun.commands import watch

        return watch.watch(options, arguments.command_line, environ, cwd)
    running = session.begin(options, environ, cwd, quiet=arguments.quiet, write=True)
    report_file = report_path(arguments.report, cwd)
    account = _Account(running)
    downloads = _Downloads(running)
    try:
        opened = session.open_project(running)
        session.check(running, opened)
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
            write_report(report_file, account.report(), running.console)
    return account.exit_code


class _Account:
    """How a run goes, for its report and its record."""

    def __init__(self, running: Session) -> None:
        self._running = running
        self._started = time.monotonic()
        self._record: runs.Record | None = None
        self.run_id = running.options.run_id or runs.new_id()
        self.prepared: Prepared | None = None
        self.progress: Progress | None = None
        self.result = Result(FAILURE)
        self.lock: Lock | None = None

    @property
    def exit_code(self) -> int:
        return self.result.exit_code

    def begin(self, made: plan.Plan) -> None:
        """Record that the run has begun."""
        project, name = made.project, made.steps[-1].entry_point
        self._record = runs.begin(self.run_id, project.name, project.root, name)
        runs.write(self._running.home.runs, self._record)

    def interrupt(self, number: int) -> None:
        """Note that a signal ended it."""
        self.result = Result(128 + number, number)
        if self.progress is not None:
            self.progress.interrupted = number

    def fail(self, error: BuildrunError) -> None:
        """Note what stopped it."""
        if isinstance(error, Interrupted):
            self.interrupt(error.exit_code - 128)
        else:
            self.result = Result(error.exit_code)

    def close(self) -> None:
        """Let go of the environment, and record how the run went."""
        if self.lock is not None:
            self.lock.release()
        if self.progress is not None:
            self.progress.close()
        if self._record is not None:
            value = self.report()
            seconds = time.monotonic() - self._started
            record = runs.end(
                self._record, value["status"], value["exit_code"], seconds, value["steps"]
            )
            runs.write(self._running.home.runs, record)

    def report(self) -> Any:
        """Return the run in the stable shape of `--report`."""
        seconds = time.monotonic() - self._started
        value = report(self.run_id, self.prepared, self.result, seconds)
        if self.progress is not None:
            value["steps"] = [
                run_steps.to_json(self.progress.outcomes[step.id])
                for step in self.progress.plan.steps
                if step.id in self.progress.outcomes
            ]
        return value

    def summary(self) -> None:
        """Say how the steps went."""
        if self.progress is not None:
            self.progress.close()
            seconds = time.monotonic() - self._started
            self._running.console.note(run_steps.summary(self.progress, seconds))


def _run(
    running: Session,
    opened: session.Opened,
    wanted: Wanted,
    account: _Account,
    downloads: _Downloads,
    claim: Claim,
    *,
    refresh: bool,
) -> None:
    # What no environment can mend is found before one is built.
    first = plan.make(opened.project, session.wish(running), _UNKNOWN)
    cache_options.refuse_unknown(wanted.settings, first)
    _refuse(first)
    _supported(running)
    if first.steps[-1].backend == "docker":
        _run_in_docker(running, opened, wanted, account, downloads, claim, refresh=refresh)
        return
    manager, request, identity = session.environment_of(running, opened.project, fetch=True)
    if manager is None or identity is None:
        raise AssertionError("docker projects run elsewhere")

    def provide() -> Environment:
        environment, account.lock = provision.provide(
            manager, identity, request, running.home, running.console, refresh=refresh
        )
        return environment

    def make() -> plan.Plan:
        state = session.environment_state(running, manager, identity)
        content = session.environment_content(request, identity)
        wish = session.wish(running)
        return plan.make(opened.project, wish, state, downloads.fetch, content=content)

    if plan.is_plain(first):
        environment = provide()
        made = make()
        account.prepared = _prepared(running, made, environment)
        account.begin(made)
        if not downloads.used:
            _keep(claim, running, opened, account.prepared)
        claim.release()
        account.result = perform(account.prepared, running.environ, running.console)
        return
    made = make()
    account.progress = Progress(made)
    account.begin(made)
    if not downloads.used:
        _keep_plan(claim, running, opened, made, wanted)
    claim.release()
    run_steps.run_steps(
        running, account.progress, account.run_id, wanted, provide, _mlflow_variables(running)
    )
    account.result = Result(account.progress.exit_code(), account.progress.interrupted)
    account.summary()


def _run_in_docker(
    running: Session,
    opened: session.Opened,
    wanted: Wanted,
    account: _Account,
    downloads: _Downloads,
    claim: Claim,
    *,
    refresh: bool,
) -> None:
    from buildrun.commands.docker import Docker

    docker = Docker(running, opened.project)
    state = plan.EnvironmentState("docker", None, True)
    made = plan.make(opened.project, session.wish(running), state, downloads.fetch)
    chosen = docker.choose(made, refresh=refresh)
    made = made._replace(content=docker.content(chosen))
    if plan.is_plain(made):
        account.prepared = _prepared(running, made, _IMAGE)
        account.begin(made)
        if not downloads.used:
            _keep_container(claim, running, opened, docker, chosen, made)
        claim.release()
        account.result = docker.run(made.steps[-1])
        return
    account.progress = Progress(made)
    account.begin(made)
    claim.release()
    run_steps.run_steps(
        running, account.progress, account.run_id, wanted, lambda: _IMAGE, {}, docker.perform
    )
    account.result = Result(account.progress.exit_code(), account.progress.interrupted)
    account.summary()


def _jobs(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 10_000:
        return int(text)
    raise UsageError(f"`-j {text}` is not a number of steps", hint="give a number, such as `-j 4`")


def _prepared(running: Session, made: plan.Plan, environment: Environment) -> Prepared:
    step = made.steps[-1]
    changes = {**environment.variables, **_mlflow_variables(running)}
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
        reasons=(("no-outputs", "an entry point without outputs always runs"),),
    )


def _mlflow_variables(running: Session) -> Mapping[str, str | None]:
    options = running.options
    return tracking.variables(
        run_id=options.run_id,
        experiment_id=options.experiment_id,
        experiment_name=options.experiment_name,
    )


def _keep(claim: Claim, running: Session, opened: session.Opened, prepared: Prepared) -> None:
    """Leave a record for the next run of the same command line."""
    for path in (prepared.entry_point, *(value for _, value in prepared.parameters)):
        running.seen.exists(os.path.join(prepared.cwd, path))
    value = {"prepared": prepared._asdict(), "project": opened.project.name}
    _remember(claim, running, opened, prepared.changes, value)


def _keep_plan(
    claim: Claim, running: Session, opened: session.Opened, made: plan.Plan, wanted: Wanted
) -> None:
    """Leave a record for the next run, where the plan can be looked at without a command."""
    if wanted.settings.force != () or not wanted.settings.cache:
        return
    for step in made.steps:
        for path in (step.entry_point, *(value for _, value in step.parameters)):
            running.seen.exists(os.path.join(made.project.root, path))
    # A remote's address may bear secrets; what is up to date depends only on there being one.
    settings = wanted.settings._replace(remote=wanted.settings.remote and "remote")
    encoded = plan_record.encode(made)
    identity = digest.key("plan", [encoded, list(settings)], "xxh3")
    watched = glance.watched(made, identity)
    value = {"plan": encoded, "settings": list(settings), "watched": watched}
    _remember(claim, running, opened, (), value)


def _keep_container(
    claim: Claim,
    running: Session,
    opened: session.Opened,
    docker: Docker,
    chosen: Chosen,
    made: plan.Plan,
) -> None:
    """Leave a record for the next run, which looks whether the image is still the right one."""
    from buildrun import warm_docker
    from buildrun.commands.docker import task_of

    step = made.steps[-1]
    for path in (step.entry_point, *(value for _, value in step.parameters)):
        running.seen.exists(os.path.join(opened.project.root, path))
    value = {
        "docker": warm_docker.encode(chosen, docker.wants, task_of(step)),
        "image": docker.declared,
        "code": [opened.project.name, opened.project.root, list(made.outputs)],
    }
    _remember(claim, running, opened, (), value)


def _remember(
    claim: Claim,
    running: Session,
    opened: session.Opened,
    variables: Iterable[str],
    more: Mapping[str, Any],
) -> None:
    seen, root = running.seen, opened.project.root
    for name in (*_VARIABLES, *variables):
        seen.variable(name)
    value = {
        "root": root,
        "mlproject": find_mlproject(root),
        "quiet": running.console.quiet,
        "notice": session.notice(opened, running.cwd),
        **more,
    }
    warm.keep(claim, running.cwd, running.memory, seen, value)


# What stands for an environment where it is in the image.
_IMAGE = Environment("docker", None, None, True, {})

_UNKNOWN = plan.EnvironmentState("", None, False)


def _refuse(made: plan.Plan) -> None:
    for problem in made.problems:
        raise problem


def _supported(running: Session) -> None:
    backend = running.options.backend
    if backend == "databricks":
        raise UsageError("buildrun does not run projects on Databricks", hint="use `mlflow run`")
    if backend == "kubernetes":
        raise ExecutionError(
            "this version of buildrun does not run projects on Kubernetes",
            hint="`buildrun plan` and `buildrun validate` work; use `mlflow run` to run it",
        )


class _Downloads:
    """Remote `path` parameters of one run; without a storage directory they go when it ends."""

    def __init__(self, running: Session) -> None:
        self._running = running
        self._temporary: str | None = None
        self.used = False

    def fetch(self, name: str, uri: str) -> str:
        """Return the path of a local copy."""
        if self._running.options.offline:
            raise ParameterError(
                f"parameter `{name}`: `{redact(uri)}` would have to be downloaded",
                hint="give a local path, or run without `--offline`",
            )
        from buildrun.console import size
        from buildrun.download import fetch

        console = self._running.console
        self.used = True

        def progress(label: str, done: int, total: int | None) -> None:
            whole = f" of {size(total)}" if total else ""
            console.progress(f"downloading {label}: {size(done)}{whole}")

        try:
            return fetch(name, uri, self._directory(), progress)
        finally:
            console.done()

    def _directory(self) -> str:
        if self._running.options.storage_dir is not None:
            return os.path.join(self._running.cwd, self._running.options.storage_dir)
        if self._temporary is None:
            import tempfile

            self._temporary = tempfile.mkdtemp(prefix="buildrun-")
        return self._temporary

    def close(self) -> None:
        """Remove what was only for this run."""
        if self._temporary is not None:
            import shutil

            shutil.rmtree(self._temporary, ignore_errors=True)
