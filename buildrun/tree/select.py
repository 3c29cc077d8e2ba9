"""Which files a step reads and writes: selections of a project's tree."""

import os
import posixpath
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress

from buildrun.tree import ignore, links, names, own_output, patterns, signature
from buildrun.tree.shown import shown
from buildrun.tree.taken import Selection
from buildrun.tree.tracked import Tracked
from buildrun.tree.walk import everything, walk

_MLPROJECT = "MLproject"


class _Sink:
    """Gathers what is found, each path once."""

    def __init__(self, *, passing_over: bool = False) -> None:
        self._passing_over = passing_over
        self.found: dict[bytes, bytes] = {}
        self.problems: dict[bytes, str] = {}

    def trouble(self, path: bytes, error: OSError) -> None:
        name = path.rstrip(b"/") or b"."
        self.problems[name] = f"`{shown(name)}` cannot be read: {error.strerror}"

    def odd(self, path: bytes) -> None:
        if not self._passing_over:
            self.problems[path] = f"`{shown(path)}` is neither a file nor a directory"

    def selection(self, *unmatched: str) -> Selection:
        paths = sorted(self.found)
        signatures = [self.found[path] for path in paths]
        return Selection(paths, signatures, tuple(self.problems.items()), unmatched)


def project(root: bytes, known: Tracked) -> Selection:
    """Return every file that git would not ignore, save what is left out of every project.

    Devices, sockets and pipes are passed over, as git does, and so are the files that our own
    output goes to.
    """
    sink = _Sink(passing_over=True)
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
                _add_file(sink, root, path)
    tracked = sink.selection()
    walked = Selection(paths, signatures, tracked.problems)
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


def _add_file(sink: _Sink, root: bytes, path: bytes) -> None:
    try:
        status = os.lstat(os.path.join(root, path))
    except OSError:
        return  # tracked, and gone
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        sink.found[path] = signature.of(status)


def pattern(root: bytes, text: str) -> Selection:
    """Return what a pattern names and everything beneath, also through links."""
    sink = _Sink()
    matched = False
    done: set[tuple[int, int]] = set()
    for path, status in patterns.found(root, text, sink.trouble):
        matched = True
        _add(sink, root, path, status, done)
    return sink.selection(*(() if matched or sink.problems else (text,)))


def tree(root: bytes) -> Selection:
    """Return everything beneath a directory, also through links, by absolute paths."""
    found = pattern(root, ".")
    return found._replace(paths=[os.path.join(root, path) for path in found.paths])


def outputs(root: bytes, path: str) -> Selection:
    """Return an output: a file, a link, or a whole tree with its directories, leftovers too."""
    sink = _Sink()
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


def _add_output(sink: _Sink, root: bytes, path: bytes, seen: bytes) -> None:
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


def _add(
    sink: _Sink, root: bytes, path: bytes, status: os.stat_result, done: set[tuple[int, int]]
) -> None:
    """Add a file, a link with what it leads to, or all that a directory holds.

    done: the directories that a link has led to, so that loops end.
    """
    met: list[bytes] = []
    if stat.S_ISDIR(status.st_mode):
        _add_tree(sink, root, path + b"/" if path else path, met)
    else:
        _add_one(sink, path, signature.of(status), met)
    for link in met:  # which grows meanwhile
        try:
            status = os.stat(os.path.join(root, link))
        except OSError:
            continue  # it leads nowhere, or in a circle
        if not stat.S_ISDIR(status.st_mode):
            _add_one(sink, link + b"/", signature.of(status), met)
        elif (place := (status.st_dev, status.st_ino)) not in done:
            done.add(place)
            _add_tree(sink, root, link + b"/", met)


def _add_tree(sink: _Sink, root: bytes, below: bytes, met: list[bytes]) -> None:
    for paths, signatures in walk(root, below, _without_leftovers, sink):
        for path, seen in zip(paths, signatures, strict=True):
            _add_one(sink, path, seen, met)


def _add_one(sink: _Sink, path: bytes, seen: bytes, met: list[bytes]) -> None:
    if signature.is_file(seen):
        sink.found[path] = seen
    elif signature.is_link(seen):
        sink.found[path] = seen
        met.append(path)
    else:
        sink.odd(path)


def _without_leftovers(below: bytes, held: list[bytes], descriptor: int) -> list[bytes]:
    del below, descriptor
    dropped = names.leftovers(held)
    return [name for name in held if name not in dropped] if dropped else held


def union(selections: Iterable[Selection]) -> Selection:
    """Return all that some selections hold."""
    parts = tuple(selections)
    if len(parts) == 1:
        return parts[0]
    sink = _Sink()
    for part in parts:
        sink.found.update(zip(part.paths, part.signatures, strict=True))
        sink.problems.update(part.problems)
    return sink.selection(*(text for part in parts for text in part.unmatched))


def without(selection: Selection, paths: Iterable[str]) -> Selection:
    """Return a selection less some paths and all that is beneath them, their problems too."""
    dropped = [os.fsencode(posixpath.normpath(path)) for path in paths if patterns.split(path)]
    problems = tuple(
        (name, problem)
        for name, problem in selection.problems
        if not any((name + b"/").startswith(path + b"/") for path in dropped)
    )
    selection = selection._replace(problems=problems)
    counts = bytearray(b"\1") * len(selection.paths)
    for path in dropped:
        for start, end in _ranges(selection.paths, path):
            counts[start:end] = bytes(end - start)
    if all(counts):
        return selection
    return selection._replace(
        paths=list(compress(selection.paths, counts)),
        signatures=list(compress(selection.signatures, counts)),
    )


def _ranges(paths: Sequence[bytes], name: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a path and all that is beneath it are in a sorted list."""
    for first, last in ((name, name + b"\0"), (name + b"/", name + b"0")):
        yield bisect_left(paths, first), bisect_left(paths, last)
