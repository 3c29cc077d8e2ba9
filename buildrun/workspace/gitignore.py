"""What git would ignore, and what it tracks all the same."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import xxhash

from buildrun.store import stat_signature
from buildrun.store.files import read_or_none
from buildrun.workspace import glob, names

_GIT_FILE = b".gitignore"
_OWN_FILE = b".buildrunignore"
_BOM = b"\xef\xbb\xbf"


class Rule(NamedTuple):
    """One line of such a file.

    kind: what its text is compared with: ``name``, ``suffix``, ``path``, ``name glob`` or ``path
    glob``. depth: of a path's glob, how many slashes a path has that it matches; -1 for any.
    """

    text: bytes
    kind: str
    negated: bool
    directories: bool
    depth: int


class Rules:
    """The rules of one file.

    base: the directory it counts for, relative to the project's root; empty for what is above.
    outer: what leads from its directory down to the root, where it lies above.
    """

    def __init__(self, base: bytes, outer: bytes, content: bytes) -> None:
        """Take the file's content."""
        self._base = len(base)
        self._outer = outer
        self._rules = tuple(_parse(content))
        self._names = frozenset(rule.text for rule in self._rules if rule.kind == "name")
        self._suffixes = tuple({rule.text for rule in self._rules if rule.kind == "suffix"})
        self._paths: dict[bytes, set[bytes]] = {}
        for rule in self._rules:
            if rule.kind == "path":
                directory, slash, name = rule.text.rpartition(b"/")
                self._paths.setdefault(directory + slash, set()).add(name)
        self._globs = tuple(rule for rule in self._rules if rule.kind.endswith(" glob"))
        self._compiled: dict[Rule, Callable[[bytes], object]] = {}

    def candidates(self, below: bytes, held: list[bytes]) -> set[bytes]:
        """Return the names in a directory that a rule might match."""
        directory = self._outer + below[self._base :]
        found = set(self._names.intersection(held))
        if directory in self._paths:
            found |= self._paths[directory].intersection(held)
        if self._suffixes:
            suffixes = self._suffixes
            found.update([name for name in held if name.endswith(suffixes)])
        depth = directory.count(b"/")
        for rule in self._globs:
            if rule.depth in (-1, depth):
                matching = self._expression(rule)
                if rule.kind == "name glob":
                    found.update([name for name in held if matching(name)])
                else:
                    found.update([name for name in held if matching(directory + name)])
        return found

    def verdict(self, below: bytes, name: bytes, *, directory: bool) -> bool | None:
        """Return whether the last rule that matches ignores it; None where none matches."""
        return self._last(self._outer + below[self._base :] + name, name, directory=directory)

    def verdict_above(self, rest: bytes) -> bool | None:
        """Return the same for a directory above the root, which this leads from to the root."""
        path = self._outer[: len(self._outer) - len(rest) - 1]
        name = path.rpartition(b"/")[2]
        return self._last(path, name, directory=True)

    def _last(self, path: bytes, name: bytes, *, directory: bool) -> bool | None:
        for rule in reversed(self._rules):
            if (directory or not rule.directories) and self._matches(rule, path, name):
                return not rule.negated
        return None

    def _matches(self, rule: Rule, path: bytes, name: bytes) -> bool:
        if rule.kind == "name":
            return name == rule.text
        if rule.kind == "suffix":
            return name.endswith(rule.text)
        if rule.kind == "path":
            return path == rule.text
        subject = name if rule.kind == "name glob" else path
        return self._expression(rule)(subject) is not None

    def _expression(self, rule: Rule) -> Callable[[bytes], object]:
        if rule not in self._compiled:
            self._compiled[rule] = _compile(rule).fullmatch
        return self._compiled[rule]


def is_directory(name: bytes, descriptor: int) -> bool:
    """Return whether an entry of an open directory is a directory."""
    try:
        return stat.S_ISDIR(os.lstat(name, dir_fd=descriptor).st_mode)
    except OSError:
        return False  # gone since the directory was listed


def _verdict(chain: Sequence[Rules], below: bytes, name: bytes, *, directory: bool) -> bool | None:
    return _first(rules.verdict(below, name, directory=directory) for rules in reversed(chain))


def _first(verdicts: Iterable[bool | None]) -> bool | None:
    return next((said for said in verdicts if said is not None), None)


def _parse(content: bytes) -> Iterator[Rule]:
    """Yield the rules, as ``add_patterns_from_buffer`` in git's ``dir.c`` reads them."""
    if content.startswith(_BOM):
        content = content[len(_BOM) :]
    for line in content.split(b"\n"):
        text = _without_blanks(line[:-1] if line.endswith(b"\r") else line)
        if text and text[0] != 0x23 and b"\0" not in text:  # a comment begins with #
            negated = text[0] == 0x21  # !
            yield _rule(text[1:] if negated else text, negated=negated)


