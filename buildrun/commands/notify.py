"""The program that has started us through the Python API, and is told how its run goes.

It reads lines of JSON from a pipe: ``{"run_id": …}`` when that is known, ``{"record": …}`` when the
run begins and ends, and ``{"error": …}`` for what stopped it.
"""

from __future__ import annotations

import json
import os
import signal
from typing import Any

from buildrun.errors import BuildrunError, Interrupted, UsageError

OPTION = "--listener="

_NEEDED = (signal.SIGTERM, signal.SIGCHLD)

_listeners: list[int] = []


def attach(option: str) -> None:
    """Tell whoever reads the pipe that ``--listener=DESCRIPTOR`` names; raises UsageError."""
    text = option.removeprefix(OPTION)
    try:
        descriptor = int(text)
        os.set_inheritable(descriptor, False)  # it is no business of the command's
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"`{OPTION}{text}` names no open descriptor") from None
    _let_signals_through()
    _listeners.append(descriptor)


def _let_signals_through() -> None:
    """Let signals through that threads of our caller's may block or ignore: they end a run."""
    for number in _NEEDED:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _NEEDED)


def notify_id(run_id: str) -> None:
    """Tell the run's id, before anything is built for it."""
    _send({"run_id": run_id})


def notify_record(record: Any) -> None:
    """Tell how the run stands; record: a ``runs.Record``."""
    _send({"record": record._asdict()})


def notify_error(error: BuildrunError) -> None:
    """Tell what stopped the run; being told to is no error."""
    if isinstance(error, Interrupted):
        return
    fields = {"message": error.message, "place": error.place, "hint": error.hint}
    _send({"error": {"kind": type(error).__name__, "exit_code": error.exit_code, **fields}})


def _send(value: Any) -> None:
    for descriptor in _listeners:
        data = json.dumps(value).encode() + b"\n"
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        except OSError:
            pass  # it is gone, and the run goes on until it is told to end
