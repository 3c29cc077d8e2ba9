"""Outputs displaced while a command makes new ones, and put back when it fails."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple

from buildrun.errors import StoreError
from buildrun.store import files, locks
from buildrun.store.cas import ignore_errors, write
from buildrun.store.files import open_beneath, open_directory
from buildrun.store.home import STAGING
from buildrun.store.manifest import is_output
from buildrun.workspace import move

_LOCK, _RECOVERY, _JOURNAL = "lock", "recovery", "journal"
# How far an output is that cannot be moved in one step.
_TAKING, _TAKEN, _GIVING, _GIVEN = "taking", "taken", "giving", "given"


class _Moved(NamedTuple):
    """A line of the journal; mode: of a directory that has to be opened up to be moved."""

    number: int
    path: str
    mode: int | None
    state: str | None


class Staging:
    """A directory in a project that old outputs are moved to, and new ones from.

    No other process clears up while one holds the lock, such as a command that inherited it.
    """

    def __init__(
        self, root: str, path: str, lock: locks.Lock, moved: Mapping[int, _Moved] | None = None
    ) -> None:
        """Take over a directory, its lock, and what its journal says; both paths are absolute."""
        self._root, self._path, self._lock = root, path, lock
        self._moved = dict(moved or {})

    @property
    def descriptor(self) -> int:
        """Return the lock's descriptor; -1 where nothing had to be moved."""
        return self._lock.descriptor

    def new(self, number: int) -> str:
        """Return where the new output of a number is prepared."""
        return f"{self._path}/new/{number}"

    def take(self, paths: Sequence[str]) -> None:
        """Move outputs out of the project; raises OSError and StoreError."""
        self._announce(paths)
        for number in range(len(paths)):
            self._take(number)

    def swap(self, paths: Sequence[str]) -> None:
        """Put new outputs in the places of old ones; raises OSError and StoreError."""
        self._announce(paths)
        for number in range(len(paths)):
            self._take(number)
            self._give(number)

    def put_back(self, paths: Sequence[str] | None = None) -> None:
        """Move old outputs back to where nothing is now, all or some, as declared.

        Of all, those that cannot go back are deleted. Raises StoreError; then a later run tries
        again.
        """
        chosen = None if paths is None else [path.rstrip("/") for path in paths]
        try:
            for moved in list(self._moved.values()):
                if chosen is None or moved.path in chosen:
                    self._put_back(moved)
        except (OSError, StoreError) as error:
            self.leave()
            raise StoreError(f"old outputs could not be put back: {error}") from error
        if paths is None:
            self.discard()

    def rescue(self, directory: str, paths: Sequence[str] | None = None) -> list[tuple[str, str]]:
        """Move old outputs that are still here to a directory, or to one beside it that has room.

        paths: of all or some, as declared. Returns each with where it is now. Raises OSError and
        StoreError.
        """
        found = []
        chosen = None if paths is None else [path.rstrip("/") for path in paths]
        for number, path, _, state in self._moved.values():
            if chosen is not None and path not in chosen:
                continue
            with self._opened("old") as old:
                if state == _GIVEN or not _is_there(str(number), old):
                    continue
                place = _free(directory, path)
                os.makedirs(place, mode=0o700, exist_ok=True)
                with _place(place, path, make=True) as (target, name):
                    move.copy_move(str(number), old, name, target)
                found.append((path, os.path.join(place, path)))
        return found

    def leave(self) -> str:
        """Leave what has not been put back to a later run; return the directory where it is."""
        self._lock.release()
        return self._path

    def discard(self) -> None:
        """Delete all that is still here; calling it again, or after leaving it, is harmless."""
        if self._lock.descriptor >= 0:
            _delete(self._path)
            self._lock.release()

    def _announce(self, paths: Sequence[str]) -> None:
        """Write down which outputs are going to be moved, before any is."""
        self._moved = {
            number: _Moved(number, path, _mode(os.path.join(self._root, path)), None)
            for number, path in enumerate(paths)
        }
        temporary = f"{self._path}/{_JOURNAL}.tmp"
        _write(temporary, os.O_TRUNC, self._moved.values())
        os.rename(temporary, f"{self._path}/{_JOURNAL}")

    def _take(self, number: int) -> None:
        """Move an output out of the project, if there is one."""
        try:
            with (
                _place(self._root, self._moved[number].path) as (directory, name),
                self._opened("old") as old,
            ):
                if not move.rename(name, directory, str(number), old):
                    self._mark(number, _TAKING)
                    move.copy_move(name, directory, str(number), old)
                    self._mark(number, _TAKEN)
        except FileNotFoundError:
            pass

    def _give(self, number: int) -> None:
        """Move a new output to its place, where nothing is now."""
        moved = self._moved[number]
        with (
            _place(self._root, moved.path, make=True) as (directory, name),
            self._opened("new") as new,
        ):
            if moved.state is not None or not move.rename(str(number), new, name, directory):
                self._mark(number, _GIVING)
                move.copy_move(str(number), new, name, directory)
                self._mark(number, _GIVEN)

    def _put_back(self, moved: _Moved) -> None:
        """Put an old output in its place, unless there is something newer."""
        name = str(moved.number)
        with self._opened("old") as old:
            if moved.state == _GIVEN or not _is_there(name, old):
                return
            with _place(self._root, moved.path, make=True) as (directory, target):
                if _is_newer(moved, target, directory):
                    return
                if moved.state == _GIVING:
                    move.clear(os.path.join(os.path.realpath(self._root), moved.path))
                if moved.state is not None or not move.rename(name, old, target, directory):
                    # From here on what is there are pieces of the old output.
                    self._mark(moved.number, _TAKING)
                    move.copy_move(name, old, target, directory)
                if moved.mode is not None:
                    os.chmod(target, moved.mode, dir_fd=directory)

    def _mark(self, number: int, state: str) -> None:
        moved = self._moved[number]._replace(state=state)
        _write(f"{self._path}/{_JOURNAL}", os.O_APPEND, [moved])
        self._moved[number] = moved

    def _opened(self, name: str) -> AbstractContextManager[int]:
        """Give a directory of the staging directory, which may not be a link."""
        return files.closing(open_beneath(None, f"{self._path}/{name}"))