def _without_blanks(line: bytes) -> bytes:
    """Return a line without the blanks at its end, save one that a backslash keeps."""
    kept = position = 0
    while position < len(line):
        if line[position] == 0x5C:
            position += 2
            kept = position
        else:
            position += 1
            if line[position - 1] != 0x20:
                kept = position
    return line[:kept]


def _rule(text: bytes, *, negated: bool) -> Rule:
    directories = text.endswith(b"/")
    if directories:
        text = text[:-1]
    if b"/" not in text:
        if not _is_glob(text):
            return Rule(text, "name", negated, directories, 0)
        if text[0] == 0x2A and not _is_glob(text[1:]):
            return Rule(text[1:], "suffix", negated, directories, 0)
        return Rule(text, "name glob", negated, directories, -1)
    text = text[1:] if text.startswith(b"/") else text
    if not _is_glob(text):
        return Rule(text, "path", negated, directories, 0)
    depth = -1 if b"**" in text else text.count(b"/")
    return Rule(text, "path glob", negated, directories, depth)


def _is_glob(text: bytes) -> bool:
    return glob.is_glob(text.decode("latin-1"))


def _compile(rule: Rule) -> re.Pattern[bytes]:
    # One character for each byte: git knows of no encodings.
    text = rule.text.decode("latin-1")
    # git compares what comes before the first glob character by itself, so that `**` right after
    # it is taken for one at the beginning.
    literal = re.match(r"[^*?\[\\]*", text)
    plain = literal.group() if literal is not None and rule.kind == "path glob" else ""
    expression = re.escape(plain) + glob.translate(text[len(plain) :])
    return re.compile(expression.encode("latin-1"), re.DOTALL)


class Repository(NamedTuple):
    """The git repository that a project is part of.

    inner: what leads from its top to the project. index_file, exclude_file: may be absent.
    """

    top: bytes
    inner: bytes
    index_file: bytes
    exclude_file: bytes


def repository(root: bytes) -> Repository | None:
    """Return the repository that a directory belongs to, if any."""
    inner = b""
    top = os.path.abspath(root)
    while True:
        if (own := _own_directory(os.path.join(top, b".git"))) is not None:
            common = _common(own)
            if not all(map(_is_plain, (own + b"/HEAD", own + b"/index", common + b"/config"))):
                return None  # git would wait for ever
            exclude = os.path.join(common, b"info", b"exclude")
            return Repository(top, inner, os.path.join(own, b"index"), exclude)
        above, name = os.path.split(top)
        if above == top:
            return None
        inner = name + b"/" + inner
        top = above


def _is_plain(path: bytes) -> bool:
    return os.path.isfile(path) or not os.path.exists(path)


def _own_directory(dot_git: bytes) -> bytes | None:
    try:
        mode = os.stat(dot_git).st_mode
    except OSError:
        return None
    if stat.S_ISDIR(mode):
        return dot_git if os.path.exists(os.path.join(dot_git, b"HEAD")) else None
    text = read_or_none(dot_git, follow=True) or b""  # a worktree or a submodule
    if not text.startswith(b"gitdir: "):
        return None
    return os.path.join(os.path.dirname(dot_git), text[len(b"gitdir: ") :].rstrip(b"\r\n"))


def _common(own: bytes) -> bytes:
    text = read_or_none(os.path.join(own, b"commondir"), follow=True)
    return own if text is None else os.path.join(own, text.rstrip(b"\r\n"))


