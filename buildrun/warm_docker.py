"""The end of a warm run of a docker project: the image is still the same, so the container runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun.environments.images import engine_api
from buildrun.errors import BuildrunError
from buildrun.executors import docker, docker_reaper
from buildrun.executors.base import Result
from buildrun.executors.docker import ContainerOptions, ResolvedImage, Task
from buildrun.plan.model import NO_OUTPUTS
from buildrun.prepared import Prepared, recorded
from buildrun.store import home
from buildrun.store.memo import frozen

if TYPE_CHECKING:
    from buildrun.console import Console


def attempt(value: Any, environ: Mapping[str, str], console: "Console") -> int | None:
    """Run the container that a record is about; None where its image is another one by now.

    value: what ``commands.run`` has left. Errors are left to the long way, which says them.
    """
    chosen, wants, task = decode(value["docker"])
    try:
        if not _is_current(value, chosen, environ, console):
            return None
        docker.container_for(task, wants, chosen, environ)
    except (BuildrunError, OSError):
        return None
    store = home.locate(environ)
    tracked = None
    if value["tracking"] is not None:
        from buildrun import warm_tracking

        tracked = warm_tracking.begin(value["tracking"], environ, store, console)
        if tracked.run is not None:
            wants, environ = docker.tracked(
                wants, environ, tracked.variables, tracked.run.artifacts
            )
    docker_reaper.reap_abandoned(docker.directory(store), environ)
    if value["notice"]:
        console.note(value["notice"])
    console.note(console.style(f"[{task.id}] {task.shown}", "dim"))
    prepared = Prepared(
        task.id, task.id, (), task.command, wants.root, "docker", "", None, dict(wants.variables),
        (NO_OUTPUTS,), task.shown,
    )  # fmt: skip

    def run() -> Result:
        made = docker.container_for(task, wants, chosen, environ)
        return recorded(
            prepared,
            value["code"][0],
            store.runs,
            lambda log: docker.run(made, wants.root, store, environ, log),
            console,
            value.get("where"),
        )

    return (run() if tracked is None else tracked.told(run)).exit_code


def encode(chosen: ResolvedImage, wants: ContainerOptions, task: Task) -> list[Any]:
    """Return what a run needs, as JSON values."""
    return [list(chosen), list(wants), list(task)]


def decode(value: Any) -> tuple[ResolvedImage, ContainerOptions, Task]:
    """Return what ``encode`` was given."""
    chosen, wants, task = (frozen(part) for part in value)
    return ResolvedImage(*chosen), ContainerOptions(*wants), Task(*task)


def _is_current(
    value: Any, chosen: ResolvedImage, environ: Mapping[str, str], console: "Console"
) -> bool:
    """Return whether the project's name for it stands for the same image, and its code is as it
    was.
    """
    socket = engine_api.find(environ).socket
    if socket is None:
        return False
    base = engine_api.over_socket(socket, value["image"])
    if base is None or base.id != chosen.base:
        return False
    if not chosen.key:
        return chosen.id == chosen.base
    from buildrun.environments.images.derive import code_recipe
    from buildrun.project.model import EntryPoint, ProjectSpec, PythonEnv

    name, root, outputs = value["code"]
    entry_point = EntryPoint("", (), "", outputs=tuple(outputs))
    project = ProjectSpec(name, root, None, (entry_point,), PythonEnv())
    below = base if chosen.below == base.id else engine_api.over_socket(socket, chosen.below)
    if below is None:
        return False
    fingerprints = docker.code_fingerprints(home.locate(environ), root)
    recipe = code_recipe(below, project, fingerprints, console)
    fingerprints.save()
    return recipe.key == chosen.key and engine_api.over_socket(socket, chosen.id) is not None
