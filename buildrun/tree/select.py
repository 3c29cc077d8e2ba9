"""Which files a step reads and writes: selections of a project's tree."""

import os
import posixpath
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress

from buildrun.tree import ignore, links, names, own_output, patterns, signature
from buildrun.tree.shown import shown
from buildrun.tree.taken import Selection
from buildrun.tree.tracked import Tracked
from buildrun.tree.walk import everything, walk

_MLPROJECT = "MLproject"


class Sink:
    """Gathers what is found, each path once.

    passing_over: whether devices, sockets and pipes are; else they are problems.
    """

    def __init__(self, *, passing_over: bool = False) -> None:
        """Start with nothing."""
        self._passing_over = passing_over
        self.found: dict[bytes, bytes] = {}
        self.entered: set[bytes] = set()
        self.problems: dict[bytes, str] = {}

    def trouble(self, path: bytes, error: OSError) -> None:
        """Take a path that cannot be looked at, and why."""
        name = path.rstrip(b"/") or b"."
        self.problems[name] = f"`{shown(name)}` cannot be read: {error.strerror}"

    def odd(self, path: bytes) -> None:
        """Take the path of a device, a socket or a pipe."""
        if not self._passing_over:
            self.problems[path] = f"`{shown(path)}` is neither a file nor a directory"

    def add(self, path: bytes, seen: bytes) -> None:
        """Take a file or a link."""
        if signature.is_file(seen) or signature.is_link(seen):
            self.found[path] = seen
        else:
            self.odd(path)

    def enter(self, below: bytes, *, empty: bool) -> None:
        """Take a directory that is looked into; where it is empty, that counts."""
        self.entered.add(below)
        if empty and below:
            self.found.setdefault(below[:-1], signature.DIRECTORY)

    def selection(self, *unmatched: str, doors: Iterable[patterns.Door] = ()) -> Selection:
        """Return all that was found."""
        paths = sorted(self.found)
        signatures = [self.found[path] for path in paths]
        problems = tuple(self.problems.items())
        entered = frozenset(self.entered)
        return Selection(paths, signatures, problems, unmatched, entered, tuple(doors))


def project(root: bytes, known: Tracked) -> Selection:
    """Return every file that git would not ignore, save what is left out of every project.

    Devices, sockets and pipes are passed over, as git does, and so are the files that our own
    output goes to.
    """
    sink = Sink(passing_over=True)
    repository = ignore.repository(root)
    chosen = ignore.Filter(root, repository)
    paths: list[bytes] = []
    signatures: list[bytes] = []
    for some, theirs in walk(root, b"", chosen, sink):
        paths += some
        signatures += theirs
    if chosen.ignored and repository is not None:
        there = set(paths)
        for path in known.though_ignored(root, repository, chosen.digest):
            if path not in there and not chosen.leaves_out(path):
                add_link(sink, root, path)
    tracked = sink.selection()
    walked = Selection(paths, signatures, tracked.problems, entered=chosen.entered)
    found = union((walked, tracked)) if tracked.paths else walked
    return without_logs(without(found, (_MLPROJECT,)))


def without_logs(selection: Selection) -> Selection:
    """Return a selection less the files that our own output goes to."""
    logs = own_output.files()
    if not logs:
        return selection
    pairs = zip(selection.paths, selection.signatures, strict=True)
    return without(
        selection,
        [os.fsdecode(path) for path, seen in pairs if signature.unpack(seen)[3:5] in logs],
    )


def add_link(sink: Sink, root: bytes, path: bytes) -> None:
    """Add a link or a file, if it is there."""
    try:
        status = os.lstat(os.path.join(root, path))
    except OSError:
        return  # tracked, and gone
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        sink.found[path] = signature.of(status)


def pattern(root: bytes, text: str) -> Selection:
    """Return what a pattern names and everything beneath, with the directories that are empty.

    What its links lead to is not among it; see `follow`.
    """
    sink = Sink()
    doors: list[patterns.Door] = []
    matched = False
    for path, status in patterns.found(root, text, sink.trouble, doors):
        matched = True
        add(sink, root, path, status)
    matched = matched or bool(sink.problems or (doors and patterns.exists(os.fsdecode(root), text)))
    return sink.selection(*(() if matched else (text,)), doors=doors)


def directory(root: bytes, path: bytes) -> Selection:
    """Return everything beneath a directory, also what programs leave behind.

    path: relative to the root, or absolute.
    """
    sink = Sink()
    _add_tree(sink, root, path + b"/", names.never)
    return sink.selection()


def file(root: bytes, path: bytes) -> Selection:
    """Return a file, or what a link leads to; absent, it is a selection of nothing."""
    try:
        seen = signature.of(os.stat(os.path.join(root, path)))
    except OSError:
        return Selection((), ())
    return Selection((path + b"/",), (seen,))


