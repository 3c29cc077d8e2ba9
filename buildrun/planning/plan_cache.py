"""Remembered plans: what the next run of the same command line needs, while nothing has changed.

A record holds a plan with every file, variable and argument that it was made from. While those are
the same, the same command line needs neither options nor project nor graph.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.console import Console, has_credentials
from buildrun.project.locate import find_mlproject
from buildrun.store import home, locks
from buildrun.store.memo import DependencyTracker, Memo, frozen, get, lock_of, put

if TYPE_CHECKING:
    from typing import TypedDict

    from buildrun.planning.model import Plan, Step

    class RunRecord(TypedDict):
        """What the next run of a command line needs; JSON values, records among them as lists.

        where: the project's place, as records of runs tell it. notice: the line that stands for
        warnings, or "". environment: of ``RememberedPrefix`` or ``RememberedImage``. tracking: a
        ``RunSpec``. watched: see ``quick_check``. untracked: the variables that commands see where
        nothing is tracked.
        """

        plan: Any
        root: str
        where: str
        notice: str
        environment: Any
        tracking: Any
        watched: Any
        project_options: Any
        run_options: Any
        untracked: Any


# Variables of the caller that a plan depends on, beside those that are noted when they are read.
_VARIABLES = (
    "BUILDRUN_CHECK_INPUTS", "BUILDRUN_ENV_MANAGER", "BUILDRUN_HOME", "BUILDRUN_REMOTE_CACHE",
    "BUILDRUN_REMOTE_CACHE_STRICT", "BUILDRUN_REMOTE_CACHE_WRITE", "BUILDRUN_SALT",
    "BUILDRUN_STRICT_CACHE", "HOME", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TMP_DIR", "MLFLOW_TRACKING_URI", "PATH", "SHELL", "XDG_CACHE_HOME",
)  # fmt: skip

# Of the records; is raised with each change of their shape.
_FORMAT = 4

# Before the name of a command line: how its temporary working directory is made again.
_CHECKOUT = "checkout\0"


class PlanOutdated(Exception):
    """What a remembered plan was made with is another one by now."""


class PlanLease:
    """The right to plan for a command line, while others of the same wait.

    argv: the command line, empty where no record shall be left.
    """

    def __init__(self, argv: Sequence[str] = (), lock: locks.Lock | None = None) -> None:
        """Take over a lock, if one is held."""
        self.argv = argv
        self._lock = lock

    def release(self) -> None:
        """Let the others look for what was found; calling it again is harmless."""
        if self._lock is not None:
            self._lock.release()


class PlanCache:
    """The records of one command line in one directory."""

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> None:
        """Take the command line; nothing is looked at yet."""
        self._argv = argv
        self._environ = environ
        self._memo = Memo(home.locate(environ).memo)
        self._name = _name(argv, cwd)

    def lookup(self, *, temporary: bool) -> "RunRecord | None":
        """Return the record, or None where anything has changed since it was made.

        temporary: whether the caller has made the working directory for it. Without that it may be
        there as well, but is then another run's.
        """
        value = get(self._memo, self._name, self._environ, subject=_subject())
        if value is None or value.get("temporary") != temporary:
            return None
        found: RunRecord = value
        return found if find_mlproject(found["root"]) == value["mlproject"] else None

    def checkout(self) -> Any:
        """Return how the temporary working directory is made again, or None for none."""
        return get(self._memo, _CHECKOUT + self._name, self._environ, subject=_subject())

    def lease(self) -> PlanLease:
        """Return the right to plan; others of the same command line are waited for."""
        return PlanLease(self._argv, lock_of(self._memo, self._name, waiting=self._tell))

    def _tell(self) -> None:
        Console(self._environ).note("waiting for another run that prepares the same command")


def keep(
    lease: PlanLease,
    cwd: str,
    memo: Memo,
    tracker: DependencyTracker,
    record: "RunRecord",
    paths: Sequence[str],
    checkout: Any = None,
) -> None:
    """Leave the record for the next run, unless there are credentials in it.

    tracker: all that it was made from. paths: below the project's directory, or absolute; the plan
    depends on whether they exist. checkout: how the working directory is made again, where it is a
    temporary one; see ``sources.checkout``.
    """
    if not lease.argv or has_credentials(json.dumps([record, checkout])):
        return
    for path in paths:
        tracker.exists(os.path.join(record["root"], path))
    for name in _VARIABLES:
        tracker.variable(name)
    name = _name(lease.argv, cwd)
    value = {
        **record,
        "mlproject": find_mlproject(record["root"]),
        "temporary": checkout is not None,
    }
    put(memo, name, tracker, value, subject=_subject())
    if checkout is not None:
        put(memo, _CHECKOUT + name, DependencyTracker({}), checkout, subject=_subject())


def _name(argv: Sequence[str], cwd: str) -> str:
    return "\0".join(("run", sys.prefix, cwd, *argv))


def _subject() -> list[Any]:
    return [sys.version, _FORMAT]


# -- plans as JSON values ----------------------------------------------------------------------


def dump_plan(plan: "Plan") -> dict[str, Any]:
    """Return what a run of the plan needs, as JSON values."""
    return {
        "project": plan.project,
        "root": plan.root,
        "steps": [step._asdict() for step in plan.steps],
        "outputs": list(plan.outputs),
        "content": plan.content,
    }


def load_plan(value: dict[str, Any]) -> "Plan":
    """Return the plan that ``dump_plan`` was given, without its project."""
    from buildrun.planning.model import Plan

    steps = tuple(_step(fields) for fields in value["steps"])
    return Plan(
        value["project"], value["root"], steps, (), tuple(value["outputs"]), value["content"]
    )


def _step(fields: dict[str, Any]) -> "Step":
    from buildrun.planning.model import EnvironmentState, Step

    values = frozen(list(fields.values()))
    step = Step(**dict(zip(fields, values, strict=True)))
    step = step._replace(environment=EnvironmentState(*step.environment))
    if step.sandbox is not None:
        from buildrun.project.model import Sandbox

        step = step._replace(sandbox=Sandbox(*step.sandbox))
    if step.inputs is None:
        return step
    from buildrun.project.model import Pattern

    return step._replace(inputs=tuple(Pattern(*item) for item in step.inputs))
