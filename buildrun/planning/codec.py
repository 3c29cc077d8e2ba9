"""Plans as plain values, for what is remembered between runs."""

from __future__ import annotations

from typing import Any

from buildrun.planning.model import EnvironmentState, Plan, Step
from buildrun.store.memo import frozen


def dump_plan(plan: Plan) -> dict[str, Any]:
    """Return what a run of the plan needs, as JSON values."""
    return {
        "project": plan.project,
        "root": plan.root,
        "steps": [step._asdict() for step in plan.steps],
        "outputs": list(plan.outputs),
        "content": plan.content,
    }


def load_plan(value: dict[str, Any]) -> Plan:
    """Return the plan that ``dump_plan`` was given, without its project."""
    steps = tuple(_step(fields) for fields in value["steps"])
    return Plan(
        value["project"], value["root"], steps, (), tuple(value["outputs"]), value["content"]
    )


def _step(fields: dict[str, Any]) -> Step:
    values = frozen(list(fields.values()))
    step = Step(**dict(zip(fields, values, strict=True)))
    step = step._replace(environment=EnvironmentState(*step.environment))
    if step.inputs is None:
        return step
    from buildrun.project.model import Pattern

    return step._replace(inputs=tuple(Pattern(*item) for item in step.inputs))
