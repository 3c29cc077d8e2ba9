"""``buildrun run``: run an entry point."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun import plan, tracking
from buildrun.commands import project_options, session
from buildrun.environments import provision
from buildrun.errors import FAILURE, BuildrunError, ExecutionError, UsageError
from buildrun.executors.job import Job, Result

if TYPE_CHECKING:
    from buildrun.commands.session import Session
    from buildrun.environments.contract import Environment

HELP = "run an entry point of a project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument("--dry-run", action="store_true", help="show the plan and run nothing")
    parser.add_argument("--refresh", action="store_true", help="build the environment anew")
    parser.add_argument("--report", metavar="FILE", help="write how the run went, as JSON")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Run, and return the command's own exit code."""
    options = project_options.read(arguments, environ)
    if arguments.dry_run:
        from buildrun.commands import plan as plan_command

        return plan_command.show(options, environ, cwd, form="text")
    running = session.begin(options, environ, cwd, quiet=arguments.quiet, write=True)
    started = time.monotonic()
    run_id = options.run_id or uuid.uuid4().hex
    outcome: tuple[plan.Plan, Result] | None = None
    try:
        outcome = _run(running, refresh=arguments.refresh)
        return outcome[1].exit_code
    finally:
        if arguments.report is not None:
            seconds = time.monotonic() - started
            _report(os.path.join(cwd, arguments.report), run_id, outcome, seconds)


def _run(running: Session, *, refresh: bool) -> tuple[plan.Plan, Result]:
    opened = session.open_project(running)
    session.check(running, opened)
    # What no environment can mend is found before one is built.
    _refuse(plan.make(opened.project, session.wish(running), _UNKNOWN))
    _supported(running, opened.project.environment)
    manager, request, identity = session.environment_of(running, opened.project, fetch=True)
    if manager is None or identity is None:
        raise AssertionError("docker projects were refused above")
    environment, lock = provision.provide(
        manager, identity, request, running.home, running.console, refresh=refresh
    )
    downloads = _Downloads(running)
    try:
        state = session.environment_state(running, manager, identity)
        made = plan.make(opened.project, session.wish(running), state, downloads.fetch)
        result = _execute(running, made, environment)
        if result.exit_code != 0 and result.interrupted is None:
            _look_for_damage(running, manager, environment)
        return made, result
    finally:
        downloads.close()
        if lock is not None:
            lock.release()


_UNKNOWN = plan.EnvironmentState("", None, False)


def _refuse(made: plan.Plan) -> None:
    for problem in made.problems:
        raise problem


def _supported(running: Session, environment: object) -> None:
    backend = running.options.backend
    if backend == "databricks":
        raise UsageError("buildrun does not run projects on Databricks", hint="use `mlflow run`")
    from buildrun.project.spec import DockerEnv

    if backend in ("docker", "kubernetes") or isinstance(environment, DockerEnv):
        wanted = backend if backend in ("docker", "kubernetes") else "docker"
        raise ExecutionError(
            f"this version of buildrun does not run projects on {wanted}",
            hint="`buildrun plan` and `buildrun validate` work; use `mlflow run` to run it",
        )


def _execute(running: Session, made: plan.Plan, environment: Environment) -> Result:
    from buildrun.executors import local

    options, step = running.options, made.steps[-1]
    changes = {
        **environment.variables,
        **tracking.variables(
            run_id=options.run_id,
            experiment_id=options.experiment_id,
            experiment_name=options.experiment_name,
        ),
    }
    environ = {name: value for name, value in running.environ.items() if name not in changes}
    environ.update({name: value for name, value in changes.items() if value is not None})
    running.console.note(running.console.style(f"[{step.id}] {step.command}", "dim"))
    return local.execute(Job(step.command, made.project.root, environ))


def _look_for_damage(running: Session, manager: Any, environment: Environment) -> None:
    """After a failure, see whether the environment is to blame, and have it built again if so."""
    if environment.prefix is None:
        return
    damaged = manager.damage(environment.prefix)
    if damaged:
        provision.discard(environment.prefix)
        running.console.warn(
            f"{len(damaged)} files of the environment were changed or are gone, "
            f"such as `{damaged[0]}`",
            "run again; the environment will be built anew",
        )


class _Downloads:
    """Remote `path` parameters of one run; without a storage directory they go when it ends."""

    def __init__(self, running: Session) -> None:
        self._running = running
        self._temporary: str | None = None

    def fetch(self, name: str, uri: str) -> str:
        """Return the path of a local copy."""
        from buildrun.console import size
        from buildrun.download import fetch

        console = self._running.console

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
            self._temporary = tempfile.mkdtemp(prefix="buildrun-")
        return self._temporary

    def close(self) -> None:
        """Remove what was only for this run."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _report(
    path: str,
    run_id: str,
    outcome: tuple[plan.Plan, Result] | None,
    seconds: float,
) -> None:
    from buildrun.files import publish

    exit_code = outcome[1].exit_code if outcome else FAILURE
    state = "ok" if exit_code == 0 else "failed"
    if outcome is not None and outcome[1].interrupted is not None:
        state = "cancelled"
    steps = []
    if outcome is not None:
        step = outcome[0].steps[-1]
        steps.append(
            {
                "id": step.id,
                "entry_point": step.entry_point,
                "state": state,
                "exit_code": exit_code,
                "seconds": round(seconds, 3),
                "log": None,
                "reasons": [reason._asdict() for reason in step.reasons],
            }
        )
    report = {
        "version": 1,
        "run_id": run_id,
        "status": state,
        "exit_code": exit_code,
        "steps": steps,
    }
    try:
        publish(path, (json.dumps(report, indent=2) + "\n").encode())
    except OSError as error:
        raise BuildrunError(
            f"cannot write the report: {error.strerror}", place=path, hint="check `--report`"
        ) from None
