"""Options shared by commands."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from buildrun.commands.parser import group
from buildrun.console import listed, printable
from buildrun.environments.base import MANAGERS
from buildrun.errors import UsageError
from buildrun.executors.base import EXECUTORS, is_known, refuse_without_config
from buildrun.planning.context import CacheSettings, ProjectOptions
from buildrun.planning.model import Plan
from buildrun.project.locate import find_mlproject, projects_below
from buildrun.store import files

URI_HELP = (
    "a directory, a git URL, or an archive or its URL; `#subdirectory` may follow; "
    "default: the current directory, where it has an MLproject file"
)

# The titles of groups of options.
PROJECT, ENVIRONMENT, PLACE = "the project", "the environment", "how and where it runs"
CACHE, MLFLOW, OUTPUT = "the cache", "MLflow", "output"

# Projects below the current directory that a hint names.
_LISTED = 10


class _Backends:
    """What `--backend` takes: our executors, and those of installed packages."""

    def __iter__(self) -> Iterator[str]:
        """Yield those that are always there."""
        return iter(EXECUTORS)

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a backend."""
        return isinstance(name, str) and is_known(name)


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say where a project comes from, without its URI."""
    option = group(parser, PROJECT).add_argument
    option("-v", "--version", metavar="VERSION", help="a branch, tag or commit of a git project")
    option("--offline", action="store_true", help="fetch nothing from the network")
    option(
        "--keep-workdir", action="store_true",
        help="leave the temporary directory of a project from git or an archive, and say where",
    )  # fmt: skip


def add_project_options(parser: argparse.ArgumentParser, *, uri: bool = True) -> None:
    """Declare the options; uri: False leaves the URI to `cache_options`."""
    option = group(parser, PROJECT).add_argument
    if uri:
        option("uri", metavar="URI", nargs="?", help=URI_HELP)
    option("-e", "--entry-point", metavar="NAME", default="main", help="default: main")
    option(
        "-P", "--param-list", metavar="NAME=VALUE", action="append", default=[], dest="param_list",
        help="a parameter; repeatable; one that is not declared is added as `--NAME VALUE`",
    )  # fmt: skip
    add_source_options(parser)
    option("--storage-dir", metavar="DIR", help="where remote `path` parameters are downloaded to")
    option = group(parser, ENVIRONMENT).add_argument
    option(
        "--env-manager", metavar="MANAGER", choices=tuple(MANAGERS),
        help=f"{', '.join(MANAGERS)}; local and system are your own; default: "
        "BUILDRUN_ENV_MANAGER, or what the project declares",
    )  # fmt: skip
    option("--build-image", action="store_true", help="build an image with the project's code")
    option("--locked", action="store_true", help="refuse an environment without a fresh lock")
    option = group(parser, PLACE).add_argument
    option(
        "-b", "--backend", metavar="BACKEND", choices=_Backends(),
        help=f"where to run: {', '.join(EXECUTORS)}; default: local",
    )  # fmt: skip
    option(
        "-c", "--backend-config", metavar="FILE|JSON", help="a file ending in .json, or JSON text"
    )
    option(
        "-A", "--docker-args", metavar="NAME=VALUE", action="append", default=[],
        help="an argument or flag for `docker run`; repeatable",
    )  # fmt: skip
    option = group(parser, MLFLOW).add_argument
    option("--experiment-name", metavar="NAME", help="the MLflow experiment of the run")
    option("--experiment-id", metavar="ID", help="the MLflow experiment of the run")
    option("--run-id", metavar="ID", help="the MLflow run to use")
    option("--run-name", metavar="NAME", help="the MLflow run's name")


def read_project_options(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str
) -> ProjectOptions:
    """Return the options as a record; raises UsageError with MLflow's facts, or without a URI."""
    name, identifier = arguments.experiment_name, arguments.experiment_id
    if name is not None and identifier is not None:
        raise UsageError("specify only one of 'experiment-name' or 'experiment-id' options")
    if name is None and identifier is None:
        identifier = environ.get("MLFLOW_EXPERIMENT_ID") or None
        name = None if identifier else environ.get("MLFLOW_EXPERIMENT_NAME") or None
    if arguments.backend_config is None:
        refuse_without_config(arguments.backend)
    return ProjectOptions(
        uri=here(cwd) if arguments.uri is None else arguments.uri,
        entry_point=arguments.entry_point,
        version=arguments.version,
        parameters=parse_parameters(arguments.param_list),
        docker_args=_parse_docker_args(arguments.docker_args),
        experiment_name=name,
        experiment_id=identifier,
        backend=arguments.backend,
        backend_config=_parse_config(arguments.backend_config),
        config_given=arguments.backend_config,
        env_manager=arguments.env_manager or _manager(environ),
        storage_dir=arguments.storage_dir or environ.get("MLFLOW_TMP_DIR") or None,
        run_id=arguments.run_id,
        run_name=arguments.run_name,
        build_image=arguments.build_image,
        offline=arguments.offline,
        locked=arguments.locked,
        keep_workdir=arguments.keep_workdir,
    )


def here(cwd: str) -> str:
    """Return the URI of the current directory; raises UsageError where it is no project."""
    if find_mlproject(cwd) is not None:
        return "."
    below = projects_below(cwd)
    raise UsageError(
        "there is no MLproject file in the current directory, and the project's URI is missing",
        hint=f"give one of the projects below: {listed(below, _LISTED)}"
        if below
        else "give a directory, also `.` for one without an MLproject file, or a git URL; "
        "`buildrun --help` lists the commands",
    )


