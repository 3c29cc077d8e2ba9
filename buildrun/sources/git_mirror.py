"""Mirrors of remote repositories: versions resolved, commits fetched once."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import xxhash

from buildrun.console import printable
from buildrun.errors import BuildrunError, ProjectError, StoreError, UsageError
from buildrun.sources import git_cli
from buildrun.sources.address import shown
from buildrun.sources.base import SourceRequest
from buildrun.sources.git_cli import Done, Remote, git
from buildrun.store import locks
from buildrun.store.files import publish
from buildrun.store.home import Home
from buildrun.workspace.move import delete

VERSION = 1


class Mirror(NamedTuple):
    """Where the mirror of a URL lies; url: without credentials."""

    directory: str
    url: str

    @property
    def repository(self) -> str:
        """Return the path of the bare repository."""
        return os.path.join(self.directory, "mirror.git")

    @property
    def lock(self) -> str:
        """Return the path of the lock of whoever fetches."""
        return self.directory + ".lock"

    @property
    def use(self) -> str:
        """Return the path of the lock that runs share while they need the objects."""
        return self.directory + ".use"


class Commit(NamedTuple):
    """What is known of a commit that is there whole.

    submodules: path, URL as it stands in the repository, and commit of each.
    lfs: whether it has files that git-lfs keeps.
    """

    submodules: tuple[tuple[str, str, str], ...]
    lfs: bool


class Named(NamedTuple):
    """What a version stood for when the remote was last asked.

    fixed: it is the beginning of a commit's number, and so can stand for nothing else.
    """

    commit: str
    branch: str | None
    fixed: bool


def mirror_of(home: Home, url: str) -> Mirror:
    """Return where the mirror of the URL lies."""
    return Mirror(os.path.join(home.sources, "git", _name(url)), url)


def known_commit(mirror: Mirror, commit: str) -> Commit | None:
    """Return the record of a commit, or None where it is not there."""
    value = _load(os.path.join(mirror.directory, "commits", commit))
    try:
        submodules = tuple(
            (str(path), str(url), str(sha)) for path, url, sha in value["submodules"]
        )
        return Commit(submodules, bool(value["lfs"]))
    except (TypeError, KeyError, ValueError):
        return None


def note_commit(mirror: Mirror, name: str, commit: Commit) -> None:
    """Record that a commit is there; raises OSError."""
    _save(os.path.join(mirror.directory, "commits"), name, commit._asdict())


def named_version(mirror: Mirror, version: str) -> Named | None:
    """Return what a version stood for, or None; "" is the remote's own choice."""
    value = _load(os.path.join(mirror.directory, "versions", _name(version)))
    try:
        commit, branch = value["commit"], value["branch"]
        if isinstance(commit, str) and isinstance(branch, (str, type(None))):
            return Named(commit, branch, bool(value["fixed"]))
    except (TypeError, KeyError):
        pass
    return None


def commits_beginning(mirror: Mirror, start: str) -> Named | None:
    """Return the only commit that is there and whose number begins so; for `--offline`.

    Elsewhere others may begin so as well, so it is not fixed.
    """
    if len(start) < 4:
        return None
    try:
        names = os.listdir(os.path.join(mirror.directory, "commits"))
    except OSError:
        return None
    found = [name for name in names if name.startswith(start.lower()) and "." not in name]
    return Named(found[0], None, fixed=False) if len(found) == 1 else None


def note_version(mirror: Mirror, version: str, found: Named) -> None:
    """Remember it for `--offline`; raises OSError."""
    if named_version(mirror, version) != found:
        _save(os.path.join(mirror.directory, "versions"), _name(version), found._asdict())


