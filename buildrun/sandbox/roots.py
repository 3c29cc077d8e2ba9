"""What every command may read: the system, programs and their libraries, and caches."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping

from buildrun.store.files import is_within, names_in

_SYSTEM = (
    "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/opt", "/proc", "/sys",
    "/dev", "/run", "/var", "/snap", "/nix", "/gnu", "/boot",
)  # fmt: skip

# Directories of programs, beside which their libraries lie.
_PROGRAMS = frozenset({"bin", "sbin", "shims", "condabin"})

# What marks an environment of Python or conda, or a Python itself.
_ENVIRONMENT = ("pyvenv.cfg", "conda-meta", "lib/python3*")

# Variables that name certificates.
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def environment(environ: Mapping[str, str], project: str) -> list[str]:
    """Return the system's directories and those of the programs and libraries on a path.

    environ: of the command. project: its directory, of which environments alone are taken. Paths
    are absolute and without links.
    """
    found = [path for path in _SYSTEM if os.path.isdir(path)]
    home = _home(environ)
    for directory in _split(environ.get("PATH", os.defpath)):
        found += _prefix(directory, home)
        for python in _named(directory, "python"):
            found += _prefix(os.path.dirname(os.path.realpath(python)), home)
    found += glob.glob(os.path.join(glob.escape(home), ".local/lib/python*")) if home else []
    found += _split(environ.get("LD_LIBRARY_PATH", ""))
    found += (environ[name] for name in _CERTIFICATES if os.path.isabs(environ.get(name, "")))
    found = [path for path in map(os.path.realpath, found) if _is_foreign(path, project)]
    ours = sys.prefix, sys.base_prefix, os.path.dirname(os.path.abspath(__file__))
    return list(dict.fromkeys([*found, *map(os.path.realpath, ours)]))


def caches(environ: Mapping[str, str]) -> list[str]:
    """Return where programs keep what they could make again."""
    home = _home(environ)
    given = environ.get("XDG_CACHE_HOME", "")
    found = [given] if os.path.isabs(given) else [os.path.join(home, ".cache")] if home else []
    return list(map(os.path.realpath, found))


def around(roots: Iterable[str], holes: Iterable[str]) -> Iterator[str]:
    """Yield directories that hold all that is in the roots but not what is in the holes.

    A root within a hole counts as a whole.
    """
    avoided = [hole for hole in holes if hole != "/"]
    for root in roots:
        yield from _around(root, [hole for hole in avoided if is_within(hole, root)])


def _around(root: str, holes: list[str]) -> Iterator[str]:
    if not holes:
        yield root
    elif root not in holes:
        for name in names_in(root):
            path = os.path.join(root, name)
            yield from _around(path, [hole for hole in holes if is_within(hole, path)])


def _is_foreign(path: str, project: str) -> bool:
    """Return whether a path is out of the project, or in it an environment or of one."""
    above = (path, os.path.dirname(path))
    marks = (os.path.join(glob.escape(each), name) for each in above for name in _ENVIRONMENT)
    return not is_within(path, project) or any(map(glob.glob, marks))


def _named(directory: str, start: str) -> list[str]:
    """Return what in a directory has a name with this start."""
    names = (name for name in names_in(directory) if name.startswith(start))
    return [os.path.join(directory, name) for name in names]


def _split(text: str) -> list[str]:
    return [path for path in text.split(os.pathsep) if os.path.isabs(path)]


def _home(environ: Mapping[str, str]) -> str:
    home = environ.get("HOME", "")
    return os.path.realpath(home) if os.path.isabs(home) and home != "/" else ""


def _prefix(directory: str, home: str) -> list[str]:
    """Return a directory of programs with all that lies beside it, unless that is a home."""
    above = os.path.dirname(os.path.realpath(directory))
    is_prefix = os.path.basename(directory) in _PROGRAMS and above not in ("/", home)
    return [directory, above] if is_prefix else [directory]
