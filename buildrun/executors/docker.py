"""Runs commands in containers of the docker engine, by its command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun import __version__
from buildrun.console import printable
from buildrun.executors import (
    container_mounts,
    container_sandbox,
    docker_cli,
    docker_reaper,
    local,
)
from buildrun.executors.base import (
    Job,
    OutputSink,
    ProcessRunner,
    ResolvedImage,
    Result,
    Task,
    upstream,
)
from buildrun.executors.container_command import program
from buildrun.executors.docker_cli import Container

if TYPE_CHECKING:
    from buildrun.executors.base import ContainerOptions, ExecutorContext
    from buildrun.store.home import Home


class DockerExecutor:
    """Runs the commands of one run in containers of this machine's engine."""

    USES_IMAGE = True
    HAS_TERMINAL = True
    repository = None

    def __init__(self, context: ExecutorContext) -> None:
        """Take the context; no engine is asked yet."""
        self._context = context
        self._tasks: dict[str, Task] = {}
        self._shows_project = False

    @classmethod
    def open(cls, context: ExecutorContext) -> DockerExecutor:
        """Remove the containers of runs that were killed, and return the executor."""
        cls.reap_abandoned(context.home, context.environ)
        return cls(context)

    @staticmethod
    def reap_abandoned(home: Home, environ: Mapping[str, str]) -> None:
        """Remove the containers of runs that were killed."""
        docker_reaper.reap_abandoned(directory(home), environ)

    def check(self, tasks: Sequence[Task]) -> None:
        """Take the steps; raises BuildrunError for a network that is forbidden and asked for."""
        self._tasks = {task.id: task for task in tasks}
        context = self._context
        container_sandbox.warn_unwatched(tasks, context.console)
        container_sandbox.require_no_network(tasks, context.containers.arguments)
        if any(task.declared_only for task in tasks):
            for place in container_sandbox.project_mounts(context):
                self._shows_project = True
                context.console.warn(
                    f"`{printable(place)}` is mounted: `sandbox` keeps no file there from commands",
                    "remove it from `docker_env.volumes` or `-A`, and declare `inputs`",
                )

    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result:
        """Run the job in a container of its own, see ``Executor``."""
        if job.task is None or job.image is None:
            raise AssertionError(job.command)
        context = self._context
        container = container_for(job, job.task, job.image, context)
        environ = docker_cli.cli_environ(context.environ, container)
        lease = docker_reaper.lease(directory(context.home), container.name, context.environ)
        removed = False
        try:
            if runner is not None and sink is not None:
                result = self._run_captured(job, container, environ, runner, sink)
                is_alone = job.task.declared_only and not self._shows_project
                return result._replace(usage=None, sandboxed=is_alone)
            terminal = sys.stdin.isatty() and sys.stdout.isatty()
            argv = docker_cli.run_argv(container, stdin=True, terminal=terminal)
            result = local.execute(Job("", job.cwd, environ, None, argv, job.log))
            removed = result.exit_code == 0
            return result._replace(usage=None)  # the CLI's own; a container takes its with it
        finally:
            # Where the engine does not answer, a later run removes it.
            if removed or docker_reaper.remove([container.name], context.environ):
                lease.end()
            # Also those of killed runs that have come only since this one began.
            docker_reaper.reap_abandoned(lease.directory, context.environ)

    def close(self, *, interrupted: bool) -> None:
        """Do nothing: each container is removed when its command has ended."""

    def _run_captured(
        self,
        job: Job,
        container: Container,
        environ: Mapping[str, str],
        runner: ProcessRunner,
        sink: OutputSink,
    ) -> Result:
        """Run one of several steps: its output to the sink, files into the container and out."""
        from buildrun.executors import docker_files

        if job.task is None or job.image is None:
            raise AssertionError(job.command)
        place = (container.name, job.image.workdir, job.cwd)
        create = Job("", job.cwd, environ, None, docker_cli.create_argv(container))
        result = runner.run(create, _errors_only(sink))
        if result.exit_code == 0:
            docker_files.copy_in(*place, *self._inputs(job.task), environ)
            start = ("docker", "start", "--attach", container.name)
            result = runner.run(Job("", job.cwd, environ, job.timeout, start), sink)
            if result.exit_code == 0 and result.interrupted is None:
                docker_files.copy_out(*place, job.task.outputs, environ)
        return result

    def _inputs(self, task: Task) -> tuple[Sequence[str], Sequence[str]]:
        """Return what goes into the container: whole directories and files, and such alone.

        That is what the step declares, and what was made for it.
        """
        made = [path for before in upstream(self._tasks, task) for path in before.outputs]
        if task.declared_only:
            from buildrun.workspace.declared import declared_files

            root = self._context.root
            files, directories = declared_files(root, task.inputs, (*task.outputs, *made))
            return made, (*directories, *files)
        from buildrun.workspace import glob

        top = os.fsencode(self._context.root)
        declared = [os.fsdecode(path) for text in task.inputs for path, _ in glob.expand(top, text)]
        found = dict.fromkeys((*declared, *made))
        return [path for path in found if path not in ("", ".")], ()


