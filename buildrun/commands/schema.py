"""``buildrun schema``: the JSON Schemas, for editors."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    from buildrun.project.schemas import NAMES

    parser.add_argument("name", metavar="NAME", choices=tuple(NAMES), help=", ".join(NAMES))


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:  # noqa: ARG001
    """Write the schema to standard output."""
    from buildrun.project.schemas import load

    sys.stdout.write(json.dumps(load(arguments.name), indent=2) + "\n")
    return 0
