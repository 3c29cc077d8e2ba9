"""Plans as JSON, so that a warm run need not make them again."""

from typing import Any

from buildrun.memo import frozen
from buildrun.planning import EnvironmentState, Plan, Step
from buildrun.project.spec import Pattern, ProjectSpec, PythonEnv


def encode(plan: Plan) -> dict[str, Any]:
    """Return what a run of the plan needs, as JSON values."""
    project = plan.project
    return {
        "project": [project.name, project.root, project.file],
        "steps": [list(step) for step in plan.steps],
        "outputs": list(plan.outputs),
        "content": plan.content,
    }


def decode(value: dict[str, Any]) -> Plan:
    """Return the plan, its project without entry points and environment."""
    name, root, file = value["project"]
    return Plan(
        ProjectSpec(name, root, file, (), PythonEnv()),
        tuple(_step(fields) for fields in value["steps"]),
        (),
        tuple(value["outputs"]),
        value["content"],
    )


def _step(fields: list[Any]) -> Step:
    step = Step(*(frozen(field) if isinstance(field, list) else field for field in fields))
    return step._replace(
        environment=EnvironmentState(*step.environment),
        inputs=None if step.inputs is None else tuple(Pattern(*item) for item in step.inputs),
    )
