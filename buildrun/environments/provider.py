"""What the commands of a run are executed in, provided when the first of them needs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from buildrun.console import has_credentials
from buildrun.executors.base import ContainerOptions, Environment, ResolvedImage
from buildrun.store.memo import DependencyTracker, memoize

if TYPE_CHECKING:
    from buildrun.environments.resolve import ResolvedEnvironment
    from buildrun.planning.context import RunContext
    from buildrun.planning.model import EnvironmentState
    from buildrun.project.model import ProjectSpec
    from buildrun.store.locks import Lock


class EnvironmentProvider(Protocol):
    """Provides an environment of this machine, or an image."""

    # The directory of an environment, where that is known already; else None.
    @property
    def prefix(self) -> str | None: ...

    # The image, once it is known; None for an environment of this machine.
    @property
    def image(self) -> ResolvedImage | None: ...

    # What the project and its user want of containers.
    @property
    def containers(self) -> ContainerOptions: ...

    # The requirements that an executor has installed itself; none where they are provided here.
    @property
    def packages(self) -> tuple[str, ...]: ...

    # Returns it ready for commands, built if need be, and held until `close`. Raises BuildrunError.
    def provide(self) -> Environment: ...

    # Lets go of it.
    def close(self) -> None: ...


class PrefixProvider:
    """A virtualenv, a conda environment, or the caller's own environment."""

    image = None
    containers = ContainerOptions()
    packages: tuple[str, ...] = ()

    def __init__(
        self, context: RunContext, load: Callable[[], ProjectSpec], *, refresh: bool = False
    ) -> None:
        """Take the context; nothing is looked at yet.

        load: returns the project. refresh: the environment is built anew.
        """
        self._context = context
        self._load = load
        self._refresh = refresh
        self._resolved: ResolvedEnvironment | None = None
        self._environment: Environment | None = None
        self._lock: Lock | None = None

    @property
    def prefix(self) -> str | None:
        """See ``EnvironmentProvider``."""
        return None

    def identify(self, repository: str | None) -> tuple[EnvironmentState, str]:
        """Return how the environment stands, and what stands for it in the keys of results.

        repository: of images, of no use here. Raises BuildrunError.
        """
        del repository
        resolved = self._resolve()
        return resolved.state(self._context.home), resolved.content()

    def known(self) -> tuple[EnvironmentState, str | None]:
        """Return the same without fetching anything; the second only where results are kept."""
        from buildrun.environments.resolve import resolve

        project = self._load()
        resolved = resolve(self._context, project, fetch=False)
        state = resolved.state(self._context.home)
        return state, resolved.content() if project.outputs else None

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``."""
        if self._environment is None:
            from buildrun.environments import provision

            context, (manager, request, identity) = self._context, self._resolve()
            self._environment, self._lock = provision.provide(
                manager, identity, request, context.home, context.console, refresh=self._refresh
            )
            found = self._environment
            _remember_activation(context, found.manager, found.prefix, lambda: found.variables)
        return self._environment

    def record(self) -> Any:
        """Return JSON values for ``RememberedPrefix``."""
        resolved = self._resolve()
        return {"manager": resolved.manager.NAME, "key": resolved.identity.key}

    def close(self) -> None:
        """See ``EnvironmentProvider``."""
        if self._lock is not None:
            self._lock.release()

    def _resolve(self) -> ResolvedEnvironment:
        if self._resolved is None:
            from buildrun.environments.resolve import resolve

            self._resolved = resolve(self._context, self._load(), fetch=True)
        return self._resolved


class RememberedPrefix(PrefixProvider):
    """The environment of a remembered plan; where it is gone, it is built again."""

    def __init__(
        self, context: RunContext, record: Any, root: str, load: Callable[[], ProjectSpec]
    ) -> None:
        """Take the record; load: returns the project, if it has to be built again."""
        super().__init__(context, load)
        self._record = record
        self._root = root

    @property
    def prefix(self) -> str | None:
        """Return the directory of the environment, None for the caller's own."""
        if not self._record["key"]:
            return None
        from buildrun.environments.prefix import prefix_of

        return prefix_of(self._context.home, self._record["key"])

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``."""
        if self._environment is None and self._acquire():
            manager, key = self._record["manager"], self._record["key"] or None
            variables = _remember_activation(self._context, manager, self.prefix, self._activate)
            self._environment = Environment(manager, key, self.prefix, True, variables)
        return super().provide()

    def _activate(self) -> Mapping[str, str | None]:
        from buildrun.environments import base

        manager = base.load(self._record["manager"])
        return manager.activate(self.prefix or "", self._context.environ)

    def _acquire(self) -> bool:
        """Hold the environment, and return whether it is there."""
        prefix = self.prefix
        if prefix is None:
            return True
        from buildrun.environments.prefix import acquire

        self._lock = acquire(prefix, self._record["key"], self._root)
        return self._lock is not None


def _remember_activation(
    context: RunContext,
    manager: str,
    prefix: str | None,
    activate: Callable[[], Mapping[str, str | None]],
) -> Mapping[str, str | None]:
    """Return what activation changes, remembered while the caller's own variables are the same."""

    def compute(tracker: DependencyTracker) -> Mapping[str, str | None]:
        variables = activate()
        for name in variables:
            tracker.variable(name)
        tracker.untrackable = has_credentials(json.dumps(dict(variables)))
        return variables

    name = f"activation {manager} {prefix}"
    found: Mapping[str, str | None] = memoize(context.memo, name, context.environ, compute)
    return found
