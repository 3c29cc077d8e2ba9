"""What is known of a project's files from earlier runs, in one file.

A line with a checksum of all that follows, a line of JSON, and a table: the files' paths, then
their rows, each a packed signature and a digest. Only whoever looks up a file has the table made.
A damaged file is an empty one; of two processes that save, the last one wins.
"""

import json
import os
from typing import Any

import xxhash

from buildrun.store import stat_signature
from buildrun.store.files import publish

_MAGIC = b"buildrun index 2 "
_WIDTH = stat_signature.SIZE + 32

# How many listings are remembered besides those that were used last, and from how many paths on
# those that are gone are looked for.
_LISTINGS = 256
_PATHS = 1000


class Index:
    """The index of one project; path: None remembers nothing. tracked: as it was saved."""

    def __init__(self, path: str | None, root: bytes) -> None:
        """Read the file, if there is one."""
        self._path = path
        self._root = root
        self._names = b""
        self._rows = b""
        self._table: dict[bytes, bytes] | None = None
        self._looked_at = 0
        # Digests of listings by the checksum of all signatures they were made from.
        self._listings: dict[str, str] = {}
        self._used: set[str] = set()
        self._changed = False
        self.tracked: Any = None
        if path is not None:
            self._load(path)

    @property
    def table(self) -> dict[bytes, bytes]:
        """Return the rows by path."""
        if self._table is None:
            names = self._names.split(b"\0") if self._names else []
            rows, width = self._rows, _WIDTH
            chunks = [rows[start : start + width] for start in range(0, len(rows), width)]
            self._table = dict(zip(names, chunks, strict=True))
            self._names = self._rows = b""
        return self._table

    def listing(self, stream: str) -> str | None:
        """Return the digest of the listing that was made from these signatures, if known."""
        found = self._listings.get(stream)
        if found is not None:
            self._used.add(stream)
        return found

    def learn(self, stream: str, listing: str) -> None:
        """Remember such a digest."""
        self._listings[stream] = listing
        self._used.add(stream)
        self._changed = True

    def add(self, path: bytes, row: bytes) -> None:
        """Remember a file: its signature and its digest."""
        self.table[path] = row
        self._changed = True

    def save(self, tracked: Any) -> None:
        """Publish what is known, where that has changed; a disk that takes nothing is let be."""
        if self._path is None or not (self._changed or tracked != self.tracked):
            return
        names, rows = self._packed()
        unused = [stream for stream in self._listings if stream not in self._used]
        kept = [*unused[-_LISTINGS:], *(name for name in self._listings if name in self._used)]
        head = {
            "tracked": tracked,
            "names": len(names),
            "looked_at": self._looked_at,
            "listings": {stream: self._listings[stream] for stream in kept},
        }
        body = b"".join([json.dumps(head).encode("ascii"), b"\n", names, rows])
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            publish(self._path, _MAGIC + _sum(body) + b"\n" + body, mode=0o600)
        except OSError:
            return
        self.tracked = tracked
        self._changed = False

    def _packed(self) -> tuple[bytes, bytes]:
        """Return the table's paths and rows as they are saved."""
        if self._table is None:
            return self._names, self._rows
        if len(self._table) > 2 * self._looked_at + _PATHS:
            # Those of files that are gone would pile up.
            for path in list(self._table):
                if not os.path.lexists(os.path.join(self._root, path.rstrip(b"/"))):
                    del self._table[path]
            self._looked_at = len(self._table)
        return b"\0".join(self._table), b"".join(self._table.values())

    def _load(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                line = file.readline(len(_MAGIC) + 64)
                body = file.read()
            if line != _MAGIC + _sum(body) + b"\n":
                return
            end = body.index(b"\n") + 1
            head = json.loads(body[:end])
            self._names = body[end : end + head["names"]]
            self._rows = body[end + head["names"] :]
            self._looked_at = head["looked_at"]
            self._listings = head["listings"]
            self.tracked = head["tracked"]
        except (OSError, ValueError, KeyError, TypeError):
            return


def _sum(body: bytes) -> bytes:
    return bytes(xxhash.xxh3_128_hexdigest(body).encode("ascii"))
