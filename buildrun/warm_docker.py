"""The end of a warm run of a docker project: the image is still the same, so the container runs."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun import containers, home
from buildrun.containers import Chosen, Task, Wants
from buildrun.errors import BuildrunError
from buildrun.executors import attended
from buildrun.images import host, inspect
from buildrun.secrets import redact

if TYPE_CHECKING:
    from buildrun.console import Console


def attempt(value: Any, environ: Mapping[str, str], console: "Console") -> int | None:
    """Run the container that a record is about; None where its image is another one by now.

    value: what ``commands.run`` has left. Errors are left to the long way, which says them.
    """
    chosen, wants, task = decode(value["docker"])
    try:
        if not _is_current(value["image"], chosen, environ):
            return None
        made = containers.container_for(task, wants, chosen, environ)
    except (BuildrunError, OSError):
        return None
    store = home.locate(environ)
    attended.collect(containers.directory(store), environ)
    if value["notice"]:
        console.note(value["notice"])
    console.note(console.style(f"[{task.id}] {redact(task.command)}", "dim"))
    return containers.run(made, wants.root, store, environ).exit_code


def encode(chosen: Chosen, wants: Wants, task: Task) -> list[Any]:
    """Return what a run needs, as JSON values."""
    return [list(chosen), list(wants), list(task)]


def decode(value: Any) -> tuple[Chosen, Wants, Task]:
    """Return what ``encode`` was given."""
    chosen, wants, task = (_frozen(part) for part in value)
    return Chosen(*chosen), Wants(*wants), Task(*task)


def _is_current(name: str, chosen: Chosen, environ: Mapping[str, str]) -> bool:
    """Return whether the name that the project gives still stands for the same image."""
    socket = host.find(environ).socket
    if socket is None:
        return False
    found = inspect.over_socket(socket, name)
    return found is not None and found.id == chosen.base


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
