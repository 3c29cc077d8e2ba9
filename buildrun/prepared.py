"""Running what is prepared: hold the environment, run the command, look after it."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import has_credentials
from buildrun.environments.prefix import invalidate
from buildrun.errors import FAILURE, Interrupted
from buildrun.executors import local
from buildrun.executors.base import Job, Result
from buildrun.store import runs
from buildrun.store.home import has_staging

if TYPE_CHECKING:
    from buildrun.console import Console


class Prepared(NamedTuple):
    """A step with all that its run needs; JSON values throughout.

    manager, key, prefix: its environment; key is "" and prefix None for the caller's own.
    changes: variables that the command sees set to a text, or removed (None).
    shown: the command without secrets.
    """

    step: str
    entry_point: str
    parameters: tuple[tuple[str, str], ...]
    command: str
    cwd: str
    manager: str
    key: str
    prefix: str | None
    changes: Mapping[str, str | None]
    reasons: tuple[tuple[str, str], ...]
    shown: str


def perform(
    prepared: Prepared, environ: Mapping[str, str], console: "Console", log: str | None
) -> Result:
    """Run the command in an environment that the caller holds; raises ExecutionError.

    log: as in ``Job``.
    """
    seen = {name: value for name, value in environ.items() if name not in prepared.changes}
    seen.update({name: text for name, text in prepared.changes.items() if text is not None})
    console.note(console.style(f"[{prepared.step}] {prepared.shown}", "dim"))
    result = local.execute(Job(prepared.command, prepared.cwd, seen, log=log))
    if result.exit_code != 0 and result.interrupted is None and prepared.prefix is not None:
        look_for_damage(prepared.manager, prepared.prefix, console)
    return result


def recorded(
    prepared: Prepared,
    project: str,
    directory: str,
    call: Callable[[str | None], Result],
    console: "Console",
    where: str | None = None,
) -> Result:
    """Return the result of a call that runs the command, and leave a record of the run.

    call: gets the path of the log, as in ``Job``.

    project: its name. directory: where the records of runs are. where: the project's place, if
    that is not where the command runs.
    """
    run_id = prepared.changes.get("MLFLOW_RUN_ID") or runs.new_id()
    record = runs.begin(run_id, project, where or prepared.cwd, prepared.entry_point)
    runs.write(directory, record)
    mend_alone(prepared.cwd, runs.directory(directory, run_id), console)
    started = time.monotonic()
    result = Result(FAILURE)
    log = log_of(prepared, directory, run_id)
    try:
        result = call(log)
    except KeyboardInterrupt:
        result = Result(128 + signal.SIGINT, signal.SIGINT)
        raise
    except Interrupted as error:
        result = Result(error.exit_code, error.exit_code - 128)
        raise
    finally:
        seconds = time.monotonic() - started
        value = report(run_id, prepared, result, seconds, log)
        ended = runs.end(record, value["status"], result.exit_code, seconds, value["steps"])
        runs.write(directory, ended)
    return result


def mend_alone(root: str, directory: str, console: "Console") -> None:
    """Put right what killed runs have left where a command runs alone; see ``old_outputs``."""
    if has_staging(root):
        from buildrun.workspace.previous_outputs import mend

        mend(root, directory, console)


def log_of(prepared: Prepared, directory: str, run_id: str) -> str | None:
    """Return where the output is kept; None for a command that is given secrets.

    What it writes may bear them.

    directory: where the records of runs are.
    """
    given = (value for value in prepared.changes.values() if value is not None)
    if prepared.shown != prepared.command or any(map(has_credentials, given)):
        return None
    return os.path.join(runs.directory(directory, run_id), runs.file_name(0, prepared.step))


def report(
    run_id: str, prepared: Prepared | None, result: Result, seconds: float, log: str | None
) -> Any:
    """Return how a run went, in the stable shape of `run --report`.

    prepared: None where it ended before there was a command; result then tells how. log: where it
    is if it could be kept.
    """
    exit_code = result.exit_code
    state = "ok" if exit_code == 0 else "failed"
    if result.interrupted is not None:
        state = "cancelled"
    steps = [] if prepared is None else [_step(prepared, state, exit_code, seconds, log)]
    return {
        "version": 1,
        "run_id": run_id,
        "status": state,
        "exit_code": exit_code,
        "steps": steps,
    }


def _step(prepared: Prepared, state: str, exit_code: int, seconds: float, log: str | None) -> Any:
    return {
        "id": prepared.step,
        "entry_point": prepared.entry_point,
        "state": state,
        "exit_code": exit_code,
        "seconds": round(seconds, 3),
        "log": log if log is not None and os.path.exists(log) else None,
        "reasons": [{"code": code, "detail": detail} for code, detail in prepared.reasons],
    }


def look_for_damage(manager: str, prefix: str, console: "Console") -> None:
    """After a failure, see whether the environment is to blame, and have it built again if so."""
    from buildrun.environments import base

    damaged = base.load(manager).modified_files(prefix)
    if damaged:
        invalidate(prefix)
        console.warn(
            f"{len(damaged)} files of the environment were changed or are gone, "
            f"such as `{os.path.basename(damaged[0])}`",
            "run again; the environment will be built anew",
        )
