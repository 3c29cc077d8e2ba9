"""Watches a command: every file that it, or anything it starts, reaches for."""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import shutil
import socket
import stat
import struct
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from buildrun.sandbox import python_log, searching, syscalls
from buildrun.sandbox.accesses import Accesses
from buildrun.sandbox.landlock import Ruleset
from buildrun.sandbox.paths import LONGEST, Paths
from buildrun.sandbox.record import Record
from buildrun.sandbox.seccomp import Filter, Listener, Memory, Notification
from buildrun.sandbox.syscalls import Call

# Seconds that what a command has started may take to end after it.
_LEFT = 1.0

# What is wrong with a call that the kernel refuses as well: a path that is no path, a descriptor
# that is none; or with a process that is gone.
_NO_CALL = (errno.EFAULT, errno.EBADF, errno.ENOENT, errno.ESRCH)

# How the kernel tells a directory that has been removed; the way up from it still leads on.
_GONE = b" (deleted)"

_WORKING_DIRECTORY = 0xFFFFFF9C  # AT_FDCWD in an unsigned number


@functools.cache
def unavailable() -> str:
    """Return why not all programs can be watched on this machine, or ""."""
    there = syscalls.here()
    if there is None or not hasattr(os, "O_PATH"):
        return f"it takes Linux on {' or '.join(syscalls.ARCHITECTURES)}"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        pid = os.fork()
        if pid == 0:
            try:
                Filter(there).install(theirs)
                os._exit(0)
            except OSError as error:
                os._exit(error.errno or 1)
            finally:
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == errno.EBUSY:
        return "buildrun is watched itself, and nothing can be watched twice"
    return "the kernel has no filters of system calls that ask, or allows none" if code else ""


class Tracer:
    """One command under watch, from before its start to its end; a context manager."""

    def __init__(
        self,
        project: str,
        quiet: Iterable[str],
        outputs: Iterable[str],
        passing: Iterable[str] = (),
        *,
        network: bool = True,
    ) -> None:
        """Take what is of interest, see ``Paths``; all paths are absolute and without links.

        outputs: what the command makes. passing: what comes and goes where it lists. network:
        whether it may use that. Where ``unavailable`` says so, only Python programs are watched.
        """
        self.directory = os.path.realpath(tempfile.mkdtemp(prefix="buildrun-"))
        # For what the command may read; outputs, and all other files that it makes itself, it may
        # read in spite of them. Set before this is entered.
        self.rules: Ruleset | None = None
        self._log = os.path.join(self.directory, "python.log")
        self._network = network
        self._project = project
        ignored = [os.fsencode(path) for path in (*quiet, self.directory)]
        paths = Paths(os.fsencode(project), ignored)
        made = [os.fsencode(path) for path in outputs]
        self._record = Record(paths, made, map(os.fsencode, passing))
        self._watcher: _Watcher | None = None

    def __enter__(self) -> Tracer:
        """Begin to wait for the command's process."""
        there = syscalls.here()
        if there is not None and not unavailable():
            for path in _inherited(self._project):
                self._record.opening(path, os.O_RDONLY)
            self._watcher = _Watcher(self._record, there, self.rules, network=self._network)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop watching, and remove what is temporary."""
        if self._watcher is not None:
            self._watcher.finish()
        shutil.rmtree(self.directory, ignore_errors=True)

    def make_temporary(self) -> str:
        """Make a directory that lasts as long as this is entered, and return its path."""
        path = os.path.join(self.directory, "tmp")
        os.mkdir(path)
        return path

    def variables(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """Return what the command has to see in addition to its variables."""
        return python_log.variables(environ, self._log, files=self._watcher is None)

    def restrict(self) -> None:
        """Put rules and filter on this process, for good; raises OSError.

        To be called in the command's process, before its program is loaded.
        """
        if self._watcher is not None:
            self._watcher.restrict()

    def accesses(self) -> Accesses:
        """Return what was done; the command has ended."""
        told = python_log.read(self._log)
        if self._watcher is not None:
            self._watcher.finish()
        else:
            self._record.unseen = f"only Python programs were watched: {unavailable()}"
            for path, flags in told.opened:
                real = self._record.opening(path, flags)
                if real is not None and flags & os.O_DIRECTORY:
                    self._record.listing(real)
        self._record.sought(told.modules, told.imports)
        imports = told.imports if self._watcher is not None else {}  # else these are not in it
        return self._record.accesses(imports, told.variables)

    @property
    def tried_network(self) -> bool:
        """Return whether it was kept from using the network."""
        return self._watcher is not None and self._watcher.tried_network

    @property
    def ran_own(self) -> bool:
        """Return whether it was kept from running a program that it has made in the project."""
        return self._watcher is not None and self._watcher.ran_own


def _inherited(project: str) -> Iterator[bytes]:
    """Yield files of the project that our caller has opened for reading, and commands inherit."""
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            may_read = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_WRONLY
            path = os.readlink(b"/proc/self/fd/%d" % number)
            if number > 2 and may_read and os.get_inheritable(number):
                yield from [path] if path.startswith(os.fsencode(project) + b"/") else []
        except OSError:
            continue  # it was for the listing alone


class _Opening(NamedTuple):
    """A file to be opened in a program's place."""

    path: bytes
    flags: int
    mode: int
    is_pipe: bool


