"""Restoring a result's outputs: everything is made ready beside them, then swapped in."""

import os
from collections.abc import Collection, Sequence

from buildrun import digest
from buildrun.errors import StoreError
from buildrun.home import Home
from buildrun.store import blobs, staging
from buildrun.store.blobs import Lost
from buildrun.store.copying import Copier, write
from buildrun.store.flaw import output_of
from buildrun.store.load import outputs_of
from buildrun.store.manifest import Manifest
from buildrun.store.staging import Staging
from buildrun.store.within import open_directory
from buildrun.tree.listing import Entry

# Up to so many bytes a file is read and written in one go.
_SMALL = 1 << 20


def restore(
    home: Home, root: str, manifest: Manifest, *, matching: Collection[str] = ()
) -> tuple[str, ...]:
    """Replace outputs in the project by those of a result and return which, as declared.

    matching: outputs, as declared, that are known to be as they should; they stay untouched.
    Each output is replaced whole: what else is in an output directory goes. Raises Lost where
    contents are missing or damaged, and StoreError where the project cannot be written; then the
    outputs are as they were, or wholly replaced where the failure came in between.
    """
    wanted = [path for path in manifest.declared if path not in matching]
    entries = outputs_of(home, manifest)
    if entries is None:
        raise Lost("the list of its outputs is lost", place=manifest.step)
    if not wanted:
        return ()
    paths = [path.rstrip("/") for path in wanted]
    stage = staging.make(root)
    try:
        _check_places(root, paths)
        _fetch(home, stage, entries, paths)
        _swap(stage, paths)
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else root
        text = f"the outputs cannot be restored: {error.strerror}"
        raise StoreError(text, place=place) from error
    finally:
        _settle(stage)
    return tuple(wanted)


def _check_places(root: str, paths: Sequence[str]) -> None:
    """Raise before anything is fetched or moved where an output would lie outside."""
    for above in {path.rpartition("/")[0] for path in paths}:
        try:
            os.close(open_directory(root, above))
        except FileNotFoundError:
            continue  # made when it is needed


def _fetch(home: Home, stage: Staging, entries: Sequence[Entry], paths: Sequence[str]) -> None:
    numbers = {path: number for number, path in enumerate(paths)}
    fetcher = _Fetcher(home)
    for entry in entries:
        output = output_of(entry.path, numbers)
        if output is not None:
            fetcher.fetch(entry, stage.new(numbers[output]) + entry.path[len(output) :])


def _swap(stage: Staging, paths: Sequence[str]) -> None:
    stage.announce(paths)
    for number in range(len(paths)):
        stage.take(number)
        stage.give(number)


def _settle(stage: Staging) -> None:
    """Put back what was moved away without anything in its place, however it came to that."""
    try:
        stage.put_back()
    except (OSError, StoreError):
        stage.leave()
        return
    stage.end()


class _Fetcher:
    """Makes files from contents of the store, and the directories for them."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._copier = Copier()
        self._made: set[str] = set()

    def fetch(self, entry: Entry, path: str) -> None:
        """Make what an entry says; raises Lost, OSError."""
        if entry.kind == "directory":
            self._make(path)
            return
        self._make(path.rpartition("/")[0])
        if entry.kind == "symlink":
            os.symlink(entry.content, path)
        else:
            self._file(entry, path)

    def _make(self, path: str) -> None:
        if path not in self._made:
            os.makedirs(path, exist_ok=True)
            self._made.add(path)

    def _file(self, entry: Entry, path: str) -> None:
        try:
            source = os.open(blobs.path_of(self._home, entry.content), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Lost("its content is not in the store", place=entry.path) from None
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            # The rights are what the user's umask makes of it, whatever a manifest says.
            target = os.open(path, flags, 0o777 if entry.kind == "executable" else 0o666)
            try:
                if not self._fill(entry, source, target):
                    blobs.discard(self._home, entry.content)
                    raise Lost("its content in the store is damaged", place=entry.path)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _fill(self, entry: Entry, source: int, target: int) -> bool:
        """Return whether the content was what the entry says."""
        algorithm = blobs.algorithm_of(entry.content)
        if entry.size <= _SMALL:
            data = os.read(source, entry.size + 1)
            write(target, data)
            return len(data) == entry.size and digest.content(data, algorithm) == entry.content
        if self._copier.clone(source, target):
            return os.fstat(target).st_size == entry.size
        return self._copier.copy(source, target, algorithm) == (entry.content, entry.size)
