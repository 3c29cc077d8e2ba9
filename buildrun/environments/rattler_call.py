"""Calls of the process that works with rattler."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from buildrun.console import Console

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from buildrun.environments.rattler_worker import main; main()"
)
_KEPT_LINES = 12


class RattlerFailure(Exception):
    """rattler could not do it; ``kind`` is for a remedy, ``reason`` its own words."""

    def __init__(self, kind: str, reason: str) -> None:
        """Keep both."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def install(
    request: Mapping[str, Any], *, environ: Mapping[str, str], console: Console, lock: int
) -> None:
    """Solve and install what the request says, relaying what the process has to tell.

    request: see ``rattler_worker``. lock: a descriptor that the process inherits; it ends when
    this process does, and the lock is held until then.
    Raises RattlerFailure.
    """
    process = subprocess.Popen(
        # Isolated from the caller's Python variables and directory, with our own import path.
        (sys.executable, "-I", "-c", _START, json.dumps(_import_path())),
        cwd=os.path.dirname(request["prefix"]),
        env=dict(environ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(lock,) if lock >= 0 else (),
        # A group of its own, so that the scripts of packages can be ended with it.
        start_new_session=True,
    )
    try:
        end, said = _converse(process, request, console)
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    finally:
        console.done()
    if end is None:
        raise RattlerFailure("crash", said or f"rattler's process ended with {_ending(code)}")
    if end["event"] == "failure":
        raise RattlerFailure(end["kind"], end["reason"])


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], console: Console
) -> tuple[Mapping[str, Any] | None, str]:
    """Return the last event, if the process came to one, and the end of what else was said."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")
    said: list[str] = []
    end: Mapping[str, Any] | None = None
    try:
        # Kept open: its closing is how the process learns of our end.
        process.stdin.write(json.dumps(request).encode() + b"\n")
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
