"""What git knows of a project's directory, for the tags of its runs."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from buildrun.memo import Reader
from buildrun.secrets import redact
from buildrun.tree import ignore

# git would run what a repository's configuration names.
_GIT = ("git", "-c", "core.fsmonitor=false")
_SECONDS = 30


class Checkout(NamedTuple):
    """A directory in a repository.

    top: the working tree's. commit: "" where git ignores the directory, or has none yet. url: of
    the first remote, without credentials, "" for none. branch: the one that was asked for, else
    "".
    """

    top: str
    commit: str
    url: str
    branch: str = ""


def look(directory: str, environ: Mapping[str, str], seen: Reader) -> Checkout | None:
    """Return the checkout that a directory is in, or None; a missing git means none.

    seen: takes note of the files that tell of another commit or remote.
    """
    words = ("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
    there = ignore.repository(os.fsencode(directory)) is not None
    lines = _ask(directory, environ, *words).splitlines() if there else []
    if len(lines) != 3:
        seen.exists(os.path.join(directory, ".git"))
        return None
    top, own, common = lines[0], lines[1], os.path.normpath(os.path.join(directory, lines[2]))
    commit = _ask(directory, environ, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    _watch(seen, own, common)
    if commit and directory != top and _ask(directory, environ, "check-ignore", "--", directory):
        commit = ""
    return Checkout(top, commit, first_remote(directory, environ))


def first_remote(directory: str, environ: Mapping[str, str]) -> str:
    """Return the URL of a repository's first remote, without credentials, or ""."""
    urls = _ask(directory, environ, "config", "--get-regexp", r"^remote\..*\.url$").splitlines()
    return redact(urls[0].partition(" ")[2]) if urls else ""


def _watch(seen: Reader, own: str, common: str) -> None:
    """Note the files that change with the commit or the remotes; absent ones count too."""
    names = [os.path.join(own, "HEAD"), os.path.join(common, "config")]
    names += [os.path.join(common, name) for name in ("packed-refs", "reftable/tables.list")]
    try:
        head = seen.read(names[0])
    except OSError:
        head = b""
    if head.startswith(b"ref: "):
        names.append(os.path.join(common, os.fsdecode(head[5:].strip())))
    for name in names[1:]:
        try:
            seen.read(name)
        except OSError:
            pass


def _ask(directory: str, environ: Mapping[str, str], *words: str) -> str:
    import subprocess

    # What steers git elsewhere, as it does within a hook, is not meant for this repository.
    own = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            (*_GIT, *words),
            cwd=directory,
            env={**own, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return os.fsdecode(done.stdout) if done.returncode == 0 else ""
