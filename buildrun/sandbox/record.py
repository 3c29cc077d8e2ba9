"""What a command has done with files so far, kept in the order in which it happens."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

from buildrun.sandbox.accesses import Accesses
from buildrun.sandbox.paths import Found, Paths
from buildrun.sandbox.syscalls import Call

# Flags of `renameat2` and `linkat`.
_NO_REPLACE, _EXCHANGE, _FOLLOW, _OF_DESCRIPTOR = 1, 2, 0x400, 0x1000

# Files that are looked for and that a record can hold; far more than any program's own.
_MOST = 20_000

# So many scripts the kernel runs one by another, and so much it reads of each.
_MOST_INTERPRETERS, _FIRST_LINE = 6, 256


class Record:
    """The accesses of one command; each method is called before what it tells of is done."""

    def __init__(
        self, paths: Paths, outputs: Collection[bytes], passing: Iterable[bytes] = ()
    ) -> None:
        """Take what resolves paths; outputs: absolute paths that the command makes.

        passing: those that come and go in directories that it lists, without being of interest.
        """
        self._passing = frozenset(passing)
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
        # The names that a listing has found.
        self._names: dict[bytes, frozenset[bytes]] = {}

    def opening(self, path: bytes, flags: int, thread: int = 0) -> bytes | None:
        """Note that a file is opened; return where it really is, None where that is no matter.

        thread: that opens it. Raises OSError for a path that is too long, as the others do.
        """
        found = self._find(path, thread, follow=not flags & os.O_NOFOLLOW)
        if found is None:
            return None
        real, mode = found.path, found.mode
        if mode and flags & os.O_CREAT and flags & os.O_EXCL:
            self._look_up(real, mode)  # it fails
        elif stat.S_ISREG(mode) and not flags & os.O_PATH:
            self._open_file(real, flags)
        elif mode == 0 and flags & os.O_CREAT:
            self._make(real)
        else:
            self._look_up(real, mode)
        return real

    def is_quiet(self, path: bytes) -> bool:
        """Return whether a path is known to be of no matter; the others may be."""
        return self._paths.is_quiet(path)

    def reached(self, call: Call, path: bytes, thread: int) -> bytes | None:
        """Note a call other than ``open`` with one path; returns the same as ``opening``."""
        found = self._find(path, thread, follow=call.follow)
        if call.kind == "make":
            self._paths.forget()
        if found is None:
            return None
        real, mode = found.path, found.mode
        if call.kind == "make" and not mode:
            self._make(real)
        elif call.kind in ("remove", "change") and mode:
            self._written[real] = None
        elif call.kind == "run" and stat.S_ISREG(mode):
            self._run(real, thread)
        elif call.kind == "readlink" and stat.S_ISLNK(mode):
            self._note_read(real)
        else:
            self._look_up(real, mode)
        return real

    def moved(
        self,
        call: Call,
        old: bytes,
        new: bytes,
        flags: int,
        thread: int,
        may_read: Callable[[bytes], bool] | None,
    ) -> None:
        """Note that a file gets another name, or one more; flags: of the call.

        may_read: tells of a path whether the command may read it; None where it may read all.
        """
        is_link = call.kind == "link"
        by_descriptor = is_link and bool(flags & (_FOLLOW | _OF_DESCRIPTOR))
        source = self._find(old, thread, follow=by_descriptor)
        target = self._find(new, thread, follow=False)
        self._paths.forget()
        if source is not None and not source.mode and not by_descriptor:
            self._look_up(source.path, 0)
            return
        if target is not None and target.mode and not flags & _EXCHANGE:
            kept = is_link or flags & _NO_REPLACE
            if kept or not _can_replace(old if source is None else source.path, target.path):
                self._look_up(target.path, target.mode)  # it fails
                return
        exchanged = target if not is_link and flags & _EXCHANGE else None
        taken = [self._is_taken(each, may_read) for each in (source, exchanged)]
        for each in (source, exchanged):
            if each is not None and each.mode:
                self._note_all(each)
        if source is not None and not is_link:
            self._written[source.path] = None
        if target is not None:
            self._take_over(source, target, is_taken=taken[0])
        if exchanged is not None and source is not None:
            self._take_over(None, source, is_taken=taken[1])

    def _is_taken(self, file: Found | None, may_read: Callable[[bytes], bool] | None) -> bool:
        if file is None or may_read is None:
            return False
        return not (self.has_made(file.path) or may_read(file.path))

    def _take_over(self, source: Found | None, target: Found, *, is_taken: bool) -> None:
        """Note that what the command has made at one place is now at another one."""
        self._make(target.path)
        below = source.path + b"/" if source is not None else b"\0"
        for path in [each for each in self._own if each.startswith(below)]:
            self._make(target.path + b"/" + path[len(below) :])
        if is_taken:
            self._taken.add(target.path)

    def counts(self, path: bytes) -> bool:
        """Return whether what lies there is of interest; path: without links."""
        return self._paths.counts(path)

    def listing(self, directory: bytes, *, searches: bool = False) -> None:
        """Note that the names in a directory begin to be read; raises OSError.

        directory: without links. searches: whether it is in search of single names.
        """
        if searches:
            self._searched[directory] = None
        else:
            self._listed[directory] += 1
        if directory not in self._names:
            self._names[directory] = frozenset(os.listdir(directory))

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
        # What was left running may still add to these.
        read, written, found = self._read.copy(), self._written.copy(), self._looked_up.copy()
        found |= self._come_and_gone(self._names.copy())
        looked_up = {
            path: what
            for path, what in found.items()
            if path not in read and path not in written and not self.is_own(path)
        }
        if len(looked_up) > _MOST:
            looked_up, self.unseen = {}, self.unseen or "it looked for too many files"
        listed = [
            path for path, times in self._listed.copy().items() if times > imports.get(path, 0)
        ]
        return Accesses(
            _texts(read),
            _texts(written),
            _texts(path for path in listed if not self.is_own(path)),
            {os.fsdecode(path): what for path, what in looked_up.items()},
            tuple(sorted(variables)),
            self.unseen,
            _texts(path for path in self._searched if path not in listed and not self.is_own(path)),
        )

    def _come_and_gone(self, listings: Mapping[bytes, frozenset[bytes]]) -> dict[bytes, str]:
        """Return what others have added to listed directories since, or removed, as it was.

        The command did not see the names that are there now.
        """
        found: dict[bytes, str] = {}
        for directory, names in listings.items():
            try:
                now = frozenset(os.listdir(directory))
            except OSError:
                continue
            found |= {os.path.join(directory, name): "" for name in now.difference(names)}
            found |= {os.path.join(directory, name): "file" for name in names.difference(now)}
        return {path: what for path, what in found.items() if path not in self._passing}

    def _find(self, path: bytes, thread: int, *, follow: bool) -> Found | None:
        found = self._paths.file(path, follow=follow, thread=thread)
        if found is None:
            return None
        for link in found.links:
            self._note_read(link)
        return found if found.counts else None

    def _run(self, program: bytes, thread: int) -> None:
        """Note a program that is run, and those that the kernel runs for a script."""
        for _ in range(_MOST_INTERPRETERS):
            self._note_read(program)
            interpreter = _interpreter(program)
            if not interpreter:
                return
            here = b"/" if interpreter.startswith(b"/") else os.readlink(b"/proc/%d/cwd" % thread)
            found = self._find(os.path.join(here, interpreter), thread, follow=True)
            if found is None or not stat.S_ISREG(found.mode):
                return
            program = found.path

    def _note_all(self, found: Found) -> None:
        """Note a file that is moved, or all in a directory: it may be read where it is then."""
        self._note_read(found.path)
        if stat.S_ISDIR(found.mode) and not self.is_own(found.path):
            for directory, _, names in os.walk(found.path):
                for name in names:
                    self._note_read(os.path.join(directory, name))

    def _open_file(self, path: bytes, flags: int) -> None:
        access = flags & os.O_ACCMODE
        if (access != os.O_RDONLY or flags & os.O_TRUNC) and not os.access(path, os.W_OK):
            self._look_up(path, stat.S_IFREG)  # it fails
        elif flags & os.O_TRUNC:
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


def _can_replace(old: bytes, new: bytes) -> bool:
    """Return whether one file can be given the name of another one, which is there."""
    try:
        one, other = os.lstat(old), os.lstat(new)
        if one.st_dev != other.st_dev or stat.S_ISDIR(one.st_mode) != stat.S_ISDIR(other.st_mode):
            return False
        return not stat.S_ISDIR(other.st_mode) or not os.listdir(new)
    except OSError:
        return False


def _interpreter(program: bytes) -> bytes:
    """Return the program that a script names in its first line, or ""."""
    try:
        with open(program, "rb") as file:
            start = file.read(_FIRST_LINE)
    except OSError:
        return b""
    words = start.partition(b"\n")[0].removeprefix(b"#!").split(None, 1)
    return words[0] if start.startswith(b"#!") and words else b""


def _mode_behind(link: bytes) -> int:
    try:
        return os.stat(link).st_mode
    except OSError:
        return 0


def _texts(paths: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(map(os.fsdecode, paths))
