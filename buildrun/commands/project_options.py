"""The options that every command on a project takes, with MLflow's names and meaning."""

import argparse
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from buildrun import files
from buildrun.environments.registry import MANAGERS
from buildrun.errors import UsageError
from buildrun.printable import printable
from buildrun.project.locate import find_mlproject, projects_below

URI_HELP = (
    "a directory, a git URL, or an archive or its URL; `#subdirectory` may follow; "
    "default: the current directory, where it has an MLproject file"
)

# Projects below the current directory that a hint names.
_LISTED = 10

BACKENDS = ("local", "docker", "kubernetes", "databricks")


class ProjectOptions(NamedTuple):
    """What the command line says of a project; see the help texts for each."""

    uri: str
    entry_point: str
    version: str | None
    parameters: Mapping[str, str]
    docker_args: tuple[tuple[str, str | bool], ...]
    experiment_name: str | None
    experiment_id: str | None
    backend: str | None
    backend_config: Mapping[str, Any]
    config_given: str | None
    env_manager: str | None
    storage_dir: str | None
    run_id: str | None
    run_name: str | None
    build_image: bool
    offline: bool
    locked: bool
    keep_workdir: bool = False


def add(parser: argparse.ArgumentParser, *, uri: bool = True) -> None:
    """Declare the options; uri: False leaves the URI to `cache_options`."""
    option = parser.add_argument
    if uri:
        option("uri", metavar="URI", nargs="?", help=URI_HELP)
    option("-e", "--entry-point", metavar="NAME", default="main", help="default: main")
    option("-v", "--version", metavar="VERSION", help="a branch, tag or commit of a git project")
    option(
        "-P", "--param-list", metavar="NAME=VALUE", action="append", default=[], dest="param_list",
        help="a parameter; repeatable; one that is not declared is added as `--NAME VALUE`",
    )  # fmt: skip
    option(
        "-A", "--docker-args", metavar="NAME=VALUE", action="append", default=[],
        help="an argument or flag for `docker run`; repeatable",
    )  # fmt: skip
    option("--experiment-name", metavar="NAME", help="the MLflow experiment of the run")
    option("--experiment-id", metavar="ID", help="the MLflow experiment of the run")
    option("-b", "--backend", choices=BACKENDS, help="where to run; default: local")
    option(
        "-c", "--backend-config", metavar="FILE|JSON", help="a file ending in .json, or JSON text"
    )
    option(
        "--env-manager", choices=tuple(MANAGERS),
        help="default: BUILDRUN_ENV_MANAGER, or what the project declares; local is your own",
    )  # fmt: skip
    option("--storage-dir", metavar="DIR", help="where remote `path` parameters are downloaded to")
    option("--run-id", metavar="ID", help="the MLflow run to use")
    option("--run-name", metavar="NAME", help="the MLflow run's name")
    option("--build-image", action="store_true", help="build an image with the project's code")
    option("--locked", action="store_true", help="refuse an environment without a fresh lock")
    option("--offline", action="store_true", help="fetch nothing from the network")
    option(
        "--keep-workdir", action="store_true",
        help="leave the temporary directory of a project from git or an archive, and say where",
    )  # fmt: skip


def read(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> ProjectOptions:
    """Return the options as a record; raises UsageError with MLflow's facts, or without a URI."""
    name, identifier = arguments.experiment_name, arguments.experiment_id
    if name is not None and identifier is not None:
        raise UsageError("specify only one of 'experiment-name' or 'experiment-id' options")
    if name is None and identifier is None:
        identifier = environ.get("MLFLOW_EXPERIMENT_ID") or None
        name = None if identifier else environ.get("MLFLOW_EXPERIMENT_NAME") or None
    if arguments.backend == "kubernetes" and arguments.backend_config is None:
        raise UsageError(
            "specify 'backend_config' when using kubernetes mode",
            hint='`-c kubernetes_config.json`, with at least `{"repository-uri": "…"}`; '
            "see docs/kubernetes.md",
        )
    return ProjectOptions(
        uri=_here(cwd) if arguments.uri is None else arguments.uri,
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


def _here(cwd: str) -> str:
    """Return the URI of the current directory; raises UsageError where it is no project."""
    if find_mlproject(cwd) is not None:
        return "."
    below = [f"`{printable(path)}`" for path in projects_below(cwd)]
    more = [f"and {len(below) - _LISTED} more"] if len(below) > _LISTED else []
    raise UsageError(
        "there is no MLproject file in the current directory, and the project's URI is missing",
        hint=f"give one of the projects below: {', '.join([*below[:_LISTED], *more])}"
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
