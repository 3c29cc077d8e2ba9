"""Outputs displaced while a command makes new ones, and put back when it fails."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
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


class Rescued(NamedTuple):
    """An old output that was moved away; place: where it is now."""

    path: str
    place: str


class Staging:
    """A staging directory of this process.

    lock: a child that inherits its descriptor keeps others from clearing up.
    """

    def __init__(self, root: str, path: str, lock: locks.Lock) -> None:
        """Take over a directory and its lock; both paths are absolute."""
        self.root, self.path, self.lock = root, path, lock
        self._moved: list[_Moved] = []

    def new(self, number: int) -> str:
        """Return where a new output is prepared."""
        return f"{self.path}/new/{number}"

    def announce(self, paths: Sequence[str]) -> None:
        """Write down which outputs are going to be moved, before any is; raises OSError."""
        self._moved = [
            _Moved(number, path, _mode(os.path.join(self.root, path)), None)
            for number, path in enumerate(paths)
        ]
        temporary = f"{self.path}/{_JOURNAL}.tmp"
        _write(temporary, os.O_TRUNC, self._moved)
        os.rename(temporary, f"{self.path}/{_JOURNAL}")

    def take(self, number: int) -> bool:
        """Move an output out of the project, if there is one; returns whether there was.

        Raises OSError and StoreError.
        """
        moved = self._moved[number]
        try:
            with _place(self.root, moved.path) as (directory, name), _old(self.path) as old:
                if move.rename(name, directory, str(number), old):
                    return True
                self._mark(number, _TAKING)
                move.copy_move(name, directory, str(number), old)
                self._mark(number, _TAKEN)
        except FileNotFoundError:
            return False
        return True

    def give(self, number: int) -> None:
        """Move a new output to its place, where nothing is now; raises OSError and StoreError."""
        moved = self._moved[number]
        with (
            _place(self.root, moved.path, make=True) as (directory, name),
            _opened(self.path, "new") as new,
        ):
            whole = self._moved[number].state is None
            if whole and move.rename(str(number), new, name, directory):
                return
            self._mark(number, _GIVING)
            move.copy_move(str(number), new, name, directory)
            self._mark(number, _GIVEN)

    def put_back(self, paths: Sequence[str] | None = None) -> None:
        """Move old outputs back to where nothing is now; raises OSError and StoreError.

        paths: the outputs it is done for, all without.
        """
        for moved in _journal(self.path):
            if paths is None or moved.path in paths:
                _put_back(self.root, self.path, moved)

    def rescue(self, directory: str) -> tuple[Rescued, ...]:
        """Move old outputs that are still here to another directory; see ``rescue``."""
        return _rescue(self.path, directory)

    def end(self) -> None:
        """Delete the directory with all that is still in it; calling it again is harmless."""
        if self.lock.descriptor >= 0:
            _delete(self.path)
            self.lock.release()

    def leave(self) -> None:
        """Let the next run clear up, where this one cannot."""
        self.lock.release()

    def _mark(self, number: int, state: str) -> None:
        self._moved[number] = self._moved[number]._replace(state=state)
        _write(f"{self.path}/{_JOURNAL}", os.O_APPEND, self._moved[number : number + 1])


def make(root: str) -> Staging:
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


def recover(root: str, rescue: str | None = None) -> tuple[Rescued, ...]:
    """Put back what killed runs had moved away, where nothing is now, and delete the rest.

    rescue: a directory that the rest is moved to instead; returns what was. What cannot be put
    back stays in its staging directory. Directories of running processes are left alone. Call it
    under the lock of the step whose outputs are looked at next.
    """
    try:
        with os.scandir(root) as listing:
            names = [entry.name for entry in listing if entry.name.startswith(STAGING)]
    except OSError:
        return ()
    return tuple(item for name in names for item in _recover(root, f"{root}/{name}", rescue))


def _recover(root: str, path: str, rescue: str | None) -> tuple[Rescued, ...]:
    rescued: tuple[Rescued, ...] = ()
    try:
        status = os.lstat(path)
        # A project that was fetched could bring a directory of this name with it.
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            return ()
        # Others wait here until what they may look at next is in its place again.
        with locks.Lock(_open(f"{path}/{_RECOVERY}", os.O_CREAT)) as queue:
            fcntl.flock(queue.descriptor, fcntl.LOCK_EX)
            owner = _try_lock(f"{path}/{_LOCK}")
            if owner is None:
                return ()
            with owner:
                for moved in _journal(path):
                    _put_back(root, path, moved)
                if rescue is not None:
                    rescued = _rescue(path, rescue)
                _delete(path)
    except (OSError, StoreError):
        pass  # deleted meanwhile by another process, or not to be mended: the next run tries again
    return rescued


def _rescue(staging: str, directory: str) -> tuple[Rescued, ...]:
    """Move old outputs that are still in a staging directory to where nobody deletes them.

    What was moved to the directory before stays there: then another one beside it is used.
    Raises OSError and StoreError.
    """
    found: list[Rescued] = []
    for moved in _journal(staging):
        with _old(staging) as old:
            if moved.state == _GIVEN or not _is_there(str(moved.number), old):
                continue
            place = _free(directory, moved.path)
            os.makedirs(place, mode=0o700, exist_ok=True)
            with _place(place, moved.path, make=True) as (target, name):
                move.copy_move(str(moved.number), old, name, target)
            found.append(Rescued(moved.path, os.path.join(place, moved.path)))
    return tuple(found)


def _free(directory: str, path: str) -> str:
    """Return the directory, or one beside it, in which there is nothing of that path."""
    number, place = 1, directory
    while os.path.lexists(os.path.join(place, path)):
        number += 1
        place = f"{directory}-{number}"
    return place


def _put_back(root: str, staging: str, moved: _Moved) -> None:
    """Put an old output in its place, unless there is something newer."""
    name = str(moved.number)
    with _old(staging) as old:
        if moved.state == _GIVEN or not _is_there(name, old):
            return
        with _place(root, moved.path, make=True) as (directory, target):
            if _is_newer(moved, target, directory):
                return
            if moved.state == _GIVING:
                move.clear(os.path.join(os.path.realpath(root), moved.path))
            whole = moved.state is None and move.rename(name, old, target, directory)
            if not whole:
                # From here on what is there are pieces of the old output.
                _write(f"{staging}/{_JOURNAL}", os.O_APPEND, [moved._replace(state=_TAKING)])
                move.copy_move(name, old, target, directory)
            if moved.mode is not None:
                os.chmod(target, moved.mode, dir_fd=directory)


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


def _journal(path: str) -> list[_Moved]:
    """Return what was announced, each in its last state; raises OSError where it is unreadable."""
    try:
        lines = files.read(f"{path}/{_JOURNAL}", follow=False).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    found: dict[int, _Moved] = {}
    for line in lines:
        moved = _parse(line)
        if moved is not None:
            found[moved.number] = moved
    return list(found.values())


def _parse(line: bytes) -> _Moved | None:
    """Return what a line says, or None for one that was not written to its end."""
    try:
        number, path, mode, state = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    right = type(number) is int and is_output(path) and type(mode) in (int, type(None))
    return _Moved(number, path, mode, state) if right and line.endswith(b"\n") else None


def _write(path: str, flags: int, moved: Sequence[_Moved]) -> None:
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    try:
        write(target, b"".join(json.dumps(item).encode() + b"\n" for item in moved))
    finally:
        os.close(target)


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
    directory = open_directory(root, above, make=make)
    try:
        yield directory, name
    finally:
        os.close(directory)


@contextmanager
def _opened(staging: str, name: str) -> Iterator[int]:
    """Give a directory of the staging directory, which may not be a link."""
    directory = open_beneath(None, f"{staging}/{name}")
    try:
        yield directory
    finally:
        os.close(directory)


def _old(staging: str) -> AbstractContextManager[int]:
    return _opened(staging, "old")


def _try_lock(path: str) -> locks.Lock | None:
    """Return the hold on a lock file, or None where somebody else has it; raises OSError."""
    descriptor = _open(path, os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return locks.Lock(descriptor)


def _open(path: str, flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | flags, 0o600)


class Displaced:
    """Outputs that were moved away.

    descriptor: of a lock; as long as a process that inherited it lives, nobody takes the outputs
        for those of a killed run. -1 where nothing had to be moved.
    """

    def __init__(self, stage: Staging | None) -> None:
        """Take over what they were moved to."""
        self._stage = stage
        self.descriptor = stage.lock.descriptor if stage is not None else -1

    def put_back(self, paths: Sequence[str] | None = None) -> None:
        """Move outputs back to where the command left nothing.

        paths: which, as declared; without, all, and the others are deleted. Raises StoreError;
        then what could not be moved back is kept, and a later run tries again.
        """
        if self._stage is None:
            return
        chosen = None if paths is None else [path.rstrip("/") for path in paths]
        try:
            self._stage.put_back(chosen)
        except (OSError, StoreError) as error:
            self._stage.leave()
            raise StoreError(f"old outputs could not be put back: {error}") from error
        if paths is None:
            self.discard()

    def rescue(self, directory: str) -> tuple[Rescued, ...]:
        """Move what has not been put back to a directory where nobody deletes it.

        Returns which. Raises OSError and StoreError.
        """
        return () if self._stage is None else self._stage.rescue(directory)

    def leave(self) -> str:
        """Leave what has not been put back to a later run; return the directory where it is."""
        if self._stage is None:
            return ""
        path = self._stage.path
        self._stage.leave()
        self._stage, self.descriptor = None, -1
        return path

    def discard(self) -> None:
        """Delete the old outputs; calling it again, or after leaving them, is harmless."""
        if self._stage is not None:
            self._stage.end()
            self._stage, self.descriptor = None, -1


def displace(root: str, paths: Sequence[str]) -> Displaced:
    """Move outputs out of the project, so that a command starts without them.

    paths: as declared. What is a link out of the project stays. Raises StoreError; then all is
    where it was.
    """
    there = [path.rstrip("/") for path in paths if _is_ours(root, path.rstrip("/"))]
    if not there:
        return Displaced(None)
    stage = make(root)
    try:
        stage.announce(there)
        for number in range(len(there)):
            stage.take(number)
    except BaseException as error:
        Displaced(stage).put_back()
        if isinstance(error, OSError):
            place = error.filename if isinstance(error.filename, str) else root
            text = f"old outputs cannot be moved away: {error.strerror}"
            raise StoreError(text, place=place) from error
        raise
    return Displaced(stage)


def _is_ours(root: str, path: str) -> bool:
    """Return whether there is something that is not a link out of the project."""
    base, full = os.path.realpath(root), os.path.join(root, path)
    if not os.path.islink(full):
        return os.path.lexists(full)
    return os.path.realpath(full).startswith(base.rstrip("/") + "/")
