"""Where commands run: on this machine, in containers, as Kubernetes Jobs, or as others add."""

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
]
