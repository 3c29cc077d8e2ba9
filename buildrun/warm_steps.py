"""The end of a warm run of steps: where every one of them is up to date, that is all there is."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from buildrun.plan import quick_check
from buildrun.plan.quick_check import Watched
from buildrun.store import home, runs

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.workspace.fingerprints import Fingerprints


def attempt(value: Any, environ: Mapping[str, str], console: "Console") -> int | None:
    """Return 0 where nothing has to be done for the plan in a record; else None.

    value: what ``commands.run`` has left. Errors are left to the long way, which says them.
    """
    started = time.monotonic()
    store = home.locate(environ)
    name, root, _ = value["plan"]["project"]
    steps = value["plan"]["steps"]
    if home.has_staging(root):
        return None  # a killed run may have left it, and the long way puts that right
    record = runs.begin(runs.new_id(), name, root, steps[-1][1])
    saved = _glance(value, store, environ, console)
    if saved is None:
        return None
    if value["tracking"] is not None:
        record = _tell(value, record, steps, environ, console)
    _record(record, steps, store, started)
    if value["notice"]:
        console.note(value["notice"])
    console.note(summary(len(steps), time.monotonic() - started, saved))
    return 0


def _tell(
    value: Any,
    record: runs.Record,
    steps: Any,
    environ: Mapping[str, str],
    console: "Console",
) -> runs.Record:
    """Have the run tracked, and return its record under the id that it has there."""
    from buildrun import warm_tracking
    from buildrun.executors.base import Result
    from buildrun.plan import state
    from buildrun.plan.step_history import History
    from buildrun.tracking import tags

    store = home.locate(environ)
    tracked = warm_tracking.begin(value["tracking"], environ, store, console)
    if tracked.run is None:
        return record
    history = History(store.about(record.root, "steps"), write=False)
    origins = state.origins_of(history, [step[0] for step in steps])
    tracked.tag(tags.outcomes([(step[0], "up-to-date") for step in steps], origins))
    tracked.told(lambda: Result(0))
    return record._replace(run_id=tracked.run.run_id)


def _glance(
    value: Any, store: home.Home, environ: Mapping[str, str], console: "Console"
) -> float | None:
    """Return the seconds that the steps once took if all are up to date, else None."""
    if value.get("watched") is None:
        return _judge(value, store, environ, console)
    wanted = Watched(*value["watched"])

    def open_fingerprints() -> "Fingerprints":
        from buildrun.plan.state import CacheSettings, fingerprints_of

        return fingerprints_of(wanted.root, store, CacheSettings(*value["settings"]))

    found = quick_check.look(wanted, open_fingerprints)
    if found is None:
        return _judge(value, store, environ, console)
    known = quick_check.recall(store, wanted, found, environ)
    if known is not None:
        return float(known)
    saved = _judge(value, store, environ, console)
    if saved is not None:
        again = quick_check.look(wanted, open_fingerprints)
        quick_check.note(store, wanted, found, again, environ, saved)
    return saved


def _judge(
    value: Any, store: home.Home, environ: Mapping[str, str], console: "Console"
) -> float | None:
    """Return the same by a look at each step."""
    from buildrun.errors import BuildrunError
    from buildrun.plan import codec
    from buildrun.plan.state import CacheSettings, close, open_state

    plan = codec.load_plan(value["plan"])
    if any(not step.outputs for step in plan.steps):
        return None
    settings = CacheSettings(*value["settings"])
    place = open_state(plan, store, settings, environ, console, reach=False)
    saved = 0.0
    for step in plan.steps:
        try:
            verdict = place.staleness.check(step)
        except BuildrunError:
            return None
        if verdict.state != "up-to-date" or verdict.manifest is not None:
            return None  # what a result alone tells is still to be noted in the history
        place.staleness.record_outputs(step.id, verdict.outputs or "")
        last = place.history.last(step.id)
        saved += last.seconds if last is not None else 0.0
    close(place)
    return saved


def summary(count: int, seconds: float, saved: float) -> str:
    """Return the line on a run that had nothing to do."""
    steps = "1 step" if count == 1 else f"{count} steps"
    rest = f", {saved:.1f} s saved" if saved >= 0.05 else ""
    return f"{steps}: {count} up to date in {seconds:.1f} s{rest}"


def _record(record: runs.Record, plan_steps: Any, store: home.Home, started: float) -> None:
    reasons = [{"code": "unchanged", "detail": "nothing has changed since it was made"}]
    steps = [
        {
            "id": step[0],
            "entry_point": step[1],
            "state": "up-to-date",
            "exit_code": None,
            "seconds": 0.0,
            "log": None,
            "reasons": reasons,
        }
        for step in plan_steps
    ]
    runs.write(store.runs, runs.end(record, "ok", 0, time.monotonic() - started, steps))
