"""The runs of a Databricks stand-in: what states one goes through, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from databricks_driver import Driver
from databricks_http import Request

if TYPE_CHECKING:
    from databricks_workspace import Workspace

# What the Jobs API tells of a log.
LOG_LIMIT = 5_000_000


class End(NamedTuple):
    """The last state; result: None where there is no result state."""

    life_cycle: str
    result: str | None
    code: str
    kind: str = "CLIENT_ERROR"
    message: str = ""


class Script(NamedTuple):
    """How a run is to go.

    before: the states before it runs, each for one look. stuck: a state that it never leaves by
    itself. end: in place of what the task comes to; runs: the task is really run before.
    log: what is said in place of what the task says.
    """

    before: Sequence[str] = ("PENDING",)
    stuck: str = ""
    end: End | None = None
    runs: bool = True
    log: str | None = None
    log_limit: int = LOG_LIMIT


SUCCESS = End("TERMINATED", "SUCCESS", "SUCCESS", "SUCCESS")
CANCELED = End("TERMINATED", "CANCELED", "USER_CANCELED", message="Run cancelled.")
TIMED_OUT = End("TERMINATED", "TIMEDOUT", "CANCELED", message="Run timed out.")

# A run that another one of the job is in the way of: no result state at all.
SKIPPED = Script(
    end=End("SKIPPED", None, "SKIPPED", message="An active run already exists."), runs=False
)
NO_CLUSTER = Script(stuck="PENDING")
QUEUED = Script(before=("QUEUED", "PENDING"))
# What its task does takes too long.
TIMEOUT = Script(end=TIMED_OUT)


def internal_error(
    code: str, message: str, *, kind: str = "CLOUD_FAILURE", result: str | None = None
) -> Script:
    """Return the script of a run that fails before its task runs, by default without result."""
    return Script(end=End("INTERNAL_ERROR", result, code, kind, message), runs=False)


CLOUD_FAILURE = internal_error(
    "CLOUD_FAILURE", "Unexpected failure during launch: insufficient capacity."
)
BAD_LIBRARY = internal_error(
    "LIBRARY_INSTALLATION_ERROR",
    "Library installation failed for library due to user error for pypi { package: 'nope' }.",
    kind="CLIENT_ERROR",
    result="FAILED",
)

_NEW_STATES = {"WAITING_FOR_RETRY": "WAITING", "SKIPPED": "TERMINATED"}


class Run:
    """A submitted run of one task; ``number`` is its id, ``task_number`` its task's."""

    def __init__(self, workspace: Workspace, number: int, request: Request, script: Script) -> None:
        self.number = number
        self.task_number = number + 1
        self.body: Mapping[str, Any] = request.body
        self.task = task_of(request.body)
        self.script = script
        self.driver = Driver(workspace.root, number)
        self.started = workspace.clock
        self.ending: End | None = None
        self.cancelled = False
        self.deleted = False
        self._ahead = [script.stuck] if script.stuck else [*script.before, "RUNNING"]
        self.state = self._ahead.pop(0)
        self.error = ""
        self.trace = ""

    @property
    def ended(self) -> bool:
        return self.state in ("TERMINATED", "SKIPPED", "INTERNAL_ERROR")

    def look(self, workspace: Workspace) -> None:
        """Take note that somebody has seen the state."""
        if workspace.looks_advance:
            self.advance(workspace)

    def cancel(self) -> None:
        """End it soon; its process is killed at once."""
        if not self.ended:
            self.cancelled = True
            self.driver.kill()

    def advance(self, workspace: Workspace) -> None:
        """Go a state further."""
        if self.ended:
            return
        if self.state == "TERMINATING":
            self._end(self.ending or SUCCESS)
            return
        limit = self.body.get("timeout_seconds") or self.task.get("timeout_seconds")
        if self.cancelled or (limit and workspace.clock - self.started > limit):
            self.ending = CANCELED if self.cancelled else TIMED_OUT
            self.driver.kill()
            self.state = "TERMINATING"
        elif self._ahead:
            self._enter(self._ahead.pop(0), workspace)
        elif not self.script.stuck and not self.driver.running():
            self.ending = self.script.end or self._outcome()
            self.state = "TERMINATING"

    def _enter(self, state: str, workspace: Workspace) -> None:
        if state == "RUNNING" and self.script.end is not None and not self.script.runs:
            self._end(self.script.end)
            return
        self.state = state
        if self.script.log is not None:
            self.driver.write(self.script.log)
        elif state == "RUNNING":
            self._start(workspace)

    def _start(self, workspace: Workspace) -> None:
        task = self.task.get("spark_python_task")
        # What MLflow has uploaded to DBFS unpacks itself in `/databricks`, so not on this machine.
        if task is None or task["python_file"].startswith("dbfs:"):
            return
        file = workspace.local(task["python_file"])
        if not file.is_file():
            self.error = f"Cannot read the python file {task['python_file']}"
            return
        variables = (self.task.get("new_cluster") or {}).get("spark_env_vars") or {}
        self.driver.start(file, task.get("parameters") or (), variables)

    def _outcome(self) -> End:
        if self.driver.started:
            self.error, self.trace = self.driver.fate()
        if not self.error:
            return SUCCESS
        return End("TERMINATED", "FAILED", "RUN_EXECUTION_ERROR", message=self.error)

    def _end(self, end: End) -> None:
        self.ending = end
        self.state = end.life_cycle

    def state_told(self) -> dict[str, Any]:
        """Return the state in its old form."""
        waiting = "Waiting for cluster" if self.state == "PENDING" else ""
        told: dict[str, Any] = {
            "life_cycle_state": self.state,
            "state_message": self.ending.message if self.ending else waiting,
            "user_cancelled_or_timedout": self.ending in (CANCELED, TIMED_OUT),
        }
        if self.ended and self.ending and self.ending.result:
            told["result_state"] = self.ending.result
        return told

    def status_told(self) -> dict[str, Any]:
        """Return the state in its new form."""
        if not self.ended or self.ending is None:
            return {"state": _NEW_STATES.get(self.state, self.state)}
        details = {
            "code": self.ending.code,
            "type": self.ending.kind,
            "message": self.ending.message,
        }
        return {"state": "TERMINATED", "termination_details": details}


def task_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the task, which a body of API 2.0 is itself."""
    tasks = body.get("tasks")
    task: Mapping[str, Any] = tasks[0] if tasks else body
    return task