def displace(root: str, paths: Sequence[str]) -> Staging:
    """Move outputs, but for links out of the project, away, so that a command starts without them.

    Raises StoreError; then all is where it was.
    """
    there = [path.rstrip("/") for path in paths if _is_ours(root, path.rstrip("/"))]
    if not there:
        return Staging(root, "", locks.Lock(-1))
    stage = _make(root)
    try:
        stage.take(there)
    except BaseException as error:
        stage.put_back()
        if isinstance(error, OSError):
            place = error.filename if isinstance(error.filename, str) else root
            text = f"old outputs cannot be moved away: {error.strerror}"
            raise StoreError(text, place=place) from error
        raise
    return stage


@contextmanager
def prepare(root: str, paths: Sequence[str]) -> Iterator[Staging]:
    """Give a staging directory for new outputs, which the block swaps with the old ones.

    At its end old outputs that nothing has replaced are back. Raises OSError, and StoreError
    where the project cannot be written or an output would lie outside.
    """
    stage = _make(root)
    try:
        for above in {path.rpartition("/")[0] for path in paths}:
            try:
                os.close(open_directory(root, above))
            except FileNotFoundError:
                continue  # made when it is needed
        yield stage
    finally:
        try:
            stage.put_back()
        except StoreError:
            pass  # a later run tries again


def _make(root: str) -> Staging:
    """Return a new staging directory; raises StoreError where the project cannot be written."""
    while True:
        path = os.path.join(root, STAGING + os.urandom(6).hex())
        try:
            os.mkdir(path, 0o700)
            lock = _try_lock(f"{path}/{_LOCK}")
            # Somebody who clears up may have taken it for a dead one's before it was locked.
            if lock is not None and os.fstat(lock.descriptor).st_nlink > 0:
                os.mkdir(f"{path}/new")
                os.mkdir(f"{path}/old")
                return Staging(root, path, lock)
        except FileNotFoundError:
            if os.path.isdir(root):
                continue  # cleared up a moment ago
            raise StoreError("the project is gone", place=root) from None
        except OSError as error:
            _delete(path)
            text = f"the project cannot be written: {error.strerror}"
            raise StoreError(text, place=root) from error


