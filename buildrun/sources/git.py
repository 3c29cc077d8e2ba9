"""A git repository elsewhere: fetched into a mirror, and checked out for each run."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildrun.console import printable, redact
from buildrun.errors import BuildrunError, ProjectError, StoreError
from buildrun.sources import address as addresses
from buildrun.sources import git_cli, git_mirror, workdir
from buildrun.sources import git_mirror as mirrors
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest
from buildrun.sources.checkout import CheckoutRecipe, Objects, check_out
from buildrun.sources.git_cli import Remote
from buildrun.workspace.move import delete

if TYPE_CHECKING:
    from buildrun.sources.git_mirror import Commit, ResolvedRevision
    from buildrun.sources.workdir import Workdir

_SCHEMES = ("http", "https", "ssh", "git", "git+ssh", "ssh+git", "git+https", "git+http")
# See ``Again.parts``.
Part = tuple[str, Objects, str]
# Submodules in submodules.
_DEEPEST = 20


def matches(address: Address, asked: SourceRequest) -> bool:  # noqa: ARG001
    """Return whether it is a URL that git speaks."""
    return address.path is None and (address.scheme in _SCHEMES or address.is_scp)


def open_project(address: Address, asked: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    url = re.sub(r"^git\+(https?:)", r"\1", address.base)
    remote = git_cli.split(url, asked.environ)
    place = mirrors.mirror_of(asked.home, remote.url)
    workdir.collect(asked.home)
    wanted = git_mirror.find(remote, place, asked)
    opened = workdir.claim(asked.home, remote.url, name_of(remote.url), keep=asked.keep)
    try:
        os.makedirs(opened.path)
        parts = populate(opened, opened.path, remote, wanted.commit, asked)
        shown = addresses.shown(remote.url)
        root = addresses.enter(opened.path, address.subdirectory, f"`{shown}`")
    except BaseException:
        opened.discard()
        raise
    if asked.keep:
        asked.console.note(f"the working directory is kept: {opened.path}")
    name = addresses.shown(remote.url)
    name = f"{name}#{address.subdirectory}" if address.subdirectory else name
    origin = Origin(name, redact(remote.url), wanted.commit, wanted.branch, address.subdirectory)
    return Checkout(root, origin, opened, restore(opened, parts, wanted))


def name_of(url: str) -> str:
    """Return what a clone of the URL would be called."""
    name = re.split(r"[/:]", url.partition("?")[0].rstrip("/"))[-1]
    return name.removesuffix(".git")


def populate(
    opened: Workdir, path: str, remote: Remote, commit: str, asked: SourceRequest, depth: int = 0
) -> tuple[Part, ...]:
    """Check a commit out, and what its submodules name; a damaged mirror is made anew, once.

    Returns what was checked out where.
    """
    place = mirrors.mirror_of(asked.home, remote.url)
    for last in (False, True):
        try:
            os.makedirs(os.path.dirname(place.use), exist_ok=True)
            opened.borrow(place.use)
        except OSError as error:
            raise StoreError(
                f"the store cannot be written: {error.strerror}", place=place.use
            ) from None
        found = git_mirror.ensure(remote, place, commit, asked)
        objects = Objects(place.repository, remote.url, commit, found.lfs)
        said = populate_files(path, objects, asked, remote)
        if not said:
            break
        if last or asked.offline or not _is_damage(said):
            raise _failure(said, remote)
        git_mirror.refresh(place)
        delete(path)
        os.makedirs(path)
    part = (os.path.relpath(path, opened.path), objects, place.use)
    return (part, *populate_submodules(opened, path, found, remote.url, asked, depth))


def populate_files(path: str, objects: Objects, asked: SourceRequest, remote: Remote) -> str:
    """Check out; return what git said if it failed. Raises ProjectError without git or git-lfs."""
    if objects.lfs and not shutil.which("git-lfs", path=asked.environ.get("PATH")):
        raise ProjectError(
            f"`{addresses.shown(remote.url)}` has files that git-lfs keeps, which is missing",
            hint="install git-lfs",
        )
    try:
        return check_out(path, objects, asked.environ, remote.secrets)
    except FileNotFoundError as error:
        from buildrun.sources.git_cli import missing

        raise missing(error) from None
    except OSError as error:
        raise StoreError(
            f"the project's files cannot be written: {error.strerror}", place=path
        ) from None


def populate_submodules(
    opened: Workdir, path: str, commit: Commit, url: str, asked: SourceRequest, depth: int = 0
) -> tuple[Part, ...]:
    """Check out the submodules of a commit into its working directory; raises BuildrunError.

    Returns what was checked out where.
    """
    parts: list[Part] = []
    if commit.submodules and depth >= _DEEPEST:
        raise ProjectError(f"the submodules of `{addresses.shown(url)}` lie too deep")
    top = os.path.realpath(path)
    for name, given, sha in commit.submodules:
        where = os.path.join(path, name)
        # git has made an empty directory there; a link would lead elsewhere.
        if os.path.realpath(where) != os.path.join(top, name) or not os.path.isdir(where):
            raise ProjectError(f"the submodule `{printable(name)}` leaves the project")
        try:
            remote = git_cli.split(_submodule_url(url, given), asked.environ)
            parts += populate(opened, where, remote, sha, asked, depth + 1)
        except BuildrunError as error:
            raise type(error)(
                f"submodule `{printable(name)}`: {error.message}",
                place=error.place,
                hint=error.hint,
            ) from None
    return tuple(parts)


def restore(
    opened: Workdir, parts: Sequence[Part], wanted: ResolvedRevision
) -> CheckoutRecipe | None:
    """Return how the working directory is had another time, if that is known for certain."""
    if opened.is_kept or not wanted.fixed or any(objects.lfs for _, objects, _ in parts):
        return None
    return CheckoutRecipe(opened.place, opened.name, tuple(parts))


def _submodule_url(parent: str, given: str) -> str:
    """Return a submodule's URL, which may be relative to its parent's; raises ProjectError."""
    addresses.refuse(given)
    if given.startswith(("./", "../")):
        base = parent.rstrip("/")
        while given.startswith(("./", "../")):
            if given.startswith("../"):
                cut = max(base.rfind("/"), -1 if "://" in base else base.rfind(":"))
                base = base[: max(cut, 0)]
            given = given.partition("/")[2]
        return f"{base}/{given}"
    is_local = os.path.isabs(given) or given.lower().startswith("file:")
    # A repository from elsewhere has no business with files of this machine.
    if is_local and not (os.path.isabs(parent) or parent.lower().startswith("file:")):
        raise ProjectError(f"its URL `{addresses.shown(given)}` is a path of this machine")
    return given


def _is_damage(said: str) -> bool:
    text = said.lower()
    return any(
        phrase in text
        for phrase in ("unable to read", "bad object", "missing", "corrupt", "failed to unpack",
                       "could not parse", "not a valid object", "unable to parse", "inflate",
                       "loose object", "bad tree", "not a tree")
    )  # fmt: skip


def _failure(said: str, remote: Remote) -> BuildrunError:
    reason = printable(redact(said.splitlines()[-1]))
    lines = [line for line in said.splitlines() if line.startswith(("fatal:", "error:"))]
    if lines:
        reason = printable(redact(lines[0].partition(": ")[2]))
    if "no space left" in said.lower():
        return StoreError("there is no room for the project's files on the disk")
    return ProjectError(f"`{addresses.shown(remote.url)}` cannot be checked out: {reason}")
