"""Signs of life for logs: without a terminal, a line now and then while something takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from buildrun.console import Console

PERIOD = 15.0  # seconds


@contextmanager
def going_on(console: Console, what: str) -> Iterator[None]:
    """Say every ``PERIOD`` what goes on in the block; on a terminal the live line does so."""
    if console.live or console.quiet:
        yield
        return
    ended = threading.Event()
    beat = threading.Thread(target=tell, args=(console, what, ended.wait), daemon=True)
    console.latest = ""
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()


def tell(
    console: Console,
    what: str,
    wait: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Say what goes on, and its latest progress, until the wait for its end ends with it.

    wait: takes seconds, and returns whether it has ended meanwhile.
    """
    begun = clock()
    while not wait(PERIOD):
        latest = f": {console.latest}" if console.latest else ""
        console.note(console.style(f"still {what} after {clock() - begun:.0f} s{latest}", "dim"))
