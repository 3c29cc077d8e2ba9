"""Which environment a project needs, remembered between runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from buildrun.environments.contract import Identity, Request
from buildrun.memo import recall
from buildrun.project import snapshot

if TYPE_CHECKING:
    from buildrun.environments.manager import Manager
    from buildrun.memo import Reader


def identify(manager: Manager, request: Request) -> Identity:
    """Return the identity of the environment; raises EnvironmentFailure."""

    def compute(reader: Reader) -> dict[str, Any]:
        return manager.identify(request, reader)._asdict()

    value = recall(
        request.memory,
        f"environment {request.manager} {request.locked} {request.project.root}",
        request.environ,
        compute,
        subject=[snapshot.encode_environment(request.project.environment), sys.version],
    )
    return Identity(**value)
