"""What a project's environment is made of, before anything is built."""

from __future__ import annotations

from typing import NamedTuple

from buildrun.console import Console
from buildrun.environments import base
from buildrun.environments.base import EnvironmentManager, EnvironmentRequest, Identity
from buildrun.environments.prefix import prefix_of, why_unusable
from buildrun.errors import EnvironmentFailure
from buildrun.planning.context import RunContext
from buildrun.planning.model import EnvironmentState
from buildrun.project.model import ProjectSpec
from buildrun.store.home import Home
from buildrun.store.memo import DependencyTracker


class ResolvedEnvironment(NamedTuple):
    """An environment with all that decides it."""

    manager: EnvironmentManager
    request: EnvironmentRequest
    identity: Identity

    def state(self, home: Home) -> EnvironmentState:
        """Return how the environment stands, for a plan."""
        name, identity = self.manager.NAME, self.identity
        if not identity.key:
            return EnvironmentState(name, None, True)
        ready = why_unusable(prefix_of(home, identity.key), identity.key) is None
        return EnvironmentState(name, identity.key, ready, identity.lock)

    def content(self) -> str:
        """Return what stands for the environment in the keys of results."""
        if self.identity.key:
            return self.identity.key
        from buildrun.environments import system

        return system.describe_active_python(self.request)


def resolve(context: RunContext, project: ProjectSpec, *, fetch: bool) -> ResolvedEnvironment:
    """Return the project's environment, which is none of docker's.

    fetch: a Python that is missing may be downloaded. Raises EnvironmentFailure.
    """
    request = request_of(context, project)
    manager = base.load(request.manager)
    try:
        identity = base.identify(manager, request)
    except EnvironmentFailure as failure:
        obtain = getattr(failure, "obtain", None)
        if not fetch or obtain is None or context.options.offline:
            raise
        obtain(context.console)
        identity = base.identify(manager, request)
    tell_of_lock(identity, context.tracker, context.console)
    return ResolvedEnvironment(manager, request, identity)


def request_of(context: RunContext, project: ProjectSpec) -> EnvironmentRequest:
    """Return what the project's environment is asked for as; raises EnvironmentFailure."""
    options = context.options
    name = manager_of(context, project)
    return EnvironmentRequest(
        project, name, context.environ, context.memo, options.offline, options.locked
    )


def manager_of(context: RunContext, project: ProjectSpec) -> str:
    """Return the name of the project's environment manager; raises EnvironmentFailure."""
    return base.choose(project.environment, context.options.env_manager)


def tell_of_lock(identity: Identity, tracker: DependencyTracker, console: Console) -> None:
    """Warn of a lock that is stale."""
    if identity.lock == "stale":
        tracker.untrackable = True  # so that the warning is said each time
        reasons = "; ".join(identity.stale)
        console.warn(f"the lock is stale and not used: {reasons}", "run `buildrun lock`")
