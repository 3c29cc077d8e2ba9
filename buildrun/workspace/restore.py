"""Restoring a result's outputs: prepared beside them, then swapped in."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from buildrun.errors import StoreError
from buildrun.store import cas, digest, listing, stat_signature
from buildrun.store.action_cache import outputs_of
from buildrun.store.cas import Copier, MissingBlob, write
from buildrun.store.files import closing
from buildrun.store.home import Home
from buildrun.store.listing import Entry
from buildrun.store.manifest import DeclaredOutputs, Manifest
from buildrun.workspace import outputs
from buildrun.workspace.outputs import Staging


class Restored(NamedTuple):
    """The outputs, as declared, that were restored, and what a `Fetcher` knows of their files."""

    outputs: tuple[str, ...]
    made: Mapping[str, tuple[bytes, str]]


def restore(
    home: Home, root: str, manifest: Manifest, *, matching: Collection[str] = ()
) -> Restored:
    """Replace outputs in the project, each whole, by those of a result.

    matching: outputs that are as they should be, and stay. Raises MissingBlob where contents are
    missing or damaged, and StoreError; then each output is as it was, or wholly replaced.
    """
    wanted = [path for path in manifest.declared if path not in matching]
    entries = outputs_of(home, manifest)
    if entries is None:
        raise MissingBlob("the list of its outputs is lost", place=manifest.step)
    if not wanted:
        return Restored((), {})
    paths = [path.rstrip("/") for path in wanted]
    try:
        with outputs.prepare(root, paths) as stage:
            made = _fetch(home, stage, entries, paths)
            stage.swap(paths)
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else root
        text = f"the outputs cannot be restored: {error.strerror}"
        raise StoreError(text, place=place) from error
    return Restored(tuple(wanted), made)


def _fetch(
    home: Home, stage: Staging, entries: Sequence[Entry], paths: Sequence[str]
) -> Mapping[str, tuple[bytes, str]]:
    places = {path: stage.new(number) for number, path in enumerate(paths)}
    owners, fetcher = DeclaredOutputs(places), Fetcher(home)
    for entry in entries:
        output = owners.of(entry.path)
        if output is not None:
            fetcher.fetch(entry, places[output] + entry.path[len(output) :])
    return fetcher.made


# Up to so many bytes a file is read and written in one go.
_SMALL = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Fetcher:
    """Makes what entries say, with contents of the store; the caller names safe places.

    made: by path, the signature and the digest of each file that was looked at meanwhile.
    """

    def __init__(self, home: Home) -> None:
        """Start without any directory made."""
        self.made: dict[str, tuple[bytes, str]] = {}
        self._home, self._blobs = home, home.blobs
        self._copier = Copier()
        self._made: set[str] = set()

    def fetch(self, entry: Entry, path: str) -> None:
        """Make what an entry says; raises MissingBlob and OSError."""
        above = path.rpartition("/")[0]
        if above not in self._made:
            self._make(above)
        if entry.kind == listing.DIRECTORY:
            self._make(path)
        elif entry.kind == listing.SYMLINK:
            os.symlink(entry.content, path)
        else:
            self._file(entry, path)

    def _make(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._made.add(path)

    def _file(self, entry: Entry, path: str) -> None:
        try:
            source = os.open(cas.path_for(self._blobs, entry.content), _READ)
        except FileNotFoundError:
            raise MissingBlob("its content is not in the store", place=entry.path) from None
        # The rights are what the user's umask makes of these, whatever a manifest says.
        mode = 0o777 if entry.kind == listing.EXECUTABLE else 0o666
        with closing(source), closing(os.open(path, _CREATE, mode)) as target:
            right, looked_at = self._fill(entry, source, target)
            if not right:
                cas.discard(self._home, entry.content)
                raise MissingBlob("its content in the store is damaged", place=entry.path)
            if looked_at:
                self.made[entry.path] = stat_signature.of(os.fstat(target)), entry.content

    def _fill(self, entry: Entry, source: int, target: int) -> tuple[bool, bool]:
        """Return whether the content was what the entry says, and whether it was looked at.

        Of a large one that is cloned only the size is; what was restored is hashed anyway.
        """
        if entry.size <= _SMALL:
            data = os.read(source, entry.size + 1)
            write(target, data)
            right = len(data) == entry.size and digest.content(data) == entry.content
            return right, True
        if self._copier.clone(source, target):
            return os.fstat(target).st_size == entry.size, False
        return self._copier.copy(source, target) == (entry.content, entry.size), True
