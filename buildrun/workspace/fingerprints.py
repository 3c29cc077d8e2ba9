"""Digests of what a project's files hold, computed or known from earlier."""

from __future__ import annotations

import errno
import os
import stat
import time
from _thread import RLock
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial

import xxhash

from buildrun.console import display
from buildrun.errors import ProjectError
from buildrun.store import digest, listing, stat_signature
from buildrun.store.files import closing
from buildrun.store.listing import Entry
from buildrun.workspace import link_targets, select
from buildrun.workspace.gitignore import GitIndex
from buildrun.workspace.index import Index
from buildrun.workspace.select import FileSet
from buildrun.workspace.walk import Selection

# How often files that change under our eyes are looked at before that is told as a problem.
_ATTEMPTS = 3

# Told the root and what git tracks, looks at the disk anew.
Select = Callable[[bytes, GitIndex], Selection]

# The kind of a walk, and the pattern, output or directory that it is about.
Wanted = tuple[str, str]


class Fingerprints:
    """Digests of files in and about one project; may be used by several threads.

    index: the path of the index file; None remembers nothing from run to run. write: False leaves
    the disk alone. Within one process a walk is kept until ``forget`` is called.
    """

    def __init__(self, root: str, index: str | None, *, write: bool = True) -> None:
        """Read the index; nothing is looked at yet."""
        self._root = os.fsencode(os.path.abspath(root))
        self._index = Index(index, self._root)
        self._tracked = GitIndex(self._index.tracked)
        self._write = write
        self._lock = RLock()
        # Paths of inputs: a link in an output that leads to one is known by the step's key.
        self._inputs: set[bytes] = set()
        self._walks: dict[Wanted, Selection] = {}
        self._taken: dict[tuple[tuple[Wanted, ...], tuple[str, ...]], FileSet] = {}
        # Rows of racy files: they hold for the walks that are kept, and no longer.
        self._racy: dict[bytes, bytes] = {}

    def inputs(self, patterns: tuple[str, ...] | None, without: tuple[str, ...]) -> FileSet:
        """Return the inputs less some paths; patterns: None for all that git would not ignore."""
        if patterns is None:
            taken = self._take((("project", ""),), without)
        else:
            taken = self._take(tuple([("pattern", text) for text in patterns]), without)
        self._inputs.update(taken.selection.paths)
        return taken

    def outputs(self, paths: tuple[str, ...]) -> FileSet:
        """Return what the outputs are: whole trees, with their directories and links as such."""
        return self._take(tuple([("output", path) for path in paths]), ())

    def selected(self, select: Select) -> FileSet:
        """Return what a selection of another kind is, such as the content of an image."""
        with self._lock:
            return self._look(lambda _: select(self._root, self._tracked), 0)

    def content(self, path: str) -> str:
        """Return the digest of what a file or a directory holds; see `held`."""
        return self.held(path)[0]

    def held(self, path: str, without: tuple[str, ...] = ()) -> tuple[str, FileSet]:
        """Return the digest of what is at an absolute path, and how that was found.

        Of a file the right to execute it counts too. Raises OSError where something cannot be read
        or is a device, a socket or a pipe.
        """
        name = full = os.path.realpath(path)
        mode = os.stat(name).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise OSError(errno.EINVAL, "neither a file nor a directory", path)
        home = os.path.realpath(os.fsdecode(self._root))
        if name.startswith(home.rstrip("/") + "/"):
            name = os.path.relpath(name, home)
        taken = self._take((("file" if stat.S_ISREG(mode) else "directory", name),), without)
        if taken.problems:
            os.close(os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            raise OSError(errno.EIO, taken.problems[0], path)
        if not stat.S_ISREG(mode):
            return digest.key("directory", taken.digest), taken
        entry = taken.entries()[0]
        executable = entry.kind == listing.EXECUTABLE
        held = entry.content
        return digest.key("executable", held) if executable else held, taken

    def changed(self, taken: FileSet, made: FileSet | None = None) -> tuple[str, ...]:
        """Return the paths of what was edited, added or removed since, by a look at the disk.

        A file that was written anew counts even with the same content: what it held in between is
        not known. made: the outputs of a command that ran meanwhile; with them any change of a
        file counts, such as its rights, but not that it became another name of an output.
        """
        signatures = made.selection.signatures if made is not None else ()
        links = {stat_signature.place(seen) for seen in signatures}
        with self._lock:
            now = taken.again()
            before = dict(taken.selection.files())
            after = dict(now.files())
            names = before.keys() ^ after.keys()
            suspects = [
                path
                for path in before.keys() & after.keys()
                if before[path] != after[path] or path in taken.racy
            ]
            if suspects:
                entries = {entry.path: entry for entry in taken.entries()}
                for path in suspects:
                    entry = entries.get(os.fsdecode(path[taken.skip :]))
                    touched = made is not None and before[path] != after[path]
                    touched = touched and stat_signature.place(after[path]) not in links
                    if (
                        touched
                        or entry is None
                        or self._is_edited(path, before[path], after[path], entry)
                    ):
                        names.add(path)
            names |= {path for path, _ in set(now.problems) - set(taken.selection.problems)}
        return tuple([os.fsdecode(name) for name in sorted({path.rstrip(b"/") for path in names})])

    def forget(self) -> None:
        """Look at the disk anew from now on, since a command has run."""
        with self._lock:
            self._walks.clear()
            self._taken.clear()
            self._racy.clear()

    def learn(self, made: Mapping[str, tuple[bytes, str]]) -> None:
        """Take over the digests of files that we have written, each with its signature then."""
        now = time.time_ns()
        with self._lock:
            for path, (seen, content_digest) in made.items():
                raw = bytes.fromhex(content_digest.removeprefix(digest.PREFIX))
                self._remember(os.fsencode(path), seen, raw, now)

    def save(self) -> None:
        """Publish the index if it has changed; a full or read-only disk costs speed only."""
        with self._lock:
            if self._write:
                self._index.save(self._tracked.remembered)

    def _take(self, wanted: tuple[Wanted, ...], without: tuple[str, ...]) -> FileSet:
        with self._lock:
            key = (wanted, without)
            if key not in self._taken:
                whole = wanted and wanted[0][0] in ("file", "directory")
                skip = len(os.fsencode(wanted[0][1])) + 1 if whole else 0
                self._taken[key] = self._look(
                    lambda anew: self._selection(wanted, without, anew=anew), skip
                )
            return self._taken[key]

    def _look(self, look: Callable[[bool], Selection], skip: int) -> FileSet:
        """Return what a selection is; skip: how much of its paths does not count.

        look: returns the selection, told whether the disk has to be looked at anew.
        """
        select_anew = partial(look, True)
        for attempt in range(_ATTEMPTS):
            selection = look(attempt > 0)
            stream = _stream(selection)
            known = None if selection.problems else self._index.listing(stream)
            if known is not None:
                later = cache(partial(self._later, selection, skip))
                return FileSet(known, selection, later, (), frozenset(), select_anew, skip)
            contents, failures = self._read(selection)
            if not any(isinstance(error, _PASSING) for _, error in failures):
                break
        entries = _entries(selection, contents, skip)
        made = digest.content(listing.encode(entries))
        problems = [text for _, text in selection.problems]
        problems += [_explain(path, error) for path, error in failures]
        racy = frozenset([path for path in selection.paths if path in self._racy])
        if not problems and not racy:
            self._index.learn(stream, made)
        return FileSet(made, selection, lambda: entries, tuple(problems), racy, select_anew, skip)

    def _selection(
        self, wanted: tuple[Wanted, ...], without: tuple[str, ...], *, anew: bool
    ) -> Selection:
        found = []
        for each in wanted:
            if anew or each not in self._walks:
                self._walks[each] = self._walk(*each)
            found.append(self._walks[each])
        chosen = select.without(select.union(found), without)
        kinds = {kind for kind, _ in wanted}
        named, outputs = kinds.isdisjoint(("project", "output")), "output" in kinds
        known = frozenset(self._inputs) if outputs else None
        return link_targets.follow(self._root, chosen, without, named=named, outputs=known)

    def _walk(self, kind: str, text: str) -> Selection:
        if kind == "project":
            return select.project(self._root, self._tracked)
        if kind == "file":
            return select.file(self._root, os.fsencode(text))
        if kind == "directory":
            return select.directory(self._root, os.fsencode(text))
        return (select.pattern if kind == "pattern" else select.outputs)(self._root, text)

    def _later(self, selection: Selection, skip: int) -> tuple[Entry, ...]:
        with self._lock:
            contents, failures = self._read(selection)
            if failures:  # nothing is read again, unless the index was damaged meanwhile
                raise ProjectError(_explain(*failures[0]))
            return _entries(selection, contents, skip)

    def _read(self, selection: Selection) -> tuple[dict[bytes, str], list[tuple[bytes, OSError]]]:
        """Return the contents, as entries have them, and what went wrong; learn what is new."""
        began = time.time_ns()
        contents: dict[bytes, str] = {}
        failures: list[tuple[bytes, OSError]] = []
        large: list[tuple[bytes, bytes]] = []
        prefix, start = digest.PREFIX, stat_signature.SIZE
        for path, seen in selection.files():
            try:
                if stat_signature.is_link(seen):
                    contents[path] = self._target(path, seen, began)
                elif stat_signature.is_directory(seen):
                    contents[path] = ""
                elif (row := self._row(path, seen)) is not None:
                    contents[path] = prefix + row[start:].hex()
                elif stat_signature.size(seen) < LARGE:
                    contents[path] = prefix + self._hash(path, seen).hex()
                else:
                    large.append((path, seen))
            except OSError as error:
                failures.append((path, error))
        calls = [partial(self._digest, *each) for each in large]
        results = in_parallel(calls) if calls else ()
        for (path, seen), result in zip(large, results, strict=True):
            if isinstance(result, OSError):
                failures.append((path, result))
            else:
                self._remember(path, seen, result, began)
                contents[path] = prefix + result.hex()
        return contents, failures

    def _row(self, path: bytes, seen: bytes) -> bytes | None:
        for rows in (self._racy, self._index.table):
            row = rows.get(path)
            if row is not None and row.startswith(seen):
                return row
        return None

    def _hash(self, path: bytes, seen: bytes) -> bytes:
        """Return the digest of a file that is still what was seen, and remember it."""
        began = time.time_ns()
        made = self._digest(path, seen)
        self._remember(path, seen, made, began)
        return made

    def _digest(self, path: bytes, seen: bytes) -> bytes:
        place = os.path.join(self._root, path.rstrip(b"/"))
        return hash_file(place, seen, follow=path.endswith(b"/"))

    def _remember(self, path: bytes, seen: bytes, made: bytes, began: int) -> None:
        if stat_signature.is_racy(seen, began):
            self._racy[path] = seen + made
        else:
            self._index.add(path, seen + made)

    def _target(self, path: bytes, seen: bytes, began: int) -> str:
        place = os.path.join(self._root, path)
        target = os.readlink(place)
        if stat_signature.of(os.lstat(place)) != seen:
            raise Changed
        if stat_signature.is_racy(seen, began):
            self._racy[path] = seen
        return os.fsdecode(target)

    def _is_edited(self, path: bytes, before: bytes, after: bytes, entry: Entry) -> bool:
        if stat_signature.is_directory(after):
            return not stat_signature.is_directory(before)
        try:
            if stat_signature.is_link(after):
                target = os.fsdecode(os.readlink(os.path.join(self._root, path)))
                return not stat_signature.is_link(before) or target != entry.content
            if stat_signature.is_rewritten(before, after):
                return True
            return digest.PREFIX + self._hash(path, after).hex() != entry.content
        except OSError:
            return True


def _entries(selection: Selection, contents: Mapping[bytes, str], skip: int) -> tuple[Entry, ...]:
    """Return the listing, less what could not be read."""
    found: list[Entry] = []
    for path, seen in selection.files():
        if (held := contents.get(path)) is not None:
            kind = stat_signature.kind(seen)
            size = stat_signature.size(seen) if kind in (listing.FILE, listing.EXECUTABLE) else 0
            found.append(Entry(os.fsdecode(path[skip:]), kind, held, size))
    return tuple(found)


def _explain(path: bytes, error: OSError) -> str:
    if isinstance(error, _PASSING):
        return f"`{display(path)}` changes or vanishes while it is read"
    return f"`{display(path.rstrip(b'/'))}` cannot be read: {error.strerror}"


def _stream(selection: Selection) -> str:
    """Return a digest of all paths and signatures."""
    made = xxhash.xxh3_128(b"\0".join(selection.paths))
    made.update(b"\0\0")
    made.update(b"".join(selection.signatures))
    return str(made.hexdigest())


_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


# It vanished, or became a link or a socket.
_OTHER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})

