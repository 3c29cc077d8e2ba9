"""Files, links and directories from what a listing says of them."""

import os

from buildrun import digest
from buildrun.home import Home
from buildrun.store import blobs
from buildrun.store.blobs import Lost
from buildrun.store.copying import Copier, write
from buildrun.tree import signature
from buildrun.tree.listing import Entry

# Up to so many bytes a file is read and written in one go.
_SMALL = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Fetcher:
    """Makes what entries say, with contents of the store; the caller names safe places.

    made: for each file whose content was looked at while it was made, by the entry's path, what
    its lstat was then (packed, see ``tree.signature``) and its digest.
    """

    def __init__(self, home: Home) -> None:
        """Start without any directory made."""
        self.made: dict[str, tuple[bytes, str]] = {}
        self._home, self._blobs = home, home.blobs
        self._copier = Copier()
        self._made: set[str] = set()

    def fetch(self, entry: Entry, path: str) -> None:
        """Make what an entry says; raises Lost and OSError."""
        above = path.rpartition("/")[0]
        if above not in self._made:
            self._make(above)
        if entry.kind == "directory":
            self._make(path)
        elif entry.kind == "symlink":
            os.symlink(entry.content, path)
        else:
            self._file(entry, path)

    def _make(self, path: str) -> None:
        os.makedirs(path, exist_ok=True)
        self._made.add(path)

    def _file(self, entry: Entry, path: str) -> None:
        try:
            source = os.open(blobs.place(self._blobs, entry.content), _READ)
        except FileNotFoundError:
            raise Lost("its content is not in the store", place=entry.path) from None
        try:
            # The rights are what the user's umask makes of these, whatever a manifest says.
            target = os.open(path, _CREATE, 0o777 if entry.kind == "executable" else 0o666)
            try:
                right, looked_at = self._fill(entry, source, target)
                if not right:
                    blobs.discard(self._home, entry.content)
                    raise Lost("its content in the store is damaged", place=entry.path)
                if looked_at:
                    self.made[entry.path] = signature.of(os.fstat(target)), entry.content
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _fill(self, entry: Entry, source: int, target: int) -> tuple[bool, bool]:
        """Return whether the content was what the entry says, and whether it was looked at.

        A large one is looked at where that costs next to nothing, else only at its size; the
        caller takes the fingerprint of what was restored anyway.
        """
        algorithm: digest.Algorithm = "xxh3" if entry.content[0] == "x" else "sha256"
        if entry.size <= _SMALL:
            data = os.read(source, entry.size + 1)
            write(target, data)
            right = len(data) == entry.size and digest.content(data, algorithm) == entry.content
            return right, True
        if self._copier.clone(source, target):
            return os.fstat(target).st_size == entry.size, False
        if algorithm == "sha256":
            return self._copier.copy_unread(source, target) == entry.size, False
        return self._copier.copy(source, target, algorithm) == (entry.content, entry.size), True
