"""Runs commands as Kubernetes Jobs: the cluster, and the files that travel."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.executors import (
    backend_config,
    container_command,
    container_mounts,
    container_sandbox,
    docker_cli,
)
from buildrun.executors.base import Job, OutputSink, ProcessRunner, Result, Task
from buildrun.executors.kubernetes import config as kubernetes_config
from buildrun.executors.kubernetes import job_runner, manifest
from buildrun.executors.kubernetes.auth import connect
from buildrun.executors.kubernetes.cluster import Cluster
from buildrun.executors.kubernetes.manifest import MOUNT, Identity, JobSpec
from buildrun.executors.kubernetes.staging import FileStaging
from buildrun.executors.submitted import owner
from buildrun.store import digest, runs
from buildrun.store.files import is_within

if TYPE_CHECKING:
    from buildrun.executors.base import ExecutorContext
    from buildrun.executors.kubernetes.config import Config
    from buildrun.executors.kubernetes.transfer import ArtifactTransfer


class KubernetesExecutor:
    """Runs the steps of one project on a cluster."""

    USES_IMAGE = True
    HAS_TERMINAL = False

    def __init__(self, context: ExecutorContext, config: Config) -> None:
        """Take the context; the cluster is not asked yet."""
        self._context = context
        self._config = config
        open_transfer = self._open_transfer if context.remote is not None else None
        self._staging = FileStaging(context.root, self._in_image, open_transfer)
        self._resources = ExitStack()
        self._attempts: dict[str, int] = {}
        self._cluster: Cluster
        self._warn()

    @classmethod
    def open(cls, context: ExecutorContext) -> KubernetesExecutor:
        """Read the config and begin to follow the Jobs that there are.

        Raises ProjectError for the config, ExecutionError without a kubeconfig.
        """
        environ = context.environ
        config = kubernetes_config.read(backend_config.source_of(context))
        executor = cls(context, config)
        executor._cluster = executor._resources.enter_context(
            Cluster(
                connect(config.context, environ),
                config,
                owner(environ),
                runs.directory(context.home.runs, context.run_id),
                context.console,
                environ.get("KUBECONFIG") or "",
            )
        )
        return executor

    @property
    def repository(self) -> str:
        """Return where the cluster pulls the project's image from."""
        return self._config.repository

    def check(self, tasks: Sequence[Task]) -> None:
        """Take the steps; raises BuildrunError for what no pod could have."""
        remedy = "a NetworkPolicy of the cluster keeps pods off the network"
        container_sandbox.refuse_without_network(tasks, "in pods", remedy)
        self._staging.check(tasks)
        for task in tasks:
            self._variables(task)  # what is not set is told before anything is built
        container_sandbox.warn_unwatched(tasks, self._context.console)
        if self._covering and any(task.declared_only for task in tasks):
            self._context.console.warn(
                f"the Job template mounts `{printable(self._covering[0])}`: `sandbox` keeps no "
                "file there from commands",
                f"mount it outside of `{docker_cli.CODE}`",
            )

    def close(self, *, interrupted: bool) -> None:
        """Wait until what was deleted is gone, unless the run was interrupted."""
        try:
            if not self._context.detach:
                self._staging.discard()
        finally:
            self._resources.__exit__(KeyboardInterrupt if interrupted else None, None, None)

    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result:
        """Run a step as a Job: its log to the sink, files into the pod and out."""
        task, image, detach = job.task, job.image, self._context.detach
        if task is None or image is None or runner is None or sink is None:
            raise AssertionError(job.command)
        number = self._attempts.get(task.id, 0)
        self._attempts[task.id] = number + 1
        staging = self._staging
        environ, secrets = self._variables(task)
        command = staging.command(task)
        program = container_command.program(command, python=image.python)
        known = job.identity() or digest.key("unknown", os.urandom(16).hex())
        key = digest.key(
            "pod", [known, image.pushed, program, environ, sorted(secrets), self._fixed(task)]
        )
        if task.secret:
            program = container_command.program_of_variable(command)
            secrets = {**secrets, container_command.COMMAND: command}
        spec = JobSpec(
            identity=Identity(self._context.project, task.id, key, self._cluster.owner),
            run_id=self._context.run_id,
            image=image.pushed,
            user=image.user,
            program=program,
            environ={**environ, **self._of_mlflow(job)},
            secrets=secrets,
            files={},
            timeout=task.timeout,
            retries=task.retries if detach else 0,
            attempt=number,
        )
        if staging.is_needed(task):
            files = staging.stage_inputs(task, spec.name, program, docker_cli.CODE)
            program = ("python3", f"{MOUNT}/pod_runner.py", f"{MOUNT}/task.json")
            spec = spec._replace(program=program, files=files)
        result = job_runner.run_job(
            self._cluster,
            spec,
            runner,
            sink,
            lambda last: staging.collect_outputs(task, spec.name, last=last),
            detach=detach,
        )
        return result._replace(sandboxed=task.declared_only and not self._covering)

    @property
    def _covering(self) -> list[str]:
        """Return where the template mounts something in the project's directory, or above it."""
        mounts = manifest.first_container(self._config.template).get("volumeMounts") or ()
        paths = [str(mount.get("mountPath")) for mount in mounts if isinstance(mount, dict)]
        places = [os.path.normpath(path) for path in paths]
        code = docker_cli.CODE
        return [path for path in places if is_within(path, code) or is_within(code, path)]

    def _in_image(self) -> frozenset[str]:
        """Return the paths of the files that are in the project's image."""
        from buildrun.workspace import image_context

        context = self._context
        return image_context.paths(context.home, context.root, context.outputs)

    def _open_transfer(self) -> ArtifactTransfer:
        from buildrun.executors.kubernetes.transfer import through_cache

        context = self._context
        return through_cache(context.remote or "", context.environ, endpoint=self._config.endpoint)

    def _fixed(self, task: Task) -> list[object]:
        """Return what else decides a Job: the template with what the config adds to it."""
        config = self._config._asdict()
        own = {name: config[name] for name in ("template", "resources", "service_account", "queue")}
        only = ("declared only",) if task.declared_only else ()
        return [own, self._cluster.namespace, task.timeout, *only]

    def _variables(self, task: Task) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the container sees, and apart from it what is for the Secret."""
        caller, root = self._context.environ, self._context.root
        seen: dict[str, str] = {}
        there = manifest.first_container(self._config.template).get("env") or ()
        if "PYTHONUNBUFFERED" not in [item.get("name") for item in there if isinstance(item, dict)]:
            seen["PYTHONUNBUFFERED"] = "1"  # or lines of a Python program come late
        declared = self._context.containers.environment
        seen.update(container_mounts.declared_mounts((), declared, caller, root).environ)
        seen.update({name: caller[name] for name in task.pass_env if name in caller})
        seen.update(dict(task.env))
        return container_mounts.without_secrets(seen)

    def _of_mlflow(self, job: Job) -> dict[str, str]:
        """Return MLflow's three variables, as the cluster can use them."""
        found = container_mounts.mlflow_run(job.environ)
        if other := self._context.environ.get(_URI_THERE):
            found["MLFLOW_TRACKING_URI"] = other
        return found

    def _warn(self) -> None:
        environ, console = self._context.environ, self._context.console
        if self._context.containers.volumes:
            console.warn(
                "`docker_env.volumes` are directories of this machine; pods do not get them",
                "mount what the cluster has in the Job template",
            )
        if self._context.containers.arguments:
            console.warn("`-A` arguments are for `docker run`; pods do not get them")
        uri = environ.get("MLFLOW_TRACKING_URI") or ""
        if uri and not container_mounts.is_remote(uri) and not environ.get(_URI_THERE):
            console.warn(
                "pods do not reach the tracking store, which is on this machine",
                f"set {_URI_THERE} to the address of a tracking server",
            )


_URI_THERE = "KUBE_MLFLOW_TRACKING_URI"
