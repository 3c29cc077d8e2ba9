"""Checkouts of a commit in a working directory, made or made again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from buildrun.sources import workdir
from buildrun.sources.git_cli import environment, run_attended
from buildrun.sources.workdir import Workdir
from buildrun.store.home import Home

# git-lfs as `git lfs install` sets it up, for those who have it without that.
_LFS = (
    "-c", "filter.lfs.process=git-lfs filter-process", "-c", "filter.lfs.required=true",
    "-c", "filter.lfs.smudge=git-lfs smudge -- %f", "-c", "filter.lfs.clean=git-lfs clean -- %f",
)  # fmt: skip
_QUIET = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")


class Objects(NamedTuple):
    """Where a commit's objects lie.

    repository: a directory of git's own, with `objects`, and `shallow` where histories are cut.
    url: what the working directory's `origin` is to be. lfs: whether git-lfs has files of it.
    kept: whether files that git-lfs fetches are kept in the repository.
    """

    repository: str
    url: str
    commit: str
    lfs: bool = False
    kept: bool = True


def check_out(
    path: str,
    objects: Objects,
    environ: Mapping[str, str],
    secrets: Mapping[str, str],
    meanwhile: Callable[[], None] | None = None,
) -> str:
    """Fill the directory; return "" or what git said when it failed. Raises OSError.

    meanwhile: is called while git is at work.
    """
    git_directory = os.path.join(path, ".git")
    for name in ("objects/info", "objects/pack", "refs/heads", "refs/tags", "info"):
        os.makedirs(os.path.join(git_directory, name))
    borrowed = os.path.join(objects.repository, "objects")
    _write(git_directory, "objects/info/alternates", f"{borrowed}\n")
    _write(git_directory, "HEAD", f"{objects.commit}\n")
    _write(git_directory, "config", _config(objects))
    shallow = os.path.join(objects.repository, "shallow")
    try:
        with open(shallow, encoding="ascii") as file:
            _write(git_directory, "shallow", file.read())
    except FileNotFoundError:
        pass
    lfs = _LFS if objects.lfs else ()
    argv = ("git", "-C", path, *_QUIET, *lfs, "read-tree", "--reset", "-u", "HEAD")
    remote = objects.url if objects.lfs else None
    seen = {**environment(environ, remote=remote, patience=120), **secrets}
    return _run(argv, seen, meanwhile)


def _config(objects: Objects) -> str:
    wide = len(objects.commit) == 64
    lines = ["[core]", f"\trepositoryformatversion = {int(wide)}", "\tbare = false"]
    if wide:
        lines += ["[extensions]", "\tobjectformat = sha256"]
    lines += ['[remote "origin"]', f"\turl = {_quoted(objects.url)}"]
    lines += ["\tfetch = +refs/heads/*:refs/remotes/origin/*"]
    if objects.kept:
        lines += ["[lfs]", f"\tstorage = {_quoted(os.path.join(objects.repository, 'lfs'))}"]
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _write(directory: str, name: str, text: str) -> None:
    path = os.path.join(directory, name)
    with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)


def _run(
    argv: tuple[str, ...], environ: Mapping[str, str], meanwhile: Callable[[], None] | None
) -> str:
    """Run git, and return what it said if it failed; raises OSError where it cannot be started."""

    def listen(_: int, pipe: int) -> bytes:
        if meanwhile is not None:
            meanwhile()
        said = b""
        while chunk := os.read(pipe, 1 << 16):
            said = (said + chunk)[-(1 << 16) :]
        return said

    code, said = run_attended(argv, environ, 1, (), listen)
    if code == 0:
        return ""
    return said.decode(errors="replace").strip() or f"git ended with status {code}"


class CheckoutRecipe(NamedTuple):
    """How a working directory is had again; JSON values.

    place, name: see ``workdir.claim``. parts: path in the directory, the objects there, and the
    lock to share while they are needed, "" for none; a submodule after what it lies in.
    """

    place: str
    name: str
    parts: tuple[tuple[str, Objects, str], ...]


def restore_checkout(
    value: Any, home: Home, environ: Mapping[str, str], meanwhile: Callable[[], None]
) -> Workdir | None:
    """Return the directory with its files, or None where the long way has to be gone.

    value: an ``Again`` as it comes from JSON. meanwhile: is called while git is at work.
    """
    again = CheckoutRecipe(*value)
    workdir.collect(home)
    opened = workdir.claim_place(home, again.place, again.name)
    if opened is None:
        return None
    try:
        for path, objects, use in again.parts:
            if not _fill(opened, path, Objects(*objects), use, environ, meanwhile):
                opened.discard()
                return None
    except OSError:
        opened.discard()
        return None
    except BaseException:
        opened.discard()
        raise
    return opened


def _fill(
    opened: Workdir,
    path: str,
    objects: Objects,
    use: str,
    environ: Mapping[str, str],
    meanwhile: Callable[[], None],
) -> bool:
    if use:
        opened.borrow(use)
    where = os.path.join(opened.path, path) if path else opened.path
    os.makedirs(where, exist_ok=True)
    return not check_out(where, objects, environ, {}, meanwhile)
