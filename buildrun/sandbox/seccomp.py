"""A filter of system calls that asks us before a call is made: seccomp's user notification.

See seccomp_unotify(2). The filter is inherited by all that a command starts, static programs and
threads too, and cannot be taken off.
"""

from __future__ import annotations

import array
import ctypes
import errno
import fcntl
import os
import re
import select
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from buildrun.sandbox import syscalls
from buildrun.sandbox.syscalls import Architecture

LIBC = ctypes.CDLL(None, use_errno=True)

_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_NEW_LISTENER = 1 << 3
_WAIT_KILLABLE = 1 << 5  # Linux 5.19: no signal breaks off a call that we are being asked about

_ALLOW, _ERRNO, _ASK = 0x7FFF0000, 0x00050000, 0x7FC00000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in `struct seccomp_data`
_NETLINK = 16  # how programs ask the kernel for addresses and users
_X32 = 0x40000000  # numbers from here on are those of another calling convention

_RECEIVE, _SEND, _ADD_DESCRIPTOR, _SET_FLAGS = 0xC0502100, 0xC0182101, 0x40182103, 0x40082104
_SYNC_WAKE_UP = 1  # Linux 6.6: the one that asks runs on at once when it is answered
_CONTINUE = 1
_ADD_AND_SEND = 2

_NOTIFICATION = struct.Struct("=QIIiIQ6Q")
# Before Linux 6.11 nothing wakes who waits for a call when all that could make one have ended.
_ASLEEP = tuple(map(int, re.findall(r"[0-9]+", os.uname().release)[:2])) < (6, 11)
_EMPTY = bytes(_NOTIFICATION.size)
_RESPONSE = struct.Struct("=QqiI")
_DESCRIPTOR = struct.Struct("=QIIII")


class Notification(NamedTuple):
    """A call that waits for an answer; thread: that makes it, foreign: not of our architecture."""

    id: int
    thread: int
    number: int
    arguments: Sequence[int]
    foreign: bool


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.c_void_p))


class Filter:
    """A filter ready to be installed, in BPF; network: whether all sockets may be made."""

    def __init__(self, there: Architecture, *, network: bool = True) -> None:
        """Write the program."""
        code = _code(there, network=network)
        self._number = there.seccomp
        self._instructions = (_Instruction * len(code))(*(_Instruction(*each) for each in code))
        self._program = _Program(len(code), ctypes.addressof(self._instructions))

    def install(self, given: socket.socket) -> None:
        """Put it on this process, for good, and send the listener; raises OSError.

        What it asks about waits from here on for whoever has the listener.
        """
        no_new_privileges()
        program = ctypes.byref(self._program)
        listener = -1
        for flags in (_NEW_LISTENER | _WAIT_KILLABLE, _NEW_LISTENER):
            listener = LIBC.syscall(self._number, _SET_MODE_FILTER, flags, program)
            if listener >= 0 or ctypes.get_errno() != errno.EINVAL:
                break
        if listener < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        sent = array.array("i", [listener])
        given.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        os.close(listener)


