"""The ``pip:`` section of a conda file, installed by uv relative to the file's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.environments import pip_settings, requirements, uv, uv_failure, uv_lock, uv_settings
from buildrun.memo import Reader

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Request
    from buildrun.environments.lockfile import Lock, Package
    from buildrun.environments.requirements import Line
    from buildrun.project.spec import CondaEnv

_STAGE = "pip"


def describe(declared: CondaEnv, reader: Reader) -> list[dict[str, str]]:
    """Return what decides the lines' effect, with the contents of every file that they name."""
    folder = os.path.dirname(declared.path)
    return [requirements.describe(line, folder, reader) for line in _lines(declared, reader)]


def indexes(declared: CondaEnv, reader: Reader) -> list[str]:
    """Return where the packages come from, without credentials."""
    folder = os.path.dirname(declared.path)
    return [*pip_settings.read(reader).indexes, *uv_settings.choices(folder, reader)]


def install(
    prefix: str,
    request: Request,
    declared: CondaEnv,
    locked: Sequence[Package] | None,
    console: Console,
    lock: int,
) -> None:
    """Install the lines, or the locked packages in their place; raises EnvironmentFailure."""
    lines, more = list(declared.pip), []
    if locked is not None:
        lines = uv_lock.lines([list(package) for package in locked]).get(_STAGE, [])
        more = ["--no-deps"]  # they are complete, but for what conda has installed
    if not lines:
        return
    python = os.path.join(prefix, "bin", "python")
    try:
        _tool(request, declared, console, lock).pip(
            "install", "--python", python, *more, "-r", "-", text="\n".join(lines) + "\n"
        )
    except uv.ToolFailure as failure:
        known = _lines(declared, Reader(request.environ))
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
    known = _lines(declared, Reader(request.environ))
    asked = {requirements.name_of(line.text) for line in known}

    found = uv_lock.resolve(
        _tool(request, declared, console, -1).pip,
        {_STAGE: declared.pip},
        {_STAGE: known},
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
