"""Tracking stores that MLflow itself has to be asked for, in a process of its own."""

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from buildrun.console import printable, redact
from buildrun.errors import TrackingError
from buildrun.tracking import config
from buildrun.tracking.config import WITHOUT, Missing, Refused, timeout_seconds

# Seconds for an answer, the first of which takes MLflow's import and perhaps the making of a
# database, unless MLflow's own variable says otherwise.
_ANSWER = 120.0
# Seconds that it may take to end.
_END = 10.0

_WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlflow_worker.py")


class MlflowProcess:
    """A client by way of a child process, which lives until `close`."""

    def __init__(
        self, uri: str, environ: Mapping[str, str], cwd: str, prefixes: Sequence[str]
    ) -> None:
        """Start the first Python that has MLflow; uri: "" for its default. Raises TrackingError."""
        self._environ = dict(environ)
        if uri:
            self._environ["MLFLOW_TRACKING_URI"] = uri
        else:
            self._environ.pop("MLFLOW_TRACKING_URI", None)
        self._cwd = cwd
        self._shown = redact(uri) or "MLflow's store"
        self._timeout = timeout_seconds(environ, _ANSWER)
        self._process: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        for python in _pythons(environ, prefixes):
            hello = self._start(python)
            if not hello.get("missing"):
                break
            self.close()
        else:
            raise Missing(
                "only MLflow itself can use this tracking store, and no Python here has it",
                place=self._shown,
                hint="`pip install mlflow` beside buildrun or where `python` leads to, or set "
                "MLFLOW_TRACKING_URI to a server",
            )
        if "error" in hello:
            self.close()
            raise self._refused(hello["error"])
        self.uri = config.absolute(str(hello.get("uri", "")), cwd)
        self.store = redact(self.uri)

    def call(self, name: str, values: Mapping[str, Any], *, patient: bool = False) -> Any:
        """Have MLflow do it; see `TrackingClient`."""
        del patient
        answer = self._exchange(json.dumps([name, dict(values)]).encode() + b"\n")
        if "error" in answer:
            raise self._refused(answer["error"])
        return answer.get("value")

    def close(self) -> None:
        """Let the process end; it ends runs that nobody has ended."""
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.communicate(timeout=_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, python: str) -> Any:
        self._pending = b""
        try:
            self._process = subprocess.Popen(
                (python, _WORKER),
                cwd=self._cwd,
                env=self._environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # Ctrl-C is for us, and we say how the run ended
            )
        except OSError:
            return {"missing": True}
        return self._exchange(b"")

    def _exchange(self, line: bytes) -> Any:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise self._error("MLflow has ended")
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = json.loads(self._line(process.stdout.fileno()))
        except (OSError, ValueError):
            self.close()
            raise self._error(f"MLflow has ended{self._last_words()}") from None
        except BaseException:
            # An answer that is still to come would be taken for the next one's.
            process.kill()
            raise
        return answer if isinstance(answer, dict) else {}

    def _line(self, descriptor: int) -> bytes:
        """Return what comes before the next line's end; raises TrackingError after the timeout."""
        end = time.monotonic() + self._timeout
        while b"\n" not in self._pending:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise self._error("MLflow does not answer in time")
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise OSError
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _last_words(self) -> str:
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return f": {printable(redact(lines[-1]))}" if lines else ""

    def _refused(self, error: Any) -> Refused:
        message = redact(str(error.get("message", "")))
        return Refused(str(error.get("error_code", "")), message, self._shown)

    def _error(self, fact: str, hint: str = WITHOUT) -> TrackingError:
        return TrackingError(fact, place=self._shown, hint=hint)


def _pythons(environ: Mapping[str, str], prefixes: Iterable[str]) -> list[str]:
    """Return the interpreters that may have MLflow: the caller's, ours, the environments'."""
    from shutil import which

    search = environ.get("PATH", os.defpath)
    found = [which(name, path=search) for name in ("python", "python3")]
    found += [sys.executable, *(os.path.join(prefix, "bin", "python") for prefix in prefixes)]
    return list(dict.fromkeys(path for path in found if path))
