"""A log of a command that writes to our own streams, where neither of them is a terminal.

`tee` stands between the command and each stream: it goes on with what the command has left running,
when we have long ended, and it ends as the command would where nobody reads any more. A terminal
stays the command's own: programs set its modes by way of their output, and nothing that stands
between could pass that on.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from buildrun.executors.process import move_above_standard, open_pipe

# Seconds that are left for the last of the output; what goes on in the background may go on.
_LINGER = 0.1


@contextmanager
def logged(path: str | None) -> Iterator[None]:
    """Keep in the file, beside showing it, what commands write that are started in the block.

    None keeps nothing, nor does a terminal, a missing `tee` or a file that cannot be made.
    """
    saved, ends = _insert_tees(path) if path is not None else ((), ())
    try:
        yield
    finally:
        for number, descriptor in saved:
            os.dup2(descriptor, number)
            os.close(descriptor)
        for descriptor in ends:
            select.select([descriptor], [], [], _LINGER)
            os.close(descriptor)


Saved = tuple[tuple[int, int], ...]


def _insert_tees(path: str) -> tuple[Saved, tuple[int, ...]]:
    """Return our streams as they were, and what becomes readable when each `tee` has ended."""
    places = (os.path.join(directory, "tee") for directory in os.get_exec_path())
    tee = next((place for place in places if os.access(place, os.X_OK)), None)
    saved: Saved = ()
    ends: tuple[int, ...] = ()
    if tee is None or os.isatty(1) or os.isatty(2):
        return saved, ends
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
        # Where both are one, one `tee` leaves the order of lines as it is.
        one = os.path.sameopenfile(1, 2)
        for number in (1,) if one else (1, 2):
            saved += ((number, move_above_standard(os.dup(number))),)
            ends += (_start(tee, path, number),)
        if one:
            saved += ((2, move_above_standard(os.dup(2))),)
            os.dup2(1, 2)
    except OSError:
        pass  # the log is worth less than the command
    return saved, ends


def _start(tee: str, path: str, number: int) -> int:
    reader, writer = open_pipe()
    ended, alive = open_pipe()
    os.set_inheritable(alive, True)
    try:
        # Its own group: it has to see the end of the output, whatever ends the command.
        os.posix_spawn(
            tee,
            ("tee", "-a", path),
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0), (os.POSIX_SPAWN_DUP2, number, 1)],
            setpgroup=0,
            setsigdef=(signal.SIGPIPE,),
        )
        os.dup2(writer, number)
    finally:
        for descriptor in (reader, writer, alive):
            os.close(descriptor)
    return ended
