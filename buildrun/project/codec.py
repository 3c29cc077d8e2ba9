"""Projects as plain values, for what is remembered between runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from buildrun.project.model import (
    CondaEnv,
    Dependency,
    DockerEnv,
    EntryPoint,
    EnvironmentSpec,
    Parameter,
    Pattern,
    ProjectSpec,
    PythonEnv,
    Sandbox,
    SparkJob,
)
from buildrun.store.memo import frozen

if TYPE_CHECKING:
    from buildrun.project.diagnostics import Diagnostic


def dump_project(spec: ProjectSpec) -> dict[str, Any]:
    """Return the project as JSON values; ``decode`` gives back an equal project."""
    return {**spec._asdict(), "environment": encode_environment(spec.environment)}


def load_project(value: dict[str, Any]) -> ProjectSpec:
    """Return the project that ``encode`` was given."""
    return ProjectSpec(
        name=value["name"],
        root=value["root"],
        file=value["file"],
        entry_points=tuple(_decode_entry_point(*item) for item in value["entry_points"]),
        environment=_decode_environment(value["environment"]),
        spark_job=value.get("spark_job") and SparkJob(*frozen(value["spark_job"])),
    )


def _decode_entry_point(
    name: str,
    parameters: list[Any],
    command: str,
    depends_on: list[Any],
    inputs: list[Any] | None,
    *rest: Any,
) -> EntryPoint:
    made = EntryPoint(
        name,
        tuple(Parameter(*item) for item in parameters),
        command,
        tuple(Dependency(target, frozen(handed)) for target, handed in depends_on),
        None if inputs is None else tuple(Pattern(*item) for item in inputs),
        *(frozen(item) for item in rest),
    )
    return made if made.sandbox is None else made._replace(sandbox=Sandbox(*made.sandbox))


def encode_diagnostics(diagnostics: tuple[Diagnostic, ...]) -> list[list[Any]]:
    """Return findings as JSON values, without what would mend them."""
    return [list(diagnostic._replace(fix=())) for diagnostic in diagnostics]


def decode_diagnostics(value: list[list[Any]]) -> tuple[Diagnostic, ...]:
    """Return the findings that ``encode_diagnostics`` was given."""
    from buildrun.project.diagnostics import Diagnostic

    return tuple(Diagnostic(*item) for item in value)


_KINDS: dict[str, type[EnvironmentSpec]] = {
    "python": PythonEnv,
    "conda": CondaEnv,
    "docker": DockerEnv,
}


def encode_environment(environment: EnvironmentSpec) -> dict[str, Any]:
    """Return an environment as JSON values."""
    kind = next(name for name, record in _KINDS.items() if isinstance(environment, record))
    return {"kind": kind, **{name: _thawed(item) for name, item in environment._asdict().items()}}


def _decode_environment(value: dict[str, Any]) -> EnvironmentSpec:
    fields = {key: frozen(item) for key, item in value.items() if key != "kind"}
    return _KINDS[value["kind"]](**fields)


def _thawed(value: Any) -> Any:
    return [_thawed(item) for item in value] if isinstance(value, tuple) else value
