"""The inputs and outputs of an entry point, from what its command was seen to do with files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import NamedTuple

from buildrun.console import listed, printable
from buildrun.project.model import EntryPoint, ProjectSpec
from buildrun.project.rules.dependencies import graph_of, needed
from buildrun.sandbox.accesses import Accesses
from buildrun.store.files import and_above, is_within
from buildrun.workspace import glob, names
from buildrun.workspace.tree import Tree

# So many files of one ending are named by a pattern, and so many of a directory by the directory.
_ENDINGS, _WHOLE = 3, 2


class Suggestion(NamedTuple):
    """Patterns for ``inputs`` and paths for ``outputs``; notes are what they cannot say.

    whole: whether all was seen.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    notes: tuple[str, ...]
    whole: bool = True


def suggest(
    accesses: Accesses,
    before: Tree,
    after: Tree,
    project: ProjectSpec,
    point: EntryPoint,
    paths: Iterable[str] = (),
) -> Suggestion:
    """Return what the entry point should declare.

    before, after: the project's directory around the run. paths: absolute, of its ``path``
    parameters, which are part of its key anyway.
    """
    seen = _Seen(accesses, before, after, project, point, tuple(map(os.path.realpath, paths)))
    inputs, outputs = seen.inputs(), seen.outputs()
    notes = [*seen.notes]
    if accesses.unseen:
        notes.append(f"not all was seen: {accesses.unseen}")
    whole = before.whole and after.whole
    if not whole:
        notes.append("the project holds too many files: not all of them were looked at")
    if not inputs:
        notes.append(
            "the command read no file of the project, and `inputs` may not be empty: without it "
            "all of the project's files count; name one that a step before makes, if it reads one"
        )
    if not outputs:
        notes.append("the command made no file of the project, so there is no result to be kept")
    return Suggestion(tuple(inputs), tuple(outputs), tuple(notes), whole and not accesses.unseen)


class _Seen:
    """What was seen, sorted into what the entry point read, made and changed."""

    def __init__(
        self,
        accesses: Accesses,
        before: Tree,
        after: Tree,
        project: ProjectSpec,
        point: EntryPoint,
        paths: tuple[str, ...],
    ) -> None:
        self.notes: list[str] = []
        self._before, self._after, self._point = before, after, point
        self._makers = {
            output.rstrip("/"): other.name
            for other in project.entry_points
            for output in other.outputs
            if other.name != point.name
        }
        self._trees = {path.rstrip("/") for path in project.outputs if path.endswith("/")}
        self._direct = {item.entry_point for item in point.depends_on}
        self._file = project.file and os.path.relpath(project.file, project.root)
        self._needed = needed(graph_of(project), point.name)
        self._read = {*accesses.read, *map(names.source, accesses.read)}
        self._written = {self._inside(path) for path in accesses.written} - {None}
        self._listed = set(accesses.listed)
        self._paths = paths

    def inputs(self) -> list[str]:
        """Return patterns for what was read and was there before."""
        files = {path: real for path, real in self._before.files.items() if self._counts(path)}
        read = {
            path for path, real in files.items() if real in self._read and self._maker(path) is None
        }
        changed = read & self._written
        for path in sorted(changed):
            self._note(
                f"`{printable(path)}` was read and then changed in place: it can be neither an "
                "input nor an output; have the command write another file"
            )
        unread = files.keys() - read | changed
        given = {path for path in read if self._is_given(files[path])}
        self._tell_given(given)
        self._tell_version_control()
        return [*_Globs(read - changed - given, unread, self).patterns(), *self._upstream()]

    def outputs(self) -> list[str]:
        """Return what is declared, and what the command made beside it."""
        made = [path for path in self._after.files if self._is_made(path)]
        held = {os.path.dirname(path) for path in (*self._after.files, *self._after.directories)}
        new = [
            path
            for path in self._after.directories
            if path in self._written and path not in held and not self._was_there(path)
        ]
        kept = self._after.files.keys() - made
        shared = {above for path in (*kept, *self._makers) for above in and_above(path)}
        found = dict.fromkeys(path.rstrip("/") for path in self._point.outputs)
        declared = list(self._point.outputs)
        for path in sorted((*made, *new)):
            if found.keys().isdisjoint(and_above(path)):
                declared.append(self._whole(path, shared, is_directory=path in new))
                found[declared[-1].rstrip("/")] = None
        return declared

    def is_listed(self, path: str) -> bool:
        """Return whether the command read the names in a directory of the project."""
        place = self._before.directories.get(path) if path else self._before.root
        return place in self._listed

    def tell_listed(self, path: str) -> None:
        """Note that a pattern for a directory that was listed would take in too much."""
        self._note(
            f"the command lists `{printable(path) or '.'}`: of the files there only those that it "
            f"read are named; `{f'{printable(path)}/' if path else ''}**` would name all"
        )

    def is_foreign(self, pattern: str) -> bool:
        """Return whether a pattern could match what an entry point makes that is not needed."""
        return any(
            name not in self._needed and glob.overlaps(pattern, path)
            for path, name in self._makers.items()
        )

    def _counts(self, path: str) -> bool:
        """Return whether patterns must mind a path: neither a step before made it, nor this."""
        if path == self._file or self._is_own(path):
            return False
        if path in self._written and self._before.files[path] not in self._read:
            return False  # the command made it anew
        maker = self._maker(path)
        return (maker is None or self._makers[maker] not in self._needed) and self._is_utf8(path)

    def _upstream(self) -> Iterator[str]:
        """Yield outputs that were read, of entry points that this one needs but does not name."""
        found = sorted({maker for path in self._read if (maker := self._maker(self._inside(path)))})
        for output in found:
            name = self._makers[output]
            if name not in self._needed:
                self._note(
                    f"the command read `{printable(output)}`, which `{printable(name)}` makes: "
                    f"add `{printable(name)}` to `depends_on`"
                )
            elif name not in self._direct:
                yield glob.escape(output) + ("/" if output in self._trees else "")

    def _is_made(self, path: str) -> bool:
        """Return whether the command made a file that may be an output."""
        if path not in self._written or not self._is_utf8(path) or path == self._file:
            return False
        if (maker := self._maker(path)) is not None:
            self._note(
                f"the command writes `{printable(path)}`, an output of "
                f"`{printable(self._makers[maker])}`: two entry points cannot make the same"
            )
            return False
        if path not in self._before.files:
            return True
        if self._before.files[path] in self._read:
            return False
        if not self._is_own(path):
            self._note(
                f"`{printable(path)}` was there before, and the command wrote it: it is an output "
                "only if the command makes all of it"
            )
        return True

    def _whole(self, path: str, shared: Set[str], *, is_directory: bool) -> str:
        """Return the highest directory above that is all the command's, else the path."""
        for above in reversed([*and_above(os.path.dirname(path))]):
            if above not in shared and not self._was_there(above):
                return above + "/"
        return path + "/" if is_directory else path

    def _was_there(self, directory: str) -> bool:
        """Return whether a directory was there before; the step's own outputs were moved away."""
        return directory in self._before.directories and not self._is_own(directory)

    def _is_own(self, path: str) -> bool:
        return any(is_within(path, output.rstrip("/")) for output in self._point.outputs)

    def _maker(self, path: str | None) -> str | None:
        """Return the output of another entry point that a path is or lies in."""
        return next((each for each in and_above(path or "") if each in self._makers), None)

    def _inside(self, path: str) -> str | None:
        """Return a real path relative to the project, None for one that is out of it."""
        root = self._before.root
        return os.path.relpath(path, root) if is_within(path, root) else None

    def _is_given(self, real: str) -> bool:
        return any(is_within(real, path) for path in self._paths)

    def _tell_given(self, given: Set[str]) -> None:
        if given:
            self._note(f"{listed(sorted(given), 3)}: part of the key as a `path` parameter")

    def _tell_version_control(self) -> None:
        parts = ((self._inside(path) or "").split("/")[0] for path in self._read)
        for name in sorted({*names.VERSION_CONTROL}.intersection(parts)):
            self._note(
                f"the command read what is in `{name}`, which is never an input: hand it in as a "
                "parameter"
            )

    def _is_utf8(self, path: str) -> bool:
        if path.isprintable() or path.encode(errors="replace").decode() == path:
            return True
        self._note(f"`{printable(path)}` cannot be named in a file of UTF-8 text: rename it")
        return False

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


