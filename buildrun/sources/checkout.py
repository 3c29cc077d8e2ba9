"""A commit's files in a working directory, with a repository of its own around them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from buildrun.sources import workdir
from buildrun.sources.git_cli import QUIET, Done, Remote, environment, git, terminate
from buildrun.sources.workdir import Workdir
from buildrun.store.home import Home

# git-lfs as `git lfs install` sets it up, for those who have it without that.
_LFS = (
    "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true",
    "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.clean=git-lfs clean -- %f",
)  # fmt: skip


class Objects(NamedTuple):
    """A commit and the repository that has its objects."""

    repository: str  # a git directory on this machine
    url: str  # of the remote `origin` to be
    commit: str
    lfs: bool = False  # git-lfs has files of the commit
    kept: bool = True  # the repository keeps them too


# A directory in the working directory, the commit that is there, and the lock to share as long as
# the objects are needed, or "".
Part = tuple[str, Objects, str]


class CheckoutRecipe(NamedTuple):
    """How a working directory is had again without a question to anybody; JSON values."""

    place: str  # see `claim_place`
    name: str
    parts: tuple[Part, ...]  # a submodule comes after what it lies in


def check_out(
    path: str, objects: Objects, environ: Mapping[str, str], remote: Remote | None
) -> Done:
    """Fill an empty directory; raises OSError, and ProjectError where git is missing."""
    return git(_prepare(path, objects), environment(environ, remote))


def restore_checkout(
    value: Any, home: Home, environ: Mapping[str, str], meanwhile: Callable[[], None]
) -> Workdir | None:
    """Return the working directory of a recipe, or None; `meanwhile` is called while git works."""
    recipe = CheckoutRecipe(*value)
    workdir.collect(home)
    opened = workdir.claim_place(home, recipe.place, recipe.name)
    if opened is None:
        return None
    done = False
    try:
        done = all(_restore(opened, part, environ, meanwhile) for part in recipe.parts)
    except OSError:
        pass
    finally:
        if not done:
            opened.discard()
    return opened if done else None


def _restore(
    opened: Workdir, part: Part, environ: Mapping[str, str], meanwhile: Callable[[], None]
) -> bool:
    below, objects, lock = part
    if lock:
        opened.borrow(lock)
    path = os.path.join(opened.path, below)
    os.makedirs(path, exist_ok=True)
    argv = ("git", *QUIET, *_prepare(path, Objects(*objects)))
    nothing = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    # Not by subprocess, whose import takes as long as all else before the command starts.
    child = os.posix_spawnp("git", argv, environment(environ), file_actions=nothing, setpgroup=0)
    try:
        meanwhile()
        _, status = os.waitpid(child, 0)
    except BaseException:
        terminate(child)
        os.waitpid(child, 0)
        raise
    return status == 0


def _prepare(path: str, objects: Objects) -> tuple[str, ...]:
    """Make the repository by hand, not by three more programs; return git's words for its files."""
    directory = os.path.join(path, ".git")
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        os.makedirs(os.path.join(directory, name))
    borrowed = os.path.join(objects.repository, "objects")
    _write(directory, "objects/info/alternates", f"{borrowed}\n")
    _write(directory, "HEAD", f"{objects.commit}\n")
    _write(directory, "config", _config(objects))
    try:
        with open(os.path.join(objects.repository, "shallow"), encoding="ascii") as file:
            _write(directory, "shallow", file.read())
    except FileNotFoundError:
        pass  # the repository has all of the history
    lfs = _LFS if objects.lfs else ()
    return ("-C", path, *lfs, "read-tree", "--reset", "-u", "HEAD")


def _config(objects: Objects) -> str:
    is_sha256 = len(objects.commit) == 64
    lines = ["[core]", f"repositoryformatversion = {int(is_sha256)}", "bare = false"]
    if is_sha256:
        lines += ["[extensions]", "objectformat = sha256"]
    lines += ['[remote "origin"]', f"url = {_quoted(objects.url)}"]
    lines += ["fetch = +refs/heads/*:refs/remotes/origin/*"]
    if objects.kept:
        lines += ["[lfs]", f"storage = {_quoted(os.path.join(objects.repository, 'lfs'))}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _write(directory: str, name: str, text: str) -> None:
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
