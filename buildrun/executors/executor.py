"""The contract of an executor; only type checkers import this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from buildrun.executors.job import Job, Result


class Executor(Protocol):
    """A place to run jobs; implemented by modules."""

    # Runs the job to its end; raises ExecutionError where it cannot be started.
    def execute(self, job: Job) -> Result: ...
