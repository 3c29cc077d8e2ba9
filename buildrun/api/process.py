"""buildrun as a child process that does not outlive its caller."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.errors import ExecutionError

# Seconds after which a child that was told to end is told again, and after which it is killed.
# It gives its command five seconds before it kills that.
_PATIENCE = (15.0, 15.0)

# Seconds for what a child has said last, where something else still holds its pipe open.
_LAST_WORDS = 5.0

# Reads until we say that the child has ended, or are gone: then it ends the child.
# Arguments: whom to end, and a directory to remove.
_LIFELINE = 'read -r _ || kill -TERM "$1" 2>/dev/null; [ -z "$2" ] || rm -rf -- "$2"'

# The directory of our caller's must not come before the installed modules.
_PROGRAM: tuple[str, ...] = ("-P", "-m", "buildrun")
_OLD_PROGRAM = ("-c", "import sys; del sys.path[0]; from buildrun.cli import entry; entry()")


class LaunchSpec(NamedTuple):
    """What to start."""

    argv: Sequence[str]
    cwd: str | None
    environ: Mapping[str, str]
    apart: bool  # without our terminal, input and session
    directory: str = ""  # is removed at the end
    stdout: int | None = None  # as for `Popen`


class Child:
    """A process of buildrun; may be used from several threads."""

    def __init__(self, spec: LaunchSpec, hear: Callable[[Any], None]) -> None:
        """Start it; hear is told what it tells, and {} at the end. Raises ExecutionError."""
        self._hear = hear
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._reaped = False
        self.told_to_end = False
        self.apart = spec.apart
        self.process, pipe = _start(spec)
        try:
            self._lifeline = _Lifeline(self.process.pid, spec.directory)
            self._reader = threading.Thread(target=self._read, args=(pipe,), daemon=True)
            self._reader.start()
            threading.Thread(target=self._wait, daemon=True).start()
        except BaseException as error:
            self.process.terminate()  # it must not be lost
            self.process.wait()
            if isinstance(error, (OSError, RuntimeError)):
                raise ExecutionError(f"buildrun cannot be looked after: {error}") from None
            raise

    @property
    def over(self) -> bool:
        """Whether it has ended, and all that it has said was heard."""
        return self._over.is_set()

    @property
    def exit_code(self) -> int:
        """Return its exit code, 128 and the number for a signal; once it is over."""
        code = self.process.returncode
        return code if code >= 0 else 128 - code

    def wait(self, timeout: float | None = None) -> bool:
        """Return whether it is over, at the latest after the timeout in seconds."""
        return self._over.wait(timeout)

    def tell_to_end(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end with all that it has started, and return at once."""
        if self._send(number):
            self.told_to_end = True

    def end(self, number: int = signal.SIGTERM) -> None:
        """Tell it to end, and return when it has; it is killed where it does not listen."""
        self.tell_to_end(number)
        for seconds in _PATIENCE:
            if self.wait(seconds):
                return
            self._send(signal.SIGTERM)
        self._send(signal.SIGKILL)
        self.wait()

    def _send(self, number: int) -> bool:
        with self._lock:
            if self._reaped:
                return False
            try:
                if number == signal.SIGKILL and self.apart:
                    os.killpg(self.process.pid, number)
                else:
                    os.kill(self.process.pid, number)
            except (ProcessLookupError, PermissionError):
                return False
            return True

    def _wait(self) -> None:
        if hasattr(os, "waitid"):
            try:
                # Its number stays its own until it is reaped, so that no other gets our signals.
                os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # our caller ignores SIGCHLD, or waits for every child
            with self._lock:
                self.process.wait()
                self._reaped = True
        else:
            self.process.wait()  # macOS before Python 3.13
            self._reaped = True
        self._lifeline.cut()
        self._reader.join(_LAST_WORDS)
        self._hear({})
        self._over.set()

    def _read(self, pipe: int) -> None:
        with open(pipe, "rb") as lines:
            for line in lines:
                try:
                    value = json.loads(line)
                except ValueError:
                    continue  # it was killed in the middle of a line
                self._hear(value)


class _Lifeline:
    """A small process that ends the child when we are gone, however that comes about."""

    def __init__(self, pid: int, directory: str) -> None:
        reader, self._writer = os.pipe()
        try:
            self._process = subprocess.Popen(
                ("/bin/sh", "-c", _LIFELINE, "buildrun", str(pid), directory),
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except OSError:
            os.close(self._writer)
            raise
        finally:
            os.close(reader)

    def cut(self) -> None:
        try:
            os.write(self._writer, b"\n")
        except OSError:
            pass  # it was killed
        os.close(self._writer)
        self._process.wait()


def _start(spec: LaunchSpec) -> tuple[subprocess.Popen[bytes], int]:
    """Return the process, and the descriptor to read what it tells."""
    if not sys.executable:
        raise ExecutionError("there is no Python to run buildrun with: `sys.executable` is empty")
    program = _PROGRAM if sys.version_info >= (3, 11) else _OLD_PROGRAM
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what was written before comes before
        except (AttributeError, OSError, ValueError):
            pass
    try:
        reader, writer = os.pipe()
    except OSError as error:
        raise ExecutionError(f"buildrun cannot be started: {error.strerror}") from None
    try:
        process = subprocess.Popen(
            (sys.executable, *program, f"--listener={writer}", *spec.argv),
            cwd=spec.cwd,
            env=spec.environ,
            stdin=subprocess.DEVNULL if spec.apart else None,
            stdout=spec.stdout,
            pass_fds=(writer,),
            start_new_session=spec.apart,
        )
    except OSError as error:
        os.close(reader)
        place = os.fsdecode(error.filename) if error.filename else None
        raise ExecutionError(f"buildrun cannot be started: {error.strerror}", place=place) from None
    finally:
        os.close(writer)
    return process, reader
