"""How the docker CLI is called to run a container."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import ProjectError, UsageError

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


# Where MLflow puts a tracking store that is a directory or a file of this machine.
TRACKING = "/mlflow/tmp/mlruns"

# What clients of artifact stores read, as MLflow passes it on.
_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_S3_IGNORE_TLS", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCESS_KEY",
    "MLFLOW_KERBEROS_TICKET_CACHE", "MLFLOW_KERBEROS_USER", "MLFLOW_PYARROW_EXTRA_CONF",
    "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_HOST", "DATABRICKS_TOKEN",
)  # fmt: skip


class HostAccess(NamedTuple):
    """Variables to set in a container, and volumes as `-v` takes them."""

    environ: Mapping[str, str]
    volumes: tuple[str, ...]


def tracking(environ: Mapping[str, str], cwd: str) -> HostAccess:
    """Return what makes MLflow's client in a container speak to the caller's store.

    A store on this machine is mounted, and its URI rewritten. cwd: where relative paths begin.
    """
    uri = environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        place = os.path.join(cwd, "mlruns")
        return _mounted(place, "file") if os.path.isdir(place) else HostAccess({}, ())
    scheme, path = _local(uri)
    if path is None:
        return HostAccess({"MLFLOW_TRACKING_URI": uri}, ())
    return _mounted(os.path.abspath(os.path.join(cwd, path)), scheme)


def is_remote(uri: str) -> bool:
    """Return whether a tracking store is to be had from elsewhere."""
    return bool(uri) and _local(uri)[1] is None


def credentials(environ: Mapping[str, str]) -> HostAccess:
    """Return what the caller has for artifact stores: S3, Azure, GCS and HDFS."""
    seen = {name: environ[name] for name in _CREDENTIALS if environ.get(name)}
    volumes = []
    home = environ.get("HOME", "")
    if home and os.path.isdir(os.path.join(home, ".aws")):
        volumes.append(f"{home}/.aws:/.aws:ro")
    if google := environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        volumes.append(f"{os.path.abspath(google)}:/.gcs:ro")
        seen["GOOGLE_APPLICATION_CREDENTIALS"] = "/.gcs"
    if ticket := environ.get("MLFLOW_KERBEROS_TICKET_CACHE"):
        volumes.append(f"{ticket}:{ticket}")
    return HostAccess(seen, tuple(volumes))


def declared_mounts(
    volumes: Sequence[str],
    environment: Sequence[str | tuple[str, str]],
    environ: Mapping[str, str],
    root: str,
) -> HostAccess:
    """Return what an MLproject's `docker_env` asks for, its variables replaced.

    Raises ProjectError for a variable that is not set, and for a directory of this machine that is
    not there.
    """
    seen: dict[str, str] = {}
    for item in environment:
        if not isinstance(item, str):
            seen[item[0]] = value_of(item, environ, root)
        elif item in environ:
            seen[item] = environ[item]
        else:
            raise ProjectError(
                f"the project takes the variable `{item}` from its caller, and it is not set",
                place="docker_env.environment",
                hint=f"set it: export {item}=…",
            )
    return HostAccess(seen, tuple(_volume(volume, environ, root) for volume in volumes))


def value_of(pair: tuple[str, str], environ: Mapping[str, str], root: str) -> str:
    """Return the value of a variable that an MLproject sets; raises ProjectError.

    MLflow's shell replaces variables in it. It takes blanks, quotes and operators for its own, so
    that MLflow fails on such a value, or does worse; here it is data as it stands.
    """
    name, value = pair
    if _FOR_THE_SHELL.search(value):
        return value
    what = f"the variable `{name}`"
    return _replaced(value, environ, root, what, "docker_env.environment")


def path_mounts(values: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Return the volumes that make paths mean the same in a container as here."""
    return tuple(f"{path}:{path}" for path in dict.fromkeys(path for _, path in values))


def _mounted(place: str, scheme: str) -> HostAccess:
    uri = f"sqlite:///{TRACKING}" if scheme == "sqlite" else f"file://{TRACKING}"
    return HostAccess({"MLFLOW_TRACKING_URI": uri}, (f"{place}:{TRACKING}",))


def _local(uri: str) -> tuple[str, str | None]:
    """Return the scheme and the path of a store on this machine; None for any other."""
    if uri == "databricks" or uri.startswith("databricks:"):
        return "", None
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or parts.scheme not in ("", "file", "sqlite"):
        return "", None
    path = unquote(parts.path)
    # sqlite:///relative.db, and with one more slash an absolute path
    return parts.scheme or "file", path[1:] if parts.scheme == "sqlite" else path


def _volume(volume: str, environ: Mapping[str, str], root: str) -> str:
    place = "docker_env.volumes"
    text = _replaced(volume, environ, root, f"the volume `{volume}`", place)
    host, colon, rest = text.partition(":")
    if not colon or not host.startswith((".", "/")):
        return text  # a volume that docker has by name, or an anonymous one
    source = os.path.normpath(os.path.join(root, host))
    if not os.path.exists(source):
        raise ProjectError(
            f"the volume `{volume}` mounts `{source}`, and there is no such file or directory",
            place=place,
            hint="make it; docker would make an empty directory that belongs to root",
        )
    return source + colon + rest


# What ends a word for a shell, or has it run something.
_FOR_THE_SHELL = re.compile(r"""[\s'"`;&|<>()]""")
_VARIABLE = re.compile(r"\\\$|\$(?:\{([A-Za-z_]\w*)(?:(:?)-([^${}]*))?\}|([A-Za-z_]\w*))", re.ASCII)


def _replaced(text: str, environ: Mapping[str, str], root: str, what: str, place: str) -> str:
    """Return a text with its variables and `~` as MLflow's shell has them, and nothing else done.

    That shell runs in the project's directory, and has variables of its own. Raises ProjectError.
    """
    known = {
        "HOSTNAME": os.uname().nodename, **environ, "PWD": root,
        "UID": str(os.getuid()), "EUID": str(os.geteuid()),
    }  # fmt: skip

    def value(match: re.Match[str]) -> str:
        if match.group() == "\\$":
            return "$"
        name = match.group(1) or match.group(4)
        found = known.get(name)
        if match.group(3) is not None and (found is None or (match.group(2) and not found)):
            return match.group(3)
        if found is None:
            raise ProjectError(
                f"{what} holds the variable `{name}`, and it is not set",
                place=place,
                hint=f"set it: export {name}=…; a `$` that is meant as such is written `\\$`",
            )
        return found

    if text == "~" or text.startswith("~/"):
        text = environ.get("HOME", "~") + text[1:]
    return _VARIABLE.sub(value, text)
