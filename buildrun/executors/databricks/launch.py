"""The program that Databricks runs on a driver: it starts a step's command, and shows its output.

Its one parameter is the path of the step's task, a JSON file. It runs in a Python that is there
already, 3.8 or newer, with the standard library alone: there is no ``__file__``, and the run's log
has only what is written to ``sys.stdout``. The work is done by ``pod_runner``, whose text the task
holds, in a process of its own.
"""

import codecs
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

# Begins the log's last line; behind it the exit code, and what failed where that was no command.
MARK = "::buildrun exit"
TIMED_OUT = 124

# Seconds that a command has to end by itself after its timeout; and how often what is left running
# may write something after its end, within so many seconds each.
_GRACE = 10.0
_MOST_READS, _LINGER = 100, 0.1

# Runs `pod_runner`, and ends its command when the process that started it is gone, then removes
# the directory in its place. Not done between fork and exec, since a driver has threads; 1 stands
# for PR_SET_PDEATHSIG.
_CHILD = """
import ctypes, os, runpy, shutil, signal, sys
parent = int(sys.argv[1])
signal.signal(signal.SIGTERM, signal.SIG_DFL)
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
del sys.argv[:2]
try:
    if os.getppid() == parent:
        runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    if os.getppid() != parent:
        shutil.rmtree(os.path.dirname(sys.argv[0]), ignore_errors=True)
"""


def main(path: str) -> int:
    """Do what a task says, and return the command's exit code."""
    local = os.environ.get("BUILDRUN_DRIVER_ROOT", "")  # tests have the driver's files below it
    with open(local + path, "rb") as file:
        task = json.loads(file.read().decode())
    place, secrets = task["directory"], {}
    if task["secrets"]:
        with open(local + task["secrets"], "rb") as file:
            secrets = json.loads(file.read().decode())
        with suppress(OSError):  # whoever has submitted it deletes it as well
            os.unlink(local + task["secrets"])
    shutil.rmtree(place, ignore_errors=True)
    os.mkdir(place, 0o700)  # refused where it is there still, which is somebody else's
    try:
        return _run(task, place, _variables(task["variables"], secrets))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _variables(plain: "Mapping[str, str]", secrets: "Mapping[str, str]") -> "dict[str, str]":
    """Return what the command sees: first of all the driver's Python, with the libraries."""
    found = {**os.environ, **plain, **secrets}
    if "PATH" not in plain:
        found["PATH"] = os.pathsep.join(
            (os.path.dirname(sys.executable), os.environ.get("PATH", "/usr/bin:/bin"))
        )
    if found.get("MLFLOW_TRACKING_URI") == "databricks" and "DATABRICKS_TOKEN" not in found:
        with suppress(Exception):  # the command may do without
            # What MLflow finds by itself in this process, and in no other one.
            from dbruntime.databricks_repl_context import (  # type: ignore[import-not-found]
                get_context,
            )

            context = get_context()
            found.update(DATABRICKS_HOST=context.apiUrl, DATABRICKS_TOKEN=context.apiToken)
    return found


def _run(task: "Any", place: str, variables: "Mapping[str, str]") -> int:
    runner, work, failure = (os.path.join(place, name) for name in ("run.py", "task", "failure"))
    with open(runner, "w", encoding="utf-8") as file:
        file.write(task["runner"])
    with open(work, "w", encoding="utf-8") as file:
        json.dump({**task["task"], "log": failure}, file)
    open(failure, "w").close()
    argv = (sys.executable, "-I", "-c", _CHILD, str(os.getpid()), runner, work)
    child = subprocess.Popen(
        argv, env=variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    timeout = _Timeout(child.pid, task["timeout"])
    try:
        _show(child)
        code = child.wait()
    finally:
        timeout.cancel()
        _signal_group(child.pid, signal.SIGKILL)
        child.wait()
    kind = "timeout" if timeout.is_over else _kind(failure)
    code = TIMED_OUT if timeout.is_over else 128 - code if code < 0 else code
    sys.stdout.write("\n{} {}{}\n".format(MARK, code, f" {kind}" if kind else ""))
    sys.stdout.flush()
    return code


def _show(child: "subprocess.Popen[bytes]") -> None:
    """Pass on what it writes until its end, as text, which is what the log takes."""
    assert child.stdout is not None  # noqa: S101
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode  # type: Callable[[bytes, bool], str]
    descriptor = child.stdout.fileno()
    left = _MOST_READS
    while left:
        if child.poll() is not None:
            left -= 1
            _signal_group(child.pid, signal.SIGKILL)  # what the command has left running
        if select.select([descriptor], [], [], _LINGER)[0]:
            chunk = os.read(descriptor, 1 << 16)
            sys.stdout.write(decode(chunk, not chunk))  # at the end also what is cut off
            sys.stdout.flush()
            left = left if chunk else 0
        elif child.returncode is not None:
            left = 0


def _kind(failure: str) -> str:
    """Return what `pod_runner` could not do, "" where it ran the command."""
    try:
        with open(failure, encoding="utf-8") as file:
            return str(json.load(file)["buildrun"])
    except (OSError, ValueError, KeyError):
        return ""


class _Timeout:
    """Ends a group of processes after some seconds, None for never."""

    def __init__(self, group: int, seconds: "float | None") -> None:
        self.is_over = False
        self._group = group
        self._timers = []  # type: list[threading.Timer]
        if seconds is not None:
            self._start(seconds, self._end)

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _end(self) -> None:
        self.is_over = True
        self._start(_GRACE, lambda: _signal_group(self._group, signal.SIGKILL))
        _signal_group(self._group, signal.SIGTERM)

    def _start(self, seconds: float, call: "Callable[[], None]") -> None:
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()


def _signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


if __name__ == "__main__":
    _code = main(sys.argv[1])
    if _code:
        sys.exit(_code)