def _name(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


def _load(path: str) -> Any:
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
        return value if value["version"] == VERSION else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _save(directory: str, name: str, value: Any) -> None:
    os.makedirs(directory, exist_ok=True)
    publish(os.path.join(directory, name), json.dumps({"version": VERSION, **value}).encode())


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


def ensure(remote: Remote, place: Mirror, commit: str, asked: SourceRequest) -> Commit:
    """Return what is known of a commit that the mirror holds; it is fetched if need be.

    Raises BuildrunError.
    """
    found = known_commit(place, commit)
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
            found = known_commit(place, commit)
            if found is not None:
                return found
            _fetch(remote, place, commit, asked, lock.descriptor)
            found = _describe(place.repository, commit, asked)
            note_commit(place, commit, found)
            return found
    except OSError as error:
        raise StoreError(
            f"the repository cannot be kept: {error.strerror}",
            place=place.directory,
            hint="see that there is room and that you may write there, or set BUILDRUN_HOME",
        ) from None


def refresh(place: Mirror) -> None:
    """Remove a mirror that has turned out to be damaged; it is fetched again."""
    with locks.exclusive(place.lock):
        delete(place.directory)


def _waiting(remote: Remote, asked: SourceRequest) -> None:
    asked.console.note(f"waiting for another run that fetches {shown(remote.url)}")


def _fetch(remote: Remote, place: Mirror, commit: str, asked: SourceRequest, lock: int) -> None:
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
                raise git_cli.no_version(commit, shown(remote.url))
    if done.code != 0 or done.stalled:
        if not done.stalled and _NO_COMMIT.search(done.err):
            raise git_cli.no_version(commit, shown(remote.url))
        raise git_cli.failure(done, shown(remote.url))
    # A tag or a tree may have been named; only a commit has files.
    if _in(place, asked, "cat-file", "-e", f"{commit}^{{tree}}").code != 0:
        raise git_cli.no_version(commit, shown(remote.url))


def _take(
    remote: Remote,
    place: Mirror,
    options: Sequence[str],
    refs: Sequence[str],
    asked: SourceRequest,
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


def _prepare(place: Mirror, commit: str, asked: SourceRequest) -> None:
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
            raise git_cli.failure(done, repository)
    for directory, _, names in os.walk(repository):
        for name in names:
            if name.endswith(".lock") or name.startswith("tmp_"):
                delete(os.path.join(directory, name))


def _describe(repository: str, commit: str, asked: SourceRequest) -> Commit:
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


def _urls(repository: str, commit: str, asked: SourceRequest) -> dict[str, str]:
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


def _in(place: Mirror, asked: SourceRequest, *arguments: str) -> Done:
    return _git(place.repository, asked, *arguments)


def _git(repository: str, asked: SourceRequest, *arguments: str) -> Done:
    return git(("--git-dir", repository, *QUIET, *arguments), asked.environ)


def _checked(done: Done, repository: str) -> Done:
    if done.code != 0:
        error: BuildrunError = git_cli.failure(done, repository)
        raise error
    return done


_WHOLE = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,63}")
# What no name of a branch or tag may hold; see git-check-ref-format.
_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|^/|\.lock$|/\.|^\.")


class ResolvedRevision(NamedTuple):
    """A commit's whole number, and the branch that it was asked for as.

    fixed: the version can stand for nothing else.
    """

    commit: str
    branch: str | None = None
    fixed: bool = False


def checked_version(version: str | None) -> str | None:
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


def is_full_hash(version: str | None) -> str | None:
    """Return the version if it is a commit's whole number."""
    lower = (version or "").lower()
    return lower if _WHOLE.fullmatch(lower) else None


def find(remote: Remote, place: Mirror, asked: SourceRequest) -> ResolvedRevision:
    """Return what the version stands for; the remote is asked where it may have changed.

    Raises ProjectError.
    """
    version = checked_version(asked.version)
    if commit := is_full_hash(version):
        return ResolvedRevision(commit, fixed=True)
    known = named_version(place, version or "") or commits_beginning(place, version or "")
    if known is not None and (asked.offline or known.fixed):
        return ResolvedRevision(
            known.commit, known.branch if version is not None else None, known.fixed
        )
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
        raise git_cli.no_version(version, shown(remote.url))
    note_version(place, version or "", found)
    if version is None and found.branch:
        note_version(place, found.branch, found)
    return ResolvedRevision(
        found.commit, found.branch if version is not None else None, found.fixed
    )


def _listed(remote: Remote, version: str | None, asked: SourceRequest) -> Named | None:
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
        raise git_cli.failure(done, shown(remote.url))
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


def _short(remote: Remote, start: str, asked: SourceRequest) -> Named | None:
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
            raise git_cli.failure(done, shown(remote.url))
        return commit_in(directory, start, asked)


def commit_in(repository: str, start: str, asked: SourceRequest) -> Named | None:
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