# From this size on files are read side by side; hashing lets other threads run.
LARGE = 8 << 20
_THREADS = 4

Result = bytes | OSError


class Changed(OSError):
    """A file is not, or is no longer, the one that was looked at."""


# Another look may help.
_PASSING = (FileNotFoundError, Changed)


def hash_file(path: bytes, seen: bytes, *, follow: bool = False) -> bytes:
    """Return the digest of a regular file of this signature; raises Changed, or other OSErrors."""
    flags = _FLAGS if follow else _FLAGS | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in _OTHER:
            raise Changed(*error.args) from None
        raise
    with closing(descriptor):
        # With O_NONBLOCK a pipe that took the file's place is not waited for.
        if stat_signature.of(os.fstat(descriptor)) != seen:
            raise Changed
        made, size = digest.new(), stat_signature.size(seen)
        first = os.read(descriptor, min(size, _CHUNK))
        made.update(first)
        if len(first) < size:
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while count := os.readv(descriptor, [buffer]):
                made.update(view[:count])
        if stat_signature.of(os.fstat(descriptor)) != seen:
            raise Changed
    return made.digest()


def in_parallel(calls: Sequence[Callable[[], bytes]]) -> list[Result]:
    """Return what the calls return, or the OSError that they raise, in their order."""
    import threading

    results: list[Result] = [Changed()] * len(calls)
    numbers = iter(range(len(calls)))

    def work() -> None:
        # Each thread takes the next one; that is one step of the interpreter.
        for number in numbers:
            try:
                results[number] = calls[number]()
            except OSError as error:
                results[number] = error

    count = min(_THREADS, os.cpu_count() or 1, len(calls))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
