"""A process that never outlives what it was started for.

Spawned without `subprocess`, whose import takes a good part of a warm run.
"""

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

_Result = TypeVar("_Result")

# What ends us; while a child comes into being it waits, or nobody would know of the child.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Where a child finds the descriptors that it is to keep open, one after the other.
_FIRST = 200


def attend(
    argv: Sequence[str],
    environ: Mapping[str, str],
    pipes: int,
    keep: Sequence[int],
    work: Callable[..., _Result],
) -> tuple[int, _Result]:
    """Return the exit code of a program, and what ``work`` returned while it ran.

    pipes: 2 for one each for what it writes to standard output and error, 1 for one for both.
    keep: descriptors that it inherits. work: is given the program's number and where the pipes
    are read; when that raises, the program is ended with all it has started. Raises OSError where
    it cannot be started.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    ends = [os.pipe() for _ in range(pipes)]
    reading, writing = [pair[0] for pair in ends], [pair[1] for pair in ends]
    try:
        child = _spawn(argv, environ, (writing[0], writing[-1]), keep, mask)
        while writing:
            os.close(writing.pop())
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            result = work(child, *reading)
            _, status = os.waitpid(child, 0)
        except BaseException:
            end(child)
            os.waitpid(child, 0)
            raise
    finally:
        for descriptor in (*reading, *writing):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return os.waitstatus_to_exitcode(status), result


def end(child: int) -> None:
    """End the program and all it has started, such as ssh."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _spawn(
    argv: Sequence[str],
    environ: Mapping[str, str],
    streams: tuple[int, int],
    keep: Sequence[int],
    mask: Any,
) -> int:
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams, 1)]
    actions += [
        (os.POSIX_SPAWN_DUP2, descriptor, _FIRST + number) for number, descriptor in enumerate(keep)
    ]
    program, argv, environ = argv[0], list(argv), dict(environ)
    try:
        # Without a terminal, so that nobody can ask there for a password.
        return os.posix_spawnp(
            program, argv, environ, file_actions=actions, setsigmask=mask, setsid=True
        )
    except NotImplementedError:
        return os.posix_spawnp(
            program, argv, environ, file_actions=actions, setsigmask=mask, setpgroup=0
        )
