"""Reading everything in the store again, to find what is damaged."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from buildrun.store import action_cache, cas, gc
from buildrun.store.cas import Copier

if TYPE_CHECKING:
    from buildrun.store.home import Home
    from buildrun.store.manifest import Manifest


def verify(home: Home) -> list[tuple[str, str]]:
    """Hash every content, remove what is damaged, and return it with the reasons."""
    copier = Copier()
    damaged = [
        file.digest
        for file in gc.contents(home)
        # A running step may have put a whole one in its place meanwhile.
        if all(cas.is_damaged(file.path, file.digest, copier) for _ in range(2))
    ]
    for digest in damaged:
        cas.discard(home, digest)
    findings = [(digest, "its content is not what it was") for digest in damaged]
    for file, manifest in gc.manifests(home):
        reason: str | None = "the record of this result is damaged"
        if manifest is not None:
            reason = _loss(home, manifest)
        if reason is not None and _is_the_same(file):
            findings.append((file.digest, reason))
            cas.ignore_errors(os.unlink, file.path)
    return findings


def _is_the_same(file: cas.File) -> bool:
    """Return whether a result is the one that was looked at, not collected or made again since."""
    try:
        return os.lstat(file.path).st_mtime == file.used
    except OSError:
        return False


def _loss(home: Home, manifest: Manifest) -> str | None:
    """Return what a result has lost, or None."""
    step = f"step `{manifest.step}` of project `{manifest.project}`"
    entries = action_cache.outputs_of(home, manifest)
    if entries is None:
        return f"the list of outputs of {step} is lost"
    for entry in entries:
        if entry.is_file and not _is_there(home, entry.content, entry.size):
            return f"`{entry.path}` of {step} is lost"
    if not _is_there(home, manifest.log, sum(size for _, size in manifest.streams)):
        return f"the log of {step} is lost"
    return None


def _is_there(home: Home, digest: str, size: int) -> bool:
    try:
        return os.stat(cas.path_of(home, digest)).st_size == size
    except OSError:
        return False
