"""Jobs that a run has left elsewhere: how they stand, what they wrote, and their end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

from buildrun.executors.submitted import DatabricksRun, DetachedState, KubernetesJob, Submitted


class Detached(Protocol):
    """The jobs of one run, where they were submitted; all methods raise ExecutionError."""

    # What ``cancel`` does with each, for people: ``deleted`` or ``cancelled``.
    CANCELLED: ClassVar[str]

    # Returns how each stands.
    def look(self) -> list[DetachedState]: ...

    # Passes on what one has written, and with ``to_its_end`` what it still writes.
    def follow(self, job: Any, sink: Callable[[bytes], None], *, to_its_end: bool) -> None: ...

    # Ends all, waits for that, and returns how each stood before.
    def cancel(self) -> list[DetachedState]: ...


def connect(jobs: Sequence[Submitted], environ: Mapping[str, str]) -> Detached:
    """Return the jobs of one run; raises ExecutionError where their place cannot be reached."""
    clusters = [job for job in jobs if isinstance(job, KubernetesJob)]
    if clusters:
        from buildrun.executors.kubernetes.detached import KubernetesJobs

        return KubernetesJobs(clusters, environ)
    from buildrun.executors.databricks.detached import DatabricksRuns

    return DatabricksRuns([job for job in jobs if isinstance(job, DatabricksRun)], environ)
