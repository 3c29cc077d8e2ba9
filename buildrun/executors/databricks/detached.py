"""Runs that are left at Databricks: how they stand, what they wrote, and their end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.databricks.api import Api
from buildrun.executors.databricks.auth import connect
from buildrun.executors.databricks.errors import ApiError
from buildrun.executors.databricks.files import Place
from buildrun.executors.databricks.jobs import Jobs, RunState, exit_code
from buildrun.executors.submitted import DatabricksRun, DetachedState

# Seconds between two looks at a run.
_POLL = 5.0


class DatabricksRuns:
    """The runs that one run of buildrun has submitted, see ``detached.Detached``."""

    CANCELLED: ClassVar[str] = "cancelled"

    def __init__(self, runs: Sequence[DatabricksRun], environ: Mapping[str, str]) -> None:
        """Connect; raises ExecutionError without credentials for the same workspace."""
        self._runs = tuple(runs)
        connection = connect(runs[0].profile, environ)
        if connection.host != runs[0].host:
            raise ExecutionError(
                f"the run is at {printable(runs[0].host)}, and the credentials are for "
                f"{connection.host}",
                hint="set DATABRICKS_HOST and its credentials, or DATABRICKS_CONFIG_PROFILE",
            )
        self._api = Api(connection, environ)
        self._jobs = Jobs(self._api, _POLL)

    def look(self) -> list[DetachedState]:
        """Return how each run stands."""
        return [self._state(run, self._look(run)) for run in self._runs]

    def follow(
        self, job: DatabricksRun, sink: Callable[[bytes], None], *, to_its_end: bool
    ) -> None:
        """Pass on what a run has written, which is there when it has ended."""
        state = self._look(job)
        if state is None:
            raise ExecutionError(f"the run {job.job} is gone, and its log with it", hint=_AGAIN)
        if not state.is_over and to_its_end:
            state = self._jobs.await_end(int(job.job), threading.Event())
        if not state.is_over:
            raise ExecutionError(
                "the log of a run comes when it has ended",
                hint=f"`--follow` waits for that; its page shows it now: {printable(state.url)}",
            )
        sink(self._jobs.output(state).text.encode(errors="surrogatepass"))

    def cancel(self) -> list[DetachedState]:
        """End the runs and wait for that; returns how each stood before."""
        before = [(run, self._look(run)) for run in self._runs]
        found = [self._state(run, state) for run, state in before]
        going = [run for run, state in before if state is not None and not state.is_over]
        for run in going:
            self._jobs.cancel(int(run.job))
        for run in going:
            self._jobs.await_end(int(run.job), threading.Event())
        for run in self._runs:
            # The task of one that has ended may be followed still, or be another run's by now.
            names = run.files if run in going else run.files[1:]
            Place(self._api, run.place).delete(names)
        return found

    def _look(self, run: DatabricksRun) -> RunState | None:
        """Return how a run stands, None where it is gone."""
        try:
            return self._jobs.look(int(run.job))
        except ApiError as error:
            if error.status in (400, 404):
                return None
            raise

    def _state(self, run: DatabricksRun, state: RunState | None) -> DetachedState:
        if state is None:
            return DetachedState(run, "gone")
        if not state.is_over:
            is_running = state.life in ("RUNNING", "TERMINATING")
            return DetachedState(run, "running" if is_running else "waiting")
        code = exit_code(state, self._jobs.output(state))
        return DetachedState(run, "ended", 1 if code is None else code)


_AGAIN = "run it again"
