"""Digests of what files hold, read in constant memory."""

import errno
import os
from collections.abc import Callable, Sequence

from buildrun import digest
from buildrun.digest import Algorithm, Hash
from buildrun.tree import signature

_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


# It vanished, or became a link or a socket.
_OTHER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO, errno.EISDIR})

# From this size on files are read side by side; hashing lets other threads run.
LARGE = 8 << 20
_THREADS = 4

Result = bytes | OSError


class Changed(OSError):
    """A file is not, or is no longer, the one that was looked at."""


def of(path: bytes, seen: bytes, algorithm: Algorithm, *, follow: bool = False) -> bytes:
    """Return the digest of a regular file without its algorithm.

    seen: the signature that the file has to have before it is read and after.
    Raises Changed, or another OSError where it cannot be read.
    """
    flags = _FLAGS if follow else _FLAGS | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno in _OTHER:
            raise Changed(*error.args) from None
        raise
    try:
        # With O_NONBLOCK a pipe that took the file's place is not waited for.
        if signature.of(os.fstat(descriptor)) != seen:
            raise Changed
        made = _hashed(descriptor, signature.size(seen), algorithm)
        if signature.of(os.fstat(descriptor)) != seen:
            raise Changed
    finally:
        os.close(descriptor)
    return bytes.fromhex(made.hexdigest())


def _hashed(descriptor: int, size: int, algorithm: Algorithm) -> Hash:
    made = digest.new(algorithm)
    if size < _CHUNK:
        # One call is enough: with more bytes than these the file would have another size now.
        chunk = os.read(descriptor, size)
        made.update(chunk)
        if len(chunk) == size:
            return made
    buffer = bytearray(_CHUNK)
    view = memoryview(buffer)
    while count := os.readv(descriptor, [buffer]):
        made.update(view[:count])
    return made


def side_by_side(calls: Sequence[Callable[[], bytes]]) -> list[Result]:
    """Return what the calls return, or the OSError that they raise, in their order."""
    import threading

    results: list[Result] = [Changed()] * len(calls)
    numbers = iter(range(len(calls)))

    def work() -> None:
        for (
            number
        ) in numbers:  # each thread takes the next one; that is one step of the interpreter
            try:
                results[number] = calls[number]()
            except OSError as error:
                results[number] = error

    count = min(_THREADS, os.cpu_count() or 1, len(calls))
    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
