"""Rules of the kernel for what a command may read: Landlock, see landlock(7)."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

from buildrun.sandbox.seccomp import LIBC, no_new_privileges
from buildrun.store.files import and_above

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on all architectures
_VERSION = 1
_BENEATH = 1
# Reading files, which running them takes as well; and moving files to other directories, which is
# refused to everyone unless it is handled. Moved to where it could be read, a file must have been
# readable where it was.
_READ_FILE, _REFER = 1 << 2, 1 << 13
# Linux 5.19, with _REFER.
_OLDEST = 2


def unavailable() -> str:
    """Return why this machine has no Landlock, or ""."""
    version = LIBC.syscall(_CREATE, None, 0, _VERSION)
    if version >= _OLDEST:
        return ""
    if version >= 1:
        return "the kernel's Landlock is too old; Linux 5.19 has what is needed"
    if ctypes.get_errno() == errno.EOPNOTSUPP:
        return "the kernel's Landlock is turned off"
    return "the kernel has no Landlock; Linux 5.19 has what is needed"


class Ruleset:
    """What may be read: files, and all beneath directories."""

    def __init__(self, paths: Iterable[str | bytes]) -> None:
        """Take the paths; those that are not there are passed over. Raises OSError."""
        self._paths = frozenset(map(os.fsencode, paths))
        attributes = struct.pack("=Q", _READ_FILE | _REFER)
        self._descriptor = _checked(LIBC.syscall(_CREATE, attributes, len(attributes), 0))
        try:
            self._allow("/", _REFER)
            for path in self._paths:
                self._allow(path, _READ_FILE)
        except OSError:
            self.close()
            raise

    def allows(self, path: bytes) -> bool:
        """Return whether an absolute path, without links, may be read."""
        return any(each in self._paths for each in and_above(path))

    def restrict(self) -> None:
        """Put the rules on this process, for good; raises OSError."""
        no_new_privileges()
        _checked(LIBC.syscall(_RESTRICT, self._descriptor, 0))

    def close(self) -> None:
        """Let go of it."""
        os.close(self._descriptor)

    def _allow(self, path: str | bytes, access: int) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        try:
            rule = struct.pack("=Qi", access, place)
            _checked(LIBC.syscall(_ADD, self._descriptor, _BENEATH, rule, 0))
        finally:
            os.close(place)


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
