"""Mirrors of remote repositories: versions resolved, commits fetched once."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple, TypeVar

import xxhash

from buildrun.console import printable
from buildrun.errors import ProjectError, StoreError, UsageError
from buildrun.sources.address import shown
from buildrun.sources.base import SourceRequest
from buildrun.sources.git_cli import Done, Remote, check, git, no_version
from buildrun.store import locks
from buildrun.store.files import publish
from buildrun.workspace.move import delete

# Of the records of commits and versions.
_FORMAT = 1
# A server that hands out no single commits, or no shallow histories: all of it is taken.
_WHOLE_ONLY = re.compile(
    r"unadvertised object|dumb http transport does not support shallow|does not support shallow"
    r"|server does not support --|couldn't find remote ref",
    re.IGNORECASE,
)
_NO_COMMIT = re.compile(r"not our ref|couldn't find remote ref|bad object|not a commit", re.I)
_EVERYTHING = ("+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
_WHOLE = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT = re.compile(r"[0-9a-f]{4,63}")
# What no name of a branch or tag may hold; see git-check-ref-format.
_NEVER = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/$|\.$|^/|\.lock$|/\.|^\.")


class Revision(NamedTuple):
    """What a version stands for; fixed: it can stand for nothing else at another time."""

    commit: str
    branch: str | None = None
    fixed: bool = False


class Commit(NamedTuple):
    """What a checkout needs beside a commit's own files."""

    submodules: Sequence[tuple[str, str, str]]  # path, URL as it stands there, and commit of each
    lfs: bool  # git-lfs has files of it


_Record = TypeVar("_Record", Revision, Commit)


class Mirror:
    """What was fetched of a remote repository."""

    def __init__(self, remote: Remote, request: SourceRequest) -> None:
        """Name the places of the remote's mirror, which may be absent."""
        self._remote = remote
        self._request = request
        self._shown = shown(remote.url)
        self._directory = os.path.join(request.home.sources, "git", _digest(remote.url))
        self.repository = os.path.join(self._directory, "mirror.git")
        self.use = self._directory + ".use"

    def resolve(self, version: str | None) -> Revision:
        """Return what the version stands for; the remote is asked where that may have changed."""
        if version is not None and is_whole(version):
            return Revision(version.lower(), fixed=True)
        record = os.path.join(self._directory, "versions", _digest(version or ""))
        known = _load(record, Revision)
        if known is not None and (self._request.offline or known.fixed):
            return known
        if self._request.offline:
            # Elsewhere other commits may begin so as well, so it is not fixed.
            if version is not None and _SHORT.fullmatch(version.lower()):
                commit = commit_in(self.repository, version, self._request.environ)
                if commit is not None:
                    return Revision(commit)
            raise self._never_fetched(f"`{version}` of " if version else "")
        found = self._ask_remote(version)
        with self._writing():
            _save(record, found)
            if version is None and found.branch:
                _save(os.path.join(os.path.dirname(record), _digest(found.branch)), found)
        return found

    def fetch(self, commit: str) -> Commit:
        """Fetch a commit if it is not there, and return what it needs; raises BuildrunError."""
        record = os.path.join(self._directory, "commits", commit)
        if self._request.offline and _load(record, Commit) is None:
            raise self._never_fetched(f"commit {commit[:12]} of ")

        def acquire() -> locks.Lock:
            os.makedirs(self._directory, exist_ok=True)
            note = f"waiting for another run that fetches {self._shown}"
            waiting = partial(self._request.console.note, note)
            return locks.exclusive(self._directory + ".lock", waiting=waiting)

        def fetch(lock: locks.Lock) -> Commit:
            self._fetch(commit, lock.descriptor)
            described = describe(self.repository, commit, self._request.environ)
            _save(record, described)
            return described

        with self._writing():
            return locks.once(lambda: _load(record, Commit), fetch, acquire)

    def remove(self) -> None:
        """Remove it, since it has turned out to be damaged."""
        with locks.exclusive(self._directory + ".lock"):
            delete(self._directory)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the repository cannot be kept: {error.strerror}",
                place=self._directory,
                hint="see that there is room and that you may write there, or set BUILDRUN_HOME",
            ) from None

    def _never_fetched(self, what: str) -> ProjectError:
        return ProjectError(
            f"{what}`{self._shown}` was never fetched, and nothing is with `--offline`",
            hint="run once without `--offline`",
        )

    def _ask_remote(self, version: str | None) -> Revision:
        """Return what the version stands for at the remote; a branch comes before a tag."""
        if version is None:
            patterns = ["HEAD"]
        elif version.startswith("refs/"):
            patterns = [version + "^{}", version]
        else:
            tag = f"refs/tags/{version}"
            patterns = [f"refs/heads/{version}", tag + "^{}", tag]
        done = self._call("ls-remote", "--symref", "--", self._remote.url, *patterns)
        check(done, self._shown)
        lines = done.out.decode(errors="surrogateescape").splitlines()
        found = {name: value for value, _, name in (line.partition("\t") for line in lines)}
        name = next((name for name in patterns if is_whole(found.get(name, ""))), None)
        if name is None and version is not None and _SHORT.fullmatch(version.lower()):
            return self._find_short(version.lower())
        if name is None:
            if version is None:
                raise ProjectError(f"the repository at `{self._shown}` has no commits")
            raise no_version(version, self._shown)
        branch = version if name.startswith("refs/heads/") else None
        if version is None:
            head = re.search(rb"^ref: refs/heads/(.+)\tHEAD$", done.out, re.MULTILINE)
            branch = os.fsdecode(head[1]) if head else None
        return Revision(found[name], branch)

    def _find_short(self, start: str) -> Revision:
        """Return the only commit whose number begins so, among all: no server tells it."""
        self._request.console.note(f"looking for commit {start} in {self._shown}")
        os.makedirs(self._request.home.sources, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="commits-", dir=self._request.home.sources
        ) as there:
            done = self._call(
                "clone", "--bare", "--quiet", "--progress",
                "--no-local", "--filter=tree:0", "--template=", "--", self._remote.url, there,
            )  # fmt: skip
            check(done, self._shown)
            commit = commit_in(there, start, self._request.environ)
        if commit is None:
            raise no_version(start, self._shown)
        return Revision(commit, fixed=True)

    def _fetch(self, commit: str, lock: int) -> None:
        self._prepare(commit)
        self._request.console.note(f"fetching {commit[:12]} of {self._shown}")
        refs = (f"+{commit}:refs/buildrun/{commit}",)
        done = self._fetch_refs(("--depth=1",), refs, lock)
        if done.code != 0 and _WHOLE_ONLY.search(done.err):
            is_shallow = os.path.exists(os.path.join(self.repository, "shallow"))
            done = self._fetch_refs(("--unshallow",) if is_shallow else (), _EVERYTHING, lock)
        if not _NO_COMMIT.search(done.err):
            check(done, self._shown)
        # It may not be there, or be something else than a commit.
        if commit_in(self.repository, commit, self._request.environ) is None:
            raise no_version(commit, self._shown)

    def _prepare(self, commit: str) -> None:
        """Make the bare repository, and clear away what a killed git has left in it."""
        form = "sha256" if len(commit) == 64 else "sha1"
        arguments = ("init", "--quiet", "--bare", "--template=", f"--object-format={form}")
        check(git((*arguments, self.repository), self._request.environ), self.repository)
        for directory, _, names in os.walk(self.repository):
            for name in names:
                if name.endswith(".lock") or name.startswith("tmp_"):
                    delete(os.path.join(directory, name))

    def _fetch_refs(self, options: Sequence[str], refs: Sequence[str], lock: int) -> Done:
        return self._call(
            "--git-dir", self.repository, "fetch", "--progress", "--no-tags", "--force",
            "--no-write-fetch-head", "--no-recurse-submodules", *options, "--", self._remote.url,
            *refs, holding=(lock,),
        )  # fmt: skip

    def _call(self, *arguments: str, holding: Sequence[int] = ()) -> Done:
        """Return how git ended that speaks to the remote; its progress is shown."""
        request = self._request
        try:
            return git(
                arguments, request.environ, remote=self._remote, holding=holding,
                progress=request.console.progress,
            )  # fmt: skip
        finally:
            request.console.done()


