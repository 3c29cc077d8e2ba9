"""How the docker CLI is called to run a container."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from buildrun.errors import UsageError

# In images that buildrun makes, as in MLflow's.
CODE = "/mlflow/projects/code"

# Variables that the CLI itself acts on; a container's values for them go on its command line.
_CLI_VARIABLES = re.compile(
    r"(?:PATH|HOME|USER|LANG|TERM|TMPDIR|SSH_.*|DOCKER_.*|.*_proxy|.*_PROXY)\Z"
)


class Container(NamedTuple):
    """A command with all that its container needs.

    image: an id, never a name that can move. program: what the container runs, as words.
    environ: variables to set in it. arguments: further ones for `docker run`, the user's.
    volumes: as `-v` takes them. labels: names and values. user, workdir: None for the image's own.
    network: "" for the engine's usual one.
    """

    name: str
    image: str
    program: tuple[str, ...]
    environ: Mapping[str, str] = {}
    arguments: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    user: str | None = None
    workdir: str | None = None
    network: str = ""


def run_argv(container: Container, *, stdin: bool, terminal: bool) -> tuple[str, ...]:
    """Return the words that run the container and remove it at its end.

    stdin: whether it gets ours. terminal: whether it gets a terminal.
    """
    attached = (("-i",) if stdin else ()) + (("-t",) if terminal else ())
    return ("docker", "run", "--rm", *attached, *_options(container), *container.program)


def create_argv(container: Container) -> tuple[str, ...]:
    """Return the words that make the container without starting it."""
    return ("docker", "create", *_options(container), *container.program)


def cli_environ(caller: Mapping[str, str], container: Container) -> dict[str, str]:
    """Return the variables of the CLI's own process."""
    values = container.environ.items()
    return {**caller, **{name: text for name, text in values if not _CLI_VARIABLES.match(name)}}


def arguments(given: Iterable[tuple[str, str | bool]]) -> tuple[str, ...]:
    """Return `-A` arguments for `docker run`, with MLflow's meaning.

    A name of one letter gets one dash, a longer one two; a lone name is a flag.
    """
    words: list[str] = []
    for name, value in given:
        words.append(f"-{name}" if len(name) == 1 else f"--{name}")
        if not isinstance(value, bool):
            words.append(value)
    return tuple(words)


def refuse_unfit(words: Sequence[str]) -> None:
    """Raise UsageError for arguments under which a container could not be looked after."""
    for word in words:
        name = word.partition("=")[0]
        if name in ("-d", "--detach"):
            raise UsageError(
                f"`-A {name.lstrip('-')}` would leave the container alone",
                hint="put buildrun itself into the background: `buildrun … &`",
            )


def container_name(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Return the name that the user's arguments give the container, and the other arguments.

    `--rm` goes as well: containers are removed in any case.
    """
    name, rest, left = None, [], list(words)
    while left:
        word = left.pop(0)
        if word == "--name" and left:
            name = left.pop(0)
        elif word.startswith("--name="):
            name = word.removeprefix("--name=")
        elif word.partition("=")[0] != "--rm":
            rest.append(word)
    return name, tuple(rest)


def sets_user(words: Sequence[str]) -> bool:
    """Return whether the user's own arguments say as whom the container runs."""
    return bool(values_of(words, "-u", "--user"))


def values_of(words: Sequence[str], *names: str) -> tuple[str, ...]:
    """Return the values of an option, which has these names, among the user's arguments."""
    found = [after for word, after in pairwise((*words, "")) if word in names]
    long = [word.partition("=") for word in words if word.startswith("--")]
    return (*found, *(value for name, equals, value in long if equals and name in names))


def _options(container: Container) -> tuple[str, ...]:
    words = ["--name", container.name, "--pull", "never", "--init"]
    for name, value in container.labels:
        words += ["--label", f"{name}={value}"]
    if container.user is not None:
        words += ["--user", container.user]
    if container.workdir is not None:
        words += ["--workdir", container.workdir]
    if container.network:
        words += ["--network", container.network]
    # tini then passes signals on to all that the command has started, not to a shell alone.
    words += ["--env", "TINI_KILL_PROCESS_GROUP=1"]
    for name, value in container.environ.items():
        words += ["--env", f"{name}={value}" if _CLI_VARIABLES.match(name) else name]
    for volume in container.volumes:
        words += ["--volume", volume]
    return (*words, *container.arguments, container.image)
