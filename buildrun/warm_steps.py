"""The end of a warm run of steps: where every one of them is up to date, that is all there is."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun import home, plan_record, runs
from buildrun.errors import BuildrunError
from buildrun.place import CacheSettings, close, open_place

if TYPE_CHECKING:
    from buildrun.console import Console


def attempt(value: Any, environ: Mapping[str, str], console: "Console") -> int | None:
    """Return 0 where nothing has to be done for the plan in a record; else None.

    value: what ``commands.run`` has left. Errors are left to the long way, which says them.
    """
    started = time.monotonic()
    plan = plan_record.decode(value["plan"])
    if any(not step.outputs for step in plan.steps):
        return None
    store = home.locate(environ)
    settings = CacheSettings(*value["settings"])
    place = open_place(plan, store, settings, environ, console, reach=False)
    record = runs.begin(
        runs.new_id(), plan.project.name, plan.project.root, plan.steps[-1].entry_point
    )
    saved = 0.0
    for step in plan.steps:
        try:
            verdict = place.judge.verdict(step)
        except BuildrunError:
            return None
        if verdict.state != "up-to-date" or verdict.manifest is not None:
            return None  # what a result alone tells is still to be noted in the history
        place.judge.settle(step.id, verdict.outputs or "")
        last = place.history.last(step.id)
        saved += last.seconds if last is not None else 0.0
    close(place)
    _record(record, plan, store, started)
    if value["notice"]:
        console.note(value["notice"])
    console.note(summary(len(plan.steps), time.monotonic() - started, saved))
    return 0


def summary(count: int, seconds: float, saved: float) -> str:
    """Return the line on a run that had nothing to do."""
    steps = "1 step" if count == 1 else f"{count} steps"
    rest = f", {saved:.1f} s saved" if saved >= 0.05 else ""
    return f"{steps}: {count} up to date in {seconds:.1f} s{rest}"


def _record(record: runs.Record, plan: Any, store: home.Home, started: float) -> None:
    reasons = [{"code": "unchanged", "detail": "nothing has changed since it was made"}]
    steps = [
        {
            "id": step.id,
            "entry_point": step.entry_point,
            "state": "up-to-date",
            "exit_code": None,
            "seconds": 0.0,
            "log": None,
            "reasons": reasons,
        }
        for step in plan.steps
    ]
    runs.write(store.runs, runs.end(record, "ok", 0, time.monotonic() - started, steps))