class Filter:
    """Chooses what belongs to a project, directory by directory; for one walk from the root."""

    def __init__(self, root: bytes) -> None:
        """Read the rules that lie above the root."""
        self._root = root
        self._repository = repository(root)
        # A digest of all rules of git that were read.
        self._seen = xxhash.xxh3_128()
        # Whether they have left anything out, and whether git would wait for ever.
        self._ignored = self._stuck = False
        self._git: dict[bytes, tuple[Rules, ...]] = {}
        self._own: dict[bytes, tuple[Rules, ...]] = {}
        found = self._repository
        self._outer = () if found is None else tuple(self._above(found))

    @property
    def entered(self) -> frozenset[bytes]:
        """Return the directories of the project, with a slash at their end."""
        return frozenset(self._git)

    def __call__(self, below: bytes, held: list[bytes], descriptor: int) -> list[bytes]:
        """Return the names in a directory that belong to the project."""
        if below and any(mark in held for mark in names.ENVIRONMENT):
            return []
        git, own = self._rules_of(below, held)
        dropped = names.always_ignored(held)
        candidates: set[bytes] = set()
        for rules in (*git, *own):
            candidates |= rules.candidates(below, held)
        for name in candidates - dropped:
            directory = is_directory(name, descriptor)
            said = _verdict(own, below, name, directory=directory)
            if said is None and (said := _verdict(git, below, name, directory=directory)):
                self._ignored = True
            if said:
                dropped.add(name)
        return [name for name in held if name not in dropped] if dropped else held

    def tracked(self, index: GitIndex) -> list[bytes]:
        """Return the files that git tracks although its rules, and no others, leave them out."""
        if not self._ignored or self._stuck or self._repository is None:
            return []
        found = index.though_ignored(self._root, self._repository, self._seen.hexdigest())
        return [path for path in found if not self._leaves_out(path)]

    def _leaves_out(self, path: bytes) -> bool:
        """Return whether a tracked file is left out all the same, by its name or by own rules."""
        below = b""
        own: tuple[Rules, ...] = ()
        parts = path.split(b"/")
        for number, name in enumerate(parts):
            own = self._own_rules(below, own, present=True)
            directory = number + 1 < len(parts)
            if names.is_always_ignored(name) or _verdict(own, below, name, directory=directory):
                return True
            below += name + b"/"
            if directory and any(
                os.path.lexists(os.path.join(self._root, below, mark)) for mark in names.ENVIRONMENT
            ):
                return True
        return False

    def _rules_of(
        self, below: bytes, held: list[bytes]
    ) -> tuple[tuple[Rules, ...], tuple[Rules, ...]]:
        above = below[: below.rfind(b"/", 0, -1) + 1]
        git = self._git[above] if below else self._outer
        if _GIT_FILE in held:
            path = os.path.join(self._root, below, _GIT_FILE)
            content = read_or_none(path)
            self._stuck = self._stuck or not _is_plain(path)  # git would wait for a pipe
            if content is not None:
                self._note(below, content)
                git = (*git, Rules(below, b"", content))
        own = self._own_rules(below, self._own[above] if below else (), present=_OWN_FILE in held)
        self._git[below], self._own[below] = git, own
        return git, own

    def _own_rules(
        self, below: bytes, above: tuple[Rules, ...], *, present: bool
    ) -> tuple[Rules, ...]:
        if not present:
            return above
        if below in self._own:
            return self._own[below]
        content = read_or_none(os.path.join(self._root, below, _OWN_FILE))
        return above if content is None else (*above, Rules(below, b"", content))

    def _above(self, repository: Repository) -> Iterable[Rules]:
        """Return the rules from above the root: none where they ignore the root itself.

        A project in a directory that its repository ignores has nothing to do with it.
        """
        found: list[Rules] = []
        rest = repository.inner
        content = read_or_none(repository.exclude_file, follow=True)
        if content is not None:
            found.append(Rules(b"", rest, content))
            self._note(b"exclude", content)
        directory = repository.top
        while rest:
            content = read_or_none(os.path.join(directory, _GIT_FILE))
            if content is not None:
                found.append(Rules(b"", rest, content))
                self._note(b"../" + rest, content)
            name, _, rest = rest.partition(b"/")
            directory = os.path.join(directory, name)
            if _first(rules.verdict_above(rest) for rules in reversed(found)):
                return ()
        return found

    def _note(self, place: bytes, content: bytes) -> None:
        self._seen.update(b"%d %d " % (len(place), len(content)) + place + content)


# git would look at the user's own rules.
_LS_FILES = (
    "-c", "core.excludesFile=", "ls-files", "-z", "--cached", "--ignored", "--exclude-standard",
)  # fmt: skip


class GitIndex:
    """Asks git, once for each state of its index and of the rules.

    Where there is no git, or it refuses the repository, no such files are known.
    """

    def __init__(self, remembered: Any) -> None:
        """Take what is known."""
        self.remembered = remembered if isinstance(remembered, dict) else {}

    def though_ignored(self, root: bytes, repository: Repository, rules: str) -> tuple[bytes, ...]:
        """Return the relative paths of what is tracked and ignored; rules: a digest of git's."""
        began = time.time_ns()
        try:
            seen = stat_signature.of(os.stat(repository.index_file))
        except OSError:
            return ()  # nothing was ever added
        state = [seen.hex(), rules]
        try:
            if self.remembered["state"] == state:
                return tuple([os.fsencode(path) for path in self.remembered["paths"]])
        except (KeyError, TypeError, ValueError):
            pass
        said = ask_git(root, os.environ, *_LS_FILES) or b""
        paths = tuple(sorted(set(said.split(b"\0")) - {b""}))
        if not stat_signature.is_racy(seen, began):
            self.remembered = {"state": state, "paths": [os.fsdecode(path) for path in paths]}
        return paths


def ask_git(directory: str | bytes, environ: Mapping[str, str], *words: str) -> bytes | None:
    """Return what git says in a directory; None where it is missing, slow or refuses."""
    import subprocess

    # What steers git elsewhere, as it does within a hook, is not meant for this repository.
    own = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            # git would run what a repository's configuration names.
            ("git", "-c", "core.fsmonitor=false", *words),
            cwd=directory,
            env={**own, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