def outputs(root: bytes, path: str) -> Selection:
    """Return an output: a file, a link, or a whole tree with its directories, leftovers too."""
    sink = Sink()
    if not patterns.split(path):
        sink.problems[b""] = f"`{path}` is no place for an output in the project"
        return sink.selection()
    name = os.fsencode(posixpath.normpath(path))
    try:
        status = os.lstat(os.path.join(root, name))
    except (FileNotFoundError, NotADirectoryError):
        return sink.selection(path)
    except OSError as error:
        sink.trouble(name, error)
        return sink.selection()
    if links.is_behind(root, name):
        sink.problems[name] = f"`{shown(name)}` lies behind a link that leaves the project"
        return sink.selection()
    if path.endswith("/") and not os.path.isdir(os.path.join(root, name)):
        sink.problems[name] = f"`{shown(name)}` is not a directory, but it is declared as `{path}`"
        return sink.selection(path)
    _add_output(sink, root, name, signature.of(status))
    if stat.S_ISDIR(status.st_mode):
        for paths, signatures in walk(root, name + b"/", everything, sink, directories=True):
            for found, seen in zip(paths, signatures, strict=True):
                _add_output(sink, root, found, seen)
    return sink.selection()


def _add_output(sink: Sink, root: bytes, path: bytes, seen: bytes) -> None:
    if signature.is_directory(seen):
        sink.found[path] = signature.DIRECTORY
    elif signature.is_file(seen):
        sink.found[path] = seen
    elif signature.is_link(seen):
        sink.found[path] = seen
        if links.leads_out(root, path):
            sink.problems[path] = f"`{shown(path)}` is a link that leaves the project"
    else:
        sink.odd(path)


def add(sink: Sink, root: bytes, path: bytes, status: os.stat_result) -> None:
    """Add a file, a link, or all that a directory holds."""
    if stat.S_ISDIR(status.st_mode):
        _add_tree(sink, root, path + b"/" if path else path, names.leftover)
    else:
        sink.add(path, signature.of(status))


def _add_tree(sink: Sink, root: bytes, below: bytes, leaves_out: Callable[[bytes], bool]) -> None:
    def choose(below: bytes, held: list[bytes], descriptor: int) -> list[bytes]:
        del descriptor
        kept = [name for name in held if not leaves_out(name)]
        sink.enter(below, empty=not kept)
        return kept

    for paths, signatures in walk(root, below, choose, sink):
        for path, seen in zip(paths, signatures, strict=True):
            sink.add(path, seen)


def union(selections: Iterable[Selection]) -> Selection:
    """Return all that some selections hold."""
    parts = tuple(selections)
    if len(parts) == 1:
        return parts[0]
    sink = Sink()
    for part in parts:
        sink.found.update(zip(part.paths, part.signatures, strict=True))
        sink.problems.update(part.problems)
        sink.entered |= part.entered
    unmatched = [text for part in parts for text in part.unmatched]
    return sink.selection(*unmatched, doors=[door for part in parts for door in part.doors])


def without(selection: Selection, paths: Iterable[str]) -> Selection:
    """Return a selection less some paths and all that is beneath them, their problems too.

    An empty directory that one of them would lie in does not count either: it comes and goes with
    that.
    """
    dropped = plain(paths)
    problems = tuple(
        (name, problem)
        for name, problem in selection.problems
        if not any(_is_in(name, path) for path in dropped)
    )
    doors = tuple(
        door for door in selection.doors if not any(_is_in(door.path, path) for path in dropped)
    )
    selection = selection._replace(problems=problems, doors=doors)
    counts = bytearray(b"\1") * len(selection.paths)
    for path in dropped:
        for start, end in _ranges(selection.paths, path):
            counts[start:end] = bytes(end - start)
        while path := os.path.dirname(path):
            at = bisect_left(selection.paths, path)
            if selection.paths[at : at + 1] == [path]:
                counts[at] &= not signature.is_directory(selection.signatures[at])
    if all(counts):
        return selection
    return selection._replace(
        paths=list(compress(selection.paths, counts)),
        signatures=list(compress(selection.signatures, counts)),
    )


def plain(paths: Iterable[str]) -> list[bytes]:
    """Return paths without dots and slashes that say nothing, less those that are no place."""
    return [os.fsencode(posixpath.normpath(path)) for path in paths if patterns.split(path)]


def _is_in(name: bytes, path: bytes) -> bool:
    return (name + b"/").startswith(path + b"/")


def _ranges(paths: Sequence[bytes], name: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a path and all that is beneath it are in a sorted list."""
    for first, last in ((name, name + b"\0"), (name + b"/", name + b"0")):
        yield bisect_left(paths, first), bisect_left(paths, last)
