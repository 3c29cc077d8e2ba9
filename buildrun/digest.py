"""Digests of records and trees; each bears its algorithm."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

# Directories that hold no source: version control, caches, environments and build products.
_NOT_SOURCE = frozenset(
    {
        ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache",
        ".pytest_cache", ".ruff_cache", "node_modules", "mlruns", "build", "dist",
    }
)  # fmt: skip


def key(domain: str, parts: Any) -> str:
    """Return ``sha256:…`` of canonical JSON: sorted keys, explicit nulls, a domain tag."""
    text = json.dumps([domain, 1, parts], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def content(data: bytes) -> str:
    """Return ``sha256:…`` of bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


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
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"
