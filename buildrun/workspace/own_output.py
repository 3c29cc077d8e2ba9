"""The files that this process's own output goes to: they grow while it looks at them.

``buildrun . > run.log`` writes into the project that it runs, and so does ``buildrun . | tee
run.log``. What is in such a file decides nothing.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from functools import cache

from buildrun.store import stat_signature
from buildrun.store.files import names_in

_ACCESS = os.O_RDONLY | os.O_WRONLY | os.O_RDWR


@cache
def files() -> frozenset[bytes]:
    """Return their places, also of those that the programs write to that output is piped into.

    On Linux only, and only programs of our own session, such as ``tee``. Those that have started
    us, and what they have opened for us, are not meant: they write data as well.
    """
    found: set[bytes] = set()
    pipes: set[bytes] = set()
    for descriptor in (1, 2):
        try:
            _sort(os.fstat(descriptor), found, pipes)
        except OSError:
            continue  # it is closed
    if not pipes:
        return frozenset(found)
    written: set[bytes] = set()
    done: set[bytes] = set()
    programs = [list(_opened(number)) for number in _programs()]
    while pipes - done:
        done |= pipes
        for opened in programs:
            if any(reads and _file(status) in done for status, reads, _ in opened):
                for status, _, writes in opened:
                    if writes:
                        _sort(status, written, pipes)
    return frozenset(found | written.difference(_file(status) for status, *_ in _opened("self")))


def _sort(status: os.stat_result, found: set[bytes], pipes: set[bytes]) -> None:
    if stat.S_ISREG(status.st_mode):
        found.add(_file(status))
    elif stat.S_ISFIFO(status.st_mode):
        pipes.add(_file(status))


def _file(status: os.stat_result) -> bytes:
    return stat_signature.place(stat_signature.of(status))


def _programs() -> Iterable[int]:
    """Return the numbers of the processes of our session, less those that we come from."""
    numbers = {int(name) for name in names_in("/proc") if name.isdecimal()}
    return [number for number in numbers - set(_line()) if _is_of_our_session(number)]


def _line() -> Iterator[int]:
    """Yield our own number and those of the processes that we come from."""
    number = os.getpid()
    while number:
        yield number
        try:
            with open(f"/proc/{number}/stat", "rb") as file:
                # The program's name is in brackets, and may hold anything.
                number = int(file.read().rpartition(b")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return


def _is_of_our_session(number: int) -> bool:
    try:
        return os.getsid(number) == os.getsid(0)
    except OSError:
        return False  # it has ended, or may not be looked at


def _opened(number: int | str) -> Iterator[tuple[os.stat_result, bool, bool]]:
    """Yield what a process has open, and whether it reads and writes it."""
    process = f"/proc/{number}"
    for descriptor in names_in(f"{process}/fd"):  # none of what has ended, or is somebody else's
        try:
            status = os.stat(f"{process}/fd/{descriptor}")
            if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
                with open(f"{process}/fdinfo/{descriptor}", "rb") as file:
                    flags = next((line for line in file if line.startswith(b"flags:")), b"- 0")
                access = int(flags.split()[1], 8) & _ACCESS
                yield status, access != os.O_WRONLY, access != os.O_RDONLY
        except OSError:
            continue
