"""What every executor takes and returns."""

from collections.abc import Mapping
from typing import NamedTuple

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
