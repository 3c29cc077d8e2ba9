"""Values remembered between runs with all they were computed from."""

import json
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import xxhash

from buildrun import __version__
from buildrun.store import locks
from buildrun.store.files import make_directory, publish, read
from buildrun.store.stat_signature import fields, is_young


class DependencyTracker:
    """Reads files and variables, and keeps what it saw."""

    def __init__(
        self, environ: Mapping[str, str], given: Mapping[str, bytes] | None = None
    ) -> None:
        """Start with nothing seen; given: contents by real path, in place of those on the disk."""
        self._environ = environ
        self.given = dict(given or {})
        self.files: dict[str, Any] = {}
        self.variables: dict[str, str | None] = {}
        # Set where something was looked at that no record can watch, such as a source tree.
        self.untrackable = False

    def read(self, path: str) -> bytes:
        """Return the file's content.

        Raises OSError, also for what is no regular file; an absent file is kept as seen absent.
        """
        try:
            seen = _seen(path)
            content = read(path)
        except OSError:
            self.files[path] = None
            raise
        self.files[path] = {**(seen or {"stat": None, "young": True}), "digest": _digest(content)}
        return content

    def exists(self, path: str) -> bool:
        """Return whether the path exists, and keep the answer."""
        there = os.path.exists(path)
        self.files.setdefault(path, {"exists": True} if there else None)
        return there

    def executable(self, path: str) -> bool:
        """Return whether the path is a file that may be run; a replacement of it is noticed."""
        there = os.path.isfile(path) and os.access(path, os.X_OK)
        self.files[path] = _seen(path) if there else None
        return there

    def directory(self, path: str) -> None:
        """Notice when a name in the directory comes or goes, or when it is absent."""
        self.files[path] = _seen(path)

    def variable(self, name: str) -> str | None:
        """Return an environment variable; only a digest of its value is kept."""
        value = self._environ.get(name)
        data = None if value is None else value.encode("utf-8", "surrogatepass")
        self.variables[name] = None if data is None else _digest(data)
        return value

    def home(self) -> str:
        """Return the user's home directory."""
        return self.variable("HOME") or os.path.expanduser("~")

    def add(
        self,
        files: Mapping[str, Any],
        variables: Mapping[str, str | None],
        *,
        volatile: bool = False,
    ) -> None:
        """Take over what another reader saw."""
        self.files.update(files)
        self.variables.update(variables)
        self.untrackable = self.untrackable or volatile

    def is_current(self, files: Mapping[str, Any], variables: Mapping[str, Any]) -> bool:
        """Return whether all that was once seen is still so."""
        for name, digest in variables.items():
            self.variable(name)
            if self.variables[name] != digest:
                return False
        return all(_same(path, seen) for path, seen in files.items())


class Memo(NamedTuple):
    """Where values are remembered; directory: None for nowhere. write: False leaves the disk alone.

    parent: is told what any value was made from, so that a larger one can be remembered too.
    """

    directory: str | None = None
    write: bool = True
    parent: DependencyTracker | None = None


def memoize(
    memory: Memo,
    name: str,
    environ: Mapping[str, str],
    compute: Callable[[DependencyTracker], Any],
    *,
    subject: Any = None,
) -> Any:
    """Return ``compute``'s JSON value, from its record while what it was made from is unchanged.

    subject: a JSON value that it depends on besides what it reads.
    """
    if memory.directory is None:
        return compute(DependencyTracker(environ))

    def make(_: locks.Lock) -> tuple[Any]:
        reader = DependencyTracker(environ)
        try:
            value = compute(reader)
        finally:
            if memory.parent is not None:
                seen = reader.files, reader.variables
                memory.parent.add(*seen, volatile=reader.untrackable)
        put(memory, name, reader, value, subject=subject)
        return (value,)

    find = partial(_current, memory, name, environ, subject)
    return locks.once(find, make, lambda: lock_of(memory, name))[0]


def get(memory: Memo, name: str, environ: Mapping[str, str], *, subject: Any = None) -> Any:
    """Return a remembered value that is still current, or None."""
    found = _current(memory, name, environ, subject)
    return found[0] if found is not None else None


def put(
    memory: Memo, name: str, reader: DependencyTracker, value: Any, *, subject: Any = None
) -> None:
    """Keep a JSON value, unless it was made from what cannot be watched."""
    if memory.directory is None or not memory.write or reader.untrackable:
        return
    record = {
        "version": __version__,
        "subject": _digest_of(subject),
        "files": reader.files,
        "variables": reader.variables,
        "value": value,
    }
    try:
        make_directory(memory.directory)
        publish(_path(memory.directory, name), json.dumps(record).encode(), mode=0o600)
    except OSError:
        pass  # a read-only or full disk costs speed, nothing else


def frozen(value: Any) -> Any:
    """Return a JSON value as records have it, with tuples in place of its lists."""
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def prune(memory: Memo, seconds: float) -> None:
    """Remove the records that were written more than so many seconds ago."""
    try:
        entries = list(os.scandir(memory.directory or ""))
    except OSError:
        return
    for entry in entries:
        try:
            old = time.time() - entry.stat().st_mtime >= seconds
            if old and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)
        except OSError:
            continue


def _current(
    memory: Memo, name: str, environ: Mapping[str, str], subject: Any
) -> tuple[Any] | None:
    """Return a tuple with the value, or None; a value may be None itself."""
    if memory.directory is None:
        return None
    record = _load(_path(memory.directory, name))
    if record is None or record["subject"] != _digest_of(subject):
        return None
    if not DependencyTracker(environ).is_current(record["files"], record["variables"]):
        return None
    if memory.parent is not None:
        memory.parent.add(record["files"], record["variables"])
    return (record["value"],)


def lock_of(memory: Memo, name: str, *, waiting: Callable[[], None] | None = None) -> locks.Lock:
    """Return the only hold on a name; one that holds nothing where the store may only be read.

    waiting: is called once if somebody else holds it.
    """
    if memory.directory is None or not memory.write:
        return locks.Lock(-1)
    try:
        make_directory(memory.directory)
        return locks.exclusive(_path(memory.directory, name) + ".lock", waiting=waiting)
    except OSError:
        return locks.Lock(-1)


def _path(directory: str, name: str) -> str:
    # Only the digest of a name is kept: names hold arguments, and those may hold secrets.
    return os.path.join(directory, xxhash.xxh3_128_hexdigest(name.encode(errors="surrogateescape")))


def _load(path: str) -> dict[str, Any] | None:
    try:
        record = json.loads(read(path))
        if record["version"] == __version__:
            return {key: record[key] for key in ("subject", "files", "variables", "value")}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _same(path: str, seen: Any) -> bool:
    signature = _signature(path)
    if seen is None or signature is None:
        return seen is None and signature is None
    if "stat" not in seen:
        return True
    if seen["stat"] == signature and not seen.get("young"):
        return True
    if "digest" not in seen:
        return False
    try:
        return bool(_digest(read(path)) == seen["digest"])
    except OSError:
        return False


def _seen(path: str) -> dict[str, Any] | None:
    """Return what a path looks like, and whether it may change without looking otherwise."""
    began, signature = time.time_ns(), _signature(path)
    if signature is None:
        return None
    return {"stat": signature, "young": is_young(signature[0], signature[1], began)}


def _signature(path: str) -> list[int] | None:
    try:
        return list(fields(os.stat(path)))
    except (OSError, ValueError):
        return None


def _digest_of(subject: Any) -> str:
    # Like names, subjects may hold secrets.
    return _digest(json.dumps(subject, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return f"xxh3:{xxhash.xxh3_128_hexdigest(content)}"
