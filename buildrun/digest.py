"""Digests of records, files and trees; each bears its algorithm.

``xxh3`` (XXH3-128) is for what never leaves this machine, ``sha256`` for what others may rely on:
collisions of the first can be made at will.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from typing import Any, Literal, Protocol

Algorithm = Literal["xxh3", "sha256"]

_CHUNK = 1 << 20

# Directories that hold no source: version control, caches, environments and build products.
_NOT_SOURCE = frozenset(
    {
        ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache",
        ".pytest_cache", ".ruff_cache", "node_modules", "mlruns", "build", "dist",
    }
)  # fmt: skip


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


def tree(root: str) -> str:
    """Return ``sha256:…`` of a source tree or of a file.

    Relative names, contents, executable bits and symlink targets count; times and owners do not.
    Raises OSError.
    """
    if os.path.isfile(root):
        return _file(root)
    return key("tree", [list(entry) for entry in _entries(root, "")])


def _entries(root: str, below: str) -> Iterator[tuple[str, str, str]]:
    with os.scandir(os.path.join(root, below)) as listing:
        children = sorted(listing, key=lambda entry: entry.name)
    for child in children:
        name = f"{below}/{child.name}" if below else child.name
        if child.is_symlink():
            yield name, "link", os.readlink(child.path)
        elif child.is_dir():
            if child.name not in _NOT_SOURCE and not child.name.endswith(".egg-info"):
                yield from _entries(root, name)
        elif child.is_file() and not child.name.endswith(".pyc"):
            executable = child.stat().st_mode & stat.S_IXUSR
            yield name, "executable" if executable else "file", _file(child.path)


def _file(path: str) -> str:
    made = new("sha256")
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            made.update(chunk)
    return f"sha256:{made.hexdigest()}"
