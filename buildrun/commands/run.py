"""``buildrun run``: run an entry point."""

from __future__ import annotations

import argparse
import os
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from buildrun import plan, tracking, warm
from buildrun.commands import project_options, session
from buildrun.commands.report_file import report_path, write_report
from buildrun.environments import provision
from buildrun.errors import (
    FAILURE,
    INTERRUPTED,
    BuildrunError,
    ExecutionError,
    Interrupted,
    ParameterError,
    UsageError,
)
from buildrun.executors.job import Result
from buildrun.project.locate import find_mlproject
from buildrun.project.spec import DockerEnv, EnvironmentSpec
from buildrun.run import Prepared, perform, report
from buildrun.secrets import redact
from buildrun.warm import Claim

if TYPE_CHECKING:
    from buildrun.commands.session import Session
    from buildrun.environments.contract import Environment
    from buildrun.locks import Lock


# Variables of the caller that a prepared command depends on, beside those that readers note.
_VARIABLES = (
    "BUILDRUN_HOME", "HOME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_TMP_DIR",
    "PATH", "SHELL", "XDG_CACHE_HOME",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and run nothing")
    parser.add_argument("--refresh", action="store_true", help="build the environment anew")
    parser.add_argument("--report", metavar="FILE", help="write how the run went, as JSON")


def execute(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, claim: Claim
) -> int:
    """Run, and return the command's own exit code.

    claim: is released before the command starts, when its record is there for other runs.
    """
    options = project_options.read(arguments, environ)
    if arguments.dry_run:
        from buildrun.commands import plan as plan_command

        return plan_command.show(options, environ, cwd, form="text")
    running = session.begin(options, environ, cwd, quiet=arguments.quiet, write=True)
    report_file = report_path(arguments.report, cwd)
    started = time.monotonic()
    prepared: Prepared | None = None
    result = Result(FAILURE)
    downloads = _Downloads(running)
    lock: Lock | None = None
    try:
        opened = session.open_project(running)
        session.check(running, opened)
        prepared, lock = _prepare(running, opened, downloads, refresh=arguments.refresh)
        if not downloads.used:
            _keep(claim, running, opened, prepared)
        claim.release()
        result = perform(prepared, environ, running.console)
    except KeyboardInterrupt:
        result = Result(INTERRUPTED, signal.SIGINT)
        raise
    except BuildrunError as error:
        interrupted = error.exit_code - 128 if isinstance(error, Interrupted) else None
        result = Result(error.exit_code, interrupted)
        raise
    finally:
        downloads.close()
        if lock is not None:
            lock.release()
        if report_file is not None:
            run_id = options.run_id or os.urandom(16).hex()
            value = report(run_id, prepared, result, time.monotonic() - started)
            write_report(report_file, value, running.console)
    return result.exit_code


def _prepare(
    running: Session, opened: session.Opened, downloads: _Downloads, *, refresh: bool
) -> tuple[Prepared, Lock | None]:
    """Return the command that is ready to run, and the lock that keeps its environment."""
    # What no environment can mend is found before one is built.
    _refuse(plan.make(opened.project, session.wish(running), _UNKNOWN))
    _supported(running, opened.project.environment)
    manager, request, identity = session.environment_of(running, opened.project, fetch=True)
    if manager is None or identity is None:
        raise AssertionError("docker projects were refused above")
    environment, lock = provision.provide(
        manager, identity, request, running.home, running.console, refresh=refresh
    )
    try:
        state = session.environment_state(running, manager, identity)
        made = plan.make(opened.project, session.wish(running), state, downloads.fetch)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return _prepared(running, made, environment), lock


def _prepared(running: Session, made: plan.Plan, environment: Environment) -> Prepared:
    options, step = running.options, made.steps[-1]
    changes = {
        **environment.variables,
        **tracking.variables(
            run_id=options.run_id,
            experiment_id=options.experiment_id,
            experiment_name=options.experiment_name,
        ),
    }
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
        reasons=step.reasons,
    )


def _keep(claim: Claim, running: Session, opened: session.Opened, prepared: Prepared) -> None:
    """Leave a record for the next run of the same command line."""
    seen = running.seen
    for name in (*_VARIABLES, *prepared.changes):
        seen.variable(name)
    for path in (prepared.entry_point, *(value for _, value in prepared.parameters)):
        seen.exists(os.path.join(prepared.cwd, path))
    value = {
        "root": prepared.cwd,
        "mlproject": find_mlproject(prepared.cwd),
        "quiet": running.console.quiet,
        "notice": session.notice(opened, running.cwd),
        "prepared": prepared._asdict(),
    }
    warm.keep(claim, running.cwd, running.memory, seen, value)


_UNKNOWN = plan.EnvironmentState("", None, False)


def _refuse(made: plan.Plan) -> None:
    for problem in made.problems:
        raise problem


def _supported(running: Session, environment: EnvironmentSpec) -> None:
    backend = running.options.backend
    if backend == "databricks":
        raise UsageError("buildrun does not run projects on Databricks", hint="use `mlflow run`")
    if backend in ("docker", "kubernetes") or isinstance(environment, DockerEnv):
        wanted = backend if backend in ("docker", "kubernetes") else "docker"
        raise ExecutionError(
            f"this version of buildrun does not run projects on {wanted}",
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