class _Watcher:
    """Answers each call that the filter asks about, in a thread of its own."""

    def __init__(
        self,
        record: Record,
        there: syscalls.Architecture,
        rules: Ruleset | None,
        *,
        network: bool,
    ) -> None:
        self._record = record
        self._there = there
        self._rules = rules
        self._network = network
        self._filter = Filter(there, network=network)
        self._calls = {
            number: (name, syscalls.CALLS[name]) for name, number in there.numbers.items()
        }
        self._memory = Memory()
        self.tried_network = False
        self.ran_own = False
        self._ours, self._theirs = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="tracer", daemon=True)
        self._thread.start()

    def restrict(self) -> None:
        if self._rules is not None:
            self._rules.restrict()
        self._filter.install(self._theirs)

    def finish(self) -> None:
        """Wait for the end of what is watched; calling it again is harmless.

        What is left running goes on, watched in vain, as long as this process does.
        """
        self._theirs.close()
        self._thread.join(_LEFT)
        if self._thread.is_alive():
            self._record.unseen = "it has left processes running"

    # -- in the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        with self._ours:
            flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)  # or other commands inherit it
            _, descriptors, _, _ = socket.recv_fds(self._ours, 1, 1, flags)
        if not descriptors:
            return  # it was never started
        listener = Listener(descriptors[0], self._there.audit)
        try:
            while (asked := listener.receive()) is not None:
                self._answer(asked, listener)
        except OSError as error:
            self._record.unseen = f"the watch broke off: {error.strerror}"
        finally:
            listener.close()

    def _answer(self, asked: Notification, listener: Listener) -> None:
        """Note a call, and have it done."""
        opening = None
        try:
            if not self._network and (asked.foreign or asked.number == self._there.socket):
                # Of a program for another architecture nobody knows what it does.
                self.tried_network = True
                listener.fail(asked, errno.EACCES)
                return
            opening = self._note(asked)
        except PermissionError:
            self._record.unseen = "a program lets nobody look at its memory"
        except OSError as error:
            if error.errno not in _NO_CALL:
                self._record.unseen = f"what a call means could not be seen: {error.strerror}"
        except Exception as error:  # the command must not wait for ever
            self._record.unseen = f"a call was not understood: {error!r}"
        if opening is None:
            listener.proceed(asked)
        elif opening.is_pipe:  # it waits for its other end, which somebody has to open meanwhile
            arguments = asked, opening, listener
            threading.Thread(target=_open_for, args=arguments, daemon=True).start()
        else:
            _open_for(asked, opening, listener)

    def _note(self, asked: Notification) -> _Opening | None:
        """Note a call; return what is to be opened in its caller's place, if anything."""
        found = None if asked.foreign else self._calls.get(asked.number)
        if found is None:
            self._record.unseen = "it ran a program for another architecture"
            return None
        name, call = found
        if call.kind == "hide":
            self._record.unseen = f"`{name}` has changed what paths mean to it"
        elif call.kind == "list":
            self._note_listing(asked.thread, asked.arguments[call.directory])
        elif call.other >= 0:
            path = self._path(asked, call.path, call.directory)
            other = self._path(asked, call.other, call.other_directory)
            flags = asked.arguments[call.flags] if call.flags >= 0 else 0
            may_read = self._rules.allows if self._rules is not None else None
            self._record.moved(call, path, other, flags, asked.thread, may_read)
        else:
            path = self._path(asked, call.path, call.directory)
            if name == syscalls.OPENAT2 and self._how(asked)[2] & syscalls.RESOLVE_IN_ROOT:
                self._record.unseen = "`openat2` has changed what paths mean to it"
            elif call.kind not in ("make", "run") and self._record.is_quiet(path):
                return None  # most are
            elif call.kind == "open":
                return self._note_open(path, asked, name, call)
            else:
                real = self._record.reached(call, path, asked.thread)
                if call.kind == "run" and self._rules is not None and real is not None:
                    self.ran_own = self.ran_own or self._record.has_made(real)
        return None

    def _note_listing(self, thread: int, number: int) -> None:
        directory = os.readlink(_own(thread, b"fd/%d" % number))
        if self._record.counts(directory) and _is_at_start(thread, number):
            self._record.listing(directory, searches=searching.is_search(thread))

    def _note_open(
        self, path: bytes, asked: Notification, name: str, call: Call
    ) -> _Opening | None:
        flags, mode = call.given, 0
        if name == syscalls.OPENAT2:
            flags, mode, _ = self._how(asked)
        elif call.flags >= 0:
            flags, mode = asked.arguments[call.flags] & 0xFFFFFFFF, asked.arguments[call.flags + 1]
        real = self._record.opening(path, flags, asked.thread)
        if real is None or self._rules is None or flags & os.O_ACCMODE == os.O_WRONLY:
            return None
        if not self._record.has_made(real) or os.path.isdir(real):
            return None
        return _Opening(real, flags, mode & ~_umask(asked.thread), _is_pipe(real))

    def _how(self, asked: Notification) -> tuple[int, int, int]:
        """Return flags, mode and resolution of an ``openat2``; raises OSError."""
        how = self._memory.read(asked.thread, asked.arguments[2], 24)
        flags, mode, resolution = struct.unpack("=QQQ", how)
        return flags, mode, resolution

    def _path(self, asked: Notification, argument: int, directory: int) -> bytes:
        """Return a path that a call was given, made absolute; raises OSError."""
        thread, text = asked.thread, self._memory.text(asked.thread, asked.arguments[argument])
        if len(text) >= LONGEST:
            raise OSError(errno.EFAULT, "the kernel takes no path as long as this")
        if text.startswith(b"/"):
            return text
        number = asked.arguments[directory] & 0xFFFFFFFF if directory >= 0 else _WORKING_DIRECTORY
        base = b"cwd" if number == _WORKING_DIRECTORY else b"fd/%d" % number
        here = os.readlink(_own(thread, base))
        if here.endswith(_GONE) and text.startswith(b"..") and not os.path.exists(here):
            raise OSError(errno.ESTALE, "it uses a directory that is gone")
        return os.path.join(here, text)


