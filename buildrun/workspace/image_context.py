"""The files of a project that go into an image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from buildrun.errors import ProjectError
from buildrun.store import files
from buildrun.workspace import dockerignore, gitignore, names, select
from buildrun.workspace.dockerignore import Rules
from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.walk import Selection

if TYPE_CHECKING:
    from buildrun.store.home import Home
    from buildrun.workspace.gitignore import GitIndex
    from buildrun.workspace.select import FileSet

# A file of rules that is larger is something else.
_LARGEST = 1 << 20


class Content(NamedTuple):
    """What goes into an image; secrets: paths left out for their names alone."""

    taken: FileSet
    secrets: tuple[str, ...]


def fingerprints(home: Home, root: str) -> Fingerprints:
    """Return what knows the files of a project's image."""
    return Fingerprints(root, home.about(root, "image"))


def content(
    root: str, outputs: Iterable[str], known: Fingerprints, leaving: Iterable[str] = ()
) -> Content:
    """Return what goes into the project's image, less some paths.

    Raises ProjectError for what cannot be read, and for a malformed ``.dockerignore``.
    """
    rules = _rules(root)
    dropped = sorted({*outputs, *leaving})
    secrets: set[str] = set()

    def selected(top: bytes, tracked: GitIndex) -> Selection:
        return select.without_logs(select.without(_select(top, tracked, rules, secrets), dropped))

    taken = known.selected(selected)
    if taken.problems:
        raise ProjectError(
            f"the image cannot be made: {taken.problems[0]}",
            place=root,
            hint=f"name it in {dockerignore.NAME} to leave it out",
        )
    return Content(taken, tuple(sorted(secrets)))


def _rules(root: str) -> Rules:
    path = os.path.join(root, dockerignore.NAME)
    try:
        return dockerignore.parse(files.read(path, limit=_LARGEST), place=path)
    except FileNotFoundError:
        return Rules()
    except OSError as error:
        raise ProjectError(f"it cannot be read: {error.strerror}", place=path) from error


def _select(root: bytes, tracked: GitIndex, rules: Rules, secrets: set[str]) -> Selection:
    git = gitignore.Filter(root)
    choose = _Filter(git, rules, secrets)
    return select.filtered(root, tracked, git, choose, lambda path: _is_out(path, rules))


def _is_out(path: bytes, rules: Rules) -> bool:
    """Return whether a tracked file is left out by its name or by ``.dockerignore``."""
    parts = os.fsdecode(path).split("/")
    each = ["/".join(parts[: number + 1]) for number in range(len(parts))]
    secret = any(is_secret(name) and not rules.brings_back(name) for name in each)
    return secret or rules.leaves_out(os.fsdecode(path))


class _Filter:
    """Chooses what goes into an image, directory by directory; for one walk from the root."""

    def __init__(self, git: gitignore.Filter, rules: Rules, secrets: set[str]) -> None:
        self._git = git
        self._rules = rules
        self._secrets = secrets
        # Directories that are left out, and entered for what is brought back from beneath.
        self._closed: set[bytes] = set()

    def __call__(self, below: bytes, held: list[bytes], descriptor: int) -> list[bytes]:
        """Return the names that count."""
        if below and any(mark in held for mark in names.ENVIRONMENT):
            return []
        kept = frozenset(self._git(below, held, descriptor))
        closed = below in self._closed
        return [
            name for name in held if self._counts(below, name, descriptor, closed, name in kept)
        ]

    def _counts(
        self, below: bytes, name: bytes, descriptor: int, closed: bool, git_keeps: bool
    ) -> bool:
        if names.is_always_ignored(name):
            return False
        path, rules = os.fsdecode(below + name), self._rules
        secret = is_secret(path)
        if closed or secret or not git_keeps:
            if rules and rules.brings_back(path):
                return True
            if (
                rules
                and rules.may_bring_back(path, spelled=True)
                and gitignore.is_directory(name, descriptor)
            ):
                self._closed.add(below + name + b"/")
                return True
            if secret and git_keeps and not closed and not rules.leaves_out(path):
                self._secrets.add(path)
            return False
        if not rules or not rules.leaves_out(path):
            return True
        return rules.may_bring_back(path, spelled=False) and gitignore.is_directory(
            name, descriptor
        )


# Files that hold nothing else, by the programs that write them.
_NAMES = frozenset(
    {".env", ".netrc", ".pypirc", ".git-credentials", ".databrickscfg", ".aws", ".ssh"}
)
_STARTS = ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519")
_ENDS = (".pem",)
# Beneath a directory of that name.
_WITHIN = {".docker": "config.json"}
# Shows which variables there are, without their values.
_EXAMPLE = ".env.example"


def is_secret(path: str) -> bool:
    """Return whether a file or directory is left out of images unless it is asked for by name."""
    directory, name = os.path.split(path)
    if name in _NAMES or name.startswith(_STARTS) or name.endswith(_ENDS):
        return True
    if name.startswith(".env.") and name != _EXAMPLE:
        return True
    within = _WITHIN.get(os.path.basename(directory))
    return within is not None and name == within
