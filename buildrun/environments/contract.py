"""What an environment manager takes and returns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.memo import Memory
from buildrun.project.spec import ProjectSpec


class Request(NamedTuple):
    """What an environment is wanted for.

    manager: as the user or the project names it, such as ``uv``.
    environ: the caller's variables. memory: where what was found out is remembered.
    offline: nothing may be fetched. locked: only a fresh lock will do.
    """

    project: ProjectSpec
    manager: str
    environ: Mapping[str, str]
    memory: Memory
    offline: bool = False
    locked: bool = False


class Identity(NamedTuple):
    """What decides an environment's content.

    key: ``sha256:…`` over ``parts``. parts: JSON values, free of credentials, absolute paths of
        the project and clocks.
    lock: ``locked``, ``stale`` or ``unlocked``; stale: what changed since the lock was made.
    warnings: what the user should know each time the environment is built.
    """

    manager: str
    key: str
    parts: Mapping[str, Any]
    lock: str = "unlocked"
    stale: Sequence[str] = ()
    warnings: Sequence[str] = ()


class Environment(NamedTuple):
    """An environment that is ready.

    prefix: its directory; None for the caller's own environment.
    variables: what activation sets (a text) or removes (None) for the command.
    """

    manager: str
    key: str | None
    prefix: str | None
    reused: bool
    variables: Mapping[str, str | None]