def no_new_privileges() -> None:
    """Give up what set-user-ID programs would give, without which filters are not allowed."""
    if LIBC.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _code(there: Architecture, *, network: bool) -> list[tuple[int, int, int, int]]:
    """Return the program; its jumps are counted from the next instruction."""
    numbers = [number for name, number in there.numbers.items() if name not in syscalls.STATS]
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, there.audit),
        (_RETURN, 0, 0, _ASK),  # a program of another architecture: told, not understood
        (_LOAD, 0, 0, _NUMBER),
    ]
    if there.audit == syscalls.ARCHITECTURES["x86_64"].audit:
        code += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ASK)]
    for number in there.unavailable:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    for name, argument in syscalls.STATS.items():
        code += [
            (_EQUAL, 0, 4, there.numbers[name]),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * argument),
            (_ANY_BIT, 0, 1, syscalls.EMPTY_PATH),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ASK),
        ]
    if not network:
        code += [
            (_EQUAL, 0, 4, there.socket),
            (_LOAD, 0, 0, _ARGUMENTS),
            (_EQUAL, 2, 0, socket.AF_UNIX),
            (_EQUAL, 1, 0, _NETLINK),
            (_RETURN, 0, 0, _ASK),
            (_LOAD, 0, 0, _NUMBER),
        ]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        code.append((_EQUAL, left, 0, number))
    return [*code, (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]


class Listener:
    """The other end of an installed filter, which calls wait at."""

    def __init__(self, descriptor: int, audit: int) -> None:
        """Take over the descriptor; audit: the architecture of the filter."""
        self.descriptor = descriptor
        self._audit = audit
        self._buffer = bytearray(_NOTIFICATION.size)
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        try:
            fcntl.ioctl(descriptor, _SET_FLAGS, _SYNC_WAKE_UP)
        except OSError:
            pass  # slower

    def receive(self) -> Notification | None:
        """Wait for a call; None where all that the filter was on have ended. Raises OSError."""
        while True:
            if _ASLEEP and self.has_ended(None):
                return None
            self._buffer[:] = _EMPTY  # or the kernel refuses
            try:
                fcntl.ioctl(self.descriptor, _RECEIVE, self._buffer)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
                if self.has_ended(0):
                    return None
                continue  # it was killed
            id_, thread, _, number, audit, _, *arguments = _NOTIFICATION.unpack(self._buffer)
            foreign = audit != self._audit or number >= _X32
            return Notification(id_, thread, number, arguments, foreign)

    def has_ended(self, milliseconds: int | None) -> bool:
        """Return whether the filter is on nothing any more; None waits for that, or for a call."""
        ready = self._poll.poll(milliseconds)
        return bool(ready) and not ready[0][1] & select.POLLIN

    def proceed(self, asked: Notification) -> None:
        """Have the kernel do the call as if nobody had asked."""
        self._answer(_SEND, _RESPONSE.pack(asked.id, 0, 0, _CONTINUE))

    def fail(self, asked: Notification, number: int) -> None:
        """Have the call fail with an error number."""
        self._answer(_SEND, _RESPONSE.pack(asked.id, 0, -number, 0))

    def give(self, asked: Notification, descriptor: int, *, on_exec: bool) -> None:
        """Have the call return a file of ours; on_exec: whether it stays open then."""
        flags = 0 if on_exec else os.O_CLOEXEC
        packed = _DESCRIPTOR.pack(asked.id, _ADD_AND_SEND, descriptor, 0, flags)
        self._answer(_ADD_DESCRIPTOR, packed)

    def close(self) -> None:
        """Let go of it; calls that would wait fail from here on."""
        os.close(self.descriptor)

    def _answer(self, request: int, packed: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, request, packed)
        except OSError as error:
            if error.errno != errno.ENOENT:  # killed while it waited
                raise


_PAGE = os.sysconf("SC_PAGE_SIZE")
# What is read at a time: hardly a path is longer.
_PIECE = 256
_LONGEST = 4096  # PATH_MAX


class _Piece(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Memory:
    """Reads the memory of other processes; for one thread."""

    def __init__(self) -> None:
        """Make room."""
        self._buffer = ctypes.create_string_buffer(_PIECE)
        self._place = ctypes.addressof(self._buffer)
        self._ours = _Piece(self._place, 0)
        self._theirs = _Piece(0, 0)
        self._call = LIBC.process_vm_readv
        self._call.argtypes = (
            ctypes.c_int, ctypes.c_void_p, ctypes.c_ulong, ctypes.c_void_p, ctypes.c_ulong,
            ctypes.c_ulong,
        )  # fmt: skip
        self._given = ctypes.addressof(self._ours), 1, ctypes.addressof(self._theirs), 1, 0

    def text(self, thread: int, address: int) -> bytes:
        """Return the text, without its end, that begins at an address; raises OSError."""
        found = b""
        while True:
            size = min(_PIECE, _PAGE - address % _PAGE)
            some = ctypes.string_at(self._place, self._fill(thread, address, size))
            text, end, _ = some.partition(b"\0")
            found += text
            if end or len(found) > _LONGEST:
                return found
            address += size

    def read(self, thread: int, address: int, size: int) -> bytes:
        """Return so many bytes of one page at most; raises OSError."""
        return ctypes.string_at(self._place, self._fill(thread, address, size))

    def _fill(self, thread: int, address: int, size: int) -> int:
        self._ours.length = self._theirs.length = size
        self._theirs.base = address
        got: int = self._call(thread, *self._given)
        if got <= 0:
            raise OSError(ctypes.get_errno(), "the memory of a process cannot be read")
        return got
