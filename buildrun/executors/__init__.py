"""Where commands run: here, in containers, as Kubernetes Jobs, at Databricks, or as others add.

Its face: `base`, `container_command`, `databricks.api`, `databricks.auth`, `detached`, `docker`,
`docker_cli`, `docker_reaper`, `local`, `output`, `submitted`, `supervisor`; the other modules are
its own.
"""

from buildrun.executors.base import (
    Environment,
    Executor,
    ExecutorContext,
    Job,
    OutputSink,
    ProcessRunner,
    ResolvedImage,
    Result,
    Task,
    Usage,
)

__all__ = [
    "Environment",
    "Executor",
    "ExecutorContext",
    "Job",
    "OutputSink",
    "ProcessRunner",
    "ResolvedImage",
    "Result",
    "Task",
    "Usage",
]
