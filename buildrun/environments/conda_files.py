"""What conda's own records of a prefix say of its files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from buildrun import files
from buildrun.environments import private_files, site_packages
from buildrun.environments.private_files import Recorded

_RECORDS = "conda-meta"


def damaged(prefix: str) -> list[str]:
    """Return the files of conda packages that are missing or are not what is recorded.

    Files that were touched since the environment was ready are read, of others the size counts.
    """
    found = [path for _, record in _records(prefix) for path in _damaged(prefix, record)]
    ready = site_packages.since(prefix)
    for path, known in recorded(prefix).items():
        name = os.path.relpath(path, prefix)
        if name not in found and os.lstat(path).st_ctime >= ready:
            made = private_files.sha256(path)
            if all(made != each.sha256 for each in known):
                found.append(name)
    return found


def damaged_packages(prefix: str) -> list[str]:
    """Return the packages with such files, as ``name-version-build``."""
    return [name for name, record in _records(prefix) if _damaged(prefix, record)]


def recorded(prefix: str) -> dict[str, list[Recorded]]:
    """Return what packages record of their files, by path; not where the prefix was put in."""
    found: dict[str, list[Recorded]] = {}
    for name, record in _records(prefix):
        for entry in _paths(record):
            digest = entry.get("sha256_in_prefix") or (
                "" if entry.get("prefix_placeholder") else entry.get("sha256")
            )
            if digest and entry.get("path_type") == "hardlink" and not _changes(entry["_path"]):
                path = os.path.normpath(os.path.join(prefix, entry["_path"]))
                found.setdefault(path, []).append(Recorded(name, digest))
    return found


def owned(prefix: str) -> set[str]:
    """Return the paths that conda packages installed, relative to the prefix."""
    return {entry["_path"] for _, record in _records(prefix) for entry in _paths(record)}


def _records(prefix: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    folder = os.path.join(prefix, _RECORDS)
    for name in sorted(_names(folder)):
        if name.endswith(".json"):
            try:
                yield name.removesuffix(".json"), json.loads(files.read(os.path.join(folder, name)))
            except (OSError, ValueError):
                unreadable = {"_path": f"{_RECORDS}/{name}", "path_type": "hardlink"}
                yield name, {"paths_data": {"paths": [{**unreadable, "size_in_bytes": -1}]}}


def _paths(record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    paths: Sequence[Mapping[str, Any]] = (record.get("paths_data") or {}).get("paths") or ()
    return paths


def _damaged(prefix: str, record: Mapping[str, Any]) -> list[str]:
    return [entry["_path"] for entry in _paths(record) if _differs(prefix, entry)]


def _differs(prefix: str, entry: Mapping[str, Any]) -> bool:
    path: str = entry["_path"]
    if _changes(path):
        return False
    try:
        status = os.lstat(os.path.join(prefix, path))
    except OSError:
        return True
    if entry.get("path_type") != "hardlink" or entry.get("file_mode") == "text":
        return False  # a link, or text in which the prefix was put, which changed its size
    expected = entry.get("size_in_bytes")
    return expected is not None and status.st_size != expected


def _changes(path: str) -> bool:
    return path.endswith(".pyc")  # Python writes it anew as it likes


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
