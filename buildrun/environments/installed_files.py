"""What packages record of the files that they installed, and which files are no longer so."""

from __future__ import annotations

import csv
import json
import os
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from buildrun.environments.prefix import MARKER
from buildrun.environments.private_files import File, sha256
from buildrun.store import files


def of_pip(prefix: str, installer: str = "") -> Iterator[File]:
    """Yield what Python packages have in their RECORD, less bytecode.

    Programs may have any content, since they are written anew for the prefix. installer: whose
    packages, those of all if empty.
    """
    site = site_packages(prefix)
    for name in files.names(os.path.join(prefix, site)):
        folder = os.path.join(prefix, site, name)
        if not name.endswith(".dist-info"):
            continue
        if not files.text(os.path.join(folder, "INSTALLER")).startswith(installer):
            continue
        for row in csv.reader(files.text(os.path.join(folder, "RECORD")).splitlines()):
            path = os.path.normpath(os.path.join(site, row[0])) if row else ".pyc"
            if path.endswith(".pyc"):
                continue
            fixed = len(row) > 2 and not path.startswith(("bin/", "../", "/"))
            size = int(row[2]) if fixed and row[2].isdigit() else None
            yield File(name.partition("-")[0], path, size, _sha256(row[1]) if fixed else "")


def _sha256(text: str) -> str:
    algorithm, _, value = text.partition("=")
    return urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex() if algorithm == "sha256" else ""


def of_conda(prefix: str) -> Iterator[File]:
    """Yield what conda packages have in their records, less bytecode.

    The packages are called ``name-version-build``. Files that the prefix was put into may have any
    size, and any content where none is recorded for the prefix.
    """
    folder = os.path.join(prefix, "conda-meta")
    for name in files.names(folder):
        if not name.endswith(".json"):
            continue
        package = name.removesuffix(".json")
        try:
            record: Mapping[str, Any] = json.loads(files.read(os.path.join(folder, name)))
        except (OSError, ValueError):
            yield File(package, f"conda-meta/{name}", -1, "")
            continue
        for entry in (record.get("paths_data") or {}).get("paths") or ():
            path = os.path.normpath(entry["_path"])
            if path.endswith(".pyc"):
                continue
            if entry.get("path_type") != "hardlink":
                yield File(package, path, None, "")
                continue
            size = None if entry.get("file_mode") == "text" else entry.get("size_in_bytes")
            digest = "" if entry.get("prefix_placeholder") else entry.get("sha256") or ""
            yield File(package, path, size, entry.get("sha256_in_prefix") or digest)


def modified(prefix: str, recorded: Iterable[File]) -> list[str]:
    """Return the paths of files that are missing or that are not what a package records.

    Files that were touched since the environment was ready are read, of others the size counts.
    """
    try:
        ready = os.stat(os.path.join(prefix, MARKER)).st_mtime
    except OSError:
        ready = 0.0
    by_path: dict[str, list[File]] = {}
    for each in recorded:
        by_path.setdefault(each.path, []).append(each)
    found = []
    for path, known in by_path.items():
        place = os.path.join(prefix, path)
        digests = {each.sha256 for each in known if each.sha256}
        if all(has_other_size(prefix, each) for each in known) or (
            digests and os.stat(place).st_ctime >= ready and sha256(place) not in digests
        ):
            found.append(path)
    return found


def has_other_size(prefix: str, file: File) -> bool:
    """Return whether a file is missing, or has another size than is recorded."""
    path = os.path.join(prefix, file.path)
    try:
        # Of links to elsewhere only the link itself belongs to the package.
        status = os.lstat(path) if file.size is None and not file.sha256 else os.stat(path)
    except OSError:
        return True
    return file.size is not None and status.st_size != file.size


def site_packages(prefix: str) -> str:
    """Return the directory of Python packages, relative to the prefix."""
    library = os.path.join(prefix, "lib")
    for name in files.names(library):
        # conda has a link `python3.1` beside `python3.11`.
        if name.startswith("python") and not os.path.islink(os.path.join(library, name)):
            return os.path.join("lib", name, "site-packages")
    return "lib"
