"""Storing a result: contents first, the manifest last."""

import os
import stat
from typing import TYPE_CHECKING

from buildrun import digest
from buildrun.errors import StoreError
from buildrun.home import Home
from buildrun.store import blobs
from buildrun.store.copying import Copier
from buildrun.store.flaw import flaw
from buildrun.store.load import path_of
from buildrun.store.manifest import Manifest, encode
from buildrun.store.within import open_directory
from buildrun.tree import listing
from buildrun.tree.listing import Entry

if TYPE_CHECKING:
    from buildrun.tree.taken import Taken


def save(
    home: Home,
    root: str,
    manifest: Manifest,
    outputs: "Taken",
    inputs: "Taken | None",
    log_path: str,
) -> Manifest:
    """Store a result and return its manifest as it was stored.

    outputs, inputs: what the manifest's digests are of; without inputs there is no listing of
    them to explain the next run. log_path: what the command wrote; its digest is filled in.
    Raises StoreError where the outputs are not what was taken, or the store cannot be written;
    then the result is not stored, and an earlier one of the same key is whole.
    """
    algorithm = blobs.algorithm_of(manifest.key)
    entries = outputs.entries()
    reasons = (*outputs.problems, *outputs.unmatched, flaw(entries, manifest.declared))
    if reason := next(filter(None, reasons), None):
        raise StoreError(f"the outputs cannot be stored: {reason}", place=root)
    data = listing.encode(entries)
    if not outputs.digest == manifest.outputs == digest.content(data, algorithm):
        raise StoreError("the outputs changed while they were looked at", place=root)
    _put_files(home, root, entries)
    blobs.put_bytes(home, data, algorithm)
    manifest = manifest._replace(log=blobs.put_file(home, log_path, algorithm))
    if inputs is not None:
        data = listing.encode(inputs.entries())
        manifest = manifest._replace(inputs=blobs.put_bytes(home, data, algorithm))
    blobs.publish(path_of(home, manifest.key), encode(manifest))
    return manifest


def _put_files(home: Home, root: str, entries: tuple[Entry, ...]) -> None:
    files = [entry for entry in entries if entry.kind in ("file", "executable")]
    missing = set(blobs.missing(home, {entry.content: entry.size for entry in files}))
    copier, opened = Copier(), _Opened(root)
    try:
        for entry in files:
            if entry.content not in missing:
                continue
            try:
                _put_file(home, entry, opened, copier)
            except StoreError as error:
                if error.place is None:
                    error.place = os.path.join(root, entry.path)
                raise
            except OSError as error:
                place = os.path.join(root, entry.path)
                raise StoreError(f"cannot be stored: {error.strerror}", place=place) from error
    finally:
        opened.close()


def _put_file(home: Home, entry: Entry, opened: "_Opened", copier: Copier) -> None:
    directory, _, name = entry.path.rpartition("/")
    # A file that has become a pipe is not waited for, and a link is not followed.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    source = os.open(name, flags, dir_fd=opened.directory(directory))
    try:
        status = os.fstat(source)
        executable = bool(status.st_mode & stat.S_IXUSR)
        if not stat.S_ISREG(status.st_mode) or executable != (entry.kind == "executable"):
            raise StoreError("it changed while it was stored")
        blobs.put(home, entry.content, source, entry.size, copier)
    finally:
        os.close(source)


class _Opened:
    """The directory of the last file, since the next one mostly lies in it too."""

    def __init__(self, root: str) -> None:
        self._root, self._path, self._descriptor = root, "", -1

    def directory(self, path: str) -> int:
        if self._descriptor < 0 or path != self._path:
            self.close()
            self._path, self._descriptor = path, open_directory(self._root, path)
        return self._descriptor

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
