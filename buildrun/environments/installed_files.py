"""The files of an environment: what packages record of them, and whether they are still so.

uv and rattler link files into environments from a cache of packages. What is written into such a
link is written into the cache and into all other environments. So what is linked is copied, save
programs and libraries of machine code: nobody edits them, and they are most of the bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.environments.prefix import MARKER
from buildrun.store import files
from buildrun.store.cas import Copier, write

_CHUNK = 1 << 20
_THREADS = 4

# How files begin that stay shared, and from which size on: ELF, Mach-O, and archives of them.
_CODE = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe", b"!<ar")
_LARGE = 1 << 16


class File(NamedTuple):
    """A file as its package records it.

    path: relative to the prefix. size: bytes, None where it may have any. sha256: hexadecimal, ""
    where it may have any content.
    """

    package: str
    path: str
    size: int | None
    sha256: str


def of_pip(prefix: str, installer: str = "") -> Iterator[File]:
    """Yield what Python packages have in their RECORD, less bytecode.

    Programs may have any content, since they are written anew for the prefix. installer: whose
    packages, those of all if empty.
    """
    import csv

    site = site_packages(prefix)
    for name in files.names_in(os.path.join(prefix, site)):
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
    for name in files.names_in(folder):
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
    for name in files.names_in(library):
        # conda has a link `python3.1` beside `python3.11`.
        if name.startswith("python") and not os.path.islink(os.path.join(library, name)):
            return os.path.join("lib", name, "site-packages")
    return "lib"


def detach_from_cache(prefix: str, recorded: Iterable[File]) -> list[str]:
    """Give a prefix files of its own; return the packages that have others than they record.

    Packages may have the same file, and then one of them is right. Raises OSError.
    """
    from concurrent.futures import ThreadPoolExecutor

    copier = Copier()
    known: dict[str, list[File]] = {}
    for each in recorded:
        if each.sha256:
            known.setdefault(os.path.join(prefix, each.path), []).append(each)

    def wrong(found: tuple[str, os.stat_result]) -> Sequence[File]:
        path, status = found
        made = _own(path, status, copier) if status.st_nlink > 1 else sha256(path)
        owners = known.get(path, ())
        return () if any(made == each.sha256 for each in owners) else owners

    there = [item for item in _files(prefix) if item[1].st_nlink > 1 or item[0] in known]
    small = [item for item in there if item[1].st_size < _LARGE]
    large = [item for item in there if item[1].st_size >= _LARGE]
    # Threads that hash much at a time get on beside each other. With many short calls of the
    # system they would wait for Python's lock.
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        groups = list(pool.map(wrong, large))
    bad = {each.package for group in (*groups, *map(wrong, small)) for each in group}
    missing = known.keys() - {path for path, _ in there}
    return sorted(bad.union(each.package for path in missing for each in known[path]))


def _files(prefix: str) -> Iterator[tuple[str, os.stat_result]]:
    for directory, _, names in os.walk(prefix):
        for name in names:
            path = os.path.join(directory, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                yield path, status


def sha256(path: str) -> str:
    """Return the digest of a file, hexadecimal; raises OSError."""
    with open(path, "rb") as file:
        return _hashed(file.fileno(), hashlib.sha256())


def _own(path: str, status: os.stat_result, copier: Copier) -> str:
    """Put a copy in a link's place, unless it may be shared; return the SHA-256."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # No more than there is, for which Python makes room each time.
        chunk = os.read(source, min(status.st_size, _CHUNK))
        made = hashlib.sha256(chunk)
        if status.st_size >= _LARGE and chunk.startswith(_CODE):
            return _hashed(source, made)
        # Not written beside it and renamed: that makes file systems wait for the disk, and a prefix
        # without its marker is used by nobody.
        os.unlink(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        target = os.open(path, flags, stat.S_IMODE(status.st_mode))
        try:
            if copier.clone(source, target):
                _hashed(source, made)
            else:
                write(target, chunk)
                while len(chunk) == _CHUNK:
                    chunk = os.read(source, _CHUNK)
                    made.update(chunk)
                    write(target, chunk)
            if os.fstat(target).st_mode != status.st_mode:  # the umask takes bits away
                os.fchmod(target, stat.S_IMODE(status.st_mode))
            os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
        finally:
            os.close(target)
        return made.hexdigest()
    finally:
        os.close(source)


def _hashed(descriptor: int, made: hashlib._Hash) -> str:
    while chunk := os.read(descriptor, _CHUNK):
        made.update(chunk)
    return made.hexdigest()
