"""Which command an entry point's name stands for."""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildrun.errors import ProjectError
from buildrun.near import nearest
from buildrun.project.spec import EntryPoint, ProjectSpec


def find(spec: ProjectSpec, name: str, environ: Mapping[str, str]) -> EntryPoint:
    """Return the declared entry point, else one that runs the script of this name.

    The commands for scripts are MLflow's: ``.py`` by python, ``.sh`` by the caller's shell,
    ``.R`` through MLflow's R package.
    Raises ProjectError where the name is neither.
    """
    declared = spec.entry_point(name)
    if declared is not None:
        return declared
    import shlex

    extension = os.path.splitext(name)[1]
    if extension == ".py":
        command = f"python {shlex.quote(name)}"
    elif extension == ".sh":
        command = f"{environ.get('SHELL', 'bash')} {shlex.quote(name)}"
    elif extension == ".R":
        command = f"Rscript -e \"mlflow::mlflow_source('{shlex.quote(name)}')\" --args"
    else:
        raise _unknown(spec, name)
    return EntryPoint(name, (), command.replace("{", "{{").replace("}", "}}"))


def missing_script(spec: ProjectSpec, entry_point: EntryPoint) -> str | None:
    """Return why an undeclared script cannot run, or None."""
    if spec.entry_point(entry_point.name) is not None:
        return None
    if os.path.isfile(os.path.join(spec.root, entry_point.name)):
        return None
    return f"there is no script `{entry_point.name}` in {spec.root}"


def _unknown(spec: ProjectSpec, name: str) -> ProjectError:
    names = [entry_point.name for entry_point in spec.entry_points]
    return ProjectError(
        f"could not find `{name}` among the entry points, "
        "nor is it the name of a script (.py, .sh or .R)",
        place=spec.file or spec.root,
        hint=_choices(spec, name, names),
    )


def _choices(spec: ProjectSpec, name: str, names: list[str]) -> str:
    scripts = [
        file for file in sorted(os.listdir(spec.root)) if file.endswith((".py", ".sh", ".R"))
    ]
    meant = nearest(name, names + scripts)
    if meant is not None:
        return f"did you mean `-e {meant}`?"
    if names or scripts:
        return f"choose one with `-e NAME`: {', '.join(names + scripts[:10])}"
    return "declare it under `entry_points:` in a file named MLproject"
