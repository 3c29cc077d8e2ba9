"""Steps in containers: which container runs a step, and how."""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

from buildrun import __version__
from buildrun.executors import docker_cli, docker_reaper, local
from buildrun.executors.base import Job, Result
from buildrun.executors.docker_cli import Container
from buildrun.store.home import Home
from buildrun.workspace.fingerprints import Fingerprints

# What `docker run` and `docker start` exit with when they themselves fail.
DOCKER_FAILED = 125


class ResolvedImage(NamedTuple):
    """The image that commands run in; JSON values.

    id: what containers run, never a name that can move. base: the id of what the project names.
    reference: its name for people. workdir: where commands run. user: whom the image runs as, ""
    for root. reused: nothing had to be built. key: of the image with the project's code, "" where
    there is none. below: the id of the image that the code is above. environment: the key of the
    image with the project's environment, "" where the base is all there is. python: False where
    commands that begin with `python` need a shell to find a `python3`.
    """

    id: str
    base: str
    reference: str
    workdir: str
    user: str
    reused: bool
    key: str = ""
    below: str = ""
    environment: str = ""
    python: bool = True


class ContainerOptions(NamedTuple):
    """What a project and its user want of every container; JSON values.

    volumes, environment: as in `docker_env`. arguments: words for `docker run`. variables: of
    MLflow. root: the project's directory. cwd: where the caller is. artifacts: volumes for what
    runs leave on this machine.
    """

    volumes: tuple[str, ...]
    environment: tuple[str | tuple[str, str], ...]
    arguments: tuple[str, ...]
    variables: tuple[tuple[str, str], ...]
    root: str
    cwd: str
    artifacts: tuple[str, ...] = ()


class Task(NamedTuple):
    """A step as far as a container is concerned; JSON values."""

    id: str
    command: str
    paths: tuple[tuple[str, str], ...]
    env: tuple[tuple[str, str], ...]
    pass_env: tuple[str, ...]
    shown: str


def container_for(
    task: Task, wants: ContainerOptions, chosen: ResolvedImage, environ: Mapping[str, str]
) -> Container:
    """Return the container for a step; raises ProjectError for what its project lacks here."""
    given = [
        docker_cli.credentials(environ),
        docker_cli.tracking(environ, wants.cwd),
        docker_cli.declared_mounts(wants.volumes, wants.environment, environ, wants.root),
    ]
    seen: dict[str, str] = {}
    for item in given:
        seen.update(item.environ)
    seen.update(dict(wants.variables))
    seen.update({name: environ[name] for name in task.pass_env if name in environ})
    seen.update(dict(task.env))
    volumes = tuple(volume for item in given for volume in item.volumes)
    volumes += docker_cli.path_mounts(task.paths) + wants.artifacts
    name, arguments = docker_cli.container_name(wants.arguments)
    return Container(
        name=name or f"buildrun-{os.urandom(8).hex()}",
        image=chosen.id,
        program=docker_cli.program(task.command, python=chosen.python),
        environ=seen,
        arguments=arguments,
        volumes=volumes,
        labels=(
            ("buildrun", __version__),
            ("buildrun.step", task.id),
            ("buildrun.root", wants.root),
        ),
        user=_user(chosen, volumes, wants.arguments),
    )


def tracked(
    wants: ContainerOptions,
    environ: Mapping[str, str],
    variables: Mapping[str, str | None],
    artifacts: str | None,
) -> tuple[ContainerOptions, Mapping[str, str]]:
    """Return wants and the caller's variables for containers that see a run of MLflow.

    variables: of that run. artifacts: the directory of this machine where its artifacts go.
    """
    seen = {name: text for name, text in variables.items() if text is not None}
    if uri := seen.pop("MLFLOW_TRACKING_URI", ""):
        environ = {**environ, "MLFLOW_TRACKING_URI": uri}
    volumes: tuple[str, ...] = ()
    if artifacts is not None:
        try:
            os.makedirs(artifacts, exist_ok=True)  # or docker would, as root
            volumes = (f"{artifacts}:{artifacts}",)
        except OSError:
            pass
    return wants._replace(variables=tuple(seen.items()), artifacts=volumes), environ


def code_fingerprints(home: Home, root: str) -> Fingerprints:
    """Return what knows the files of a project's image; its digests may leave this machine."""
    return Fingerprints(root, home.about(root, "image"), "sha256")


def directory(home: Home) -> str:
    """Return where containers that are attended are noted."""
    return os.path.join(home.root, "containers")


def run(
    made: Container, root: str, home: Home, environ: Mapping[str, str], log: str | None
) -> Result:
    """Run the container with our own streams and terminal; raises ExecutionError.

    log: as in ``Job``.
    """
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    argv = docker_cli.run_argv(made, stdin=True, terminal=terminal)
    attendance = docker_reaper.lease(directory(home), made.name, environ)
    result = Result(DOCKER_FAILED)
    try:
        seen = docker_cli.cli_environ(environ, made)
        result = local.execute(Job("", root, seen, None, argv, log))
    finally:
        end(made, attendance, environ, removed=result.exit_code == 0)
    return result


def end(
    made: Container,
    attendance: docker_reaper.ContainerLease,
    environ: Mapping[str, str],
    *,
    removed: bool = False,
) -> None:
    """See to it that the container is gone; where the engine does not answer, a later run will.

    So it goes with those of killed runs that have come only since this one began.
    """
    if removed or docker_reaper.remove([made.name], environ):
        attendance.end()
    docker_reaper.reap_abandoned(attendance.directory, environ)


def _user(
    chosen: ResolvedImage, volumes: tuple[str, ...], arguments: tuple[str, ...]
) -> str | None:
    """Return as whom the container runs, so that files in mounted directories are the caller's."""
    if os.getuid() == 0 or not volumes or docker_cli.sets_user(arguments):
        return None
    if chosen.user not in ("", "0", "root", "0:0", "root:root"):
        return None
    return f"{os.getuid()}:{os.getgid()}"
