"""The bare mirror of a remote repository, shared by all runs of it.

Below ``sources/git/``, one directory a URL: `mirror.git`; `commits/`, one record for each commit
that is there whole; `versions/`, what each branch, tag or short commit last stood for. Only
whoever holds the lock fetches. A record is written last, so what a killed fetch has left is
fetched again. Nothing is ever taken out of a mirror but the whole of it.
"""

import json
import os
from typing import Any, NamedTuple

import xxhash

from buildrun.files import publish
from buildrun.home import Home

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


def known(mirror: Mirror, commit: str) -> Commit | None:
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


def named(mirror: Mirror, version: str) -> Named | None:
    """Return what a version stood for, or None; "" is the remote's own choice."""
    value = _load(os.path.join(mirror.directory, "versions", _name(version)))
    try:
        commit, branch = value["commit"], value["branch"]
        if isinstance(commit, str) and isinstance(branch, (str, type(None))):
            return Named(commit, branch, bool(value["fixed"]))
    except (TypeError, KeyError):
        pass
    return None


def begins(mirror: Mirror, start: str) -> Named | None:
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
    if named(mirror, version) != found:
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
