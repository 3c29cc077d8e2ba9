"""Commands in containers: how the docker CLI is called for one.

The CLI runs containers, so that terminal, signals, `-A` arguments, contexts and credentials are as
users know them from `docker run`. Values of variables are handed to it in its own environment,
where the list of processes does not show them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import UsageError

# In images that buildrun makes, as in MLflow's.
CODE = "/mlflow/projects/code"

# Variables that the CLI itself acts on; a container's values for them go on its command line.
_OF_THE_CLI = re.compile(
    r"(?:PATH|HOME|USER|LANG|TERM|TMPDIR|SSH_.*|DOCKER_.*|.*_proxy|.*_PROXY)\Z"
)

# What a shell would do more with than to pass it on. `=` and `#` matter at the beginning of words.
_FOR_A_SHELL = re.compile(r"[$`|&;<>()*?\[\]~!{}\n\r]")


class Container(NamedTuple):
    """A command with all that its container needs.

    image: an id, never a name that can move. program: what the container runs, as words.
    environ: variables to set in it. arguments: further ones for `docker run`, the user's.
    volumes: as `-v` takes them. labels: names and values. workdir: None for the image's own.
    user: None for the image's own.
    """

    name: str
    image: str
    program: tuple[str, ...]
    environ: Mapping[str, str] = {}
    arguments: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    workdir: str | None = None
    user: str | None = None


def program(command: str, *, python: bool = True) -> tuple[str, ...]:
    """Return the words that run a command's text wholly inside of a container.

    Plain words are run as such, like `docker run IMAGE words…`, so that an image needs no shell for
    them and an entrypoint of its own gets them; everything else is for `bash -c` in there, or for
    `sh -c` where the image has no bash. The shell takes a `python3` for a `python` that is absent.

    python: False for an image that has a shell and no `python`.
    """
    words = plain_words(command)
    if words and not python and begins_with_python(command):
        return ("sh", "-c", _EITHER, *words)
    return words or ("sh", "-c", _script(command), command)


def begins_with_python(command: str) -> bool:
    """Return whether a command is plain words, the first of them `python`."""
    return plain_words(command)[:1] == ("python",)


# The variable that holds a command which bears secrets.
COMMAND = "BUILDRUN_COMMAND"


def program_of_variable(command: str) -> tuple[str, ...]:
    """Return the words that run a command whose text the variable `COMMAND` holds, unset for it."""
    taken = f'set -- "${COMMAND}"; unset {COMMAND}; '
    return ("sh", "-c", taken + _script(command).replace('"$0"', '"$1"'))


def _script(command: str) -> str:
    """Return what `sh -c` gets for a command that is its `$0`."""
    text = f"'{_PYTHON3}'\"$0\"" if "python" in command else '"$0"'
    otherwise = _NO_BASH if needs_bash(command) else f"exec sh -c {text}"
    return f"command -v bash >/dev/null 2>&1 && exec bash -c {text}; {otherwise}"


_EITHER = 'command -v python >/dev/null 2>&1 || exec python3 "$@"; exec python "$@"'
_NO_BASH = "echo 'the command is written for bash, and the image has no bash' >&2; exit 127"
_PYTHON3 = (
    "command -v python >/dev/null 2>&1 || if command -v python3 >/dev/null 2>&1; "
    'then python() { python3 "$@"; }; fi; '
)

# What other shells take for something else, or do not know.
_OF_BASH = re.compile(
    r"\[\[|[<>]\(|<<<|&>|\|&|\$'|\w=\(|(?<!\$)\(\(|(?<!\$)\{[^{}\s]*(?:,|\.\.)[^{}\s]*\}"
    r"|\b(?:coproc|declare|function|mapfile|popd|pushd|select|shopt)\s"
)
_IN_QUOTES = re.compile(r"\$\{(?:!|\w+\[)")


def needs_bash(command: str) -> bool:
    """Return whether a command holds what only bash does as it is meant."""
    bare = re.sub(r"'[^']*'", "''", command)
    unquoted = re.sub(r'"(?:[^"\\]|\\.)*"', '""', bare, flags=re.DOTALL)
    return bool(_OF_BASH.search(unquoted) or _IN_QUOTES.search(bare))


def plain_words(command: str) -> tuple[str, ...]:
    """Return the words of a command for which a shell would do nothing but split it, else ()."""
    bare = re.sub(r"'[^']*'", "''", command)
    if _FOR_A_SHELL.search(bare) or "\\" in bare or "#" in bare:
        return ()
    try:
        words = tuple(shlex.split(command))
    except ValueError:
        return ()
    if not words or "=" in words[0] or words[0] in _BUILT_IN:
        return ()
    return words


# Words that only a shell knows, or does something else with than a program of that name.
_BUILT_IN = frozenset(
    {
        ".", ":", "alias", "bg", "break", "builtin", "case", "cd", "command", "continue", "coproc",
        "declare", "do", "done", "elif", "else", "esac", "eval", "exec", "exit", "export", "fi",
        "for", "function", "hash", "if", "in", "local", "popd", "pushd", "read", "readonly",
        "return", "select", "set", "shift", "shopt", "source", "then", "time", "trap", "type",
        "typeset", "ulimit", "umask", "unset", "until", "wait", "while",
    }
)  # fmt: skip


def run_argv(container: Container, *, stdin: bool, terminal: bool) -> tuple[str, ...]:
    """Return the words that run the container and remove it at its end.

    stdin: whether it gets ours. terminal: whether it gets a terminal.
    """
    attached = (("-i",) if stdin else ()) + (("-t",) if terminal else ())
    return ("docker", "run", "--rm", *attached, *_options(container), *container.program)


def create_argv(container: Container) -> tuple[str, ...]:
    """Return the words that make the container without starting it."""
    return ("docker", "create", *_options(container), *container.program)


def start_argv(container: Container) -> tuple[str, ...]:
    """Return the words that start a container that was made, and pass its output on."""
    return ("docker", "start", "--attach", container.name)


def remove_argv(names: Sequence[str]) -> tuple[str, ...]:
    """Return the words that end and remove containers."""
    return ("docker", "rm", "--force", "--volumes", *names)


def cli_environ(caller: Mapping[str, str], container: Container) -> dict[str, str]:
    """Return the variables of the CLI's own process."""
    handed = {name: value for name, value in container.environ.items() if not _is_for_cli(name)}
    return {**caller, **handed}


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


def named(words: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
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
    return any(word in ("-u", "--user") or word.startswith("--user=") for word in words)


def _options(container: Container) -> tuple[str, ...]:
    words = ["--name", container.name, "--pull", "never", "--init"]
    for name, value in container.labels:
        words += ["--label", f"{name}={value}"]
    if container.workdir is not None:
        words += ["--workdir", container.workdir]
    if container.user is not None:
        words += ["--user", container.user]
    # tini then passes signals on to all that the command has started, not to a shell alone.
    words += ["--env", "TINI_KILL_PROCESS_GROUP=1"]
    for name, value in container.environ.items():
        words += ["--env", f"{name}={value}" if _is_for_cli(name) else name]
    for volume in container.volumes:
        words += ["--volume", volume]
    return (*words, *container.arguments, container.image)


def _is_for_cli(name: str) -> bool:
    return _OF_THE_CLI.match(name) is not None
