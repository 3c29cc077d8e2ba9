"""`sandbox` and `--check-inputs` in containers and pods: what is told before anything is built."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from buildrun.console import printable
from buildrun.errors import ExecutionError, UsageError
from buildrun.executors import container_mounts, docker_cli
from buildrun.store.files import is_within

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.executors.base import ExecutorContext, Task

_SOURCE = re.compile(r"(?:\A|,)(?:source|src)=([^,]+)")


def warn_unwatched(tasks: Iterable[Task], console: Console, place: str = "in containers") -> None:
    """Warn once where commands are to be watched that see more than they declare."""
    if any(task.check_inputs and not task.declared_only for task in tasks):
        console.warn(
            f"commands {place} are not watched for what they read",
            "`sandbox: true` beside `inputs` gives them declared files alone",
        )


def refuse_without_network(tasks: Iterable[Task], place: str, hint: str) -> None:
    """Raise ExecutionError for a step that is to have no network, where that is not possible."""
    for task in tasks:
        if not task.network:
            raise ExecutionError(
                f"`sandbox` of the step `{printable(task.id)}` has `network: false`, "
                f"which is not possible {place}",
                hint=f"leave it out; {hint}",
            )


def require_no_network(tasks: Iterable[Task], arguments: Sequence[str]) -> None:
    """Raise UsageError where the user's own arguments give a network to whom the project does not.

    arguments: words for `docker run`.
    """
    given = [name for name in networks(arguments) if name != "none"]
    for task in tasks:
        if given and not task.network:
            raise UsageError(
                f"`-A network={given[0]}` gives a network to the step `{printable(task.id)}`, "
                "whose `sandbox` has `network: false`",
                hint="leave out one of the two",
            )


def networks(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return the networks that the user's own arguments name."""
    return docker_cli.values_of(arguments, "--network", "--net")


def project_mounts(context: ExecutorContext) -> list[str]:
    """Return the directories of this machine that containers get and that have project files.

    Raises ProjectError for volumes that cannot be mounted.
    """
    options, root = context.containers, os.path.realpath(context.root)
    declared = container_mounts.declared_mounts(options.volumes, (), context.environ, context.root)
    given = docker_cli.values_of(options.arguments, "-v", "--volume")
    sources = [text.partition(":")[0] for text in (*declared.volumes, *given)]
    for text in docker_cli.values_of(options.arguments, "--mount"):
        sources += _SOURCE.findall(text)
    places = [
        os.path.realpath(os.path.join(context.cwd, each))
        for each in sources
        if each.startswith(("/", "."))
    ]
    return [place for place in places if is_within(place, root) or is_within(root, place)]
