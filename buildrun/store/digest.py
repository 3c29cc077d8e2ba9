"""Digests of records, files and trees; each bears its algorithm.

``xxh3`` (XXH3-128) is for what never leaves this machine, ``sha256`` for what others may rely on:
collisions of the first can be made at will.
"""

from __future__ import annotations

import json
from typing import Any, Literal, Protocol

Algorithm = Literal["xxh3", "sha256"]


class Hash(Protocol):
    """A digest in the making."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Take more of the content."""

    def hexdigest(self) -> str:
        """Return the digest of all that was taken, in hexadecimal."""
        ...


def new(algorithm: Algorithm) -> Hash:
    """Return an empty hash."""
    if algorithm == "xxh3":
        import xxhash

        xxh3: Hash = xxhash.xxh3_128()
        return xxh3
    import hashlib

    return hashlib.sha256()


def key(domain: str, parts: Any, algorithm: Algorithm = "sha256") -> str:
    """Return the digest of canonical JSON: sorted keys, explicit nulls, a domain tag."""
    text = json.dumps([domain, 1, parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return content(text.encode(), algorithm)


def content(data: bytes | bytearray, algorithm: Algorithm = "sha256") -> str:
    """Return the digest of bytes, such as ``sha256:9f86d0…``."""
    made = new(algorithm)
    made.update(data)
    return f"{algorithm}:{made.hexdigest()}"
