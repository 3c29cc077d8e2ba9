"""The ``pip:`` section of a conda file, installed by uv relative to the file's folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.environments import (
    local_packages,
    pip_settings,
    private_files,
    requirements,
    site_packages,
    uv,
    uv_failure,
    uv_lock,
    uv_settings,
)
from buildrun.memo import Reader

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Identity, Request
    from buildrun.environments.lockfile import Lock, Package
    from buildrun.environments.requirements import Line
    from buildrun.project.spec import CondaEnv, ProjectSpec

_STAGE = "pip"


def describe(project: ProjectSpec, declared: CondaEnv, reader: Reader) -> list[dict[str, str]]:
    """Return what decides the lines' effect, with the contents of every file that they name."""
    folder, outputs = os.path.dirname(declared.path), requirements.outputs_of(project)
    return [
        requirements.describe(line, folder, reader, outputs) for line in _lines(declared, reader)
    ]


def indexes(declared: CondaEnv, reader: Reader) -> list[str]:
    """Return where the packages come from, without credentials."""
    folder = os.path.dirname(declared.path)
    return [*pip_settings.read(reader).indexes, *uv_settings.choices(folder, reader)]


def install(
    prefix: str,
    request: Request,
    declared: CondaEnv,
    identity: Identity,
    locked: Sequence[Package] | None,
    console: Console,
    lock: int,
) -> None:
    """Install the lines, or the locked packages in their place; raises EnvironmentFailure."""
    known, more = _lines(declared, Reader(request.environ)), []
    lines: Sequence[Line] = known
    if locked is not None:
        texts = uv_lock.lines([list(package) for package in locked]).get(_STAGE, [])
        lines = requirements.logical_lines(texts, declared.path)
        if lines:
            lines = [*requirements.sources(known), *lines]
        more = ["--no-deps"]  # they are complete, but for what conda has installed
    folder, parts = os.path.dirname(declared.path), json.dumps(identity.parts)
    python = os.path.join(prefix, "bin", "python")
    try:
        with local_packages.copies(folder, request.project, parts) as copies:
            if texts := copies.place(lines):
                text = "\n".join(texts) + "\n"
                tool = _tool(request, declared, console, lock)

                def put(*options: str) -> None:
                    tool.pip("install", "--python", python, *more, *options, "-r", "-", text=text)

                private_files.install(prefix, site_packages.recorded, tool, console, put)
    except uv.ToolFailure as failure:
        what = "the environment could not be built"
        raise uv_failure.explain(failure, what, known, declared.path) from None


def lock(
    request: Request,
    declared: CondaEnv,
    conda: Sequence[Package],
    platform: str,
    previous: Lock | None,
    console: Console,
) -> list[Package]:
    """Return the packages that the section adds to those of conda; raises EnvironmentFailure."""
    ours = {package.name: package.version for package in conda}
    reader = Reader(request.environ)
    lines = _lines(declared, reader)
    asked = {requirements.name_of(line.text) for line in lines}
    known = json.dumps(describe(request.project, declared, reader))
    with local_packages.copies(os.path.dirname(declared.path), request.project, known) as copies:
        found = uv_lock.resolve(
            _tool(request, declared, console, -1).pip,
            {_STAGE: lines},
            copies,
            declared.path,
            platform,
            ours["python"],
            previous,
        )
    return [package for package in found if package.name in asked or package.name not in ours]


def _tool(request: Request, declared: CondaEnv, console: Console, lock: int) -> uv.Tool:
    settings = pip_settings.read(Reader(request.environ))
    return uv.Tool(request, settings, console, lock, cwd=os.path.dirname(declared.path))


def _lines(declared: CondaEnv, reader: Reader) -> tuple[Line, ...]:
    folder = os.path.dirname(declared.path)
    return requirements.follow(declared.pip, declared.path, folder, reader)
