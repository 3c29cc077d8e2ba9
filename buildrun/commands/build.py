"""``buildrun build``: prepare the environment that a run needs, without running."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.commands import options as command_options
from buildrun.commands import table
from buildrun.console import counted
from buildrun.environments.planned_run import open_provider
from buildrun.environments.provider import PrefixProvider
from buildrun.environments.remote import RemoteProvider
from buildrun.errors import BuildrunError, Interrupted, UsageError
from buildrun.executors.base import Environment, ResolvedImage
from buildrun.executors.docker import DockerExecutor
from buildrun.planning import project_loader
from buildrun.planning.context import RunContext, new_context
from buildrun.planning.project_loader import LoadedProject
from buildrun.store import runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    command_options.add_project_options(parser)
    parser.add_argument("--refresh", action="store_true", help="build it anew")
    parser.add_argument(
        "--push", metavar="REPOSITORY", help="put the image there, such as registry:5000/team/churn"
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say only what went wrong")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Build, and say where the environment is, its key, and whether it was there already."""
    options = command_options.read_project_options(arguments, environ, cwd)
    context = new_context(options, environ, cwd, quiet=arguments.quiet, write=True)
    with project_loader.open_project(context) as loaded:
        return _build(context, loaded, arguments)


def _build(context: RunContext, loaded: LoadedProject, arguments: argparse.Namespace) -> int:
    project_loader.require_valid(context, loaded, entry_point=False)
    project, started = loaded.project, time.monotonic()
    record = runs.begin(runs.new_id(), project.name, loaded.source.where or project.root, "(build)")
    try:
        return _provide(context, loaded, arguments)
    except UsageError:
        raise
    except BuildrunError as error:
        status = "cancelled" if isinstance(error, Interrupted) else "failed"
        seconds = time.monotonic() - started
        runs.write(context.home.runs, runs.end(record, status, error.exit_code, seconds, ()))
        raise


def _provide(context: RunContext, loaded: LoadedProject, arguments: argparse.Namespace) -> int:
    provider = open_provider(context, loaded.project, refresh=arguments.refresh)
    if isinstance(provider, (PrefixProvider, RemoteProvider)):
        if arguments.push is not None:
            raise UsageError(
                "only an image can be pushed, and this is an environment", hint="add `-b docker`"
            )
        environment = provider.provide()
        provider.close()
        if arguments.format == "json":
            table.write_json(_to_json(environment))
        else:
            sys.stdout.write(_text(environment, provider.packages))
        return 0
    DockerExecutor.reap_abandoned(context.home, context.environ)
    _, content = provider.identify(arguments.push)
    image = provider.image
    if image is None:
        raise AssertionError
    _write_image(image, content, arguments.format)
    return 0


def _write_image(image: ResolvedImage, key: str, form: str) -> None:
    reference = image.pushed or image.reference
    if form == "json":
        value = {
            "version": 1,
            "kind": "image",
            "key": key,
            "reused": image.reused,
            "path": None,
            "reference": reference,
            "digest": image.id,
        }
        table.write_json(value)
    else:
        how = "reused" if image.reused else "built"
        sys.stdout.write(f"{reference}\n{image.id}\n{how}\n")


def _to_json(environment: Environment) -> dict[str, Any]:
    return {
        "version": 1,
        "kind": "environment",
        "key": environment.key,
        "reused": environment.reused,
        "path": environment.prefix,
        "reference": None,
    }


def _text(environment: Environment, packages: Sequence[str]) -> str:
    if environment.key is not None and environment.prefix is None:
        what = f"{counted(len(packages), 'requirement')} of the project"
        return f"{what}, installed where it runs; nothing to build here\nkey: {environment.key}\n"
    if environment.prefix is None:
        return "the caller's own environment; nothing to build\n"
    how = "reused" if environment.reused else "built"
    return f"{environment.prefix}\nkey: {environment.key}\n{how}\n"
