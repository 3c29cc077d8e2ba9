"""Which files a step reads and makes: selections of a project's tree."""

from __future__ import annotations

import os
import posixpath
import stat
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import compress, islice
from typing import NamedTuple

from buildrun.console import display
from buildrun.store import stat_signature
from buildrun.store.files import is_within
from buildrun.store.listing import Entry
from buildrun.workspace import gitignore, glob, names, own_output
from buildrun.workspace.gitignore import GitIndex
from buildrun.workspace.walk import Choose, Selection, Sink, everything, walk

_MLPROJECT = "MLproject"


def project(root: bytes, git_index: GitIndex) -> Selection:
    """Return every file that git would not ignore, save what is left out of every project.

    Devices, sockets, pipes, and the files that our own output goes to are passed over.
    """
    git = gitignore.Filter(root)
    return without_logs(without(filtered(root, git_index, git, git), (_MLPROJECT,)))


def filtered(
    root: bytes,
    git_index: GitIndex,
    git: gitignore.Filter,
    choose: Choose,
    is_out: Callable[[bytes], bool] = lambda _: False,
) -> Selection:
    """Return what a walk chooses, with what git tracks although its rules ignore it.

    choose: asks ``git``, and may choose otherwise. is_out: whether a tracked file is left out.
    """
    sink = Sink(passing_over=True)
    paths: list[bytes] = []
    signatures: list[bytes] = []
    for some, theirs in walk(root, b"", choose, sink):
        paths += some
        signatures += theirs
    for path in set(git.tracked(git_index)).difference(paths):
        if not is_out(path):
            add_link(sink, root, path)
    tracked = sink.selection()
    walked = Selection(paths, signatures, tracked.problems, entered=git.entered)
    return union((walked, tracked)) if tracked.paths else walked


def without_logs(selection: Selection) -> Selection:
    """Return a selection less the files that our own output goes to."""
    logs = own_output.files()
    if not logs:
        return selection
    found = selection.files()
    ours = [
        os.fsdecode(path) for path, signature in found if stat_signature.place(signature) in logs
    ]
    return without(selection, ours)


def add_link(sink: Sink, root: bytes, path: bytes) -> None:
    """Add a link or a file, if it is there."""
    try:
        status = os.lstat(os.path.join(root, path))
    except OSError:
        return  # tracked, and gone
    if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
        sink.found[path] = stat_signature.of(status)


def pattern(root: bytes, text: str) -> Selection:
    """Return what a pattern names and everything beneath, but not what links lead to."""
    sink = Sink()
    linked: list[glob.LinkedDirectory] = []
    matched = False
    for path, status in glob.expand(root, text, sink.on_error, linked):
        matched = True
        add(sink, root, path, status)
    matched = matched or bool(sink.problems or (linked and glob.exists(os.fsdecode(root), text)))
    return sink.selection(*(() if matched else (text,)), linked=linked)


def directory(root: bytes, path: bytes) -> Selection:
    """Return everything beneath a directory, also what programs leave behind."""
    sink = Sink()
    _add_tree(sink, root, path + b"/", names.is_never_part)
    return sink.selection()


def file(root: bytes, path: bytes) -> Selection:
    """Return a file, or what a link leads to; absent, it is a selection of nothing."""
    try:
        signature = stat_signature.of(os.stat(os.path.join(root, path)))
    except OSError:
        return Selection((), ())
    return Selection((path + b"/",), (signature,))


def outputs(root: bytes, path: str) -> Selection:
    """Return an output: a file, a link, or a whole tree with its directories, leftovers too."""
    sink = Sink()
    if not glob.split(path):
        sink.problems[b""] = f"`{path}` is no place for an output in the project"
        return sink.selection()
    name = os.fsencode(posixpath.normpath(path))
    try:
        status = os.lstat(os.path.join(root, name))
    except (FileNotFoundError, NotADirectoryError):
        return sink.selection(path)
    except OSError as error:
        sink.on_error(name, error)
        return sink.selection()
    if is_behind(root, name):
        sink.problems[name] = f"`{display(name)}` lies behind a link that leaves the project"
        return sink.selection()
    if path.endswith("/") and not os.path.isdir(os.path.join(root, name)):
        sink.problems[name] = (
            f"`{display(name)}` is not a directory, but it is declared as `{path}`"
        )
        return sink.selection(path)
    _add_output(sink, root, name, stat_signature.of(status))
    if stat.S_ISDIR(status.st_mode):
        for paths, signatures in walk(root, name + b"/", everything, sink, directories=True):
            for found, signature in zip(paths, signatures, strict=True):
                _add_output(sink, root, found, signature)
    return sink.selection()


def _add_output(sink: Sink, root: bytes, path: bytes, signature: bytes) -> None:
    if stat_signature.is_directory(signature):
        sink.found[path] = stat_signature.DIRECTORY
    elif stat_signature.is_file(signature):
        sink.found[path] = signature
    elif stat_signature.is_link(signature):
        sink.found[path] = signature
        if leads_out(root, path):
            sink.problems[path] = f"`{display(path)}` is a link that leaves the project"
    else:
        sink.on_special(path)


