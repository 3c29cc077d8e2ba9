"""Git repositories: one elsewhere is fetched into a mirror; each run has a checkout of its own."""

from __future__ import annotations

import os
import re
import shutil

from buildrun.console import printable, redact
from buildrun.errors import BuildrunError, ProjectError, StoreError
from buildrun.sources import address as addresses
from buildrun.sources import git_cli
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest, version_refused
from buildrun.sources.checkout import CheckoutRecipe, Objects, Part, check_out
from buildrun.sources.directory import is_archive, is_repository
from buildrun.sources.git_cli import Done, Remote, check, git, no_version
from buildrun.sources.git_mirror import (
    Commit,
    Mirror,
    Revision,
    check_version,
    commit_in,
    describe,
    is_whole,
)  # fmt: skip
from buildrun.sources.workdir import Workdir, temporary
from buildrun.workspace.move import clear

_SCHEMES = ("http", "https", "ssh", "git", "git+ssh", "ssh+git", "git+https", "git+http")
# Submodules in submodules.
_DEEPEST = 20
# What git says of a repository that has lost or damaged objects.
_DAMAGE = re.compile(
    "unable to read|bad object|missing|corrupt|failed to unpack|could not parse"
    "|not a valid object|unable to parse|inflate|loose object|bad tree|not a tree",
    re.IGNORECASE,
)


def matches(address: Address, request: SourceRequest) -> bool:
    """Return whether it is git's: a URL, a bare repository, or a checkout with a version."""
    path = address.path
    if path is not None:
        return request.version is not None or (os.path.isdir(path) and is_repository(path))
    is_url = address.scheme in _SCHEMES and not is_archive(address.base.partition("?")[0])
    return is_url or address.is_scp


