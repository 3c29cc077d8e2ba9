"""The files of a project that go into an image, and what .dockerignore leaves out."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from buildrun.errors import ProjectError
from buildrun.store import files, own_files
from buildrun.workspace import gitignore, glob, names, select
from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.walk import Selection

if TYPE_CHECKING:
    from buildrun.store.home import Home
    from buildrun.workspace.gitignore import GitIndex
    from buildrun.workspace.select import FileSet

DOCKERIGNORE = ".dockerignore"
_BOM = b"\xef\xbb\xbf"
_ANY_DEPTH = "**"
# What Go's strings.TrimSpace takes off.
_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
# A file of rules that is larger is something else.
_LARGEST = 1 << 20


class Content(NamedTuple):
    """What goes into an image; secrets: paths left out for their names alone."""

    taken: FileSet
    secrets: tuple[str, ...]


def fingerprints(home: Home, root: str) -> Fingerprints:
    """Return what knows the files of a project's image."""
    ours = own_files.below(home, root)
    return Fingerprints(root, home.about(root, "image"), without=ours)


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
            hint=f"name it in {DOCKERIGNORE} to leave it out",
        )
    return Content(taken, tuple(sorted(secrets)))


def paths(home: Home, root: str, outputs: Iterable[str]) -> frozenset[str]:
    """Return the paths of the files that go into the project's image; raises ProjectError."""
    found = content(root, outputs, fingerprints(home, root))
    return frozenset(entry.path for entry in found.taken.entries())


def _rules(root: str) -> Rules:
    path = os.path.join(root, DOCKERIGNORE)
    try:
        return parse(files.read(path, limit=_LARGEST), place=path)
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


class Pattern(NamedTuple):
    """One line, cleaned; parts: matchers of each, None for one that crosses directories."""

    text: str
    exception: bool
    matches: Callable[[str], bool]
    parts: tuple[Callable[[str], bool] | None, ...]

    @property
    def spells(self) -> bool:
        """Return whether its last part says more than "anything"."""
        return self.text.rpartition("/")[2].strip("*?") != ""


class Rules:
    """The patterns of a file, in order."""

    def __init__(self, patterns: Sequence[Pattern] = ()) -> None:
        """Take the patterns."""
        self._patterns = tuple(patterns)
        self._exceptions = tuple(pattern for pattern in patterns if pattern.exception)

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._patterns)

    def leaves_out(self, path: str) -> bool:
        """Return whether a path is left out of the image."""
        out, parts = False, path.split("/")
        lines = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
        for pattern in self._patterns:
            if pattern.exception == out and any(map(pattern.matches, lines)):
                out = not pattern.exception
        return out

    def brings_back(self, path: str) -> bool:
        """Return whether the last pattern that means the path itself brings it back.

        A pattern whose last part is only a star brings nothing back that others leave out.
        """
        for pattern in reversed(self._patterns):
            if pattern.matches(path):
                return pattern.exception and pattern.spells
        return False

    def may_bring_back(self, directory: str, *, spelled: bool) -> bool:
        """Return whether there may be something beneath a directory to bring back.

        spelled: only what a pattern spells out, not what ``**`` may come to, counts.
        """
        names = directory.split("/")
        return any(
            _leads_into(pattern.parts, names, spelled=spelled)
            for pattern in self._exceptions
            if pattern.spells or not spelled
        )


def parse(content: bytes, *, place: str = DOCKERIGNORE) -> Rules:
    """Return the rules of a file; raises ProjectError for a malformed pattern."""
    content = content.removeprefix(_BOM)
    patterns = []
    for number, line in enumerate(content.decode(errors="surrogateescape").split("\n"), 1):
        if line.startswith("#"):
            continue
        text = line.strip(_BLANKS)
        if not text:
            continue
        exception = text.startswith("!")
        text = _clean(text[1:].strip(_BLANKS)) if exception else _clean(text)
        if not text or glob.translate(text, docker=True) == glob.NEVER:
            raise ProjectError(
                "this pattern is malformed",
                place=f"{place}:{number}",
                hint="see https://docs.docker.com/build/concepts/context/#dockerignore-files",
            )
        patterns.append(_pattern(text, exception=exception))
    return Rules(patterns)


def _clean(text: str) -> str:
    """Return a path as Go's ``filepath.Clean`` has it, relative to the context."""
    if not text:
        return ""
    text = posixpath.normpath(text)
    if text.startswith("//"):
        text = text[1:]
    return text[1:] if len(text) > 1 and text[0] == "/" else text


def _pattern(text: str, *, exception: bool) -> Pattern:
    parts = tuple(None if _ANY_DEPTH in part else _matcher(part) for part in text.split("/"))
    return Pattern(text, exception, _matcher(text), parts)


def _matcher(text: str) -> Callable[[str], bool]:
    if not re.search(r"[*?\[\]\\]", text):
        return text.__eq__
    if text.startswith(_ANY_DEPTH) and not re.search(r"[*?\[\]\\]", text[2:]):
        # By the end of the path alone, as Docker has it: `**name` means `othername` too.
        end = text[2:]
        return lambda path: path.endswith(end) or "/" + path == end
    matching = re.compile(glob.translate(text, docker=True)).fullmatch
    return lambda path: matching(path) is not None


def _leads_into(
    parts: Sequence[Callable[[str], bool] | None], names: Sequence[str], *, spelled: bool
) -> bool:
    for number, name in enumerate(names):
        if number >= len(parts):
            return False
        matches = parts[number]
        if matches is None:
            return not spelled
        if not matches(name):
            return False
    return len(parts) > len(names)
