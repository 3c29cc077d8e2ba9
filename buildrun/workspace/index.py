"""What is known of a project's files from earlier runs, in one file.

A line with a digest of all that follows, a line of JSON, and for each algorithm a table: the
files' paths, then their rows, each a packed signature and a digest. Only whoever looks up a file
has the table made. A damaged file is an empty one; of two processes that save, the last one wins.
"""

import json
import os
from typing import Any

import xxhash

from buildrun.store import stat_signature
from buildrun.store.digest import Algorithm
from buildrun.store.files import publish

_MAGIC = b"buildrun index 1 "
_WIDTHS: dict[Algorithm, int] = {
    "xxh3": stat_signature.SIZE + 16,
    "sha256": stat_signature.SIZE + 32,
}

# How many listings are remembered besides those that were used last, and from how many paths on
# those that are gone are looked for.
_LISTINGS = 256
_PATHS = 1000


class Section:
    """What is known under one algorithm.

    listings: digests of listings by the digest of all signatures they were made from.
    """

    def __init__(self, width: int) -> None:
        """Start with nothing known; width: the bytes of a row."""
        self._width = width
        self._names = b""
        self._rows = b""
        self._table: dict[bytes, bytes] | None = None
        self._looked_at = 0
        self.listings: dict[str, str] = {}
        self.used: set[str] = set()
        self.changed = False

    @property
    def table(self) -> dict[bytes, bytes]:
        """Return the rows by path."""
        if self._table is None:
            names = self._names.split(b"\0") if self._names else []
            rows, width = self._rows, self._width
            chunks = [rows[start : start + width] for start in range(0, len(rows), width)]
            self._table = dict(zip(names, chunks, strict=True))
            self._names = self._rows = b""
        return self._table

    def listing(self, stream: str) -> str | None:
        """Return the digest of the listing that was made from these signatures, if known."""
        found = self.listings.get(stream)
        if found is not None:
            self.used.add(stream)
        return found

    def learn(self, stream: str, listing: str) -> None:
        """Remember such a digest."""
        self.listings[stream] = listing
        self.used.add(stream)
        self.changed = True

    def add(self, path: bytes, row: bytes) -> None:
        """Remember a file: its signature and its digest."""
        self.table[path] = row
        self.changed = True

    def load(self, head: Any, data: memoryview) -> None:
        """Take over what was saved; raises KeyError, TypeError or ValueError for anything odd."""
        names, rows = int(head["names"]), int(head["rows"])
        self._names, self._rows = bytes(data[:names]), bytes(data[names : names + rows])
        self._looked_at = int(head["looked_at"])
        self.listings = {str(stream): str(digest) for stream, digest in head["listings"].items()}

    def dump(self, root: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Return what is to be saved: JSON and bytes."""
        if self._table is not None:
            if len(self._table) > 2 * self._looked_at + _PATHS:
                # Those of files that are gone would pile up.
                for path in [name for name in self._table if not _is_there(root, name)]:
                    del self._table[path]
                self._looked_at = len(self._table)
            parts = [b"\0".join(self._table), b"".join(self._table.values())]
        else:
            parts = [self._names, self._rows]
        unused = [stream for stream in self.listings if stream not in self.used]
        kept = [*unused[-_LISTINGS:], *(name for name in self.listings if name in self.used)]
        head = {
            "names": len(parts[0]),
            "rows": len(parts[1]),
            "looked_at": self._looked_at,
            "listings": {stream: self.listings[stream] for stream in kept},
        }
        return head, parts


class Index:
    """The index of one project.

    path: of the file; None remembers nothing. root: the project's, which relative paths start at.
    """

    def __init__(self, path: str | None, root: bytes) -> None:
        """Read the file, if there is one."""
        self._path = path
        self._root = root
        self.tracked: Any = None
        self.sections: dict[Algorithm, Section] = {
            algorithm: Section(width) for algorithm, width in _WIDTHS.items()
        }
        if path is not None:
            self._load(path)

    def save(self, tracked: Any) -> None:
        """Publish what is known, where that has changed; a disk that takes nothing is let be."""
        changed = any(section.changed for section in self.sections.values())
        if self._path is None or not (changed or tracked != self.tracked):
            return
        head: dict[str, Any] = {"tracked": tracked, "sections": {}}
        parts: list[bytes] = []
        for algorithm, section in self.sections.items():
            head["sections"][algorithm], more = section.dump(self._root)
            parts += more
        body = b"".join([json.dumps(head).encode("ascii"), b"\n", *parts])
        try:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
            publish(self._path, _MAGIC + _sum(body) + b"\n" + body, mode=0o600)
        except OSError:
            return
        self.tracked = tracked
        for section in self.sections.values():
            section.changed = False

    def _load(self, path: str) -> None:
        try:
            with open(path, "rb") as file:
                line = file.readline(len(_MAGIC) + 64)
                body = file.read()
            if line != _MAGIC + _sum(body) + b"\n":
                return
            end = body.index(b"\n")
            head = json.loads(body[:end])
            rest = memoryview(body)[end + 1 :]
            for algorithm, section in self.sections.items():
                its_head = head["sections"][algorithm]
                section.load(its_head, rest)
                rest = rest[its_head["names"] + its_head["rows"] :]
            self.tracked = head["tracked"]
        except (OSError, ValueError, KeyError, TypeError):
            return


def _sum(body: bytes) -> bytes:
    return bytes(xxhash.xxh3_128_hexdigest(body).encode("ascii"))


def _is_there(root: bytes, path: bytes) -> bool:
    return os.path.lexists(os.path.join(root, path.rstrip(b"/")))
