"""Calls of the process that works with rattler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from buildrun.environments import conda_failure, conda_order

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.channels import Settings
    from buildrun.environments.contract import Request
    from buildrun.project.spec import CondaEnv

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from buildrun.environments.rattler_worker import main; main()"
)
_KEPT_LINES = 12


class _Failure(Exception):
    """rattler could not do it; ``kind`` is for a remedy, ``reason`` its own words."""

    def __init__(self, kind: str, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def perform(
    order: Mapping[str, Any],
    declared: CondaEnv,
    settings: Settings,
    request: Request,
    console: Console,
    lock: int,
) -> Sequence[Mapping[str, Any]]:
    """Return the records of what was solved or installed.

    order: see ``conda_order``. lock: a descriptor that the process inherits; it ends with all that
    it started when this process does, and the lock is held until then.
    Raises EnvironmentFailure with rattler's reason.
    """
    if find_spec("rattler") is None:
        raise conda_failure.missing_rattler(declared.path)
    environ = conda_order.connection(request.environ, settings)
    try:
        return _perform(order, environ, console, lock)
    except _Failure as failure:
        raise conda_failure.explain(failure.kind, failure.reason, declared, "rattler") from None


def _perform(
    order: Mapping[str, Any], environ: Mapping[str, str], console: Console, lock: int
) -> Sequence[Mapping[str, Any]]:
    process = subprocess.Popen(
        # Isolated from the caller's Python variables and directory, with our own import path.
        (sys.executable, "-I", "-c", _START, json.dumps(_import_path())),
        cwd=os.path.dirname(order["prefix"]),
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,) if lock >= 0 else (),
        # A group of its own, so that the scripts of packages can be ended with it.
        start_new_session=True,
    )
    try:
        end, said = _converse(process, order, console)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        console.done()
    if end is None:
        raise _Failure("crash", said or f"rattler's process ended with {_ending(code)}")
    if end["event"] == "failure":
        raise _Failure(end["kind"], end["reason"])
    records: Sequence[Mapping[str, Any]] = end["records"]
    return records


def _converse(
    process: subprocess.Popen[bytes], order: Mapping[str, Any], console: Console
) -> tuple[Mapping[str, Any] | None, str]:
    """Return the last event, if the process came to one, and the end of what else was said."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    said: list[str] = []
    end: Mapping[str, Any] | None = None
    try:
        # Kept open: its closing is how the process learns of our end.
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError:
        pass  # it says why, or how it ended does
    for line in process.stdout:
        if not line.startswith(b'{"event"'):
            said = [*said, line.decode(errors="replace").rstrip()][-_KEPT_LINES:]
            continue
        event = json.loads(line)
        if event["event"] == "note":
            console.note(console.style(event["text"], "dim"))
        elif event["event"] == "progress":
            console.progress(event["text"])
        else:
            end = event
    return end, "\n".join(said)


def _import_path() -> list[str]:
    return [path for path in sys.path if os.path.isabs(path)]


def _ending(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name