def add(sink: Sink, root: bytes, path: bytes, status: os.stat_result) -> None:
    """Add a file, a link, or all that a directory holds."""
    if stat.S_ISDIR(status.st_mode):
        _add_tree(sink, root, path + b"/" if path else path, names.is_always_ignored)
    else:
        sink.add(path, stat_signature.of(status))


def _add_tree(sink: Sink, root: bytes, below: bytes, leaves_out: Callable[[bytes], bool]) -> None:
    def choose(below: bytes, entries: list[bytes], descriptor: int) -> list[bytes]:
        del descriptor
        chosen = [name for name in entries if not leaves_out(name)]
        sink.enter(below, empty=not chosen)
        return chosen

    for paths, signatures in walk(root, below, choose, sink):
        for path, signature in zip(paths, signatures, strict=True):
            sink.add(path, signature)


def union(selections: Iterable[Selection]) -> Selection:
    """Return all that some selections hold."""
    parts = tuple(selections)
    if len(parts) == 1:
        return parts[0]
    sink = Sink()
    for part in parts:
        sink.found.update(part.files())
        sink.problems.update(part.problems)
        sink.entered |= part.entered
    unmatched = [text for part in parts for text in part.unmatched]
    return sink.selection(*unmatched, linked=[each for part in parts for each in part.linked])


def without(selection: Selection, paths: Iterable[str]) -> Selection:
    """Return a selection less some paths and all that is beneath them, their problems too.

    An empty directory that one of them would lie in comes and goes with it, and does not count.
    """
    dropped = plain(paths)
    problems = tuple(
        (name, problem)
        for name, problem in selection.problems
        if not any(_is_in(name, path) for path in dropped)
    )
    linked = tuple(
        each for each in selection.linked if not any(_is_in(each.path, path) for path in dropped)
    )
    selection = selection._replace(problems=problems, linked=linked)
    counts = bytearray(b"\1") * len(selection.paths)
    for path in dropped:
        for start, end in _ranges(selection.paths, path):
            counts[start:end] = bytes(end - start)
        while path := os.path.dirname(path):
            at = bisect_left(selection.paths, path)
            if selection.paths[at : at + 1] == [path]:
                counts[at] &= not stat_signature.is_directory(selection.signatures[at])
    if all(counts):
        return selection
    return selection._replace(
        paths=list(compress(selection.paths, counts)),
        signatures=list(compress(selection.signatures, counts)),
    )


def plain(paths: Iterable[str]) -> list[bytes]:
    """Return paths without dots and slashes that say nothing, less those that are no place."""
    return [os.fsencode(posixpath.normpath(path)) for path in paths if glob.split(path)]


def _is_in(name: bytes, path: bytes) -> bool:
    return (name + b"/").startswith(path + b"/")


def _ranges(paths: Sequence[bytes], name: bytes) -> Iterator[tuple[int, int]]:
    """Yield where a path and all that is beneath it are in a sorted list."""
    for first, last in ((name, name + b"\0"), (name + b"/", name + b"0")):
        yield bisect_left(paths, first), bisect_left(paths, last)


class FileSet(NamedTuple):
    """What a selection of files was at one moment.

    digest: of its listing. entries: returns that; raises ProjectError where the disk and the index
    both changed. problems: where there is one, nothing that was computed from it may be cached.
    again: looks at the disk anew. racy: paths that may have changed since without a trace. skip:
    how much of the selection's paths entries lack.
    """

    digest: str
    selection: Selection
    entries: Callable[[], tuple[Entry, ...]]
    problems: tuple[str, ...]
    racy: frozenset[bytes]
    again: Callable[[], Selection]
    skip: int = 0

    @property
    def unmatched(self) -> tuple[str, ...]:
        """Return the patterns that match nothing, or the outputs that do not exist."""
        return self.selection.unmatched

    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Return the paths of the first hundred files, with their bytes."""
        found = (item for item in self.selection.files() if stat_signature.is_file(item[1]))
        return tuple(
            (os.fsdecode(path), stat_signature.size(each)) for path, each in islice(found, 100)
        )

    def has_only_links_out(self) -> bool:
        """Return whether all problems are links, so that nothing is missing from the listing."""
        about = {path for path, _ in self.selection.problems}
        about -= {
            path for path, signature in self.selection.files() if stat_signature.is_link(signature)
        }
        return not about and len(self.problems) == len(self.selection.problems)


def leads_out(root: bytes, path: bytes) -> bool:
    """Return whether a path, with all links followed, is not within the root.

    A link whose target is absolute leads out wherever it ends: it would elsewhere.
    """
    place = os.path.join(root, path)
    try:
        target = os.readlink(place)
    except OSError:
        target = b""
    named = os.path.normpath(os.path.join(os.path.dirname(path), target))
    if target.startswith(b"/") or named.split(b"/", 1)[0] == b"..":
        return True
    return not is_within(os.path.realpath(place), os.path.realpath(root))


def is_behind(root: bytes, path: bytes) -> bool:
    """Return whether a directory on the way to a path is a link that leaves the root."""
    above = os.path.dirname(path)
    while above:
        if os.path.islink(os.path.join(root, above)) and leads_out(root, above):
            return True
        above = os.path.dirname(above)
    return False
