"""The errors buildrun raises; only the command line prints them and picks an exit code."""

from __future__ import annotations

FAILURE = 1
USAGE = 2
BUG = 3
INTERRUPTED = 130


class BuildrunError(Exception):
    """A fact that stops buildrun, with its place and a remedy.

    message: the fact, without a final period.
    place: where it is, such as ``MLproject:12:7`` or a path.
    hint: what the user can do about it.
    """

    exit_code = FAILURE

    def __init__(self, message: str, *, place: str | None = None, hint: str | None = None) -> None:
        """Keep the three parts apart, so that they can be laid out by whoever prints them."""
        super().__init__(message)
        self.message = message
        self.place = place
        self.hint = hint

    def __str__(self) -> str:
        """Return place, fact and hint as the user sees them."""
        head = f"{self.place}: {self.message}" if self.place else self.message
        return f"{head}\n\nhint: {self.hint}" if self.hint else head


class UsageError(BuildrunError):
    """The command line cannot be understood."""

    exit_code = USAGE


class ProjectError(BuildrunError):
    """The project cannot be found, read or run as it is declared."""


class NoEntryPoint(ProjectError):
    """The project has not the entry point that was asked for."""


class ParameterError(BuildrunError):
    """A parameter's value is missing or does not fit."""


class EnvironmentFailure(BuildrunError):
    """An environment cannot be identified or built."""


class StoreError(BuildrunError):
    """The store cannot be read or written."""


class ExecutionError(BuildrunError):
    """A command cannot be started."""


class TrackingError(BuildrunError):
    """A run cannot be recorded by MLflow."""


class Interrupted(BuildrunError):
    """The user or the system asked buildrun to stop.

    exit_code: 128 plus the signal's number, as shells have it.
    """

    def __init__(self, signal_number: int) -> None:
        """Take the number of the signal that arrived."""
        super().__init__("interrupted")
        self.exit_code = 128 + signal_number
