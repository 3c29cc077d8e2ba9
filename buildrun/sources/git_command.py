"""Calls of git: never a question, never without an end, nothing left running."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import ProjectError, UsageError
from buildrun.sources.git_environment import environment

# Seconds for which a remote may say nothing.
_PATIENCE = 120.0
PATIENCE_VARIABLE = "BUILDRUN_SOURCE_TIMEOUT"
# Bytes of messages that are kept; a remote may send any number.
_KEPT = 1 << 20


class Done(NamedTuple):
    """How a call ended; stalled: it was stopped, since nothing came for too long."""

    code: int
    out: bytes
    err: str
    stalled: bool


def git(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    secrets: Mapping[str, str] | None = None,
    remote: str | None = None,
    holding: Sequence[int] = (),
    tell: Callable[[str], None] | None = None,
) -> Done:
    """Return how git ended.

    environ: the caller's. secrets: see ``credentials``. remote: the URL that is spoken to, if
    any. holding: descriptors that git keeps open, so that a lock outlives us with it. tell: is
    given what git says of its progress. Raises ProjectError without git.
    """
    patience = patience_of(environ)
    variables = environment(environ, remote=remote, patience=patience)
    try:
        child = subprocess.Popen(
            ("git", *arguments),
            env={**variables, **(secrets or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(holding),
            start_new_session=True,
        )
    except OSError as error:
        raise missing(error) from None
    with child:
        try:
            out, err, stalled = _read(child, patience, tell)
        except BaseException:
            _kill(child)
            raise
        if stalled:
            _kill(child)
    return Done(child.returncode, out, err.decode(errors="replace"), stalled)


def missing(error: OSError) -> ProjectError:
    """Return the error for a git that cannot be started."""
    return ProjectError(
        f"git cannot be started: {error.strerror}",
        hint="install git, which fetches the project",
    )


def patience_of(environ: Mapping[str, str]) -> float:
    """Return for how many seconds a remote may say nothing; raises UsageError."""
    given = environ.get(PATIENCE_VARIABLE)
    if not given:
        return _PATIENCE
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{PATIENCE_VARIABLE} is `{given}`", hint="give seconds, such as 60")
    return seconds


def _read(
    child: subprocess.Popen[bytes], patience: float, tell: Callable[[str], None] | None
) -> tuple[bytes, bytes, bool]:
    """Return what the child wrote, and whether it was silent for too long."""
    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for stream, kept in ((child.stdout, out), (child.stderr, err)):
            if stream is not None:
                selector.register(stream, selectors.EVENT_READ, kept)
        last = time.monotonic()
        while selector.get_map():
            ready = selector.select(max(0.0, last + patience - time.monotonic()))
            if not ready:
                return bytes(out), bytes(err), True
            last = time.monotonic()
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fileobj)
                    continue
                key.data.extend(chunk)
                if key.data is err:
                    _tell(chunk, tell)
                    del err[:-_KEPT]
    return bytes(out), bytes(err), False


def _tell(chunk: bytes, tell: Callable[[str], None] | None) -> None:
    lines = chunk.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    if tell is not None and last:
        tell(last.strip())


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End git and what it has started, such as ssh."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        child.kill()
