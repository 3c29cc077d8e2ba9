"""The contract of an environment manager; only type checkers import this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Identity, Request
    from buildrun.environments.lockfile import Lock
    from buildrun.memo import Reader


class Manager(Protocol):
    """One way to make environments; implemented by modules."""

    NAME: str

    # Says what the environment is made of; reads files through the reader only, fetches nothing.
    # Raises EnvironmentFailure.
    def identify(self, request: Request, reader: Reader) -> Identity: ...

    # Fills the empty directory `prefix`; `lock` is a descriptor that child processes inherit, so
    # that the lock outlives a killed buildrun. Raises EnvironmentFailure with the tool's reason.
    def build(
        self, identity: Identity, prefix: str, request: Request, console: Console, lock: int
    ) -> None: ...

    # Returns what a warm run looks for: the names in each directory of the prefix that matters,
    # and the path of the base interpreter outside of it ("" where there is none).
    def witnesses(self, prefix: str) -> tuple[Mapping[str, Sequence[str]], str]: ...

    # Looks at every file that was installed; returns what is missing or has another size.
    def damage(self, prefix: str) -> Sequence[str]: ...

    # Resolves the environment for each platform (such as `linux-x86_64`), keeping what `previous`
    # has where it still fits; raises EnvironmentFailure with the resolver's reason.
    def lock(
        self,
        request: Request,
        platforms: Sequence[str],
        previous: Lock | None,
        console: Console,
    ) -> Lock: ...

    # Returns the variables that activation sets or removes.
    def activate(self, prefix: str, environ: Mapping[str, str]) -> Mapping[str, str | None]: ...
