"""What tells without reading whether a file is the one that was read."""

import os
import stat
import struct
from collections.abc import Callable, Sequence
from operator import attrgetter

_LAYOUT = struct.Struct("<qqqQQI")
_TIMES = struct.Struct("<qq").unpack_from
_SIZE = struct.Struct("<q").unpack_from
_pack = _LAYOUT.pack
SIZE = _LAYOUT.size
_LAST = (1 << 63) - 1

# Kernels stamp files once per clock tick (up to 10 ms).
_TICK_NS = 20_000_000
_SECOND_NS = 1_000_000_000

# A directory is there or it is not; its times tell nothing.
DIRECTORY = _pack(0, 0, 0, 0, 0, stat.S_IFDIR)

# Where the bytes of the mode are, which tell a file's kind.
_KIND = SIZE - 3
_BITS = SIZE - 4


# A file's times in nanoseconds, its size in bytes, where it is and its mode.
fields: Callable[[os.stat_result], tuple[int, ...]] = attrgetter(
    "st_mtime_ns", "st_ctime_ns", "st_size", "st_ino", "st_dev", "st_mode"
)


def of(status: os.stat_result) -> bytes:
    """Return the signature of what was looked at, packed: small, and quick to compare."""
    try:
        return _pack(*fields(status))
    except struct.error:
        return pack(fields(status))


def pack(values: Sequence[int]) -> bytes:
    """Return a signature packed; some file systems know years after 2262, which all count as it."""
    times = [max(-_LAST, min(time, _LAST)) for time in values[:2]]
    return _pack(*times, *values[2:])


def is_file(packed: bytes) -> bool:
    """Return whether it is a regular file."""
    return packed[_KIND] & 0xF0 == 0x80


def is_link(packed: bytes) -> bool:
    """Return whether it is a symbolic link."""
    return packed[_KIND] & 0xF0 == 0xA0


def is_directory(packed: bytes) -> bool:
    """Return whether it is a directory."""
    return packed[_KIND] & 0xF0 == 0x40


def kind(packed: bytes) -> str:
    """Return the kind that listings have."""
    if is_link(packed):
        return "symlink"
    if is_directory(packed):
        return "directory"
    return "executable" if is_executable(packed) else "file"


def is_executable(packed: bytes) -> bool:
    """Return whether its owner may execute it."""
    return packed[_BITS] & 0x40 != 0


def size(packed: bytes) -> int:
    """Return the size in bytes."""
    return int(_SIZE(packed, 16)[0])


def place(packed: bytes) -> bytes:
    """Return what is the same for all names of one file."""
    return packed[24:40]


def is_rewritten(before: bytes, after: bytes) -> bool:
    """Return whether a file has another time, size, place or right to be executed."""
    changed = before[:8] != after[:8] or before[16:40] != after[16:40]
    return changed or is_executable(before) != is_executable(after)


def are_links(signatures: Sequence[bytes]) -> bool:
    """Return whether any of them is a symbolic link."""
    at = _KIND
    return 0xA0 in {packed[at] & 0xF0 for packed in signatures}


def is_racy(packed: bytes, began_ns: int) -> bool:
    """Return whether a file may change again without its signature changing; see `is_young`."""
    mtime_ns, ctime_ns = _TIMES(packed)
    return is_young(mtime_ns, ctime_ns, began_ns)


def is_young(mtime_ns: int, ctime_ns: int, began_ns: int) -> bool:
    """Return whether a file may change again without its times moving on.

    They move by the tick, or by whole seconds, as on FAT and old NFS, where they show no fraction.
    """
    step = 2 * _SECOND_NS if ctime_ns % _SECOND_NS == 0 else _TICK_NS
    return max(mtime_ns, ctime_ns) > began_ns - step
