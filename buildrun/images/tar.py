"""Tar archives that are the same for the same content, made as they are read.

All times are one, owners are zero, modes are of two kinds. The format is POSIX ustar, with a pax
header only for what does not fit: names and links of more than 100 bytes, sizes of 8 GiB and more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
