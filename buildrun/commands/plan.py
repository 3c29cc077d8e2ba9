"""`buildrun plan`: what would run, and why; as text, JSON, Mermaid or Graphviz."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.commands import all_projects, table
from buildrun.commands import options as command_options
from buildrun.console import Console, printable
from buildrun.environments.planned_run import open_provider
from buildrun.environments.resolve import manager_of
from buildrun.errors import EnvironmentFailure, UsageError
from buildrun.planning import model, project_loader
from buildrun.planning.context import CacheSettings, ProjectOptions, RunContext, new_context
from buildrun.planning.model import Plan
from buildrun.planning.project_loader import LoadedProject
from buildrun.planning.state import open_state
from buildrun.planning.uptodate import StepStatus

# What Mermaid may take for markup, also between quotes.
_MARKUP = frozenset('"#&;<>\\`{}|')


def mermaid(plan: Plan, statuses: Sequence[StepStatus]) -> str:
    """Return the plan as a Mermaid flowchart."""
    number = {step.id: f"s{index}" for index, step in enumerate(plan.steps)}
    lines = ["flowchart TD"]
    for step, status in zip(plan.steps, statuses, strict=True):
        label = "".join(
            f"#{ord(char)};" if char in _MARKUP else char for char in printable(step.id)
        )
        lines.append(f'    {number[step.id]}["{label}: {status.state}"]')
        lines += [f"    {number[name]} --> {number[step.id]}" for name in step.depends_on]
    return "\n".join(lines) + "\n"


def dot(plan: Plan, statuses: Sequence[StepStatus]) -> str:
    """Return the plan in the language of Graphviz."""
    lines = ["digraph plan {"]
    for step, status in zip(plan.steps, statuses, strict=True):
        label = _quoted(f"{step.id}: {status.state}")
        lines.append(f"    {_quoted(step.id)} [label={label}];")
        lines += [f"    {_quoted(name)} -> {_quoted(step.id)};" for name in step.depends_on]
    return "\n".join([*lines, "}"]) + "\n"


def _quoted(text: str) -> str:
    return '"' + printable(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


FORMATS = ("text", "json", "mermaid", "dot")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    command_options.add_cache_options(parser)
    all_projects.add_arguments(parser)
    command_options.add_project_options(parser, uri=False)
    parser.add_argument("--format", choices=FORMATS, default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Show the plan, or those of all projects."""
    if all_projects.asked_for(arguments):
        return _show_all(arguments, environ, cwd)
    settings = command_options.read_cache_options(arguments, environ, cwd)
    options = command_options.read_project_options(arguments, environ, cwd)
    return show(options, settings, environ, cwd, form=arguments.format)


