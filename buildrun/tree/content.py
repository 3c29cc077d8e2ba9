"""Digests of what files hold, read in constant memory."""

import os

from buildrun import digest
from buildrun.digest import Algorithm
from buildrun.tree import signature

_CHUNK = 1 << 20
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK


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
        if isinstance(error, PermissionError):
            raise
        raise Changed(*error.args) from None  # vanished, or became a link or a socket
    try:
        # With O_NONBLOCK a pipe that took the file's place is not waited for.
        if signature.of(os.fstat(descriptor)) != seen:
            raise Changed
        made = digest.new(algorithm)
        buffer = bytearray(min(_CHUNK, signature.unpack(seen).size + 1))
        view = memoryview(buffer)
        while count := os.readv(descriptor, [buffer]):
            made.update(view[:count])
        if signature.of(os.fstat(descriptor)) != seen:
            raise Changed
    finally:
        os.close(descriptor)
    return bytes.fromhex(made.hexdigest())
