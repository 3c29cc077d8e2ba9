"""The deterministic tar: sorted, with fixed times and owners, as a stream."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from buildrun.console import printable
from buildrun.errors import BuildrunError, ProjectError
from buildrun.store import digest, listing, stat_signature
from buildrun.store.remote.transfer import Changed

if TYPE_CHECKING:
    from buildrun.store.listing import Entry
    from buildrun.workspace.select import FileSet

# The second day of 1980, in seconds since the epoch: zip archives know no earlier time, wherever
# the clock stands, and programs such as Python's `zipfile` refuse to pack an older file.
TIME = 315619200

BLOCK = 512
END = bytes(2 * BLOCK)

FILE, SYMLINK, DIRECTORY, _PAX = b"0", b"2", b"5", b"x"

_FIELD = 100
_LARGE = 8**11
_CHUNK = 1 << 20


def header(
    name: bytes, kind: bytes = FILE, size: int = 0, *, target: bytes = b"", mode: int = 0o644
) -> bytes:
    """Return what stands before a member's content.

    name: relative, a directory's with a slash at its end. target: of a symlink.
    """
    records = []
    if len(name) > _FIELD:
        records.append((b"path", name))
    if len(target) > _FIELD:
        records.append((b"linkpath", target))
    if size >= _LARGE:
        records.append((b"size", b"%d" % size))
    plain = _block(name, kind, 0 if size >= _LARGE else size, target, mode)
    if not records:
        return plain
    body = b"".join(_record(*record) for record in records)
    return _block(b"pax", _PAX, len(body), b"", 0o644) + body + padding(len(body)) + plain


def padding(size: int) -> bytes:
    """Return what fills up the last block of some content."""
    return bytes(-size % BLOCK)


def room(size: int) -> int:
    """Return the bytes that some content takes."""
    return size + -size % BLOCK


def content(path: bytes, signature: bytes, start: int, size: int) -> Iterator[bytes]:
    """Yield bytes of a file; raises OSError, and Changed where its signature is another one."""
    try:
        descriptor = os.open(path, _FLAGS)
    except OSError as error:
        if error.errno in _OTHER:
            raise Changed(os.fsdecode(path)) from None
        raise
    with open(descriptor, "rb", buffering=0) as file:
        if stat_signature.of(os.fstat(descriptor)) == signature:
            file.seek(start)
            while size and (chunk := file.read(min(size, _CHUNK))):
                size -= len(chunk)
                yield chunk
            if not size and stat_signature.of(os.fstat(descriptor)) == signature:
                return
    raise Changed(os.fsdecode(path))


def whole(name: bytes, content: bytes) -> bytes:
    """Return a file, header and all."""
    return header(name, size=len(content)) + content + padding(len(content))


def gathered(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in fewer pieces, so that each is worth a call."""
    waiting: list[bytes] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _block(name: bytes, kind: bytes, size: int, target: bytes, mode: int) -> bytes:
    fields = (
        name[:_FIELD].ljust(_FIELD, b"\0"),
        b"%07o\0" % mode,
        b"0000000\0" * 2,  # owner and group
        b"%011o\0" % size,
        b"%011o\0" % TIME,
        b" " * 8,  # the checksum, which counts as blanks
        kind,
        target[:_FIELD].ljust(_FIELD, b"\0"),
        b"ustar\00000",
        bytes(64),  # names of owner and group
        b"0000000\0" * 2,  # devices
        bytes(167),
    )
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def _record(name: bytes, value: bytes) -> bytes:
    """Return a pax record, which begins with its own length."""
    rest = len(name) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, name, value)


# It vanished, or became a link or something else.
_OTHER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ENXIO})
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Layer(NamedTuple):
    """A plain tar of files beneath ``/``.

    size: its bytes, which have to be known before it is sent. chunks: makes them; each call anew.
    """

    size: int
    chunks: Callable[[], Iterator[bytes]]


def of_files(root: str, taken: FileSet, directory: str, *, any_user: bool = False) -> Layer:
    """Return the layer that has files of a project in a directory; any_user: see `_members`.

    Making it raises ProjectError for a file that is no longer what was taken.
    """
    top = os.fsencode(directory.strip("/"))
    members = _members(taken, top, any_user=any_user)
    size = sum(len(head) + room(entry.size) for head, entry, _ in members if entry) + sum(
        len(head) for head, entry, _ in members if entry is None
    )

    def chunks() -> Iterator[bytes]:
        for head, entry, seen in members:
            yield head
            if entry is not None:
                place = os.path.join(os.fsencode(root), os.fsencode(entry.path))
                yield from _content(place, entry, seen, racy=os.fsencode(entry.path) in racy)
        yield END

    racy = taken.racy
    return Layer(size + len(END), lambda: gathered(chunks()))


def _members(
    taken: FileSet, top: bytes, *, any_user: bool
) -> list[tuple[bytes, Entry | None, bytes]]:
    """Return headers, each with its entry and signature; None for a directory's.

    any_user: group 0 may do what the owner may, since a cluster may give a pod any user. See
    "Support arbitrary user ids" in OpenShift's guidelines for images.
    """
    group = 0o020 if any_user else 0
    made: list[tuple[bytes, Entry | None, bytes]] = []
    known: set[bytes] = set()

    def enter(directory: bytes) -> None:
        if directory and directory not in known:
            enter(directory.rpartition(b"/")[0])
            known.add(directory)
            mode = 0o755 | (group if directory.startswith(top) else 0)
            made.append((header(directory + b"/", DIRECTORY, mode=mode), None, b""))

    enter(top)
    for entry, seen in zip(taken.entries(), taken.selection.signatures, strict=True):
        name = top + b"/" + os.fsencode(entry.path)
        enter(name.rpartition(b"/")[0])
        made.append((_header(name, entry, group), entry, seen))
    return made


def _header(name: bytes, entry: Entry, group: int) -> bytes:
    if entry.kind == listing.SYMLINK:
        return header(name, SYMLINK, target=os.fsencode(entry.content), mode=0o777)
    mode = 0o755 if entry.kind == listing.EXECUTABLE else 0o644
    return header(name, size=entry.size, mode=mode | group)


def _content(place: bytes, entry: Entry, seen: bytes, *, racy: bool) -> Iterator[bytes]:
    # A file that was just written may change without a trace: then what it holds is compared.
    made = digest.new() if racy else None
    try:
        if entry.kind == listing.SYMLINK:
            if os.readlink(place) != os.fsencode(entry.content):
                raise Changed
            return
        for chunk in content(place, seen, 0, entry.size):
            if made is not None:
                made.update(chunk)
            yield chunk
    except Changed:
        raise _changed(entry) from None
    except OSError as error:
        if error.errno in _OTHER:
            raise _changed(entry) from error
        text = f"`{printable(entry.path)}` cannot be read into the image: {error.strerror}"
        raise ProjectError(text) from error
    if made is not None and digest.text(made) != entry.content:
        raise _changed(entry)
    yield padding(entry.size)


def _changed(entry: Entry) -> BuildrunError:
    return ProjectError(
        f"`{printable(entry.path)}` changed while the image was made", hint="run it again"
    )
