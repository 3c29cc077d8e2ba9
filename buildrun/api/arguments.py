"""From the API's arguments to a command line, which means the same."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence, Set
from typing import NamedTuple

from buildrun.errors import ParameterError, UsageError

StrPath = str | os.PathLike[str]

_BACKENDS = ("databricks", "docker", "kubernetes", "local")
_TRACKING = ("on", "optional", "off")

# Bytes of one word of a command line: what Linux allows.
_LONGEST = 131_000


class RunArguments(NamedTuple):
    """What the caller has said, see ``run`` for each; those from ``jobs`` on are for runs alone."""

    uri: StrPath
    entry_point: str = "main"
    version: str | None = None
    parameters: Mapping[str, object] | None = None
    docker_args: Mapping[str, object] | None = None
    experiment_name: str | None = None
    experiment_id: str | int | None = None
    backend: str | None = "local"
    backend_config: Mapping[str, object] | StrPath | None = None
    storage_dir: StrPath | None = None
    run_id: str | None = None
    run_name: str | None = None
    env_manager: str | None = None
    build_image: bool = False
    force: bool | str | Sequence[str] = False
    cache: bool = True
    remote_cache: str | None = None
    remote_cache_write: bool = False
    locked: bool = False
    offline: bool = False
    jobs: int | None = None
    keep_going: bool = False
    output: str | None = None
    quiet: bool = False
    refresh: bool = False
    tracking: str | None = None
    keep_workdir: bool = False


def run_line(wanted: RunArguments) -> list[str]:
    """Return the words of ``buildrun run``; raises UsageError and ParameterError."""
    from buildrun.executors.output import MODES

    jobs = wanted.jobs
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise UsageError(f"`jobs` must be a number from 1, not {jobs!r}")
    _one_of("output", wanted.output, MODES)
    _one_of("tracking", wanted.tracking, _TRACKING)
    named = {
        "--jobs": wanted.jobs,
        "--output": wanted.output,
        "--tracking": wanted.tracking,
    }
    flags = {
        "--keep-going": wanted.keep_going,
        "--quiet": wanted.quiet,
        "--refresh": wanted.refresh,
        "--keep-workdir": wanted.keep_workdir,
    }
    return ["run", *command_line(wanted), *_options(named, flags)]


def command_line(wanted: RunArguments) -> list[str]:
    """Return the URI and options; raises UsageError and ParameterError."""
    name, number = (
        None if given in (None, "") else given
        for given in (wanted.experiment_name, wanted.experiment_id)
    )
    if name is not None and number is not None:
        raise UsageError("specify only one of 'experiment_name' or 'experiment_id'")
    backend = wanted.backend or "local"
    if backend not in _BACKENDS:
        raise UsageError(
            f"got unsupported execution mode {backend}. Supported values: {list(_BACKENDS)}"
        )
    named = {
        "--entry-point": wanted.entry_point,
        "--version": wanted.version,
        "--experiment-name": name,
        "--experiment-id": number,
        "--backend": None if backend == "local" else backend,
        "--backend-config": _config(wanted.backend_config),
        "--storage-dir": wanted.storage_dir,
        "--run-id": wanted.run_id,
        "--run-name": wanted.run_name,
        "--env-manager": _manager(wanted.env_manager),
        "--remote-cache": wanted.remote_cache,
    }
    flags = {
        "--build-image": wanted.build_image,
        "--no-cache": not wanted.cache if isinstance(wanted.cache, bool) else wanted.cache,
        "--remote-cache-write": wanted.remote_cache_write,
        "--locked": wanted.locked,
        "--offline": wanted.offline,
    }
    return [
        _uri(wanted.uri),
        *_options(named, flags),
        *_parameters(wanted.parameters),
        *_docker_args(wanted.docker_args),
        *_forced(wanted.force),
    ]


def _options(named: Mapping[str, object], flags: Mapping[str, bool]) -> list[str]:
    given = [_joined(option, value) for option, value in named.items() if value is not None]
    for option, value in flags.items():
        if not isinstance(value, bool):
            raise UsageError(f"`{option}` takes True or False, not {value!r}")
    return given + [option for option, wanted in flags.items() if wanted]


def _joined(option: str, value: object) -> str:
    """Return ``--option=value``, in which no value can be taken for an option."""
    return f"{option}={_text(option, value)}"


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if value is not None and value not in known:
        raise UsageError(f"`{name}` must be one of {', '.join(known)}, not {value!r}")


def _uri(uri: StrPath) -> str:
    if not isinstance(uri, (str, os.PathLike)):
        raise UsageError(f"`uri` must be a text or a path, not {uri!r}")
    text = _text("uri", uri)
    if not text:
        raise UsageError("the project's URI is empty", hint="give a directory, such as `.`")
    if text.startswith("-"):
        raise UsageError(
            f"`{text}` looks like an option, not like a URI", hint=f"write `./{text}` for a path"
        )
    return text


def _manager(name: str | None) -> str | None:
    from buildrun.environments.base import MANAGERS

    if name is not None and name not in MANAGERS:
        known = ", ".join(f"`{manager}`" for manager in MANAGERS)
        raise UsageError(f"`{name}` is no environment manager", hint=f"choose one of {known}")
    return name


def _config(config: Mapping[str, object] | StrPath | None) -> str | None:
    if config is None or (isinstance(config, Mapping) and not config):
        return None
    if not isinstance(config, Mapping):
        return _text("backend_config", config)
    try:
        return json.dumps(dict(config), default=_plain)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the backend config cannot be written as JSON: {error}") from None


def _plain(value: object) -> object:
    """Return what stands for a value in JSON that has no form of its own there."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def _parameters(parameters: Mapping[str, object] | None) -> list[str]:
    words = []
    for name, value in _pairs("parameters", parameters):
        if not name or "=" in name:
            raise ParameterError(f"`{name}` cannot be the name of a parameter")
        words.append(f"--param-list={name}={_text(f'parameter `{name}`', value)}")
    return words


def _docker_args(arguments: Mapping[str, object] | None) -> list[str]:
    words = []
    for name, value in _pairs("docker_args", arguments):
        if not name or "=" in name:
            raise UsageError(f"`{name}` cannot be the name of an argument for docker")
        for one in value if isinstance(value, (list, tuple)) else (value,):
            if one is True:
                words.append(f"--docker-args={name}")
            elif one is not False and one is not None:
                words.append(f"--docker-args={name}={_text(f'docker argument `{name}`', one)}")
    return words


def _pairs(what: str, given: Mapping[str, object] | None) -> list[tuple[str, object]]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        raise UsageError(f"`{what}` must be a mapping, not a {type(given).__name__}")
    return [(_text(what, name), value) for name, value in given.items()]


def _forced(force: bool | str | Sequence[str]) -> list[str]:
    if isinstance(force, bool):
        return ["--force="] if force else []
    if not isinstance(force, (str, Sequence, Set)):
        raise UsageError(f"`force` takes True, False or names of steps, not {force!r}")
    names = (force,) if isinstance(force, str) else tuple(force)
    return [_joined("--force", name) for name in names]


def _text(what: str, value: object) -> str:
    """Return a value as a word of a command line; raises ParameterError."""
    text = os.fsdecode(value) if isinstance(value, os.PathLike) else str(value)
    if "\0" in text:
        raise ParameterError(f"{what} holds a NUL character, which no command can be given")
    try:
        size = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise ParameterError(
            f"{what} holds half of a character, which no bytes stand for"
        ) from None
    if size > _LONGEST:
        raise ParameterError(
            f"{what} has {size} bytes, more than a command can be given",
            hint="write it to a file, and give its path",
        )
    return text
