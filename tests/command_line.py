"""The command line in a child of the test's process, which has loaded what it needs already.

That costs a tenth of a new Python, and leaves none of what a call of `main` would leave behind:
signal handlers, caches, variables, the current directory.
"""

from __future__ import annotations

import functools
import gc
import json
import logging
import os
import pkgutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import buildrun
from buildrun import cli

# What Python reads when it starts; a child could not follow a change of it.
_OF_START = ("PYTHON", "LC_", "LANG")
_AT_START = {name: value for name, value in os.environ.items() if name.startswith(_OF_START)}

_ERRORS = sys.__stdout__.errors if sys.__stdout__ else None

# Programs of their own, and what reads its variables when it is imported.
_NOT_LOADED = ("__main__", "pod_runner", "_worker", "mlflow_worker", "mlflow_backend")
_LIBRARIES = (
    "blake3", "docker", "fsspec.implementations.local", "jsonschema", "packaging.requirements",
    "requests", "yaml",
)  # fmt: skip


class Outcome(NamedTuple):
    """How a call of buildrun ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Return standard output as JSON."""
        return json.loads(self.out)

    def printed(self) -> str:
        """Return standard output of a call that was to succeed."""
        assert self.code == 0, self.err
        return self.out

    def refused(self, *facts: str, code: int = 1) -> None:
        """Check that the call has failed, and told these facts."""
        assert self.code == code, self
        for fact in facts:
            assert fact in self.err, self.err


def call(
    arguments: Sequence[str | os.PathLike[str]],
    cwd: Path,
    environ: Mapping[str, str],
    stdin: str = "",
    at: Callable[[str, Any], None] | None = None,
) -> Outcome:
    """Run the command line, in a new Python where only that can follow the variables.

    at: is called before every event that changes a file system, or starts a command.
    """
    given = [os.fspath(each) for each in arguments]
    if {name: environ[name] for name in environ if name.startswith(_OF_START)} != _AT_START:
        return _in_new_python(given, cwd, environ, stdin)
    _load()
    (source, feed), *outputs = (os.pipe() for _ in range(3))
    writers = [writer for _, writer in outputs]
    pid = os.fork()
    if pid == 0:
        try:
            for descriptor in (feed, *(reader for reader, _ in outputs)):
                os.close(descriptor)
            _become((source, *writers), given, cwd, dict(environ), at)
        finally:
            os._exit(99)
    for descriptor in (source, *writers):
        os.close(descriptor)
    with ThreadPoolExecutor() as readers:
        try:
            texts = [readers.submit(_read, reader) for reader, _ in outputs]
            with suppress(BrokenPipeError), open(feed, "wb") as file:
                file.write(stdin.encode())
            _, status = os.waitpid(pid, 0)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
    out, err = (text.result() for text in texts)
    return Outcome(os.waitstatus_to_exitcode(status), out, err)


def _in_new_python(
    arguments: Sequence[str], cwd: Path, environ: Mapping[str, str], stdin: str
) -> Outcome:
    done = subprocess.run(
        (sys.executable, "-m", "buildrun", *arguments),
        cwd=cwd,
        env=environ,
        input=stdin.encode(),
        capture_output=True,
        timeout=600,
        check=False,
    )
    return Outcome(
        done.returncode,
        done.stdout.decode(errors="surrogateescape"),
        done.stderr.decode(errors="surrogateescape"),
    )


@functools.cache
def _load() -> None:
    for module in pkgutil.walk_packages(buildrun.__path__, "buildrun."):
        if not module.name.endswith(_NOT_LOADED):
            import_module(module.name)
    for name in _LIBRARIES:
        import_module(name)


def _read(descriptor: int) -> str:
    with open(descriptor, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _become(
    streams: Sequence[int],
    arguments: list[str],
    cwd: Path,
    environ: Mapping[str, str],
    at: Callable[[str, Any], None] | None,
) -> NoReturn:
    """Make this process what a new one would be, and run the command line in it."""
    gc.freeze()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", errors=_ERRORS, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.argv = ["buildrun", *arguments]
    sys.unraisablehook, threading.excepthook = sys.__unraisablehook__, threading.__excepthook__
    logging.root.handlers.clear()
    tempfile.tempdir = None
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    os.chdir(cwd)
    if at is not None:
        sys.addaudithook(lambda event, args: at(event, args) if _changes(event, args) else None)
    cli.entry()
    raise AssertionError("the command line ends its process")


def _changes(event: str, args: Any) -> bool:
    if event == "open":
        return bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and args[0] != os.devnull
    return event in _CHANGES


_CHANGES = frozenset(
    {
        "os.chmod", "os.link", "os.mkdir", "os.posix_spawn", "os.fork", "os.remove", "os.rename",
        "os.rmdir", "os.symlink", "os.truncate", "os.utime", "fcntl.flock",
    }
)  # fmt: skip
