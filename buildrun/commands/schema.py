"""``buildrun schema``: the JSON Schemas, for editors."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from buildrun.commands import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from buildrun.project.schemas import NAMES

    parser.add_argument(
        "--strict", action="store_true", help="a schema that refuses what is only warned of, too"
    )
    parser.add_argument("name", metavar="NAME", choices=tuple(NAMES), help=", ".join(NAMES))


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Write the schema to standard output."""
    from buildrun.project.schemas import load, strict

    schema = load(arguments.name)
    table.write_json(strict(schema) if arguments.strict else schema)
    return 0
