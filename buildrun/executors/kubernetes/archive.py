"""Files for a pod: a deterministic tar in parts, read twice and written nowhere on this machine."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from buildrun.console import printable
from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes import pod_runner
from buildrun.store import stat_signature
from buildrun.store.home import STAGING
from buildrun.store.remote.transfer import Changed
from buildrun.workspace import archive as tar

_STAGING = os.fsencode(STAGING)

# What to do about something in a store that is not what was put there.
UNTRUSTED = "delete it there, and see who may write there"


class _Span(NamedTuple):
    """Some bytes of an archive: ``data``, or where there is a ``path`` those of a file."""

    size: int
    data: bytes = b""
    path: bytes = b""
    signature: bytes = b""
    start: int = 0

    def chunks(self) -> Iterator[bytes]:
        if not self.path:
            return iter((self.data,))
        return tar.content(self.path, self.signature, self.start, self.size)

    def cut(self, size: int) -> tuple[_Span, _Span]:
        """Return the span's first bytes, and its others."""
        first = self._replace(size=size, data=self.data[:size])
        left, start = self.size - size, self.start + size
        return first, self._replace(size=left, data=self.data[size:], start=start)


class Part:
    """A part of an archive, as an upload; ``sha256`` is its digest in hexadecimal."""

    def __init__(self, spans: Sequence[_Span]) -> None:
        """Open nothing yet."""
        self._spans = spans
        self.size = sum(span.size for span in spans)
        self.sha256 = ""

    def read(self) -> Iterator[bytes]:
        """Yield the bytes; raises Changed, with the path of a file, and ExecutionError."""
        try:
            for span in self._spans:
                yield from span.chunks()
        except OSError as error:
            raise _unreadable(error) from None

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes; raises Changed, at their end at the latest, for another digest."""
        made = hashlib.sha256()
        for chunk in tar.gathered(self.read()):
            made.update(chunk)
            yield chunk
        if made.hexdigest() != self.sha256:
            raise Changed("")


class Archive(NamedTuple):
    """An archive whose files have been read; ``sha256`` is its digest in hexadecimal."""

    parts: Sequence[Part]
    size: int
    sha256: str


class PartLimit(NamedTuple):
    """Parts have ``bytes`` each, and more where there would be more than ``parts`` of them."""

    bytes: int
    parts: int

    def of(self, size: int) -> int:
        """Return the bytes of a part of an archive of this size."""
        return self.bytes * max(1, -(-size // (self.bytes * self.parts)))


def archive(root: str, paths: Sequence[str], *, as_absolute: bool, limit: PartLimit) -> Archive:
    """Return the archive of files, links and whole directories; absent ones are passed over.

    The paths are relative to the root. With ``as_absolute`` it is to be unpacked in ``/``.
    Raises ExecutionError.
    """
    top = os.fsencode(os.path.abspath(root))
    names = {_name(path, top, as_absolute=as_absolute) for path in paths}
    base = b"/" if as_absolute else top
    try:
        spans = [span for name in _outermost(names) for span in _spans(base, name, as_absolute)]
        if spans:
            spans.append(_head(tar.END))
        size = sum(span.size for span in spans)
        parts = [Part(group) for group in _grouped(spans, limit.of(size))]
        return Archive(parts, size, _measure(parts))
    except Changed as error:
        raise changed(error) from None
    except OSError as error:
        raise _unreadable(error) from None


def changed(error: Changed) -> ExecutionError:
    """Return the error for a file that changed after it was read."""
    name = f"`{printable(str(error))}`" if str(error) else "a file"
    return ExecutionError(f"{name} changed while it was sent", hint="run it again")


def _unreadable(error: OSError) -> ExecutionError:
    place = printable(os.fsdecode(error.filename)) if error.filename else None
    return ExecutionError(f"it cannot be sent: {error.strerror}", place=place)


def _name(path: str, top: bytes, *, as_absolute: bool) -> bytes:
    name = os.path.normpath(os.fsencode(path))
    if as_absolute:
        name = os.path.normpath(os.path.join(top, name)).lstrip(b"/")
    if name.startswith(b"/") or name.split(b"/")[0] in (b"", b".", b".."):
        raise ExecutionError(
            "it cannot be sent: it lies outside of the project", place=printable(path)
        )
    return name


def _outermost(names: set[bytes]) -> list[bytes]:
    """Return names in order, without those that lie in another one."""
    found: list[bytes] = []
    for name in sorted(names, key=lambda name: name.split(b"/")):
        if not found or not name.startswith(found[-1] + b"/"):
            found.append(name)
    return found


def _spans(base: bytes, top: bytes, as_absolute: bool) -> Iterator[_Span]:
    source = os.path.join(base, top)
    if as_absolute:  # a path of this machine is meant as what it leads to
        source = os.path.realpath(source)
    waiting = [top] if os.path.lexists(source) else []
    while waiting:
        name = waiting.pop()
        path = source + name[len(top) :]
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode):
            mode = 0o755 if status.st_mode & stat.S_IXUSR else 0o644
            yield _head(tar.header(name, size=status.st_size, mode=mode))
            if status.st_size:
                yield _Span(status.st_size, b"", path, stat_signature.of(status))
                yield _head(tar.padding(status.st_size))
        elif stat.S_ISDIR(status.st_mode):
            yield _head(tar.header(name + b"/", tar.DIRECTORY, mode=0o755))
            children = [child for child in os.listdir(path) if not child.startswith(_STAGING)]
            waiting += [name + b"/" + child for child in sorted(children, reverse=True)]
        elif stat.S_ISLNK(status.st_mode):
            target = os.readlink(path)
            if not as_absolute and not pod_runner.stays(name, target):
                raise ExecutionError(
                    f"`{printable(os.fsdecode(name))}` is a link that leaves the project",
                    hint="no other files of this machine are sent: copy there what it leads to",
                )
            yield _head(tar.header(name, tar.SYMLINK, target=target, mode=0o777))
        else:
            shown = printable(os.fsdecode(name))
            raise ExecutionError(f"`{shown}` is neither a file nor a directory")


def _head(data: bytes) -> _Span:
    return _Span(len(data), data)


def _grouped(spans: Sequence[_Span], size: int) -> Iterator[list[_Span]]:
    """Yield the spans of each part of this size; the last one may be smaller."""
    group: list[_Span] = []
    room = size
    for span in spans:
        rest = span
        while rest.size >= room:
            first, rest = rest.cut(room)
            yield [*group, first]
            group, room = [], size
        if rest.size:
            group.append(rest)
            room -= rest.size
    if group:
        yield group


def _measure(parts: Sequence[Part]) -> str:
    """Read all parts, give them their digests and return that of the whole."""
    whole = hashlib.sha256()
    for part in parts:
        made = whole if len(parts) == 1 else hashlib.sha256()
        for chunk in part.read():
            made.update(chunk)
            if made is not whole:
                whole.update(chunk)
        part.sha256 = made.hexdigest()
    return whole.hexdigest()
