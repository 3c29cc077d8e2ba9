"""Job runs of a workspace: submitted, looked at without haste, ended; what states mean."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.databricks.errors import ApiError
from buildrun.executors.databricks.launch import MARK

if TYPE_CHECKING:
    from buildrun.executors.databricks.api import Api

_RUNS = "/api/2.2/jobs/runs"

# Seconds between two looks at any of all runs.
_GAP = 0.5

_OVER = ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")
_MARK = re.compile(re.escape(f"\n{MARK}") + r" (\d{1,3})(?: ([a-z]+))?\s*\Z")

_HINTS = {
    "INVALID_CLUSTER_REQUEST": "`new_cluster` in the backend config decides that",
    "CLOUD_FAILURE": "the cloud has no such machines now: try again later, or another "
    "`node_type_id`, or serverless compute",
    "DRIVER_ERROR": "the driver may have had too little memory: a larger `driver_node_type_id` in "
    "the backend config has more",
    "LIBRARY_INSTALLATION_ERROR": "correct the package where the project declares it, or in "
    "`libraries` of the backend config",
    "STORAGE_ACCESS_ERROR": "the cluster must be allowed to read and write there, see "
    "docs/databricks.md",
    "UNAUTHORIZED_ERROR": "whom the run runs as must be allowed to use the cluster, and to read "
    "and write the files, see docs/databricks.md",
    "RESOURCE_NOT_FOUND": "the cluster, or the files that were sent, are gone: run it again",
    "RUN_EXECUTION_ERROR": "the run page tells what happened",
    "BUDGET_POLICY_LIMIT_EXCEEDED": "an administrator of the workspace can raise the limit",
    "USER_CANCELED": "somebody has ended it; run it again",
}
_FEWER = "run fewer steps at once by `-j`, or wait until other runs have ended"


class RunState(NamedTuple):
    """How a run stands.

    life: its state in its life, such as PENDING. result: such as SUCCESS, "" where it has none.
    code: why it has ended, for programs; message: for people. url: of its page. task: the id of
    the run of its only task, whose output is kept.
    """

    life: str
    result: str
    code: str
    message: str
    url: str
    task: int

    @property
    def is_over(self) -> bool:
        """Return whether it has ended, with a result or without."""
        return self.life in _OVER

    @property
    def reason(self) -> str:
        """Return why it has ended so, for people."""
        words = [self.code or self.result or self.life, printable(self.message)]
        return ": ".join(word for word in words if word)

    @property
    def hint(self) -> str:
        """Return what to do about how it has ended, and where to look."""
        fewer = "LIMIT_EXCEEDED" in self.code or self.code.startswith("MAX_CONCURRENT")
        remedy = _HINTS.get(self.code) or (_FEWER if fewer else "try again later")
        return f"{remedy}; its page: {printable(self.url)}"


class Output(NamedTuple):
    """What a run has written.

    text: all that is kept of it. code: of the command, None where the launch program did not get
    so far. kind: what failed in place of the command, else "". is_cut: its beginning is lost.
    error: what Databricks says of its failure.
    """

    text: str
    code: int | None
    kind: str
    is_cut: bool
    error: str


class Pacer:
    """Gives out turns, so that all looks together are not too many; used by several threads.

    gap: seconds between two turns. clock: returns the time in seconds.
    """

    def __init__(self, gap: float = _GAP, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin; the first turn is now."""
        self._gap = gap
        self._clock = clock
        self._next = 0.0
        self._mutex = threading.Lock()

    def turn(self) -> float:
        """Take the next turn, and return in how many seconds it is."""
        with self._mutex:
            now = self._clock()
            at = max(now, self._next)
            self._next = at + self._gap
            return at - now


class Jobs:
    """The runs of one workspace; used by several threads. Raises ExecutionError.

    poll: seconds between two looks at a run.
    """

    def __init__(self, api: Api, poll: float) -> None:
        """Ask nothing yet."""
        self.api = api
        self.poll = poll
        self._pacer = Pacer(min(poll, _GAP))

    def submit(self, body: Mapping[str, Any]) -> int:
        """Submit a run, and return its id; that of the one that is there for the same token."""
        found = self.api.call("POST", f"{_RUNS}/submit", body=body)
        number = found.get("run_id")
        if type(number) is not int:
            raise ExecutionError("Databricks does not tell the id of the run that was submitted")
        return number

    def look(self, number: int, wake: threading.Event | None = None) -> RunState:
        """Return how a run stands, when it is its turn, or at once when the event is set."""
        (wake or threading.Event()).wait(self._pacer.turn())
        found = self.api.call("GET", f"{_RUNS}/get", query={"run_id": str(number)})
        state = state_of(found)
        if not state.life:
            raise ExecutionError(f"Databricks does not tell how the run {number} stands")
        return state

    def await_end(
        self,
        number: int,
        wake: threading.Event,
        tell: Callable[[RunState], None] = lambda _: None,
    ) -> RunState:
        """Return how a run has ended, or how it stands when the event is set.

        tell: is told of each state before that.
        """
        state = self.look(number, wake)
        while not state.is_over and not wake.is_set():
            tell(state)
            if not wake.wait(self.poll):
                state = self.look(number, wake)
        return state

    def output(self, state: RunState) -> Output:
        """Return what a run has written that has ended."""
        try:
            found = self.api.call("GET", f"{_RUNS}/get-output", query={"run_id": str(state.task)})
        except ApiError as refused:
            if state.result == "SUCCESS" or refused.status not in (400, 404):
                raise
            found = {}  # it has not begun, and its state says why
        logs, error = found.get("logs"), found.get("error")
        text = logs if isinstance(logs, str) else ""
        mark = _MARK.search(text)
        return Output(
            text[: mark.start()] if mark else text,
            int(mark[1]) if mark else None,
            (mark[2] or "") if mark else "",
            found.get("logs_truncated") is True,
            error if isinstance(error, str) else "",
        )

    def cancel(self, number: int) -> None:
        """Have a run end; that takes a while."""
        self.api.call("POST", f"{_RUNS}/cancel", body={"run_id": number})


def state_of(found: Mapping[str, Any]) -> RunState:
    """Return how a run stands by what ``runs/get`` tells, in its older and newer form."""
    state, status = _object(found.get("state")), _object(found.get("status"))
    details = _object(status.get("termination_details"))
    queued = _object(status.get("queue_details"))
    life = str(state.get("life_cycle_state") or status.get("state") or "")
    code = str(details.get("code") or queued.get("code") or "")
    result = str(state.get("result_state") or ("SUCCESS" if code == "SUCCESS" else ""))
    if not result and code == "RUN_EXECUTION_ERROR":
        result = "FAILED"
    words = details.get("message") or queued.get("message") or state.get("queue_reason")
    tasks = found.get("tasks")
    task = _object(tasks[0]) if isinstance(tasks, list) and tasks else found
    task_id = task.get("run_id")
    return RunState(
        life, result, code, str(words or state.get("state_message") or ""),
        str(found.get("run_page_url") or ""), task_id if type(task_id) is int else 0,
    )  # fmt: skip


def exit_code(state: RunState, output: Output) -> int | None:
    """Return the exit code of a run's command, None where something else has ended it."""
    if state.result == "SUCCESS":
        return output.code or 0
    if state.result == "TIMEDOUT":
        return 124
    # A command that has succeeded is not what has failed.
    return (output.code or None) if state.result == "FAILED" else None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
