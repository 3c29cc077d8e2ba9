"""Running a project's steps as Kubernetes Jobs: the image, the cluster, and what travels."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from buildrun.commands.docker import Docker
from buildrun.commands.travel import FileStaging
from buildrun.console import holds
from buildrun.environments.heartbeat import going_on
from buildrun.executors import docker_cli
from buildrun.executors.base import Job, OutputSink, ProcessRunner, Result
from buildrun.executors.docker import code_fingerprints
from buildrun.executors.kubernetes import job_runner, manifest
from buildrun.executors.kubernetes.auth import connect
from buildrun.executors.kubernetes.cluster import Cluster
from buildrun.executors.kubernetes.config import Config
from buildrun.executors.kubernetes.manifest import MOUNT, Identity, JobSpec
from buildrun.plan.model import docker_env
from buildrun.store import digest, runs

if TYPE_CHECKING:
    from buildrun.commands.session import RunContext
    from buildrun.executors.docker import ResolvedImage
    from buildrun.plan.model import Plan, Step
    from buildrun.plan.state import CacheSettings
    from buildrun.project.model import ProjectSpec


class Kubernetes:
    """Runs the steps of one project on a cluster, from entry to exit."""

    def __init__(
        self,
        running: RunContext,
        project: ProjectSpec,
        config: Config,
        settings: CacheSettings,
        run_id: str,
        *,
        detach: bool,
    ) -> None:
        """Take the project; neither engine nor cluster is asked yet."""
        self._running = running
        self._project = project
        self._config = config
        self._run_id = run_id
        self._detach = detach
        self._docker = Docker(running, project)
        self._travel = FileStaging(
            project, settings.remote, running.environ, config.endpoint, self._in_image
        )
        self._open = ExitStack()
        self._attempts: dict[str, int] = {}
        self._image = self._user = ""
        self._python = True
        self._cluster: Cluster
        self._warn()

    def __enter__(self) -> Kubernetes:
        """Begin to follow the Jobs that there are; raises ExecutionError without a kubeconfig."""
        running = self._running
        self._cluster = self._open.enter_context(
            Cluster(
                connect(self._config.context, running.environ),
                self._config,
                owner(running.environ),
                runs.directory(running.home.runs, self._run_id),
                running.console,
                running.environ.get("KUBECONFIG") or "",
            )
        )
        return self

    def __exit__(self, *exception: object) -> None:
        """Wait until what was deleted is gone."""
        try:
            if not self._detach:
                self._travel.discard()
        finally:
            self._open.__exit__(*exception)  # type: ignore[arg-type]

    def choose(self, made: Plan, *, refresh: bool) -> ResolvedImage:
        """Return the image with the project's code, and have it where the cluster pulls from.

        Raises BuildrunError, also for what no pod could have.
        """
        self._travel.check(made)
        for step in made.steps:
            self._variables(step)  # what is not set is told before anything is built
        chosen = self._docker.choose(made, refresh=refresh)
        self._user, self._python = chosen.user, chosen.python
        console = self._running.console
        try:
            with going_on(console, "pushing the image"):
                self._image = self._docker.engine.push(
                    chosen.id, self._config.repository, console.progress
                )
        finally:
            console.done()
        return chosen

    def content(self, chosen: ResolvedImage) -> str:
        """Return what stands for the containers of the project in keys of results."""
        return self._docker.content(chosen)

    def perform(
        self,
        step: Step,
        identity: Callable[[], str],
        job: Job,
        hands: ProcessRunner,
        sink: OutputSink,
    ) -> Result:
        """Run a step as a Job: its log to the sink, files into the pod and out."""
        number = self._attempts.get(step.id, 0)
        self._attempts[step.id] = number + 1
        travel = self._travel
        environ, secrets = self._variables(step)
        command = travel.command(step)
        program = docker_cli.program(command, python=self._python)
        known = identity() or digest.key("unknown", os.urandom(16).hex())
        key = digest.key(
            "pod", [known, self._image, program, environ, sorted(secrets), self._fixed(step)]
        )
        if step.secrets:
            program = docker_cli.program_of_variable(command)
            secrets = {**secrets, docker_cli.COMMAND: command}
        wish = JobSpec(
            identity=Identity(self._project.name, step.id, key, self._cluster.owner),
            run_id=self._run_id,
            image=self._image,
            user=self._user,
            program=program,
            environ={**environ, **self._of_mlflow(job)},
            secrets=secrets,
            files={},
            timeout=step.timeout,
            retries=step.retries if self._detach else 0,
            attempt=number,
        )
        if travel.is_needed(step):
            files = travel.stage_inputs(step, wish.name, program, docker_cli.CODE)
            program = ("python3", f"{MOUNT}/carry.py", f"{MOUNT}/task.json")
            wish = wish._replace(program=program, files=files)
        return job_runner.run_job(
            self._cluster,
            wish,
            hands,
            sink,
            lambda last: travel.collect_outputs(step, wish.name, last=last),
            detach=self._detach,
        )

    def _in_image(self) -> frozenset[str]:
        """Return the paths of the files that are in the project's image."""
        from buildrun.workspace import image_context

        fingerprints = code_fingerprints(self._running.home, self._project.root)
        content = image_context.content(self._project, fingerprints)
        return frozenset(entry.path for entry in content.taken.entries())

    def _fixed(self, step: Step) -> list[object]:
        """Return what else decides a Job: the template with what the config adds to it."""
        config = self._config._asdict()
        own = {name: config[name] for name in ("template", "resources", "service_account", "queue")}
        return [own, self._cluster.namespace, step.timeout]

    def _variables(self, step: Step) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the container sees, and apart from it what is for the Secret."""
        caller = self._running.environ
        declared = docker_env(self._project)
        seen: dict[str, str] = {}
        if "PYTHONUNBUFFERED" not in _names(self._config.template):
            seen["PYTHONUNBUFFERED"] = "1"  # or lines of a Python program come late
        if declared is not None:
            given = docker_cli.declared_mounts((), declared.environment, caller, self._project.root)
            seen.update(given.environ)
        seen.update({name: caller[name] for name in step.pass_env if name in caller})
        seen.update(dict(step.env))
        secrets = {name: text for name, text in seen.items() if holds(name, text)}
        return {name: text for name, text in seen.items() if name not in secrets}, secrets

    def _of_mlflow(self, job: Job) -> dict[str, str]:
        """Return MLflow's three variables, as the cluster can use them."""
        caller, found = self._running.environ, {}
        for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"):
            if text := job.environ.get(name):
                found[name] = text
        uri = job.environ.get("MLFLOW_TRACKING_URI") or ""
        if other := caller.get("KUBE_MLFLOW_TRACKING_URI"):
            found["MLFLOW_TRACKING_URI"] = other
        elif docker_cli.is_remote(uri):
            found["MLFLOW_TRACKING_URI"] = uri
        return found

    def _warn(self) -> None:
        running, declared = self._running, docker_env(self._project)
        console = running.console
        if declared is not None and declared.volumes:
            console.warn(
                "`docker_env.volumes` are directories of this machine; pods do not get them",
                "mount what the cluster has in the Job template",
            )
        if running.options.docker_args:
            console.warn("`-A` arguments are for `docker run`; pods do not get them")
        uri = running.environ.get("MLFLOW_TRACKING_URI") or ""
        if uri and not docker_cli.is_remote(uri) and not running.environ.get(_URI_THERE):
            console.warn(
                "pods do not reach the tracking store, which is on this machine",
                f"set {_URI_THERE} to the address of a tracking server",
            )


_URI_THERE = "KUBE_MLFLOW_TRACKING_URI"


def owner(environ: Mapping[str, str]) -> str:
    """Return whose Jobs a run makes and attaches to: BUILDRUN_OWNER, else the user's name."""
    try:
        return environ.get("BUILDRUN_OWNER") or getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _names(template: Mapping[str, object]) -> Sequence[str]:
    """Return the variables that the template sets for its first container."""
    first = manifest.first_container(template)
    return [str(item.get("name")) for item in first.get("env") or () if isinstance(item, dict)]
