"""What a source is asked for and answers, and the registry of sources."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from buildrun.errors import ProjectError
from buildrun.sources import address

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.sources.address import Address
    from buildrun.sources.checkout import CheckoutRecipe
    from buildrun.sources.workdir import Workdir
    from buildrun.store.home import Home


class SourceRequest(NamedTuple):
    """What a project is opened with."""

    version: str | None
    cwd: str  # what a relative path is relative to
    environ: Mapping[str, str]
    home: Home
    console: Console
    offline: bool = False  # only what is there already is used
    keep: bool = False  # a temporary working directory stays


class Origin(NamedTuple):
    """Where a project comes from, for people and records; there are no credentials in it."""

    name: str  # what the user named
    repository: str | None = None  # its URL or path, where it is git's
    commit: str | None = None
    branch: str | None = None  # where the version asked for is one
    subdirectory: str = ""


class Checkout(NamedTuple):
    """A project's directory."""

    root: str  # absolute
    origin: Origin
    workdir: Workdir | None = None  # what it lies in if that is temporary
    recipe: CheckoutRecipe | None = None  # how the same is had again, where that is sure

    @property
    def where(self) -> str:
        """Return where the project is, as records of runs tell it after the directory is gone."""
        if self.workdir is None:
            return self.root
        commit = self.origin.commit
        return f"{self.origin.name} at {commit[:12]}" if commit else self.origin.name

    def close(self) -> None:
        """Remove what is temporary; calling it again is harmless."""
        if self.workdir is not None:
            self.workdir.close()


class Source(Protocol):
    """A module for one kind of source."""

    def matches(self, address: Address, request: SourceRequest) -> bool:
        """Return whether the address is for this kind; they are asked in the registry's order."""

    def open_project(self, address: Address, request: SourceRequest) -> Checkout:
        """Return the project; raises BuildrunError, and leaves nothing temporary then."""


KINDS = (
    "buildrun.sources.directory",
    "buildrun.sources.git",
    "buildrun.sources.archive",
    "buildrun.sources.remote_directory",
)


def version_refused(address: Address) -> ProjectError:
    """Return the error for a version of something else than git."""
    return ProjectError(
        "setting a version is only supported for git project URIs",
        place=address.shown,
        hint="leave `--version` out, or check the version out yourself",
    )


def open_project(uri: str, request: SourceRequest) -> Checkout:
    """Return the project at ``uri``; whoever asked closes it. Raises BuildrunError."""
    parsed = address.parse(uri, request.cwd)
    for name in KINDS:
        kind = cast(Source, import_module(name))
        if kind.matches(parsed, request):
            return kind.open_project(parsed, request)
    raise ProjectError(
        f"there is no project at `{parsed.shown}`",
        hint="give a directory, a git URL, or an archive",
    )
