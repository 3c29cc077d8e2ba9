"""What a virtualenv is to be made of: everything that its files and settings name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.environments import interpreters, pip_settings, requirements, uv_settings
from buildrun.environments.pip_settings import Settings
from buildrun.environments.requirements import Line
from buildrun.errors import EnvironmentFailure
from buildrun.project.spec import CondaEnv, PythonEnv

if TYPE_CHECKING:
    from buildrun.environments.contract import Request
    from buildrun.environments.interpreters import Interpreter
    from buildrun.memo import Reader

# What `--env-manager uv` takes instead of the declared dependencies, as MLflow does.
UV_LOCK = "uv.lock"

_BY_PATH = re.compile(r'^source = \{ (editable|directory|path) = "([^"]+)" \}', re.MULTILINE)


class Wanted(NamedTuple):
    """An environment with everything its files name.

    lines: requirements of each installation, in MLflow's order, with the files that they name
        followed; of a `uv.lock` only the packages given by path.
    inputs: what was declared, the same on every machine; indexes: where packages come from here.
    """

    declared: PythonEnv
    lines: Mapping[str, tuple[Line, ...]]
    inputs: Mapping[str, Any]
    indexes: tuple[str, ...]
    settings: Settings
    warnings: tuple[str, ...]


def read(request: Request, reader: Reader) -> Wanted:
    """Return it all; raises EnvironmentFailure for files that cannot be followed."""
    declared, warnings = _declared(request)
    root, origin = request.project.root, declared.path or request.project.root
    stages = {"build": declared.build_dependencies, "run": declared.dependencies}
    lines = {
        stage: requirements.follow(texts, origin, root, reader) for stage, texts in stages.items()
    }
    settings = pip_settings.read(reader)
    indexes = (*settings.indexes, *uv_settings.choices(root, reader))
    inputs: dict[str, Any] = {"requested": declared.python}
    if request.manager == "uv" and reader.exists(os.path.join(root, UV_LOCK)):
        inputs["uv.lock"] = uv_settings.contents(root, (UV_LOCK, "pyproject.toml"), reader)
        lines = {"packages of uv.lock": _given_by_path(root, reader)}
    outputs = requirements.outputs_of(request.project)
    for stage, found in lines.items():
        inputs[stage] = [requirements.describe(line, root, reader, outputs) for line in found]
    return Wanted(declared, lines, inputs, indexes, settings, warnings)


def find_interpreter(declared: PythonEnv, request: Request, reader: Reader) -> Interpreter:
    """Return the Python to build with; raises PythonMissing."""
    found = interpreters.find(declared.python, reader, request.memory, request.environ)
    if found is not None:
        return found
    from buildrun.environments.python_missing import PythonMissing

    there = [item.version for item in interpreters.installed(reader)]
    raise PythonMissing(declared, there, request)


def _given_by_path(root: str, reader: Reader) -> tuple[Line, ...]:
    """Return the packages that a `uv.lock` has by their directories, less the project itself."""
    place = os.path.join(root, UV_LOCK)
    found = _BY_PATH.findall(reader.read(place).decode(errors="replace"))
    texts = [f"{'-e ' if kind == 'editable' else ''}./{path}" for kind, path in found]
    return tuple(Line(text, place, 0) for text in texts if not text.endswith("./."))


def _declared(request: Request) -> tuple[PythonEnv, tuple[str, ...]]:
    environment = request.project.environment
    if isinstance(environment, PythonEnv):
        return environment, ()
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure("a docker project has no virtualenv")
    from buildrun.project.conda_python import as_python_env

    declared, dropped = as_python_env(environment)
    if not dropped:
        return declared, ()
    names = ", ".join(f"`{name}`" for name in dropped)
    return declared, (f"conda dependencies that a virtualenv leaves out: {names}",)