def container_for(
    job: Job, task: Task, image: ResolvedImage, context: ExecutorContext
) -> Container:
    """Return the container for a step; raises ProjectError for what its project lacks here."""
    caller, options = context.environ, context.containers
    tracking = {name: text for name, text in job.tracking.items() if text is not None}
    if uri := tracking.pop("MLFLOW_TRACKING_URI", ""):
        caller = {**caller, "MLFLOW_TRACKING_URI": uri}
    given = [
        container_mounts.credentials(caller),
        container_mounts.tracking(caller, context.cwd),
        container_mounts.declared_mounts(
            options.volumes, options.environment, caller, context.root
        ),
    ]
    seen: dict[str, str] = {}
    for item in given:
        seen.update(item.environ)
    seen.update(tracking)
    seen.update({name: caller[name] for name in task.pass_env if name in caller})
    seen.update(dict(task.env))
    volumes = tuple(volume for item in given for volume in item.volumes)
    # paths mean the same in the container as here
    volumes += tuple(f"{path}:{path}" for path in dict.fromkeys(path for _, path in task.paths))
    volumes += _artifact_volume(job.artifacts)
    name, arguments = docker_cli.container_name(options.arguments)
    without_code = task.declared_only and image.below
    is_cut_off = not task.network and not container_sandbox.networks(arguments)
    return Container(
        name=name or f"buildrun-{os.urandom(8).hex()}",
        image=image.below if without_code else image.id,
        program=program(task.command, python=image.python),
        environ=seen,
        arguments=arguments,
        volumes=volumes,
        labels=(
            ("buildrun", __version__),
            ("buildrun.step", task.id),
            ("buildrun.root", context.root),
        ),
        user=_user(image, volumes, options.arguments),
        workdir=image.workdir if without_code else None,
        network="none" if is_cut_off else "",
    )


def content(
    image: ResolvedImage,
    options: ContainerOptions,
    environ: Mapping[str, str],
    root: str,
    *,
    with_code: bool,
) -> str:
    """Return what stands for the containers of a project in the keys of results.

    The project's own code is not in it, for that is among the inputs of each step; with_code tells
    only whether it is in the image. Raises ProjectError for a variable that is not set.
    """
    from buildrun.store import digest

    named = [
        item if isinstance(item, str) else [item[0], container_mounts.value_of(item, environ, root)]
        for item in options.environment
    ]
    base = image.environment or image.base
    return digest.key(
        "container", [base, with_code, list(options.volumes), named, list(options.arguments)]
    )


def directory(home: Home) -> str:
    """Return where containers that are attended are noted."""
    return os.path.join(home.root, "containers")


def _artifact_volume(path: str | None) -> tuple[str, ...]:
    """Return the volume for the directory where the artifacts of an MLflow run go."""
    if path is None:
        return ()
    try:
        os.makedirs(path, exist_ok=True)  # or docker would, as root
    except OSError:
        return ()
    return (f"{path}:{path}",)


def _errors_only(sink: OutputSink) -> OutputSink:
    """Return a sink for `docker create`, which writes the container's id to standard output."""

    def passed(stream: int, chunk: bytes) -> None:
        if stream == 2:
            sink(stream, chunk)

    return passed


def _user(image: ResolvedImage, volumes: tuple[str, ...], arguments: tuple[str, ...]) -> str | None:
    """Return as whom the container runs, so that files in mounted directories are the caller's."""
    if os.getuid() == 0 or not volumes or docker_cli.sets_user(arguments):
        return None
    if image.user not in ("", "0", "root", "0:0", "root:root"):
        return None
    return f"{os.getuid()}:{os.getgid()}"
