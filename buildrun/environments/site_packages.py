"""The files of a virtualenv: what a look at it expects, and what is damaged."""

from __future__ import annotations

import os
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Mapping, Sequence

from buildrun import files
from buildrun.environments import private_files
from buildrun.environments.prefix import MARKER
from buildrun.environments.private_files import Recorded


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in ``bin`` and ``site-packages``, and the base interpreter."""
    site = _site_packages(prefix)
    listed = {
        directory: names_in(os.path.join(prefix, directory)) for directory in ("bin", site, "")
    }
    return listed, os.path.realpath(os.path.join(prefix, "bin", "python"))


def damage(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or are not what their RECORD says.

    Files that were touched since the environment was ready are read, of others the size counts.
    """
    ready = since(prefix)
    site = os.path.join(prefix, _site_packages(prefix))
    return [row[0] for _, row in _rows(site) if _differs(site, row, ready)]


def since(prefix: str) -> float:
    """Return when a prefix was ready; seconds since the epoch."""
    try:
        return os.stat(os.path.join(prefix, MARKER)).st_mtime
    except OSError:
        return 0.0


def recorded(prefix: str) -> dict[str, list[Recorded]]:
    """Return what the packages that uv installed record of their files, less programs.

    Those are written anew for the prefix.
    """
    site, programs = os.path.join(prefix, _site_packages(prefix)), os.path.join(prefix, "bin", "")
    found: dict[str, list[Recorded]] = {}
    for name, row in _rows(site, installer="uv"):
        digest = _sha256(row)
        path = os.path.normpath(os.path.join(site, row[0]))
        inside = path.startswith(prefix + os.sep) and not path.startswith(programs)
        if digest and inside and not path.endswith(".pyc"):
            found.setdefault(path, []).append(Recorded(name, digest))
    return found


def names_in(directory: str) -> list[str]:
    """Return what a directory holds, without bytecode; nothing where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(directory) if name != "__pycache__")
    except OSError:
        return []


def _rows(site: str, installer: str = "") -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the rows of every RECORD, each with the name of its package."""
    import csv

    for name in names_in(site):
        folder = os.path.join(site, name)
        if not name.endswith(".dist-info") or not _text(
            os.path.join(folder, "INSTALLER")
        ).startswith(installer):
            continue
        for row in csv.reader(_text(os.path.join(folder, "RECORD")).splitlines()):
            if row:
                yield name.partition("-")[0], row


def _text(path: str) -> str:
    try:
        return files.read(path).decode(errors="replace")
    except OSError:
        return ""


def _sha256(row: Sequence[str]) -> str:
    """Return the SHA-256 in a row of a RECORD, hexadecimal, or nothing."""
    algorithm, _, text = row[1].partition("=") if len(row) > 1 else ("", "", "")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex() if algorithm == "sha256" else ""


def _site_packages(prefix: str) -> str:
    library = os.path.join(prefix, "lib")
    versions = [name for name in names_in(library) if name.startswith("python")]
    return os.path.join("lib", versions[0], "site-packages") if versions else "lib"


def _differs(site: str, row: Sequence[str], ready: float) -> bool:
    if row[0].endswith(".pyc"):
        return False
    path = os.path.join(site, row[0])
    try:
        status = os.stat(path)
    except OSError:
        return True
    # Scripts are written anew for the prefix, so only what lies in site-packages is compared.
    if row[0].startswith(".."):
        return False
    if len(row) > 2 and row[2].isdigit() and status.st_size != int(row[2]):
        return True
    digest = _sha256(row)
    return bool(digest) and status.st_ctime >= ready and private_files.sha256(path) != digest
