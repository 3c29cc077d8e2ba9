"""A stored result under digests of another kind, its contents checked on the way."""

import os
from typing import TYPE_CHECKING

from buildrun.errors import StoreError
from buildrun.store import action_cache, cas, listing
from buildrun.store.cas import Copier
from buildrun.store.home import Home
from buildrun.store.manifest import Manifest, encode

if TYPE_CHECKING:
    from buildrun.store import digest as digests
    from buildrun.workspace.select import FileSet


def translate(
    home: Home, manifest: Manifest, wanted: Manifest, inputs: "FileSet", *, write: bool
) -> Manifest | None:
    """Return the result as ``wanted``, whose key is of another kind, with all that it names.

    wanted: its digests of contents are still to be found. inputs: what it was made from, under
    digests of that kind. write: whether it is kept, so that it is one like any other.
    Returns None where contents are lost or damaged, or the store cannot be written.
    """
    algorithm = cas.algorithm_of(wanted.key)
    entries = action_cache.outputs_of(home, manifest)
    if entries is None:
        return None
    anew = _Anew(home, algorithm, write=write)
    try:
        found = [
            entry._replace(content=anew.content(entry.content))
            if entry.kind in ("file", "executable")
            else entry
            for entry in entries
        ]
        made = wanted._replace(
            log=anew.content(manifest.log),
            outputs=anew.bytes(listing.encode(found)),
            inputs=anew.bytes(listing.encode(inputs.entries())),
        )
        if write:
            cas.publish(action_cache.path_of(home, made.key), encode(made))
    except (OSError, StoreError):
        return None
    return made


class _Anew:
    """Contents of the store under another kind of digest; each is read once."""

    def __init__(self, home: Home, algorithm: "digests.Algorithm", *, write: bool) -> None:
        self._home = home
        self._algorithm: digests.Algorithm = algorithm
        self._write = write
        self._copier = Copier()
        self._known: dict[str, str] = {}

    def content(self, digest: str) -> str:
        """Return a content's other digest; raises OSError, StoreError, Lost."""
        if digest not in self._known:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            source = os.open(cas.path_of(self._home, digest), flags)
            try:
                self._known[digest] = self._of(source, digest)
            finally:
                os.close(source)
        return self._known[digest]

    def bytes(self, data: bytes) -> str:
        """Return the digest of a short content; raises StoreError."""
        if self._write:
            return cas.put_bytes(self._home, data, self._algorithm)
        from buildrun.store import digest

        return digest.content(data, self._algorithm)

    def _of(self, source: int, digest: str) -> str:
        found, _ = self._copier.digest(source, cas.algorithm_of(digest))
        if found != digest:
            cas.discard(self._home, digest)
            raise cas.MissingBlob("a content is damaged")
        os.lseek(source, 0, os.SEEK_SET)
        made, size = self._copier.digest(source, self._algorithm)
        if self._write:
            os.lseek(source, 0, os.SEEK_SET)
            cas.put(self._home, made, source, size, self._copier)
        return made
