"""buildrun: run MLflow Projects the way a build tool runs targets.

The Python API is what `__all__` lists; each name is loaded when it is first used.
"""

# What type checkers take for true; `typing` would take most of the time of an import.
TYPE_CHECKING = False

__version__ = "0.1.0"

__all__ = [
    "BuildrunError",
    "EnvironmentFailure",
    "ExecutionError",
    "ExecutionException",
    "ParameterError",
    "PlanReport",
    "ProjectError",
    "Run",
    "RunReport",
    "Status",
    "StoreError",
    "UsageError",
    "ValidationReport",
    "plan",
    "run",
    "validate",
]

if TYPE_CHECKING:
    from buildrun.api.inspect import plan, validate
    from buildrun.api.run import ExecutionException, Run, run
    from buildrun.api.types import PlanReport, RunReport, Status, ValidationReport
    from buildrun.errors import (
        BuildrunError,
        EnvironmentFailure,
        ExecutionError,
        ParameterError,
        ProjectError,
        StoreError,
        UsageError,
    )
else:
    _MODULES = {
        "ExecutionException": "buildrun.api.run",
        "PlanReport": "buildrun.api.types",
        "Run": "buildrun.api.run",
        "RunReport": "buildrun.api.types",
        "Status": "buildrun.api.types",
        "ValidationReport": "buildrun.api.types",
        "plan": "buildrun.api.inspect",
        "run": "buildrun.api.run",
        "validate": "buildrun.api.inspect",
    }

    def __getattr__(name: str) -> object:
        """Load a name of the API (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value: object = getattr(import_module(_MODULES.get(name, "buildrun.errors")), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        """List the API beside what is loaded."""
        return sorted({*globals(), *__all__})
