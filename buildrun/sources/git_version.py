"""From a version to a commit: a branch, a tag, a whole or short number, or what is asked for by
nothing.
"""

from __future__ import annotations

import os
import re
import tempfile
from typing import NamedTuple

from buildrun.errors import ProjectError, UsageError
from buildrun.printable import printable
from buildrun.sources import git_failure, mirror
from buildrun.sources.address import shown
from buildrun.sources.contract import Asked
from buildrun.sources.credentials import Remote
from buildrun.sources.git_command import git
from buildrun.sources.mirror import Mirror, Named

_WHOLE = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,63}")
# What no name of a branch or tag may hold; see git-check-ref-format.
_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|^/|\.lock$|/\.|^\.")


class Wanted(NamedTuple):
    """A commit's whole number, and the branch that it was asked for as.

    fixed: the version can stand for nothing else.
    """

    commit: str
    branch: str | None = None
    fixed: bool = False


def checked(version: str | None) -> str | None:
    """Return the version; raises UsageError for what none can be."""
    if version is None:
        return None
    if not version:
        raise UsageError("the version is empty", hint="give a branch, a tag or a commit")
    if version.startswith("-"):
        raise UsageError(f"`{printable(version)}` is an option, not a version")
    if _NEVER.search(version) or not version.isprintable():
        raise UsageError(
            f"`{printable(version)}` cannot be a branch, a tag or a commit",
            hint="give one of these as git shows it",
        )
    return version


def whole(version: str | None) -> str | None:
    """Return the version if it is a commit's whole number."""
    lower = (version or "").lower()
    return lower if _WHOLE.fullmatch(lower) else None


def find(remote: Remote, place: Mirror, asked: Asked) -> Wanted:
    """Return what the version stands for; the remote is asked where it may have changed.

    Raises ProjectError.
    """
    version = checked(asked.version)
    if commit := whole(version):
        return Wanted(commit, fixed=True)
    known = mirror.named(place, version or "") or mirror.begins(place, version or "")
    if known is not None and (asked.offline or known.fixed):
        return Wanted(known.commit, known.branch if version is not None else None, known.fixed)
    if asked.offline:
        raise ProjectError(
            f"{f'`{version}` of ' if version else ''}`{shown(remote.url)}` was never fetched, and "
            "nothing is with `--offline`",
            hint="run once without `--offline`",
        )
    found = _listed(remote, version, asked)
    if found is None and version is not None and _SHORT.fullmatch(version.lower()):
        found = _short(remote, version.lower(), asked)
    if found is None:
        if version is None:
            raise ProjectError(f"the repository at `{shown(remote.url)}` has no commits")
        raise git_failure.no_version(version, shown(remote.url))
    mirror.note_version(place, version or "", found)
    if version is None and found.branch:
        mirror.note_version(place, found.branch, found)
    return Wanted(found.commit, found.branch if version is not None else None, found.fixed)


def _listed(remote: Remote, version: str | None, asked: Asked) -> Named | None:
    """Return the branch or tag of that name as the remote has it now; a branch comes first."""
    if version is None:
        patterns = ["HEAD"]
    elif version.startswith("refs/"):
        patterns = [version, version + "^{}"]
    else:
        heads, tags = f"refs/heads/{version}", f"refs/tags/{version}"
        patterns = [heads, tags + "^{}", tags]
    done = git(
        ("ls-remote", "--symref", "--", remote.url, *patterns),
        asked.environ,
        secrets=remote.secrets,
        remote=remote.url,
    )
    if done.code != 0:
        raise git_failure.failure(done, shown(remote.url))
    found = dict(_rows(done.out))
    if version is None and "HEAD" in found:
        head = re.search(rb"^ref: refs/heads/(.+)\tHEAD$", done.out, re.MULTILINE)
        return Named(found["HEAD"], os.fsdecode(head[1]) if head else None, fixed=False)
    if version is not None and version.startswith("refs/"):
        patterns.reverse()  # what an annotated tag stands for
    for name in patterns:
        if commit := found.get(name):
            branch = version if name.startswith("refs/heads/") else None
            return Named(commit, branch, fixed=False)
    return None


def _rows(out: bytes) -> list[tuple[str, str]]:
    rows = []
    for line in out.decode(errors="surrogateescape").splitlines():
        value, tab, name = line.partition("\t")
        if tab and _WHOLE.fullmatch(value):
            rows.append((name, value))
    return rows


def _short(remote: Remote, start: str, asked: Asked) -> Named | None:
    """Return the only commit whose number begins so.

    No server tells, so all commits are fetched, without their files where the server can do that.
    """
    asked.console.note(f"looking for commit {start} in {shown(remote.url)}")
    os.makedirs(asked.home.sources, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="commits-", dir=asked.home.sources) as directory:
        try:
            done = git(
                ("-c", "core.hooksPath=/dev/null", "clone", "--bare", "--quiet", "--progress",
                 "--no-local", "--filter=tree:0", "--template=", "--", remote.url, directory),
                asked.environ, secrets=remote.secrets, remote=remote.url,
                tell=asked.console.progress,
            )  # fmt: skip
        finally:
            asked.console.done()
        if done.code != 0:
            raise git_failure.failure(done, shown(remote.url))
        return commit_in(directory, start, asked)


def commit_in(repository: str, start: str, asked: Asked) -> Named | None:
    """Return the only commit in a repository here whose number begins so, or None."""
    done = git(
        ("--git-dir", repository, "rev-parse", "--verify", f"{start}^{{commit}}"), asked.environ
    )
    if done.code == 0:
        return Named(done.out.decode().strip(), None, fixed=True)
    if "ambiguous" in done.err:
        raise ProjectError(
            f"several commits begin with `{start}`", hint="give more of the commit's number"
        )
    return None
