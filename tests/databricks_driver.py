"""The driver of a Databricks stand-in: runs a ``spark_python_task`` in a process of its own.

As on Databricks the file is executed in a Python that is there already: there is no ``__file__``
(https://github.com/databrickslabs/dbx/issues/680), and ``sys.stdout`` is an object that has
neither `fileno` nor `buffer` (https://github.com/intel/ipex-llm/pull/5903). Only what is written
to that comes into the run's log: what a child writes to its inherited output goes to the log of
the driver, which the Jobs API does not tell.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from processes import processes, state_of

_PROGRAM = """
import io, json, sys, traceback, types

class Console(io.TextIOBase):
    encoding = "UTF-8"

    def __init__(self, file):
        self._file = file

    def writable(self):
        return True

    def write(self, text):
        self._file.write(text.encode("utf-8", "backslashreplace"))
        return len(text)

log, fate, path = sys.argv[1:4]
del sys.argv[:3]
sys.stdout = sys.stderr = Console(open(log, "ab", 0))
ours, sys.modules["__main__"] = sys.modules["__main__"], types.ModuleType("__main__")
told = {"error": "", "error_trace": ""}
try:
    with open(path, encoding="utf-8") as file:
        code = compile(file.read(), path, "exec")
    exec(code, vars(sys.modules["__main__"]))
except BaseException as error:
    if not (isinstance(error, SystemExit) and error.code in (None, 0)):
        told["error"] = type(error).__name__ + (f": {error}" if str(error) else "")
        told["error_trace"] = traceback.format_exc()
with open(fate, "w") as file:
    json.dump(told, file)
"""

RUNTIME = "16.4"


class Fate(NamedTuple):
    """How a task has ended by itself; error: empty where it has done well."""

    error: str = ""
    trace: str = ""


class Driver:
    """A task's process, and what it has said."""

    def __init__(self, root: Path, number: int) -> None:
        self._root = root
        self._place = root / "driver" / str(number)
        self._place.mkdir(parents=True)
        self._log = self._place / "log"
        self._log.touch()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, file: Path, parameters: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start the task with the variables of its cluster, and none of this process but PATH."""
        home, scratch = self._place / "home", self._place / "tmp"
        for directory in (home, scratch):
            directory.mkdir()
        # Not the Python of the tests' virtualenv: a cluster has no packages of ours.
        python = os.path.realpath(sys.executable)
        own = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "TMPDIR": str(scratch),
            "LANG": "C.UTF-8",
            "DATABRICKS_RUNTIME_VERSION": RUNTIME,
            "BUILDRUN_DRIVER_ROOT": str(self._root),
        }
        places = (self._log, self._place / "fate", file)
        argv = (python, "-c", _PROGRAM, *map(str, places), *parameters)
        with (self._place / "stdout").open("wb") as stdout:
            self._process = subprocess.Popen(
                argv, cwd=home, env={**own, **variables}, stdin=subprocess.DEVNULL, stdout=stdout,
                stderr=stdout, start_new_session=True,
            )  # fmt: skip

    @property
    def started(self) -> bool:
        return self._process is not None

    def running(self) -> bool:
        """Tell whether the task's process is still there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, seconds: float) -> None:
        """Wait until it has ended; raises `subprocess.TimeoutExpired`."""
        if self._process is not None:
            self._process.wait(seconds)

    def kill(self) -> None:
        """Kill it and all its descendants, as the end of a cluster does."""
        if self._process is None or not self.running():
            return
        family = {self._process.pid}
        listed, found = tuple(processes()), 0
        while found != len(family):
            found = len(family)
            family |= {each.pid for each in listed if each.parent in family}
        for pid in family:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        while any(state_of(pid)[:1] not in ("", "Z") for pid in family):
            pass  # signals take a moment, and nobody is to find them afterwards

    def fate(self) -> Fate:
        """Tell how it has ended."""
        with suppress(FileNotFoundError):
            told = json.loads((self._place / "fate").read_text())
            return Fate(told["error"], told["error_trace"])
        return Fate("The Python process exited unexpectedly.")

    def write(self, text: str) -> None:
        """Have the log say so, for a task that is not run."""
        with self._log.open("a") as file:
            file.write(text)

    def log(self, limit: int) -> tuple[str, bool]:
        """Return the last bytes of the log, and whether it is cut."""
        data = self._log.read_bytes()
        return data[-limit:].decode(errors="replace"), len(data) > limit
