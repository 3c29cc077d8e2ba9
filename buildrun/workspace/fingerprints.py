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
from buildrun.workspace.select import FileSet, without
from buildrun.workspace.walk import Selection

# How often files that change under our eyes are looked at before that is told as a problem.
_ATTEMPTS = 3

# Told the root and what git tracks, looks at the disk anew.
Select = Callable[[bytes, GitIndex], Selection]

# The kind of a walk, and the pattern, output or directory that it is about.
WalkKey = tuple[str, str]


class Fingerprints:
    """Digests of files in and about one project; may be used by several threads.

    index: the path of the index file; None remembers nothing from run to run. write: False leaves
    the disk alone. Within one process a walk is kept until ``forget`` is called.
    """

    def __init__(
        self, root: str, index: str | None, *, write: bool = True, without: Sequence[str] = ()
    ) -> None:
        """Read the index; nothing is looked at yet.

        without: relative paths that are no part of the project, unless a pattern names them.
        """
        self._without = without
        self._root = os.fsencode(os.path.abspath(root))
        self._index = Index(index, self._root)
        self._tracked = GitIndex(self._index.tracked)
        self._write = write
        self._lock = RLock()
        # Paths of inputs: a link in an output that leads to one is known by the step's key.
        self._inputs: set[bytes] = set()
        self._walks: dict[WalkKey, Selection] = {}
        self._file_sets: dict[tuple[tuple[WalkKey, ...], tuple[str, ...]], FileSet] = {}
        # Rows of racy files: they hold for the walks that are kept, and no longer.
        self._racy: dict[bytes, bytes] = {}

    def inputs(self, patterns: tuple[str, ...] | None, without: tuple[str, ...]) -> FileSet:
        """Return the inputs less some paths; patterns: None for all that git would not ignore."""
        if patterns is None:
            files = self._file_set((("project", ""),), without)
        else:
            files = self._file_set(tuple([("pattern", text) for text in patterns]), without)
        self._inputs.update(files.selection.paths)
        return files

    def outputs(self, paths: tuple[str, ...]) -> FileSet:
        """Return what the outputs are: whole trees, with their directories and links as such."""
        return self._file_set(tuple([("output", path) for path in paths]), ())

    def selected(self, select: Select) -> FileSet:
        """Return what a selection of another kind is, such as the content of an image."""
        with self._lock:
            return self._resolve(
                lambda _: without(select(self._root, self._tracked), self._without), 0
            )

    def content(self, path: str) -> str:
        """Return the digest of what a file or a directory holds; see `fingerprint`."""
        return self.fingerprint(path)[0]

    def fingerprint(self, path: str, without: tuple[str, ...] = ()) -> tuple[str, FileSet]:
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
        files = self._file_set((("file" if stat.S_ISREG(mode) else "directory", name),), without)
        if files.problems:
            os.close(os.open(full, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            raise OSError(errno.EIO, files.problems[0], path)
        if not stat.S_ISREG(mode):
            return digest.key("directory", files.digest), files
        entry = files.entries()[0]
        executable = entry.kind == listing.EXECUTABLE
        content = entry.content
        return digest.key("executable", content) if executable else content, files

    def changed(self, files: FileSet, outputs: FileSet | None = None) -> tuple[str, ...]:
        """Return the paths of what was edited, added or removed since, by a look at the disk.

        A file that was written anew counts even with the same content: what it held in between is
        not known. outputs: the outputs of a command that ran meanwhile; with them any change of a
        file counts, such as its rights, but not that it became another name of an output.
        """
        signatures = outputs.selection.signatures if outputs is not None else ()
        links = {stat_signature.place(signature) for signature in signatures}
        with self._lock:
            now = files.again()
            before = dict(files.selection.files())
            after = dict(now.files())
            names = before.keys() ^ after.keys()
            suspects = [
                path
                for path in before.keys() & after.keys()
                if before[path] != after[path] or path in files.racy
            ]
            if suspects:
                entries = {entry.path: entry for entry in files.entries()}
                for path in suspects:
                    entry = entries.get(os.fsdecode(path[files.skip :]))
                    touched = outputs is not None and before[path] != after[path]
                    touched = touched and stat_signature.place(after[path]) not in links
                    if (
                        touched
                        or entry is None
                        or self._is_edited(path, before[path], after[path], entry)
                    ):
                        names.add(path)
            names |= {path for path, _ in set(now.problems) - set(files.selection.problems)}
        return tuple([os.fsdecode(name) for name in sorted({path.rstrip(b"/") for path in names})])

    def forget(self) -> None:
        """Look at the disk anew from now on, since a command has run."""
        with self._lock:
            self._walks.clear()
            self._file_sets.clear()
            self._racy.clear()

    def learn(self, written: Mapping[str, tuple[bytes, str]]) -> None:
        """Take over the digests of files that we have written, each with its signature then."""
        now = time.time_ns()
        with self._lock:
            for path, (signature, content_digest) in written.items():
                raw = bytes.fromhex(content_digest.removeprefix(digest.PREFIX))
                self._remember(os.fsencode(path), signature, raw, now)

    def save(self) -> None:
        """Publish the index if it has changed; a full or read-only disk costs speed only."""
        with self._lock:
            if self._write:
                self._index.save(self._tracked.remembered)

    def _file_set(self, keys: tuple[WalkKey, ...], without: tuple[str, ...]) -> FileSet:
        with self._lock:
            key = (keys, without)
            if key not in self._file_sets:
                whole = keys and keys[0][0] in ("file", "directory")
                skip = len(os.fsencode(keys[0][1])) + 1 if whole else 0
                self._file_sets[key] = self._resolve(
                    lambda rescan: self._selection(keys, without, rescan=rescan), skip
                )
            return self._file_sets[key]

    def _resolve(self, find: Callable[[bool], Selection], skip: int) -> FileSet:
        """Return what a selection is; skip: how much of its paths does not count.

        find: returns the selection, told whether the disk has to be looked at anew.
        """
        rescan_selection = partial(find, True)
        for attempt in range(_ATTEMPTS):
            selection = find(attempt > 0)
            stream = _stream(selection)
            known = None if selection.problems else self._index.listing(stream)
            if known is not None:
                later = cache(partial(self._later, selection, skip))
                return FileSet(known, selection, later, (), frozenset(), rescan_selection, skip)
            contents, failures = self._read(selection)
            if not any(isinstance(error, _PASSING) for _, error in failures):
                break
        entries = _entries(selection, contents, skip)
        listing_digest = digest.content(listing.encode(entries))
        problems = [text for _, text in selection.problems]
        problems += [_explain(path, error) for path, error in failures]
        racy = frozenset([path for path in selection.paths if path in self._racy])
        if not problems and not racy:
            self._index.learn(stream, listing_digest)
        return FileSet(
            listing_digest,
            selection,
            lambda: entries,
            tuple(problems),
            racy,
            rescan_selection,
            skip,
        )

    def _selection(
        self, keys: tuple[WalkKey, ...], without: tuple[str, ...], *, rescan: bool
    ) -> Selection:
        found = []
        for each in keys:
            if rescan or each not in self._walks:
                self._walks[each] = self._walk(*each)
            found.append(self._walks[each])
        chosen = select.without(select.union(found), without)
        kinds = {kind for kind, _ in keys}
        named, outputs = kinds.isdisjoint(("project", "output")), "output" in kinds
        known = frozenset(self._inputs) if outputs else None
        return link_targets.follow(self._root, chosen, without, named=named, outputs=known)

    def _walk(self, kind: str, text: str) -> Selection:
        if kind == "project":
            return without(select.project(self._root, self._tracked), self._without)
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
        for path, signature in selection.files():
            try:
                if stat_signature.is_link(signature):
                    contents[path] = self._target(path, signature, began)
                elif stat_signature.is_directory(signature):
                    contents[path] = ""
                elif (row := self._row(path, signature)) is not None:
                    contents[path] = prefix + row[start:].hex()
                elif stat_signature.size(signature) < LARGE:
                    contents[path] = prefix + self._hash(path, signature).hex()
                else:
                    large.append((path, signature))
            except OSError as error:
                failures.append((path, error))
        calls = [partial(self._digest, *each) for each in large]
        results = in_parallel(calls) if calls else ()
        for (path, signature), result in zip(large, results, strict=True):
            if isinstance(result, OSError):
                failures.append((path, result))
            else:
                self._remember(path, signature, result, began)
                contents[path] = prefix + result.hex()
        return contents, failures

    def _row(self, path: bytes, signature: bytes) -> bytes | None:
        for rows in (self._racy, self._index.table):
            row = rows.get(path)
            if row is not None and row.startswith(signature):
                return row
        return None

    def _hash(self, path: bytes, signature: bytes) -> bytes:
        """Return the digest of a file that is still what was seen, and remember it."""
        began = time.time_ns()
        raw = self._digest(path, signature)
        self._remember(path, signature, raw, began)
        return raw

    def _digest(self, path: bytes, signature: bytes) -> bytes:
        place = os.path.join(self._root, path.rstrip(b"/"))
        return hash_file(place, signature, follow=path.endswith(b"/"))

    def _remember(self, path: bytes, signature: bytes, raw: bytes, began: int) -> None:
        if stat_signature.is_racy(signature, began):
            self._racy[path] = signature + raw
        else:
            self._index.add(path, signature + raw)

    def _target(self, path: bytes, signature: bytes, began: int) -> str:
        place = os.path.join(self._root, path)
        target = os.readlink(place)
        if stat_signature.of(os.lstat(place)) != signature:
            raise Changed
        if stat_signature.is_racy(signature, began):
            self._racy[path] = signature
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
    for path, signature in selection.files():
        if (content := contents.get(path)) is not None:
            kind = stat_signature.kind(signature)
            size = (
                stat_signature.size(signature) if kind in (listing.FILE, listing.EXECUTABLE) else 0
            )
            found.append(Entry(os.fsdecode(path[skip:]), kind, content, size))
    return tuple(found)


def _explain(path: bytes, error: OSError) -> str:
    if isinstance(error, _PASSING):
        return f"`{display(path)}` changes or vanishes while it is read"
    return f"`{display(path.rstrip(b'/'))}` cannot be read: {error.strerror}"


def _stream(selection: Selection) -> str:
    """Return a digest of all paths and signatures."""
    hasher = xxhash.xxh3_128(b"\0".join(selection.paths))
    hasher.update(b"\0\0")
    hasher.update(b"".join(selection.signatures))
    return str(hasher.hexdigest())


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


def hash_file(path: bytes, signature: bytes, *, follow: bool = False) -> bytes:
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
        if stat_signature.of(os.fstat(descriptor)) != signature:
            raise Changed
        hasher, size = digest.new(), stat_signature.size(signature)
        first = os.read(descriptor, min(size, _CHUNK))
        hasher.update(first)
        if len(first) < size:
            buffer = bytearray(_CHUNK)
            view = memoryview(buffer)
            while count := os.readv(descriptor, [buffer]):
                hasher.update(view[:count])
        if stat_signature.of(os.fstat(descriptor)) != signature:
            raise Changed
    return hasher.digest()


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
