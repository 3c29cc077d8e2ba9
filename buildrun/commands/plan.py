"""``buildrun plan``: what would run, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import Any

from buildrun import plan
from buildrun.commands import project_options, session
from buildrun.commands.project_options import ProjectOptions
from buildrun.errors import EnvironmentFailure
from buildrun.secrets import redact

FORMATS = ("text", "json", "mermaid", "dot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Show the plan."""
    return show(project_options.read(arguments, environ), environ, cwd, form=arguments.format)


def show(options: ProjectOptions, environ: Mapping[str, str], cwd: str, *, form: str) -> int:
    """Write the plan to standard output; what would stop a run is warned of."""
    running = session.begin(options, environ, cwd, quiet=False, write=False)
    opened = session.open_project(running)
    session.check(running, opened)
    try:
        manager, _, identity = session.environment_of(running, opened.project, fetch=False)
        state = session.environment_state(running, manager, identity)
    except EnvironmentFailure as failure:
        running.console.warn(str(failure))
        state = plan.EnvironmentState(_manager(running, opened.project), None, False)
    made = plan.make(opened.project, session.wish(running), state)
    for problem in made.problems:
        running.console.warn(f"a run would stop: {problem.message}", problem.hint or "")
    sys.stdout.write(_WRITERS[form](made))
    return 0


def _manager(running: session.Session, project: Any) -> str:
    from buildrun.environments.registry import choose

    return choose(project.environment, running.options.env_manager)


def to_json(made: plan.Plan) -> dict[str, Any]:
    """Return the plan in its stable, versioned shape."""
    return {
        "version": 1,
        "project": {"name": made.project.name, "root": made.project.root},
        "steps": [_step_to_json(step) for step in made.steps],
    }


def _step_to_json(step: plan.Step) -> dict[str, Any]:
    return {
        "id": step.id,
        "entry_point": step.entry_point,
        "parameters": dict(step.parameters),
        "command": step.command,
        "depends_on": list(step.depends_on),
        "backend": step.backend,
        "environment": step.environment._asdict(),
        "image": step.image,
        "cache": {
            "key": step.cache_key,
            "state": step.cache_state,
            "reasons": [reason._asdict() for reason in step.reasons],
        },
    }


def _json(made: plan.Plan) -> str:
    return json.dumps(to_json(made), indent=2) + "\n"


def _text(made: plan.Plan) -> str:
    lines = [f"{made.project.name} ({made.project.root})"]
    for step in made.steps:
        state = step.environment
        ready = "ready" if state.ready else "to be built"
        ready += f", {state.lock}" if state.lock else ""
        where = f"image {step.image}" if step.image else f"{state.manager} environment, {ready}"
        lines += [
            "",
            f"{step.id}: {step.cache_state}, on {step.backend}, {where}",
            *(f"    {line}" for line in redact(step.command).splitlines()),
            *(f"  because {reason.detail}" for reason in step.reasons),
        ]
    return "\n".join(lines) + "\n"


def _mermaid(made: plan.Plan) -> str:
    number = {step.id: f"s{index}" for index, step in enumerate(made.steps)}
    lines = ["flowchart TD"]
    for step in made.steps:
        label = step.id.replace("&", "#amp;").replace('"', "#quot;")
        lines.append(f'    {number[step.id]}["{label}: {step.cache_state}"]')
        lines += [f"    {number[name]} --> {number[step.id]}" for name in step.depends_on]
    return "\n".join(lines) + "\n"


def _dot(made: plan.Plan) -> str:
    lines = ["digraph plan {"]
    for step in made.steps:
        lines.append(f"    {json.dumps(step.id)} [label={json.dumps(_label(step))}];")
        lines += [f"    {json.dumps(name)} -> {json.dumps(step.id)};" for name in step.depends_on]
    return "\n".join([*lines, "}"]) + "\n"


def _label(step: plan.Step) -> str:
    return f"{step.id}: {step.cache_state}"


_WRITERS = {"text": _text, "json": _json, "mermaid": _mermaid, "dot": _dot}
