"""What commands run in on a cluster that installs the packages itself: nothing is built here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from buildrun.executors.base import ContainerOptions, Environment
from buildrun.planning.model import EnvironmentState
from buildrun.store.memo import frozen

# That of the nodes, whatever runs here: what a key holds, and what a lock has to be made for.
PLATFORM = "linux-x86_64"


class RemotePackages(NamedTuple):
    """The packages that a cluster is to install; JSON values.

    key: of all that decides what is there then. packages: requirement lines. lock, stale: see
    ``Identity``. warnings: what of the declared environment has no effect there.
    """

    manager: str
    key: str
    packages: tuple[str, ...]
    lock: str | None = None
    stale: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class RemoteProvider:
    """Packages for an executor that has them installed where its commands run."""

    prefix = None
    image = None
    containers = ContainerOptions()

    def __init__(self, resolve: Callable[[], RemotePackages]) -> None:
        """Take what finds the packages out; it is called when they are needed first."""
        self._resolve = resolve
        self._found: RemotePackages | None = None

    @property
    def found(self) -> RemotePackages:
        """Return the packages; raises BuildrunError for what no cluster can install."""
        if self._found is None:
            self._found = self._resolve()
        return self._found

    @property
    def packages(self) -> tuple[str, ...]:
        """See ``EnvironmentProvider``."""
        return self.found.packages

    def identify(self, repository: str | None = None) -> tuple[EnvironmentState, str]:
        """See ``PrefixProvider``."""
        del repository
        found = self.found
        state = EnvironmentState(found.manager, found.key, True, found.lock, PLATFORM)
        return state, found.key

    known = identify

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``."""
        return Environment(self.found.manager, self.found.key, None, True, {})

    def record(self) -> Any:
        """Return JSON values, of which ``remembered`` makes the same provider."""
        return {"remote": self.found}

    def close(self) -> None:
        """See ``EnvironmentProvider``."""


def remembered(record: Any) -> RemoteProvider:
    """Return the provider of a remembered plan."""
    return RemoteProvider(lambda: RemotePackages(*frozen(record["remote"])))
