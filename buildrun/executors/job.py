"""What every executor takes and returns."""

from collections.abc import Mapping
from typing import NamedTuple


class Job(NamedTuple):
    """A command that is ready to run.

    command: shell text, given whole to ``bash -c``.
    cwd: the absolute directory it runs in.
    environ: every variable it sees.
    """

    command: str
    cwd: str
    environ: Mapping[str, str]


class Result(NamedTuple):
    """How a command ended.

    exit_code: the command's own code; 128 plus the number for a command ended by a signal.
    interrupted: the number of the signal by which the user or the system ended the run (Ctrl-C
        included), else None.
    """

    exit_code: int
    interrupted: int | None = None