class _Globs:
    """The fewest patterns that take in what was read, and nothing else but in listed places."""

    def __init__(self, read: Set[str], unread: Set[str], seen: _Seen) -> None:
        self._read, self._unread, self._seen = read, unread, seen
        self._all = _beneath((*read, *unread))
        self._left = _beneath(unread)
        self._below: dict[str, set[str]] = {}
        for path in (*read, *unread):
            for each in and_above(path):
                self._below.setdefault(os.path.dirname(each), set()).add(each)

    def patterns(self) -> list[str]:
        """Return the patterns, sorted, those of files above those of directories."""
        found: list[str] = []
        waiting = [""]
        while waiting:
            directory = waiting.pop()
            whole = f"{glob.escape(directory)}/**"
            if directory and self._is_whole(directory) and not self._seen.is_foreign(whole):
                found.append(whole)
                continue
            if self._seen.is_listed(directory) and self._all[directory]:
                self._seen.tell_listed(directory)
            held = self._below.get(directory, set())
            found += self._files(directory, held & self._read)
            waiting += sorted(held - self._read - self._unread, reverse=True)
        return found

    def _is_whole(self, directory: str) -> bool:
        everything = self._all[directory] >= _WHOLE and not self._left[directory]
        return bool(self._all[directory]) and (everything or self._seen.is_listed(directory))

    def _files(self, directory: str, read: Set[str]) -> Iterator[str]:
        """Yield patterns for files that lie directly in a directory."""
        start = f"{glob.escape(directory)}/" if directory else ""
        endings = Counter(map(_ending, read))
        patterns = {
            ending: f"{start}*{glob.escape(ending)}"
            for ending, count in endings.items()
            if ending and count >= _ENDINGS
        }
        for ending, pattern in list(patterns.items()):
            taken = any(glob.matches(pattern, path) for path in self._unread)
            if taken or self._seen.is_foreign(pattern):
                del patterns[ending]
        yield from sorted({patterns.get(_ending(path)) or glob.escape(path) for path in read})


def _beneath(paths: Iterable[str]) -> Counter[str]:
    """Return how many of the paths each directory holds, at any depth."""
    found: Counter[str] = Counter()
    for path in paths:
        found.update(map(os.path.dirname, and_above(path)))
    return found


def _ending(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[1]