def open_project(address: Address, request: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    check_version(request.version)
    if address.path is not None:
        return _open_local(address.path, address, request)
    url = re.sub(r"^git\+(https?:)", r"\1", address.base)
    remote = git_cli.parse_remote(url, request.environ)
    name = addresses.shown(remote.url)
    wanted = Mirror(remote, request).resolve(request.version)
    with temporary(request, remote.url, addresses.clone_name(remote.url)) as opened:
        tree = SourceTree(opened, request)
        tree.add(opened.path, remote, wanted.commit)
        root = addresses.enter(opened.path, address.subdirectory, f"`{name}`")
    name = f"{name}#{address.subdirectory}" if address.subdirectory else name
    branch = wanted.branch if request.version is not None else None
    origin = Origin(name, redact(remote.url), wanted.commit, branch, address.subdirectory)
    return Checkout(root, origin, opened, tree.recipe(wanted))


def _open_local(path: str, address: Address, request: SourceRequest) -> Checkout:
    """Return a version of a repository on this machine; it is never checked out where it lies."""
    if os.path.basename(path).lower() == "mlproject" and not os.path.isdir(path):
        path = os.path.dirname(path)
    found = _find_repository(path, address, request) if os.path.isdir(path) else None
    if found is None:
        raise version_refused(address)
    top, repository, below = found
    wanted = _resolve(repository, address, request)
    commit = describe(repository, wanted.commit, request.environ)
    name = os.path.basename(top).removesuffix(".git") or os.path.basename(os.path.dirname(top))
    with temporary(request, top, name) as opened:
        tree = SourceTree(opened, request)
        # A relative URL of a submodule is relative to where the checkout came from.
        done = git(("--git-dir", repository, "config", "remote.origin.url"), request.environ)
        objects = Objects(repository, top, wanted.commit, commit.lfs, kept=False)
        tree.add_local(objects, commit, done.text if done.code == 0 else top)
        below = os.path.join(below, address.subdirectory).rstrip("/")
        root = addresses.enter(opened.path, below, address.shown)
    origin = Origin(address.shown, top, wanted.commit, wanted.branch, address.subdirectory)
    return Checkout(root, origin, opened, tree.recipe(wanted))


def _find_repository(
    path: str, address: Address, request: SourceRequest
) -> tuple[str, str, str] | None:
    """Return the checkout's directory, where git keeps it, and where the path is in it."""
    if is_repository(path):
        check(git(("--git-dir", path, "rev-parse", "--git-dir"), request.environ), address.shown)
        return path, path, ""
    questions = ("--show-toplevel", "--git-common-dir", "--show-prefix")
    answers = [git(("-C", path, "rev-parse", what), request.environ) for what in questions]
    error = answers[0].err
    if "not a git repository" in error or "must be run in a work tree" in error:
        return None
    check(answers[0], address.shown)
    top, common, below = (answer.text for answer in answers)
    return top, os.path.join(path, common), below


def _resolve(repository: str, address: Address, request: SourceRequest) -> Revision:
    """Return the commit; raises ProjectError."""
    version = request.version
    if version is None:
        found = commit_in(repository, "HEAD", request.environ)
        if found is None:
            raise ProjectError(f"the repository at `{address.shown}` has no commits")
        return Revision(found)
    names = (f"refs/heads/{version}", f"refs/tags/{version}", f"refs/remotes/origin/{version}")
    for name in (*names, version):
        found = commit_in(repository, name, request.environ)
        if found is not None:
            branch = version if name.startswith("refs/heads/") else None
            return Revision(found, branch, fixed=is_whole(name))
    raise no_version(version, address.shown)


class SourceTree:
    """The files of a commit and of its submodules in a working directory."""

    def __init__(self, opened: Workdir, request: SourceRequest) -> None:
        """Begin without files."""
        self._opened = opened
        self._request = request
        self._parts: list[Part] = []

    def recipe(self, revision: Revision) -> CheckoutRecipe | None:
        """Return how the same is had again, where that needs no question to anybody."""
        if (
            self._opened.is_kept
            or not revision.fixed
            or any(objects.lfs for _, objects, _ in self._parts)
        ):
            return None
        return CheckoutRecipe(self._opened.place, self._opened.name, tuple(self._parts))

    def add(self, path: str, remote: Remote, commit: str, depth: int = 0) -> None:
        """Check a commit out, and its submodules; a damaged mirror is fetched anew, once."""
        mirror = Mirror(remote, self._request)
        for last in (False, True):
            try:
                os.makedirs(os.path.dirname(mirror.use), exist_ok=True)
                self._opened.borrow(mirror.use)
            except OSError as error:
                raise StoreError(
                    f"the store cannot be written: {error.strerror}", place=mirror.use
                ) from None
            found = mirror.fetch(commit)
            objects = Objects(mirror.repository, remote.url, commit, found.lfs)
            done = self._fill(path, objects, remote)
            if done.code == 0:
                break
            if last or self._request.offline or not _DAMAGE.search(done.err):
                raise _failure(done, remote.url)
            mirror.remove()
            clear(path)
        self._parts.append((os.path.relpath(path, self._opened.path), objects, mirror.use))
        self._add_submodules(path, found, remote.url, depth)

    def add_local(self, objects: Objects, commit: Commit, url: str) -> None:
        """Check out a commit of a repository here; `url`: what its submodules' are relative to."""
        path = self._opened.path
        done = self._fill(path, objects, Remote(objects.url, {}))
        if done.code != 0:
            raise _failure(done, objects.url)
        self._parts.append((os.curdir, objects, ""))
        self._add_submodules(path, commit, url, 0)

    def _fill(self, path: str, objects: Objects, remote: Remote) -> Done:
        environ = self._request.environ
        if objects.lfs and not shutil.which("git-lfs", path=environ.get("PATH")):
            raise ProjectError(
                f"`{addresses.shown(remote.url)}` has files that git-lfs keeps, which is missing",
                hint="install git-lfs",
            )
        try:
            os.makedirs(path, exist_ok=True)
            return check_out(path, objects, environ, remote if objects.lfs else None)
        except OSError as error:
            raise StoreError(
                f"the project's files cannot be written: {error.strerror}", place=path
            ) from None

    # Not by `git submodule`: it has no mirrors, so that each run would fetch, also offline.
    def _add_submodules(self, path: str, commit: Commit, url: str, depth: int) -> None:
        if commit.submodules and depth >= _DEEPEST:
            raise ProjectError(f"the submodules of `{addresses.shown(url)}` lie too deep")
        top = os.path.realpath(path)
        for name, given, sha in commit.submodules:
            where = os.path.join(path, name)
            # git has made an empty directory there; a link would lead elsewhere.
            if os.path.realpath(where) != os.path.join(top, name) or not os.path.isdir(where):
                raise ProjectError(f"the submodule `{printable(name)}` leaves the project")
            try:
                remote = git_cli.parse_remote(_submodule_url(url, given), self._request.environ)
                self.add(where, remote, sha, depth + 1)
            except BuildrunError as error:
                raise type(error)(
                    f"submodule `{printable(name)}`: {error.message}",
                    place=error.place,
                    hint=error.hint,
                ) from None


def _submodule_url(parent: str, given: str) -> str:
    """Return a submodule's URL, which may be relative to its parent's; raises ProjectError."""
    addresses.refuse(given)
    if given.startswith(("./", "../")):
        # What stands before the path: scheme and host, ssh's `host:`, or nothing.
        host = re.match(r"[^/:]+://[^/]*/|[^/:]+:(?!/)|", parent)
        start = host.end() if host else 0
        return parent[:start] + os.path.normpath(os.path.join(parent[start:], given))
    # A repository from elsewhere has no business with files of this machine.
    if _is_local(given) and not _is_local(parent):
        raise ProjectError(f"its URL `{addresses.shown(given)}` is a path of this machine")
    return given


def _is_local(url: str) -> bool:
    return os.path.isabs(url) or url.lower().startswith("file:")


def _failure(done: Done, url: str) -> BuildrunError:
    if git_cli.is_full(done):
        return StoreError("there is no room for the project's files on the disk")
    return ProjectError(f"`{addresses.shown(url)}` cannot be checked out: {git_cli.reason(done)}")
