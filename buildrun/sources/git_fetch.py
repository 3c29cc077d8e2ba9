"""Bringing a commit into a mirror, with all that a checkout of it needs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from buildrun import locks
from buildrun.errors import BuildrunError, ProjectError, StoreError
from buildrun.sources import git_failure, mirror
from buildrun.sources.address import shown
from buildrun.sources.contract import Asked
from buildrun.sources.credentials import Remote
from buildrun.sources.git_command import Done, git
from buildrun.sources.mirror import Commit, Mirror
from buildrun.store.moving import delete

# What git would run or do beside what it is asked for.
QUIET = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false", "-c", "fetch.unpackLimit=1", "-c", "advice.detachedHead=false",
)  # fmt: skip
# A server that hands out no single commits, or no shallow histories: all of it is taken.
_WHOLE_ONLY = re.compile(
    r"unadvertised object|dumb http transport does not support shallow|does not support shallow"
    r"|server does not support --|couldn't find remote ref",
    re.IGNORECASE,
)
_NO_COMMIT = re.compile(r"not our ref|couldn't find remote ref|bad object|not a commit", re.I)
_ALL = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")


def ensure(remote: Remote, place: Mirror, commit: str, asked: Asked) -> Commit:
    """Return what is known of a commit that the mirror holds; it is fetched if need be.

    Raises BuildrunError.
    """
    found = mirror.known(place, commit)
    if found is not None:
        return found
    if asked.offline:
        raise ProjectError(
            f"commit {commit[:12]} of `{shown(remote.url)}` was never fetched, and nothing is "
            "with `--offline`",
            hint="run once without `--offline`",
        )
    try:
        os.makedirs(place.directory, exist_ok=True)
        lock = locks.exclusive(place.lock, waiting=lambda: _waiting(remote, asked))
        with lock:
            found = mirror.known(place, commit)
            if found is not None:
                return found
            _fetch(remote, place, commit, asked, lock.descriptor)
            found = _describe(place.repository, commit, asked)
            mirror.note_commit(place, commit, found)
            return found
    except OSError as error:
        raise StoreError(
            f"the repository cannot be kept: {error.strerror}",
            place=place.directory,
            hint="see that there is room and that you may write there, or set BUILDRUN_HOME",
        ) from None


def renew(place: Mirror) -> None:
    """Remove a mirror that has turned out to be damaged; it is fetched again."""
    with locks.exclusive(place.lock):
        delete(place.directory)


def _waiting(remote: Remote, asked: Asked) -> None:
    asked.console.note(f"waiting for another run that fetches {shown(remote.url)}")


def _fetch(remote: Remote, place: Mirror, commit: str, asked: Asked, lock: int) -> None:
    _prepare(place, commit, asked)
    asked.console.note(f"fetching {commit[:12]} of {shown(remote.url)}")
    ref = f"refs/buildrun/{commit}"
    done = _take(remote, place, ("--depth=1", "--"), (f"+{commit}:{ref}",), asked, lock)
    if done.code != 0 and not done.stalled and _WHOLE_ONLY.search(done.err):
        whole = ["--"]
        if os.path.exists(os.path.join(place.repository, "shallow")):
            whole.insert(0, "--unshallow")
        done = _take(remote, place, whole, _ALL, asked, lock)
        if done.code == 0:
            done = _in(place, asked, "update-ref", ref, f"{commit}^{{commit}}")
            if done.code != 0:
                raise git_failure.no_version(commit, shown(remote.url))
    if done.code != 0 or done.stalled:
        if not done.stalled and _NO_COMMIT.search(done.err):
            raise git_failure.no_version(commit, shown(remote.url))
        raise git_failure.failure(done, shown(remote.url))
    # A tag or a tree may have been named; only a commit has files.
    if _in(place, asked, "cat-file", "-e", f"{commit}^{{tree}}").code != 0:
        raise git_failure.no_version(commit, shown(remote.url))


def _take(
    remote: Remote,
    place: Mirror,
    options: Sequence[str],
    refs: Sequence[str],
    asked: Asked,
    lock: int,
) -> Done:
    try:
        return git(
            ("--git-dir", place.repository, *QUIET, "fetch", "--progress", "--no-tags", "--force",
             "--no-write-fetch-head", "--no-recurse-submodules", *options, remote.url, *refs),
            asked.environ, secrets=remote.secrets, remote=remote.url, holding=(lock,),
            tell=asked.console.progress,
        )  # fmt: skip
    finally:
        asked.console.done()


def _prepare(place: Mirror, commit: str, asked: Asked) -> None:
    """Make the bare repository, and clear away what a killed git has left in it."""
    form = "sha256" if len(commit) == 64 else "sha1"
    repository = place.repository
    if not os.path.exists(os.path.join(repository, "HEAD")):
        delete(repository)
        done = git(
            ("init", "--quiet", "--bare", "--template=", f"--object-format={form}", repository),
            asked.environ,
        )
        if done.code != 0:
            raise git_failure.failure(done, repository)
    for directory, _, names in os.walk(repository):
        for name in names:
            if name.endswith(".lock") or name.startswith("tmp_"):
                delete(os.path.join(directory, name))


def _describe(repository: str, commit: str, asked: Asked) -> Commit:
    """Return what a checkout needs beside the commit's own files; raises ProjectError."""
    listed = _checked(_git(repository, asked, "ls-tree", "-r", "-z", commit), repository)
    links, attributes = {}, False
    for row in listed.out.split(b"\0"):
        head, _, path = row.partition(b"\t")
        if head.startswith(b"160000 "):
            links[os.fsdecode(path)] = head.split()[2].decode()
        attributes = attributes or path.rpartition(b"/")[2] == b".gitattributes"
    lfs = False
    if attributes:
        pathspec = ":(glob)**/.gitattributes"
        found = _git(repository, asked, "grep", "-q", "filter=lfs", commit, "--", pathspec)
        lfs = found.code == 0
    urls = _urls(repository, commit, asked) if links else {}
    submodules = tuple((path, urls[path], sha) for path, sha in links.items() if path in urls)
    return Commit(submodules, lfs)


describe = _describe


def _urls(repository: str, commit: str, asked: Asked) -> dict[str, str]:
    """Return the URLs that `.gitmodules` has for paths; those that are not to be updated lack."""
    done = _git(
        repository, asked, "config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp",
        r"^submodule\..*\.(path|url|update)$",
    )  # fmt: skip
    values: dict[str, dict[str, str]] = {}
    for entry in done.out.decode(errors="surrogateescape").split("\0"):
        key, _, value = entry.partition("\n")
        name, _, variable = key.removeprefix("submodule.").rpartition(".")
        if name:
            values.setdefault(name, {})[variable] = value
    return {
        item["path"]: item["url"]
        for item in values.values()
        if "path" in item and "url" in item and item.get("update") != "none"
    }


def _in(place: Mirror, asked: Asked, *arguments: str) -> Done:
    return _git(place.repository, asked, *arguments)


def _git(repository: str, asked: Asked, *arguments: str) -> Done:
    return git(("--git-dir", repository, *QUIET, *arguments), asked.environ)


def _checked(done: Done, repository: str) -> Done:
    if done.code != 0:
        error: BuildrunError = git_failure.failure(done, repository)
        raise error
    return done
