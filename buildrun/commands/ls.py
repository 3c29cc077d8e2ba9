"""`buildrun ls`: the entry points of a project, and what they take, need, read and make."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from buildrun.commands import options as command_options
from buildrun.commands import table
from buildrun.commands.parser import group
from buildrun.console import MASK, Console, printable, printable_lines, redact
from buildrun.environments.base import choose
from buildrun.planning import project_loader
from buildrun.planning.context import ProjectOptions, new_context
from buildrun.planning.graph import find_entry_point
from buildrun.project.locate import scripts_in
from buildrun.project.model import DockerEnv, EntryPoint, Parameter, ProjectSpec

# The width of a label beyond which it stands above its text.
_LABEL = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    group(parser, command_options.PROJECT).add_argument(
        "uri", metavar="URI", nargs="?", help=command_options.URI_HELP
    )
    command_options.add_source_options(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """List them on standard output."""
    options = ProjectOptions(
        uri=command_options.here(cwd) if arguments.uri is None else arguments.uri,
        version=arguments.version,
        offline=arguments.offline,
        keep_workdir=arguments.keep_workdir,
    )
    context = new_context(options, environ, cwd, quiet=False, write=False)
    with project_loader.open_project(context) as loaded:
        project_loader.require_valid(context, loaded, entry_point=False)
        if any(finding.severity == "error" for finding in loaded.diagnostics):
            context.console.warn(
                "there are errors in entry points", "`buildrun validate` shows them"
            )
        value = to_json(loaded.project, loaded.source.where or loaded.project.root, environ)
    if arguments.format == "json":
        table.write_json(value)
    else:
        _write(value, environ)
    return 0


def to_json(project: ProjectSpec, where: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the listing in its stable, versioned shape; without entry points, of the scripts.

    where: the project's place, which outlives a temporary directory.
    """
    points = project.entry_points or [
        find_entry_point(project, name, environ) for name in scripts_in(project.root)
    ]
    return {
        "version": 1,
        "project": {"name": project.name, "root": where},
        "environment": _environment(project),
        "entry_points": [_entry_point(point) for point in points],
    }


def _environment(project: ProjectSpec) -> dict[str, str | None]:
    """Return the manager, and its file, relative to the project, or its image."""
    declared, file, image = project.environment, None, None
    if isinstance(declared, DockerEnv):
        image = declared.image
    elif declared.path is not None:
        file = os.path.relpath(declared.path, project.root)
    return {"manager": choose(declared, None), "file": file, "image": image}


def _entry_point(point: EntryPoint) -> dict[str, Any]:
    inputs = point.inputs
    return {
        "name": point.name,
        "parameters": [_parameter(parameter) for parameter in point.parameters],
        "depends_on": [dependency.entry_point for dependency in point.depends_on],
        "inputs": None if inputs is None else [pattern.text for pattern in inputs],
        "outputs": list(point.outputs),
        "command": redact(point.command),
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    value: dict[str, Any] = {"name": parameter.name, "type": parameter.type}
    if parameter.default is not None:
        value["default"] = MASK if parameter.secret else redact(parameter.default)
    return {**value, "secret": parameter.secret}


def _write(value: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    console = Console(environ, stream=sys.stdout)
    project, environment, points = value["project"], value["environment"], value["entry_points"]
    where = environment["image"] or environment["file"] or "the default"
    lines = [
        f"{printable(project['name'])} ({printable(project['root'])})",
        f"environment: {environment['manager']}, {printable(where)}",
    ]
    if not points:
        lines.append(
            "no entry points; declare them under `entry_points:` in a file named MLproject"
        )
    rows = [list(_rows(point)) for point in points]
    size = min(_LABEL, max((len(label) for told in rows for label, _ in told), default=0))
    columns = table.width(environ)
    for point, told in zip(points, rows, strict=True):
        lines += ["", console.style(printable(point["name"]), "bold")]
        for label, text in told:
            lines += table.labelled(label, text, size, columns)
    sys.stdout.write("\n".join(lines) + "\n")


def _rows(point: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is told of an entry point, with a label for each."""
    for parameter in point["parameters"]:
        default = parameter.get("default")
        told = "required" if default is None else f"default: {printable(default)}"
        yield f"-P {printable(parameter['name'])}", f"{printable(parameter['type'])}, {told}"
    if point["depends_on"]:
        yield "depends on", printable(", ".join(point["depends_on"]))
    if point["inputs"] is not None or point["outputs"]:
        inputs = point["inputs"]
        files = "every file that git would not ignore" if inputs is None else ", ".join(inputs)
        yield "reads", printable(files) or "nothing"
    if point["outputs"]:
        yield "makes", printable(", ".join(point["outputs"]))
    yield "runs", printable_lines(point["command"].strip())