def recover(root: str, rescue: str | None = None) -> list[tuple[str, str]]:
    """Put back what killed runs had moved away, where nothing is now; the rest is deleted.

    rescue: a directory that the rest is moved to instead; returns what was. Directories of running
    processes are left alone. Call it under the lock of the step whose outputs are looked at next.
    """
    names = [name for name in files.names_in(root) if name.startswith(STAGING)]
    return [item for name in names for item in _recover(root, f"{root}/{name}", rescue)]


def _recover(root: str, path: str, rescue: str | None) -> list[tuple[str, str]]:
    rescued: list[tuple[str, str]] = []
    try:
        status = os.lstat(path)
        # A project that was fetched could bring a directory of this name with it.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return rescued
        # Others wait here until what they may look at next is in its place again.
        with locks.Lock(_open(f"{path}/{_RECOVERY}")) as queue:
            fcntl.flock(queue.descriptor, fcntl.LOCK_EX)
            owner = _try_lock(f"{path}/{_LOCK}")
            if owner is None:
                return rescued
            with owner:
                journal = _journal(path)
                stage = Staging(root, path, owner, journal)
                stage.put_back([moved.path for moved in journal.values()])
                if rescue is not None:
                    rescued = stage.rescue(rescue)
                stage.discard()
    except (OSError, StoreError):
        pass  # deleted meanwhile by another process, or not to be mended: the next run tries again
    return rescued


def _free(directory: str, path: str) -> str:
    """Return the directory, or one beside it, in which there is nothing of that path."""
    number, place = 1, directory
    while os.path.lexists(os.path.join(place, path)):
        number += 1
        place = f"{directory}-{number}"
    return place


def _is_newer(moved: _Moved, name: str, directory: int) -> bool:
    """Return whether what is in the place of an old output is to stay there."""
    if moved.state is None:
        return _is_there(name, directory)
    return moved.state == _TAKEN and not move.is_empty(name, directory)


def _delete(path: str) -> None:
    """Delete a staging directory; from the first step on nothing is put back any more."""
    ignore_errors(os.unlink, f"{path}/{_JOURNAL}")
    if os.path.lexists(f"{path}/{_JOURNAL}"):
        return
    for name in ("old", "new", f"{_JOURNAL}.tmp", _RECOVERY, _LOCK):
        move.delete(f"{path}/{name}")
    ignore_errors(os.rmdir, path)


def _journal(path: str) -> dict[int, _Moved]:
    """Return what was announced, each in its last state; raises OSError where it is unreadable."""
    try:
        lines = files.read(f"{path}/{_JOURNAL}", follow=False).splitlines(keepends=True)
    except FileNotFoundError:
        return {}
    return {moved.number: moved for moved in map(_parse, lines) if moved is not None}


def _parse(line: bytes) -> _Moved | None:
    """Return what a line says, or None for one that was not written to its end."""
    try:
        number, path, mode, state = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    right = type(number) is int and is_output(path) and type(mode) in (int, type(None))
    return _Moved(number, path, mode, state) if right and line.endswith(b"\n") else None


def _write(path: str, flags: int, moved: Iterable[_Moved]) -> None:
    with files.closing(_open(path, flags)) as target:
        write(target, b"".join(json.dumps(item).encode() + b"\n" for item in moved))


def _mode(path: str) -> int | None:
    """Return the mode of a directory that its owner may not write to."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return None
    return None if not stat.S_ISDIR(mode) or mode & stat.S_IWUSR else stat.S_IMODE(mode)


def _is_there(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


@contextmanager
def _place(root: str, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
    """Give the directory that an output lies in, and its name."""
    above, _, name = path.rpartition("/")
    with files.closing(open_directory(root, above, make=make)) as directory:
        yield directory, name


def _try_lock(path: str) -> locks.Lock | None:
    """Return the hold on a lock file, or None where somebody else has it; raises OSError."""
    descriptor = _open(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return locks.Lock(descriptor)


def _open(path: str, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


def _is_ours(root: str, path: str) -> bool:
    """Return whether there is something that is not a link out of the project."""
    full = os.path.join(root, path)
    if not os.path.islink(full):
        return os.path.lexists(full)
    real, base = os.path.realpath(full), os.path.realpath(root)
    return real != base and files.is_within(real, base)
