"""Where commands run: on this machine, in containers, as Kubernetes Jobs, or as others add.

Its face: `base`, `container_command`, `databricks.api`, `databricks.auth`, `docker`, `docker_cli`,
`docker_reaper`, `kubernetes.cluster`, `kubernetes.detached`, `local`, `output`, `supervisor`; the
other modules are its own.
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
