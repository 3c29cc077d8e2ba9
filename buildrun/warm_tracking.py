"""Tracking on the short way: what a record asks for is begun, and ended truthfully."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.errors import Interrupted, TrackingError
from buildrun.executors.base import Result
from buildrun.store.home import Home
from buildrun.store.memo import frozen
from buildrun.tracking.config import RunSpec
from buildrun.tracking.run import begin as begin_run
from buildrun.tracking.run import status_of

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.tracking.run import Status, TrackedRun


class Tracked:
    """A run that was begun, or none where tracking is optional and fails."""

    def __init__(self, run: "TrackedRun | None", console: "Console") -> None:
        """Take over the run."""
        self.run = run
        self._console = console

    @property
    def variables(self) -> Mapping[str, str | None]:
        """Return what the command sees beside what the record says."""
        return self.run.variables if self.run is not None else {}

    def tag(self, tags: Sequence[tuple[str, str]]) -> None:
        """Add tags; where that fails it is warned of."""
        if self.run is None:
            return
        try:
            self.run.log(tags)
        except TrackingError as error:
            self._console.warn(f"the MLflow run is not tagged: {error.message}")

    def told(self, call: Callable[[], Result]) -> Result:
        """Return the result of a call that runs the command, and tell the store how it went."""
        if self.run is None:
            return call()
        status: Status = "FAILED"
        try:
            result = call()
            status = status_of(result.exit_code, result.interrupted)
        except (KeyboardInterrupt, Interrupted):
            status = "KILLED"
            raise
        finally:
            try:
                self.run.end(status, self._console)
            finally:
                self.run.close()
        return result


def begin(
    value: Any,
    environ: Mapping[str, str],
    store: Home,
    console: "Console",
    prefixes: Sequence[str] = (),
) -> Tracked:
    """Begin the run that a record asks for; prefixes: of environments that may have MLflow.

    Raises TrackingError, unless tracking is optional.
    """
    ask = RunSpec(*frozen(value))
    try:
        return Tracked(begin_run(ask, environ, os.getcwd(), store, prefixes), console)
    except TrackingError as error:
        if not ask.optional:
            raise
        excuse(error, console)
    return Tracked(None, console)


def excuse(error: TrackingError, console: "Console") -> None:
    """Warn that a run is not tracked."""
    place = f"{error.place}: " if error.place else ""
    console.warn(f"the run is not tracked: {place}{error.message}")
