"""The files of a virtualenv: what a look at it expects, and what is damaged."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence


def witnesses(prefix: str) -> tuple[Mapping[str, Sequence[str]], str]:
    """Return the names in ``bin`` and ``site-packages``, and the base interpreter."""
    site = _site_packages(prefix)
    listed = {
        directory: names_in(os.path.join(prefix, directory)) for directory in ("bin", site, "")
    }
    return listed, os.path.realpath(os.path.join(prefix, "bin", "python"))


def damage(prefix: str) -> Sequence[str]:
    """Return installed files that are missing or have another size than their RECORD says."""
    return [path for paths in _damage(prefix).values() for path in paths]


def damaged_packages(prefix: str) -> Sequence[str]:
    """Return the names of the packages that have damaged files."""
    return [name for name, paths in _damage(prefix).items() if paths]


def names_in(directory: str) -> list[str]:
    """Return what a directory holds, without bytecode; nothing where it cannot be read."""
    try:
        return sorted(name for name in os.listdir(directory) if name != "__pycache__")
    except OSError:
        return []


def _damage(prefix: str) -> dict[str, list[str]]:
    """Return the damaged files of each package."""
    import csv

    site = os.path.join(prefix, _site_packages(prefix))
    found: dict[str, list[str]] = {}
    for name in names_in(site):
        record = os.path.join(site, name, "RECORD")
        if name.endswith(".dist-info") and os.path.isfile(record):
            with open(record, encoding="utf-8", newline="") as file:
                rows = [row for row in csv.reader(file) if row]
            found[name.partition("-")[0]] = [row[0] for row in rows if _differs(site, row)]
    return found


def _site_packages(prefix: str) -> str:
    library = os.path.join(prefix, "lib")
    versions = [name for name in names_in(library) if name.startswith("python")]
    return os.path.join("lib", versions[0], "site-packages") if versions else "lib"


def _differs(site: str, row: Sequence[str]) -> bool:
    if row[0].endswith(".pyc"):
        return False
    try:
        status = os.stat(os.path.join(site, row[0]))
    except OSError:
        return True
    # Scripts are written anew for the prefix, so only what lies in site-packages keeps its size.
    sized = len(row) > 2 and row[2].isdigit() and not row[0].startswith("..")
    return sized and status.st_size != int(row[2])
