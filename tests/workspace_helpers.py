"""Trees of files, and what is taken of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.select import FileSet


def write(root: Path, *paths: str, **files: str) -> None:
    """Write files: those of paths hold their own paths, and ``d__a`` is a file in ``d``."""
    for name, text in {**{path: path for path in paths}, **files}.items():
        path = root / (name if name in paths else name.replace("__", "/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def fresh(root: Path, index: Path | None = None) -> Fingerprints:
    return Fingerprints(str(root), None if index is None else str(index))


def paths_of(taken: FileSet) -> list[str]:
    return [entry.path for entry in taken.entries()]


@contextmanager
def deep(root: Path, depth: int) -> Iterator[str]:
    """Give the path of a file that lies deeper than the interpreter recurses."""
    descriptor = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("a", dir_fd=descriptor)
        inner = os.open("a", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    try:
        yield "a/" * depth + "file"
    finally:  # Python's own ways to remove a tree give up
        subprocess.run(("rm", "-rf", root / "a"), check=True, timeout=60)
