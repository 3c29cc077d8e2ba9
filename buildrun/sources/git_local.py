"""A version of a repository on this machine: checked out elsewhere, never where it lies."""

from __future__ import annotations

import os

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.sources import address as addresses
from buildrun.sources import directory, git, git_cli, git_mirror, workdir
from buildrun.sources.address import Address
from buildrun.sources.base import Checkout, Origin, SourceRequest
from buildrun.sources.checkout import Objects
from buildrun.sources.git_cli import Done, Remote
from buildrun.sources.git_cli import git as call
from buildrun.sources.git_mirror import ResolvedRevision


def matches(address: Address, asked: SourceRequest) -> bool:
    """Return whether it is a directory of git's, or a version of a checkout is asked for."""
    path = address.path
    if path is None:
        return False
    return asked.version is not None or (os.path.isdir(path) and directory.is_repository(path))


def open_project(address: Address, asked: SourceRequest) -> Checkout:
    """Return the project in a working directory of its own; raises BuildrunError."""
    path = address.path or ""
    version = git_mirror.checked_version(asked.version)
    if not os.path.isdir(path):
        path = os.path.dirname(path) if os.path.basename(path).lower() == "mlproject" else ""
    top, repository = _repository(path, address, asked) if path else ("", "")
    if not repository:
        raise ProjectError(
            "setting a version is only supported for git project URIs",
            place=address.shown,
            hint="leave `--version` out, or check the version out yourself",
        )
    wanted = _find(repository, version, asked, address)
    subdirectory = os.path.normpath(
        os.path.join(os.path.relpath(path, top), address.subdirectory or os.curdir)
    )
    workdir.collect(asked.home)
    name = os.path.basename(top).removesuffix(".git") or os.path.basename(os.path.dirname(top))
    opened = workdir.claim(asked.home, top, name, keep=asked.keep)
    try:
        parts = _fill(opened, repository, top, wanted, asked)
        root = addresses.enter(
            opened.path, "" if subdirectory == os.curdir else subdirectory, address.shown
        )
    except BaseException:
        opened.discard()
        raise
    if asked.keep:
        asked.console.note(f"the working directory is kept: {printable(opened.path)}")
    origin = Origin(address.shown, top, wanted.commit, wanted.branch, address.subdirectory)
    return Checkout(root, origin, opened, git.restore(opened, parts, wanted))


def _fill(
    opened: workdir.Workdir,
    repository: str,
    top: str,
    wanted: ResolvedRevision,
    asked: SourceRequest,
) -> tuple[git.Part, ...]:
    found = git_mirror.describe(repository, wanted.commit, asked)
    objects = Objects(repository, top, wanted.commit, found.lfs, kept=False)
    os.makedirs(opened.path)
    said = git.populate_files(opened.path, objects, asked, Remote(top, {}))
    if said:
        raise ProjectError(f"`{printable(top)}` cannot be checked out: {printable(said)}")
    part = (os.curdir, objects, "")
    if not found.submodules:
        return (part,)
    # A relative URL of a submodule is relative to where the checkout came from.
    done = call(("--git-dir", repository, "config", "remote.origin.url"), asked.environ)
    url = _line(done) if done.code == 0 else top
    return (part, *git.populate_submodules(opened, opened.path, found, url, asked))


def _repository(path: str, address: Address, asked: SourceRequest) -> tuple[str, str]:
    """Return the top of the checkout, and where git keeps it; "" where it is none."""
    if directory.is_repository(path):
        done = call(("--git-dir", path, *git_mirror.QUIET, "rev-parse", "--git-dir"), asked.environ)
        if done.code != 0:
            raise git_cli.failure(done, address.shown)
        return path, path
    top = _ask(path, asked, "--show-toplevel")
    if top.code != 0:
        if "not a git repository" in top.err or "must be run in a work tree" in top.err:
            return "", ""
        raise git_cli.failure(top, address.shown)
    common = _line(_ask(path, asked, "--git-common-dir"))
    return _real(path, _line(top)), os.path.join(path, common)


def _real(path: str, top: str) -> str:
    """Return the top in the terms of the path, which may lead there by links."""
    below = os.path.relpath(os.path.realpath(path), os.path.realpath(top))
    if below == os.curdir:
        return path
    up = os.path.abspath(os.path.join(path, *[os.pardir] * (below.count(os.sep) + 1)))
    return up if os.path.realpath(up) == os.path.realpath(top) else os.path.realpath(top)


def _ask(path: str, asked: SourceRequest, what: str) -> Done:
    return call(("-C", path, *git_mirror.QUIET, "rev-parse", what), asked.environ)


def _line(done: Done) -> str:
    return os.fsdecode(done.out.removesuffix(b"\n"))


def _find(
    repository: str, version: str | None, asked: SourceRequest, address: Address
) -> ResolvedRevision:
    """Return the commit; raises ProjectError."""
    if version is None:
        found = git_mirror.commit_in(repository, "HEAD", asked)
        if found is None:
            raise ProjectError(f"the repository at `{address.shown}` has no commits")
        return ResolvedRevision(found.commit)
    names = (f"refs/heads/{version}", f"refs/tags/{version}", f"refs/remotes/origin/{version}")
    for name in (*names, version):
        found = git_mirror.commit_in(repository, name, asked)
        if found is not None:
            branch = version if name.startswith("refs/heads/") else None
            return ResolvedRevision(
                found.commit, branch, git_mirror.is_full_hash(name) == found.commit
            )
    raise git_cli.no_version(version, address.shown)
