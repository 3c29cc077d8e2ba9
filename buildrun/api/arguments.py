"""From the API's arguments to a command line, which means the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

from buildrun.errors import ParameterError, UsageError

StrPath = str | os.PathLike[str]

_BACKENDS = ("databricks", "docker", "kubernetes", "local")
_TRACKING = ("on", "optional", "off")

_FLAGS = frozenset(
    {
        "build_image", "check_inputs", "keep_going", "keep_workdir", "locked", "no_cache",
        "offline", "quiet", "refresh", "remote_cache_write", "sandbox", "strict_cache",
    }
)  # fmt: skip

# Bytes of one word of a command line: what Linux allows.
_LONGEST = 131_000


def command_line(verb: str, arguments: Mapping[str, Any]) -> list[str]:
    """Return the words of `buildrun VERB` for the arguments of `run` or `plan` by their names."""
    given = {**arguments}
    uri, cache = _uri(given.pop("uri")), given.pop("cache", True)
    _check_choices(given)
    given["no_cache"] = not cache if isinstance(cache, bool) else cache
    if given.get("backend") == "local":
        del given["backend"]  # the project may decide
    words = [verb, uri]
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if name in _CONVERSIONS:
            words += _CONVERSIONS[name](value)
        elif name in _FLAGS:
            if not isinstance(value, bool):
                raise UsageError(f"`{option}` takes True or False, not {value!r}")
            words += [option] * value
        elif value is not None:
            words.append(_joined(option, value))
    return words


def _check_choices(given: dict[str, Any]) -> None:
    """Refuse values that no option takes; empty names of experiments become None."""
    from buildrun.environments.base import MANAGERS
    from buildrun.executors.base import refuse_without_config
    from buildrun.executors.output import MODES

    for name in ("experiment_name", "experiment_id", "backend"):
        if given.get(name) == "":
            given[name] = None
    if None not in (given.get("experiment_name"), given.get("experiment_id")):
        raise UsageError("specify only one of 'experiment_name' or 'experiment_id'")
    if (backend := given.get("backend")) not in (None, *_BACKENDS):
        raise UsageError(
            f"got unsupported execution mode {backend}. Supported values: {list(_BACKENDS)}"
        )
    if not given.get("backend_config"):
        refuse_without_config(backend)
    if (manager := given.get("env_manager")) not in (None, *MANAGERS):
        known = ", ".join(f"`{name}`" for name in MANAGERS)
        raise UsageError(f"`{manager}` is no environment manager", hint=f"choose one of {known}")
    for name, known_values in (("output", MODES), ("tracking", _TRACKING)):
        if (value := given.get(name)) not in (None, *known_values):
            raise UsageError(f"`{name}` must be one of {', '.join(known_values)}, not {value!r}")
    jobs = given.get("jobs")
    if jobs is not None and (isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1):
        raise UsageError(f"`jobs` must be a number from 1, not {jobs!r}")


def _joined(option: str, value: object) -> str:
    """Return `--option=value`, in which no value can be taken for an option."""
    return f"{option}={_text(option, value)}"


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


def _config(config: Mapping[str, object] | StrPath | None) -> list[str]:
    if config is None or (isinstance(config, Mapping) and not config):
        return []
    if isinstance(config, Mapping):
        try:
            config = json.dumps(dict(config), default=_plain)
        except (TypeError, ValueError) as error:
            raise UsageError(f"the backend config cannot be written as JSON: {error}") from None
    return [_joined("--backend-config", config)]


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
    return [_joined("--force", name) for name in ((force,) if isinstance(force, str) else force)]


_CONVERSIONS: Mapping[str, Callable[[Any], list[str]]] = {
    "backend_config": _config,
    "docker_args": _docker_args,
    "force": _forced,
    "parameters": _parameters,
}


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
