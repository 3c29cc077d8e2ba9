"""Runs commands at Databricks: where the project's files go, and what is submitted."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors import (
    backend_config,
    container_command,
    container_mounts,
    container_sandbox,
)
from buildrun.executors.base import Job, OutputSink, ProcessRunner, Result, Task
from buildrun.executors.databricks import config as databricks_config
from buildrun.executors.databricks import files, launch, submission
from buildrun.executors.databricks.api import Api
from buildrun.executors.databricks.auth import connect
from buildrun.executors.databricks.claim import StepRun
from buildrun.executors.databricks.files import Place
from buildrun.executors.databricks.jobs import Jobs
from buildrun.executors.databricks.run import Workspace, run_step
from buildrun.executors.kubernetes import pod_runner, transfer
from buildrun.executors.kubernetes.staging import FileStaging
from buildrun.executors.kubernetes.transfer import ArtifactTransfer, StagedArchive
from buildrun.executors.submitted import owner
from buildrun.store import digest, runs
from buildrun.store.files import is_within

if TYPE_CHECKING:
    from buildrun.executors.base import ExecutorContext
    from buildrun.executors.databricks.config import Config

# Parts of what a driver delivers, at most.
_PARTS = 256
_PART = 256 << 20


class DatabricksExecutor:
    """Runs the steps of one project as job runs of a workspace."""

    USES_IMAGE = False
    HAS_TERMINAL = False
    # Packages are installed where commands run.
    BUILDS_NOTHING_HERE: ClassVar[bool] = True
    repository = None

    def __init__(self, context: ExecutorContext, config: Config, api: Api) -> None:
        """Take the context; nothing is asked yet."""
        self._context = context
        self._config = config
        self._api = api
        self._jobs = Jobs(api, config.poll)
        self._tasks: Sequence[Task] = ()
        self._mutex = threading.Lock()
        self._used = False

    @classmethod
    def open(cls, context: ExecutorContext) -> DatabricksExecutor:
        """Read the config; raises ProjectError for it, ExecutionError without credentials."""
        environ = context.environ
        config = databricks_config.read(backend_config.source_of(context))
        api = Api(connect(config.profile, environ), environ, tell=context.console.warn)
        return cls(context, config, api)

    def check(self, tasks: Sequence[Task]) -> None:
        """Take the steps; raises ExecutionError for what cannot be had there."""
        remedy = "a network policy of the workspace can do it"
        container_sandbox.refuse_without_network(tasks, "at Databricks", remedy)
        self._tasks = tasks
        console = self._context.console
        container_sandbox.warn_unwatched(tasks, console, "at Databricks")
        uri = self._context.environ.get("MLFLOW_TRACKING_URI") or ""
        if uri and not container_mounts.is_remote(uri) and not uri.startswith("databricks"):
            console.warn(
                "commands at Databricks do not reach the tracking store, which is on this machine",
                "`MLFLOW_TRACKING_URI=databricks` records at Databricks",
            )

    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result:
        """Run a step there: files to the place, its log to the sink, outputs from the place."""
        task = job.task
        if task is None or runner is None or sink is None:
            raise AssertionError(job.command)
        self._used = True
        signals: list[int] = []

        def interrupt(number: int) -> None:
            signals.append(number)
            self._api.hurry()

        with runner.on_interrupt(interrupt):
            try:
                spec = self._step_run(job, task)
            except ExecutionError:
                if not signals:
                    raise
                return Result(128 + signals[0], signals[0])
        result = run_step(self._workspace, spec, runner, sink, detach=self._context.detach)
        return result._replace(sandboxed=task.declared_only)

    def _step_run(self, job: Job, task: Task) -> StepRun:
        """Return what a step's run is made of, once its files are there."""
        archives = self._archives(task)
        environ, secrets = self._variables(task)
        plain, hidden = container_mounts.without_secrets(_mlflow(job))
        known = job.identity() or digest.key("unknown", os.urandom(16).hex())
        parts: list[object] = [
            known,
            owner(self._context.environ),
            task.shown,
            environ,
            sorted(secrets),
        ]
        parts += [[archive.sha256 for archive in archives], task.declared_only, task.timeout]
        key = digest.key(
            "databricks", [*parts, submission.compute(self._config, self._context.packages)]
        )
        return StepRun(
            step=task.id,
            key=key.rpartition(":")[2],
            task=lambda token: self._task(task, token, archives, {**environ, **plain}),
            body=lambda path: self._body(task, path),
            secrets=lambda token: {**secrets, **hidden, **self._secret_command(task, token)},
            collect=lambda token, last: self._staging.collect_outputs(task, token, last=last),
            forget=lambda: self._forget(archives),
            drop=self._staging.drop,
            anew=job.anew,
        )

    def close(self, *, interrupted: bool) -> None:
        """Delete what was delivered, now that it is in the project."""
        try:
            if self._used and not interrupted and not self._context.detach:
                self._staging.discard()
        finally:
            self._api.close()

    # -- where it runs -------------------------------------------------------------------------

    @cached_property
    def _workspace(self) -> Workspace:
        context = self._context
        directory = runs.directory(context.home.runs, context.run_id)
        return Workspace(
            self._jobs, self._place, context.console, context.run_id, directory,
            self._config.profile,
        )  # fmt: skip

    @cached_property
    def _place(self) -> Place:
        return Place(self._api, self._config.place or files.default(self._api))

    def _body(self, task: Task, path: str) -> Mapping[str, Any]:
        context = self._context
        name = printable(f"{context.project}: {task.id}")
        return submission.body(self._config, context.packages, name, (self._launch_path, path))

    # -- what travels --------------------------------------------------------------------------

    @cached_property
    def _transfer(self) -> ArtifactTransfer:
        return ArtifactTransfer(self._place, self._place.limit)

    @cached_property
    def _staging(self) -> FileStaging:
        staging = FileStaging(
            self._context.root, lambda: self._project_files, lambda: self._transfer
        )
        staging.check(self._tasks)
        return staging

    @cached_property
    def _project_files(self) -> frozenset[str]:
        """Return the paths of the project's files, without links that lead out of it."""
        from buildrun.workspace import image_context

        context = self._context
        paths = image_context.paths(context.home, context.root, context.outputs)
        return frozenset(
            path for path in paths if not _leads_out(os.path.join(context.root, path), path)
        )

    @cached_property
    def _project(self) -> StagedArchive:
        return self._transfer.send(self._context.root, sorted(self._project_files))

    def _archives(self, task: Task) -> list[StagedArchive]:
        """Send what a task needs, where it is not there yet: its launch program, and files."""
        with self._mutex:  # steps that begin at once share the project's archive
            _ = self._launch_path
            staging = self._staging
            project = self._declared(task) if task.declared_only else self._project
        return [project, *staging.archives(task)]

    def _declared(self, task: Task) -> StagedArchive:
        """Send what a task has of the project that is to have its declared files alone."""
        known, staging = self._project_files, self._staging
        tops = staging.paths_inside(task)
        paths = {path for path in known if any(is_within(path, top) for top in tops)}
        paths |= known.intersection(staging.declared_files(task).files)
        return self._transfer.send(self._context.root, sorted(paths))

    @cached_property
    def _launch_path(self) -> str:
        """Return the path of the launch program, which is there as it is here from then on."""
        with open(launch.__file__, "rb") as file:
            data = file.read()
        name = f"v1/launch-{hashlib.sha256(data).hexdigest()[:16]}.py"
        if self._place.read(name, len(data) + 1) != data:  # whoever has changed it
            self._place.write(name, data)
        return self._place.at(name)

    def _forget(self, archives: Sequence[StagedArchive]) -> None:
        """Delete archives that are damaged there, so that they are sent anew."""
        top = f"{self._place.path}/"
        names = [url.removeprefix(top) for archive in archives for url in archive.urls]
        self._place.delete([name for name in names if transfer.is_content(name)])
        with self._mutex:
            self.__dict__.pop("_project", None)

    def _task(
        self, task: Task, token: str, archives: Sequence[StagedArchive], environ: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Return what the launch program is to do."""
        staging, place = self._staging, self._place
        directory = _directory(token)
        code, others = f"{directory}/project", f"{directory}/files"
        argv: Sequence[str] = ("bash", "-c", staging.command(task, code, others))
        if task.secret:
            argv = container_command.program_of_variable(task.command)
        inputs = [
            archive if archive.root == transfer.WORKDIR else archive._replace(root=others)
            for archive in archives
        ]
        directories = staging.declared_files(task).directories if task.declared_only else ()
        order = self._transfer.order(token, _PARTS) if task.outputs else ()
        work = transfer.task(
            argv, code, inputs, task.outputs, order, part=min(_PART, place.limit.bytes),
            only={"keep": (), "directories": directories} if directories else None,
        )  # fmt: skip
        return {
            "directory": directory,
            "runner": transfer.program(),
            "task": {**json.loads(work), "growth": int(place.is_volume)},
            "variables": environ,
            "timeout": task.timeout,
        }

    def _secret_command(self, task: Task, token: str) -> Mapping[str, str]:
        if not task.secret:
            return {}
        directory = _directory(token)
        text = self._staging.command(task, f"{directory}/project", f"{directory}/files")
        return {container_command.COMMAND: text}

    def _variables(self, task: Task) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the command sees, and apart from it what is secret."""
        caller = self._context.environ
        seen = {"PYTHONUNBUFFERED": "1"}  # or lines of a Python program come late
        seen.update({name: caller[name] for name in task.pass_env if name in caller})
        seen.update(dict(task.env))
        return container_mounts.without_secrets(seen)


def _directory(token: str) -> str:
    """Return the directory that a run has to itself on its driver."""
    return f"/tmp/buildrun-{token}"  # noqa: S108 - made anew, for its user alone


def _leads_out(path: str, name: str) -> bool:
    try:
        return not pod_runner.stays(os.fsencode(name), os.fsencode(os.readlink(path)))
    except OSError:
        return False  # it is no link


def _mlflow(job: Job) -> dict[str, str]:
    """Return MLflow's variables, as they can be used there."""
    found = container_mounts.mlflow_run(job.environ)
    if (job.environ.get("MLFLOW_TRACKING_URI") or "").startswith("databricks"):
        found["MLFLOW_TRACKING_URI"] = "databricks"  # profiles are of this machine
    return found
