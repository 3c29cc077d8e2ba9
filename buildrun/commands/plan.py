"""`buildrun plan`: what would run, and why; as text, JSON, Mermaid or Graphviz."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.commands import options as cache_options
from buildrun.commands import options as project_options
from buildrun.console import printable
from buildrun.environments.images.provider import ImageProvider
from buildrun.environments.resolve import manager_of, resolve
from buildrun.errors import EnvironmentFailure, ExecutionError
from buildrun.planning import model, project_loader
from buildrun.planning.context import CacheSettings, ProjectOptions, RunContext, new_context
from buildrun.planning.model import Plan
from buildrun.planning.project_loader import LoadedProject
from buildrun.planning.state import open_state
from buildrun.planning.uptodate import StepStatus
from buildrun.project.model import ProjectSpec

# What Mermaid may take for markup, also between quotes.
_MARKUP = frozenset('"#&;<>\\`{}|')


def mermaid(made: Plan, verdicts: Sequence[StepStatus]) -> str:
    """Return the plan as a Mermaid flowchart."""
    number = {step.id: f"s{index}" for index, step in enumerate(made.steps)}
    lines = ["flowchart TD"]
    for step, verdict in zip(made.steps, verdicts, strict=True):
        label = "".join(
            f"#{ord(char)};" if char in _MARKUP else char for char in printable(step.id)
        )
        lines.append(f'    {number[step.id]}["{label}: {verdict.state}"]')
        lines += [f"    {number[name]} --> {number[step.id]}" for name in step.depends_on]
    return "\n".join(lines) + "\n"


def dot(made: Plan, verdicts: Sequence[StepStatus]) -> str:
    """Return the plan in the language of Graphviz."""
    lines = ["digraph plan {"]
    for step, verdict in zip(made.steps, verdicts, strict=True):
        label = _quoted(f"{step.id}: {verdict.state}")
        lines.append(f"    {_quoted(step.id)} [label={label}];")
        lines += [f"    {_quoted(name)} -> {_quoted(step.id)};" for name in step.depends_on]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


FORMATS = ("text", "json", "mermaid", "dot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    project_options.add_project_options(parser, uri=False)
    cache_options.add_cache_options(parser)
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Show the plan."""
    settings = cache_options.read_cache_options(arguments, environ, cwd)
    options = project_options.read_project_options(arguments, environ, cwd)
    return show(options, settings, environ, cwd, form=arguments.format)


def show(
    options: ProjectOptions,
    settings: CacheSettings,
    environ: Mapping[str, str],
    cwd: str,
    *,
    form: str,
) -> int:
    """Write the plan to standard output; what would stop a run is warned of."""
    running = new_context(options, environ, cwd, quiet=False, write=False)
    with project_loader.open_project(running) as opened:
        return _show(running, opened, settings, form)


def _show(running: RunContext, opened: LoadedProject, settings: CacheSettings, form: str) -> int:
    project_loader.require_valid(running, opened)
    options, content = running.options, None
    try:
        if "docker" in (options.backend, manager_of(running, opened.project)):
            state, content = _image_state(running, opened.project)
        else:
            resolved = resolve(running, opened.project, fetch=False)
            state = resolved.state(running.home)
            if any(item.outputs for item in opened.project.entry_points):
                content = resolved.content()
    except EnvironmentFailure as failure:
        running.console.warn(str(failure))
        state = model.EnvironmentState(manager_of(running, opened.project), None, False)
    made = model.make_plan(
        opened.project, project_loader.plan_request(running), state, content=content
    )
    cache_options.refuse_unknown(settings, made)
    for problem in made.problems:
        running.console.warn(f"a run would stop: {problem.message}", problem.hint or "")
    sys.stdout.write(_WRITERS[form](made, _judge(running, made, settings)))
    return 0


def _image_state(
    running: RunContext, project: ProjectSpec
) -> tuple[model.EnvironmentState, str | None]:
    """Return how the image stands, and what stands for it in keys; both as far as is known."""
    from buildrun.environments.images.engine import EngineError

    provider = ImageProvider(running, project)
    try:
        found = provider.known()
    except (ExecutionError, EngineError):
        found = None  # a plan needs no engine
    return found or (model.EnvironmentState(manager_of(running, project), None, False), None)


def _judge(running: RunContext, made: model.Plan, settings: CacheSettings) -> list[StepStatus]:
    """Return how each step stands; nothing is written."""
    where = open_state(
        made, running.home, settings, running.environ, running.console, write=False, explain=True
    )
    verdicts: list[StepStatus] = []
    try:
        for step in made.steps:
            verdict = where.staleness.check(step)
            if _is_foreseen(step, verdict, verdicts, made):
                where.staleness.record_outputs(step.id, verdict.outputs or "")
            verdicts.append(verdict)
    finally:
        where.results.finish()
    return verdicts


def _is_foreseen(
    step: model.Step, verdict: StepStatus, before: Sequence[StepStatus], made: model.Plan
) -> bool:
    """Return whether what the step hands on is known without running it."""
    states = {
        one.id: one_verdict.state for one, one_verdict in zip(made.steps, before, strict=False)
    }
    if verdict.state == "uncached":
        return all(states[name] != "miss" for name in step.depends_on)
    return verdict.state != "miss"


def to_json(made: model.Plan, verdicts: Sequence[StepStatus]) -> dict[str, Any]:
    """Return the plan in its stable, versioned shape."""
    return {
        "version": 1,
        "project": {"name": made.project, "root": made.root},
        "steps": [
            _step_to_json(step, verdict) for step, verdict in zip(made.steps, verdicts, strict=True)
        ],
    }


def _step_to_json(step: model.Step, verdict: StepStatus) -> dict[str, Any]:
    return {
        "id": step.id,
        "entry_point": step.entry_point,
        "parameters": dict(step.shown_parameters),
        "command": step.shown,
        "depends_on": list(step.depends_on),
        "backend": step.backend,
        "environment": step.environment._asdict(),
        "image": step.image,
        "cache": {
            "key": verdict.key,
            "state": verdict.state,
            "reasons": [reason._asdict() for reason in verdict.reasons],
        },
    }


def _json(made: model.Plan, verdicts: Sequence[StepStatus]) -> str:
    return json.dumps(to_json(made, verdicts), indent=2) + "\n"


def _text(made: model.Plan, verdicts: Sequence[StepStatus]) -> str:
    lines = [f"{made.project} ({printable(made.root)})"]
    for step, verdict in zip(made.steps, verdicts, strict=True):
        state = step.environment
        ready = "ready" if state.ready else "to be built"
        ready += f", {state.lock}" if state.lock else ""
        where = f"image {step.image}" if step.image else f"{state.manager} environment, {ready}"
        lines += [
            "",
            f"{printable(step.id)}: {verdict.state}, on {step.backend}, {where}",
            *(f"    {printable(line)}" for line in step.shown.splitlines()),
            *(f"  because {printable(reason.detail)}" for reason in verdict.reasons),
        ]
    return "\n".join(lines) + "\n"


_WRITERS = {"text": _text, "json": _json, "mermaid": mermaid, "dot": dot}
