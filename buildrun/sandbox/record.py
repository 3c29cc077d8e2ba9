"""What a command has done with files so far, kept in the order in which it happens."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from buildrun.sandbox.accesses import Accesses
from buildrun.sandbox.paths import Found, Paths
from buildrun.sandbox.syscalls import Call

# Files that are looked for and that a record can hold; far more than any program's own.
_MOST = 20_000


class Record:
    """The accesses of one command; each method is called before what it tells of is done."""

    def __init__(self, paths: Paths, outputs: Collection[bytes]) -> None:
        """Take what resolves paths; outputs: absolute paths that the command makes."""
        self._paths = paths
        self.unseen = ""
        self._read: dict[bytes, None] = {}
        self._written: dict[bytes, None] = {}
        # Of these the command has made all of the content; but of those taken, which are files that
        # it may not read by another name.
        self._own = set(outputs)
        self._taken: set[bytes] = set()
        self._looked_up: dict[bytes, str] = {}
        self._listed: Counter[bytes] = Counter()
        self._searched: dict[bytes, None] = {}

    def opening(self, path: bytes, flags: int) -> bytes | None:
        """Note that a file is opened; return where it really is, None where that is no matter."""
        found = self._find(path, follow=not flags & os.O_NOFOLLOW)
        if found is None:
            return None
        real, mode = found.path, found.mode
        if stat.S_ISREG(mode) and not flags & os.O_PATH:
            self._open_file(real, flags)
        elif mode == 0 and flags & os.O_CREAT:
            self._make(real)
        else:
            self._look_up(real, mode)
        return real

    def is_quiet(self, path: bytes) -> bool:
        """Return whether a path is known to be of no matter; the others may be."""
        return self._paths.is_quiet(path)

    def reached(self, call: Call, path: bytes) -> bytes | None:
        """Note a call other than ``open`` with one path; returns the same as ``opening``."""
        found = self._find(path, follow=call.follow)
        if found is None:
            return None
        real, mode = found.path, found.mode
        if call.kind == "make" and not mode:
            self._make(real)
            self._paths.forget()
        elif call.kind in ("remove", "change") and mode:
            self._written[real] = None
        elif (call.kind == "run" and stat.S_ISREG(mode)) or (
            call.kind == "readlink" and stat.S_ISLNK(mode)
        ):
            self._note_read(real)
        else:
            self._look_up(real, mode)
        return real

    def moved(
        self, call: Call, old: bytes, new: bytes, may_read: Callable[[bytes], bool] | None
    ) -> None:
        """Note that a file gets another name, or one more.

        may_read: tells of a path whether the command may read it; None where it may read all.
        """
        source, target = self._find(old, follow=False), self._find(new, follow=False)
        if source is not None and not source.mode:
            self._look_up(source.path, 0)
            return
        below = source.path + b"/" if source is not None else b"\0"
        is_taken = False
        if source is not None and may_read is not None:
            is_taken = not (self.has_made(source.path) or may_read(source.path))
        if source is not None:
            self._note_read(source.path)
            if call.kind == "rename":
                self._written[source.path] = None
        if target is not None:
            self._make(target.path)
            for path in [each for each in self._own if each.startswith(below)]:
                self._make(target.path + b"/" + path[len(below) :])
            if is_taken:
                self._taken.add(target.path)
        self._paths.forget()

    def counts(self, path: bytes) -> bool:
        """Return whether what lies there is of interest; path: without links."""
        return self._paths.counts(path)

    def listing(self, directory: bytes, *, searches: bool = False) -> None:
        """Note that the names in a directory begin to be read.

        directory: without links. searches: whether it is in search of single names.
        """
        if searches:
            self._searched[directory] = None
        else:
            self._listed[directory] += 1

    def is_own(self, path: bytes) -> bool:
        """Return whether the command has made all of a file, or of a directory above it."""
        while path not in self._own:
            path = path.rpartition(b"/")[0]
            if not path:
                return False
        return True

    def has_made(self, path: bytes) -> bool:
        """Return whether a file is the command's own, and not one that it may not read, renamed."""
        while path and path not in self._taken:
            if path in self._own:
                return True
            path = path.rpartition(b"/")[0]
        return False

    def sought(self, modules: Iterable[bytes], directories: Iterable[bytes]) -> None:
        """Note that Python has looked for modules in directories, whose names it knows by listing.

        An extension module that is not there is not noted.
        """
        names = [name for module in modules for name in (module, module + b".py")]
        for directory in filter(self.counts, directories):
            try:
                there = {*os.listdir(directory)}
            except OSError:
                continue
            for name in names:
                if name not in there:
                    self._looked_up.setdefault(directory + b"/" + name, "")

    def accesses(self, imports: Mapping[bytes, int], variables: Iterable[str]) -> Accesses:
        """Return what was done in all.

        imports: how often Python's import system has listed a directory. variables: those that
        Python programs have read.
        """
        looked_up = {
            path: what
            for path, what in self._looked_up.items()
            if path not in self._read and path not in self._written and not self.is_own(path)
        }
        if len(looked_up) > _MOST:
            looked_up, self.unseen = {}, self.unseen or "it looked for too many files"
        listed = [path for path, times in self._listed.items() if times > imports.get(path, 0)]
        return Accesses(
            _texts(self._read),
            _texts(self._written),
            _texts(path for path in listed if not self.is_own(path)),
            {os.fsdecode(path): what for path, what in looked_up.items()},
            tuple(sorted(variables)),
            self.unseen,
            _texts(path for path in self._searched if path not in listed and not self.is_own(path)),
        )

    def _find(self, path: bytes, *, follow: bool) -> Found | None:
        found = self._paths.file(path, follow=follow)
        if found is not None:
            for link in found.links:
                self._note_read(link)
        return found

    def _open_file(self, path: bytes, flags: int) -> None:
        access = flags & os.O_ACCMODE
        if flags & os.O_TRUNC:
            self._make(path)
        elif access == os.O_RDONLY:
            self._note_read(path)
        else:
            if access == os.O_RDWR:
                self._note_read(path)
            self._written[path] = None

    def _note_read(self, path: bytes) -> None:
        if path not in self._read and not self.is_own(path):
            self._read[path] = None

    def _make(self, path: bytes) -> None:
        self._written[path] = None
        self._own.add(path)
        self._taken.discard(path)

    def _look_up(self, path: bytes, mode: int) -> None:
        if path not in self._looked_up:
            if stat.S_ISLNK(mode):
                mode = _mode_behind(path)
            what = "directory" if stat.S_ISDIR(mode) else "file" if mode else ""
            self._looked_up[path] = what


def _mode_behind(link: bytes) -> int:
    try:
        return os.stat(link).st_mode
    except OSError:
        return 0


def _texts(paths: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(map(os.fsdecode, paths))