def check_version(version: str | None) -> None:
    """Raise UsageError for what can be no branch, tag or commit."""
    if version is None:
        return
    if not version:
        raise UsageError("the version is empty", hint="give a branch, a tag or a commit")
    if version.startswith("-"):
        raise UsageError(f"`{printable(version)}` is an option, not a version")
    if _NEVER.search(version) or not version.isprintable():
        raise UsageError(
            f"`{printable(version)}` cannot be a branch, a tag or a commit",
            hint="give one of these as git shows it",
        )


def is_whole(version: str) -> bool:
    """Return whether it is a commit's whole number."""
    return _WHOLE.fullmatch(version.lower()) is not None


def commit_in(repository: str, version: str, environ: Mapping[str, str]) -> str | None:
    """Return the commit of a name or a number's beginning, or None; raises where several fit."""
    done = _inside(repository, environ, "rev-parse", "--verify", f"{version}^{{commit}}")
    if "ambiguous" in done.err and done.code != 0:
        raise ProjectError(
            f"several commits begin with `{version}`", hint="give more of the commit's number"
        )
    return done.text if done.code == 0 else None


def describe(repository: str, commit: str, environ: Mapping[str, str]) -> Commit:
    """Return what a checkout needs beside the commit's own files; raises BuildrunError."""
    urls = _submodule_urls(repository, commit, environ)
    listed = _inside(repository, environ, "ls-tree", "-z", commit, "--", *urls)
    check(listed, repository)
    submodules = []
    for row in os.fsdecode(listed.out).split("\0"):
        head, _, path = row.partition("\t")
        if head.startswith("160000 ") and path in urls:
            submodules.append((path, urls[path], head.split()[2]))
    arguments = ("grep", "-q", "filter=lfs", commit, "--", ":(glob)**/.gitattributes")
    return Commit(submodules, lfs=_inside(repository, environ, *arguments).code == 0)


def _submodule_urls(repository: str, commit: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the URLs that `.gitmodules` has for paths; those that are not to be updated lack."""
    arguments = ("config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp")
    done = _inside(repository, environ, *arguments, r"^submodule\..*\.(path|url|update)$")
    modules: dict[str, dict[str, str]] = {}
    for entry in os.fsdecode(done.out).split("\0"):
        key, _, value = entry.partition("\n")
        name, _, variable = key.removeprefix("submodule.").rpartition(".")
        modules.setdefault(name, {})[variable] = value
    return {
        module["path"]: module["url"]
        for module in modules.values()
        if {"path", "url"} <= module.keys() and module.get("update") != "none"
    }


def _inside(repository: str, environ: Mapping[str, str], *arguments: str) -> Done:
    return git(("--git-dir", repository, *arguments), environ)


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode(errors="surrogateescape"))


def _load(path: str, kind: type[_Record]) -> _Record | None:
    """Return a record, or None where there is none that can be read."""
    try:
        with open(path, "rb") as file:
            value = json.load(file)
        return kind(**value) if value.pop("version") == _FORMAT else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _save(path: str, record: Revision | Commit) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    publish(path, json.dumps({"version": _FORMAT, **record._asdict()}).encode())
