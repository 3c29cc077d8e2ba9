"""A version of a repository on this machine: check out elsewhere, never where it lies."""

from __future__ import annotations

import os
from typing import NamedTuple

from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources import directory
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest, version_refused
from buildrun.sources.checkout import Objects
from buildrun.sources.git import SourceTree
from buildrun.sources.git_cli import check, git, no_version
from buildrun.sources.git_mirror import (
    Revision,
    check_version,
    commit_in,
    describe,
    is_whole,
)
from buildrun.sources.workdir import temporary


def matches(address: Address, request: SourceRequest) -> bool:
    """Return whether it is a directory of git's, or a version of a checkout is asked for."""
    path = address.path
    if path is None:
        return False
    return request.version is not None or (os.path.isdir(path) and directory.is_repository(path))


def open_project(address: Address, request: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    path = address.path or ""
    check_version(request.version)
    if os.path.basename(path).lower() == "mlproject" and not os.path.isdir(path):
        path = os.path.dirname(path)
    found = _find_repository(path, address, request) if os.path.isdir(path) else None
    if found is None:
        raise version_refused(address)
    top = found.top
    wanted = _resolve(found.directory, address, request)
    commit = describe(found.directory, wanted.commit, request.environ)
    name = os.path.basename(top).removesuffix(".git") or os.path.basename(os.path.dirname(top))
    with temporary(request, top, name) as opened:
        tree = SourceTree(opened, request)
        # A relative URL of a submodule is relative to where the checkout came from.
        done = git(("--git-dir", found.directory, "config", "remote.origin.url"), request.environ)
        objects = Objects(found.directory, top, wanted.commit, commit.lfs, kept=False)
        tree.add_local(objects, commit, done.text if done.code == 0 else top)
        below = os.path.join(found.below, address.subdirectory).rstrip("/")
        root = addresses.enter(opened.path, below, address.shown)
    origin = Origin(address.shown, top, wanted.commit, wanted.branch, address.subdirectory)
    return Checkout(root, origin, opened, tree.recipe(wanted))


class _Repository(NamedTuple):
    """A repository on this machine.

    top: the checkout's directory. directory: where git keeps it. below: the project's own
    directory in the checkout.
    """

    top: str
    directory: str
    below: str = ""


def _find_repository(path: str, address: Address, request: SourceRequest) -> _Repository | None:
    if directory.is_repository(path):
        done = git(("--git-dir", path, "rev-parse", "--git-dir"), request.environ)
        check(done, address.shown)
        return _Repository(path, path)
    questions = ("--show-toplevel", "--git-common-dir", "--show-prefix")
    answers = [git(("-C", path, "rev-parse", what), request.environ) for what in questions]
    error = answers[0].err
    if "not a git repository" in error or "must be run in a work tree" in error:
        return None
    check(answers[0], address.shown)
    top, common, below = (answer.text for answer in answers)
    return _Repository(top, os.path.join(path, common), below)


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