def _show_all(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Show the plan of each project; return the first code that is not 0."""
    if arguments.format not in ("text", "json"):
        raise UsageError(
            f"`--format {arguments.format}` is for one project",
            hint="with `--all` there are `text` and `json`",
        )
    options, settings = all_projects.check_options(arguments, environ, cwd)
    plans: list[Any] = []

    def show_one(root: str) -> int:
        made = make(options._replace(uri=all_projects.uri_of(root)), settings, environ, cwd)
        if arguments.format == "json":
            plans.append(to_json(*made))
        else:
            write(*made, environ, "text")
            sys.stdout.write("\n")
        return 0

    projects = all_projects.select(arguments, environ, cwd, write=False)
    code = all_projects.each(projects, show_one, cwd, Console(environ))
    if arguments.format == "json":
        table.write_json({"version": 1, "projects": plans})
    return code


def show(
    options: ProjectOptions,
    settings: CacheSettings,
    environ: Mapping[str, str],
    cwd: str,
    *,
    form: str,
    check_inputs: bool = False,
    sandbox: bool = False,
) -> int:
    """Write the plan to standard output; raises BuildrunError.

    check_inputs, sandbox: whether all steps are checked, or sandboxed.
    """
    plan, statuses = make(options, settings, environ, cwd)
    write(model.guarded(plan, check_inputs=check_inputs, sandbox=sandbox), statuses, environ, form)
    return 0


def write(
    plan: Plan, statuses: Sequence[StepStatus], environ: Mapping[str, str], form: str
) -> None:
    """Write a plan to standard output in one of the forms."""
    if form == "text":
        steps = [(step.id, status.state) for step, status in zip(plan.steps, statuses, strict=True)]
        table.tell(_lines(plan, statuses), steps, environ)
    elif form == "json":
        table.write_json(to_json(plan, statuses))
    else:
        sys.stdout.write({"mermaid": mermaid, "dot": dot}[form](plan, statuses))


def make(
    options: ProjectOptions, settings: CacheSettings, environ: Mapping[str, str], cwd: str
) -> tuple[Plan, list[StepStatus]]:
    """Return the plan and how its steps stand; what would stop a run is warned of."""
    context = new_context(options, environ, cwd, quiet=False, write=False)
    with project_loader.open_project(context) as loaded:
        return _make(context, loaded, settings)


def _make(
    context: RunContext, loaded: LoadedProject, settings: CacheSettings
) -> tuple[Plan, list[StepStatus]]:
    project_loader.require_valid(context, loaded)
    content: str | None = None
    try:
        state, content = open_provider(context, loaded.project).known()
    except EnvironmentFailure as failure:
        context.console.warn(str(failure))
        state = model.EnvironmentState(manager_of(context, loaded.project), None, False)
    plan = model.make_plan(
        loaded.project, project_loader.plan_request(context), state, content=content
    )
    checked = command_options.checks_inputs(settings, context.environ)
    plan = model.guarded(plan, check_inputs=checked, sandbox=False)
    command_options.refuse_unknown(settings, plan)
    for problem in plan.problems:
        context.console.warn(f"a run would stop: {problem.message}", problem.hint or "")
    return plan, _check(context, plan, settings)


def _check(context: RunContext, plan: model.Plan, settings: CacheSettings) -> list[StepStatus]:
    """Return how each step stands; nothing is written."""
    state = open_state(
        plan, context.home, settings, context.environ, context.console, write=False, explain=True
    )
    statuses: list[StepStatus] = []
    try:
        for step in plan.steps:
            status = state.staleness.check(step)
            if _is_foreseen(step, status, statuses, plan):
                state.staleness.record_outputs(step.id, status.outputs or "")
            statuses.append(status)
    finally:
        state.results.finish()
    return statuses


def _is_foreseen(
    step: model.Step, status: StepStatus, before: Sequence[StepStatus], plan: model.Plan
) -> bool:
    """Return whether what the step hands on is known without running it."""
    states = {one.id: one_status.state for one, one_status in zip(plan.steps, before, strict=False)}
    if status.state == "uncached":
        return all(states[name] != "miss" for name in step.depends_on)
    return status.state != "miss"


def to_json(plan: model.Plan, statuses: Sequence[StepStatus]) -> dict[str, Any]:
    """Return the plan in its stable, versioned shape."""
    return {
        "version": 1,
        "project": {"name": plan.project, "root": plan.root},
        "steps": [
            _step_to_json(step, status) for step, status in zip(plan.steps, statuses, strict=True)
        ],
    }


def _step_to_json(step: model.Step, status: StepStatus) -> dict[str, Any]:
    return {
        "id": step.id,
        "entry_point": step.entry_point,
        "parameters": dict(step.shown_parameters),
        "command": step.shown,
        "depends_on": list(step.depends_on),
        "backend": step.backend,
        "environment": step.environment._asdict(),
        "image": step.image,
        "check_inputs": step.check_inputs,
        "sandbox": step.sandbox is not None,
        "cache": {
            "key": status.key,
            "state": status.state,
            "reasons": [reason._asdict() for reason in status.reasons],
            "assurance": status.assurance,
        },
    }


def _packages_of(state: model.EnvironmentState) -> str:
    """Return what a step finds on a cluster."""
    if state.lock is None:
        return "with no packages but its own"
    return f"{state.manager} packages installed there, {state.lock}"


def _lines(plan: model.Plan, statuses: Sequence[StepStatus]) -> list[str]:
    lines = [f"{plan.project} ({printable(plan.root)})"]
    for step, status in zip(plan.steps, statuses, strict=True):
        state = step.environment
        ready = "ready" if state.ready else "to be built"
        ready += f", {state.lock}" if state.lock else ""
        where = f"image {step.image}" if step.image else f"{state.manager} environment, {ready}"
        if state.platform is not None:
            where = _packages_of(state)
        lines += [
            "",
            f"{printable(step.id)}: {status.state}, {_assured(step, status)}on {step.backend}, "
            + where,
            *(f"    {printable(line)}" for line in step.shown.splitlines()),
            *(f"  because {printable(reason.detail)}" for reason in status.reasons),
        ]
    return lines


def _assured(step: model.Step, status: StepStatus) -> str:
    """Return how sure the result is, or how a run would make sure of it."""
    if status.state not in ("miss", "uncached"):
        return "" if status.assurance in (None, "declared") else f"{status.assurance}, "
    if step.sandbox is not None:
        return "in a sandbox, "
    return "inputs to be checked, " if step.check_inputs and step.backend == "local" else ""
