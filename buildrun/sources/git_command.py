"""Calls of git: never a question, never without an end, nothing left running."""

from __future__ import annotations

import os
import selectors
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import ProjectError, UsageError
from buildrun.sources.child import attend, end
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

    def listen(child: int, out: int, err: int) -> tuple[bytes, bytes, bool]:
        found = _read(out, err, patience, tell)
        if found[2]:
            end(child)
        return found

    argv, seen = ("git", *arguments), {**variables, **(secrets or {})}
    try:
        code, (said, told, stalled) = attend(argv, seen, 2, holding, listen)
    except OSError as error:
        raise missing(error) from None
    return Done(code, said, told.decode(errors="replace"), stalled)


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
    out: int, err: int, patience: float, tell: Callable[[str], None] | None
) -> tuple[bytes, bytes, bool]:
    """Return what git wrote to both pipes, and whether it was silent for too long."""
    found = {out: bytearray(), err: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in found:
            selector.register(pipe, selectors.EVENT_READ)
        last = time.monotonic()
        while selector.get_map():
            ready = selector.select(max(0.0, last + patience - time.monotonic()))
            if not ready:
                return bytes(found[out]), bytes(found[err]), True
            last = time.monotonic()
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                    continue
                found[key.fd].extend(chunk)
                if key.fd == err:
                    _tell(chunk, tell)
                    del found[err][:-_KEPT]
    return bytes(found[out]), bytes(found[err]), False


def _tell(chunk: bytes, tell: Callable[[str], None] | None) -> None:
    lines = chunk.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    if tell is not None and last:
        tell(last.strip())
