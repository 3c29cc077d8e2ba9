"""Digests of records, files and trees: BLAKE3, such as ``blake3:af1349…``.

It is strong enough for caches that many share, and fast enough for large files. SHA-256 is used
only where others ask for it: images, and what packages and lock files record.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from blake3 import blake3

ALGORITHM = "blake3"
PREFIX = f"{ALGORITHM}:"
PATTERN = f"{PREFIX}[0-9a-f]{{64}}"
_WHOLE = re.compile(rf"{PATTERN}\Z")


def is_digest(text: object) -> bool:
    """Return whether this is a digest as texts have it."""
    return isinstance(text, str) and _WHOLE.match(text) is not None


def new() -> blake3:
    """Return an empty hash."""
    from blake3 import blake3  # most warm runs hash nothing

    return blake3()


def text(made: blake3) -> str:
    """Return the digest of all that a hash has taken."""
    return PREFIX + made.hexdigest()


def key(domain: str, parts: Any) -> str:
    """Return the digest of canonical JSON: sorted keys, explicit nulls, a domain tag."""
    text = json.dumps([domain, 1, parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return content(text.encode())


def of_text(value: str) -> str:
    """Return the digest of a text, which may hold bytes that are none."""
    return content(value.encode("utf-8", "surrogatepass"))


def content(data: bytes | bytearray) -> str:
    """Return the digest of bytes."""
    made = new()
    made.update(data)
    return text(made)
