"""What executors take and return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

# What `timeout` exits with.
TIMED_OUT = 124


class Job(NamedTuple):
    """A command that is ready to run.

    command: shell text, given whole to ``bash -c``.
    cwd: the absolute directory it runs in.
    environ: every variable it sees.
    timeout: seconds after which it is ended, else None; time that it is stopped together with us,
        as by Ctrl-Z, does not count.
    argv: the words of a program to run instead of the command, such as one that runs it elsewhere.
    log: the file that keeps what it writes to our own streams, see ``kept``; None for none.
    """

    command: str
    cwd: str
    environ: Mapping[str, str]
    timeout: float | None = None
    argv: tuple[str, ...] = ()
    log: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Return the program and its arguments."""
        return self.argv or ("bash", "-c", self.command)


class Result(NamedTuple):
    """How a command ended.

    exit_code: the command's own code; 128 plus the number for a command ended by a signal;
        TIMED_OUT for one that did not end in time.
    interrupted: the number of the signal by which the user or the system ended the run (Ctrl-C
        included), else None.
    timed_out: whether the command was ended by its timeout.
    detached: it was only handed over, and how it ends is not known yet.
    """

    exit_code: int
    interrupted: int | None = None
    timed_out: bool = False
    detached: bool = False


# Takes the stream, 1 or 2, and what was written to it.
OutputSink = Callable[[int, bytes], None]


class ProcessRunner(Protocol):
    """What carries out commands, such as ``Supervisor``; used by several threads."""

    # Runs a command of this machine, its output given to the sink, and returns how it ended.
    def run(self, job: Job, sink: OutputSink) -> Result: ...

    # Has it called in the one thread that sinks are called in, and raises what it raises.
    def call_in_loop(self, call: Callable[[], None]) -> None: ...

    # Has it called for each signal by which the user asks to end, as long as it is entered.
    def on_interrupt(self, call: Callable[[int], None]) -> AbstractContextManager[None]: ...