def _open_for(asked: Notification, opening: _Opening, listener: Listener) -> None:
    """Open a file that the rules keep its program from, and that it has made itself."""
    flags = opening.flags | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(opening.path, flags, opening.mode)
    except OSError as error:
        listener.fail(asked, error.errno or errno.EACCES)
        return
    try:
        # A directory on the way may have become a link since.
        if os.readlink(b"/proc/self/fd/%d" % descriptor) != opening.path:
            raise OSError(errno.EACCES, "it is not what it was")
        listener.give(asked, descriptor, on_exec=not opening.flags & os.O_CLOEXEC)
    except OSError as error:  # or the program can have no more open files
        listener.fail(asked, error.errno or errno.EACCES)
    finally:
        os.close(descriptor)


def _own(thread: int, name: bytes) -> bytes:
    return b"/proc/%d/%s" % (thread, name)


def _is_pipe(path: bytes) -> bool:
    try:
        return stat.S_ISFIFO(os.lstat(path).st_mode)
    except OSError:
        return False


def _is_at_start(thread: int, number: int) -> bool:
    """Return whether a process has read nothing yet from an open directory."""
    with open(_own(thread, b"fdinfo/%d" % number), "rb") as file:
        return int(file.readline().split()[1]) == 0


def _umask(thread: int) -> int:
    with open(_own(thread, b"status"), "rb") as file:
        for line in file:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    return 0o022