def parse_parameters(pairs: list[str]) -> dict[str, str]:
    """Return ``NAME=VALUE`` pairs as a mapping, split at the first ``=``; raises UsageError."""
    values: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"invalid format for -P parameter: '{pair}'", hint="use -P name=value")
        if name in values:
            raise UsageError(f"repeated parameter: '{name}'")
        values[name] = value
    return values


def _parse_docker_args(pairs: list[str]) -> tuple[tuple[str, str | bool], ...]:
    split = [pair.partition("=") for pair in pairs]
    return tuple((name, value if equals else True) for name, equals, value in split)


def _manager(environ: Mapping[str, str]) -> str | None:
    name = environ.get("BUILDRUN_ENV_MANAGER") or None
    if name is not None and name not in MANAGERS:
        raise UsageError(
            f"`{name}` is no environment manager",
            place="BUILDRUN_ENV_MANAGER",
            hint=f"choose one of {', '.join(MANAGERS)}",
        )
    return name


def _parse_config(given: str | None) -> Mapping[str, Any]:
    if given is None:
        return {}
    try:
        config = json.loads(files.read(given) if given.endswith(".json") else given)
    except OSError as error:
        raise UsageError(f"cannot read the backend config: {error.strerror}", place=given) from None
    except ValueError as error:
        raise UsageError(f"invalid backend config JSON: {error}", place=given[:80]) from None
    if not isinstance(config, dict):
        raise UsageError("invalid backend config JSON: it must be an object", place=given[:80])
    return config


def is_set(environ: Mapping[str, str], name: str) -> bool:
    """Return whether the variable says yes."""
    return environ.get(name, "").lower() in ("1", "true", "yes", "on")


def checks_inputs(settings: CacheSettings, environ: Mapping[str, str]) -> bool:
    """Return whether the inputs of all steps are to be checked, without `--check-inputs` too."""
    return settings.strict or is_set(environ, "BUILDRUN_CHECK_INPUTS")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options, and the URI."""
    # Not required by argparse: `--force .` means the project `.`, not a step of that name.
    group(parser, PROJECT).add_argument("uri", metavar="URI", nargs="?", help=URI_HELP)
    option = group(parser, CACHE).add_argument
    option(
        "--force", metavar="STEP", nargs="?", const="", action="append", default=[],
        help="run the step though it is up to date; without a name, every step; repeatable",
    )  # fmt: skip
    option("--no-cache", action="store_true", help="neither look for results nor keep them")
    option(
        "--remote-cache", metavar="URL",
        help="a shared cache for results, any fsspec URL; default: $BUILDRUN_REMOTE_CACHE",
    )  # fmt: skip
    option(
        "--remote-cache-write", action="store_true",
        help="put results there as well; or set BUILDRUN_REMOTE_CACHE_WRITE=1",
    )  # fmt: skip
    option(
        "--strict-cache", action="store_true",
        help="check the inputs of every step that runs, and take and keep only results of steps "
        "that were checked or ran in a sandbox; or set BUILDRUN_STRICT_CACHE=1",
    )  # fmt: skip


def read_cache_options(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str
) -> CacheSettings:
    """Return the settings, and put the URI right."""
    forced = list(arguments.force)
    if arguments.uri is None and (taken := _taken_for_a_step(arguments.command_line, cwd)):
        arguments.uri = taken
        forced[forced.index(taken)] = ""
        arguments.force = forced
    given = arguments.remote_cache or environ.get("BUILDRUN_REMOTE_CACHE") or None
    if given is not None and "://" not in given:
        given = os.path.join(cwd, os.path.expanduser(given))
    if arguments.remote_cache_write and given is None:
        raise UsageError(
            "`--remote-cache-write` has nowhere to write to",
            hint="give `--remote-cache URL`, or set BUILDRUN_REMOTE_CACHE",
        )
    return CacheSettings(
        force=None if "" in forced else tuple(forced),
        cache=not arguments.no_cache,
        remote=given,
        remote_write=arguments.remote_cache_write or is_set(environ, "BUILDRUN_REMOTE_CACHE_WRITE"),
        strict=arguments.strict_cache or is_set(environ, "BUILDRUN_STRICT_CACHE"),
        remote_strict=is_set(environ, "BUILDRUN_REMOTE_CACHE_STRICT"),
    )


def refuse_unknown(settings: CacheSettings, made: Plan) -> None:
    """Raise UsageError where a step is to be forced that the plan does not have."""
    there = {name: None for step in made.steps for name in (step.id, step.entry_point)}
    for name in settings.force or ():
        if name not in there:
            names = ", ".join(f"`{printable(known)}`" for known in there)
            raise UsageError(f"there is no step `{name}` to be forced", hint=f"steps: {names}")


def _taken_for_a_step(argv: Sequence[str], cwd: str) -> str:
    """Return the URI where argparse has taken it for the value of `--force`, or "".

    In `--force . --force=train` it is the word behind an option without `=`; of several such
    words it is the one that names a directory or a URL, else the last, unless the current directory
    is a project.
    """
    words = [
        word for option, word in pairwise(argv) if option == "--force" and not word.startswith("-")
    ]
    uris = [
        word
        for word in words
        if ":" in word or os.path.isdir(os.path.join(cwd, word.partition("#")[0]))
    ]
    if not uris and find_mlproject(cwd) is None:
        uris = words
    return uris[-1] if uris else ""
