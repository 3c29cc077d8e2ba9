"""Names that steps hold in a store while they work, so that others wait for them."""

import fcntl
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import xxhash

from buildrun.store import locks
from buildrun.store.home import Home

# Entered while another process, or another step, holds what is needed.
WaitNotice = Callable[[], AbstractContextManager[None]]


def hold(
    home: Home,
    name: str,
    stack: ExitStack,
    on_wait: WaitNotice,
    *,
    until_command_ends: bool = False,
    shared: bool = False,
) -> bool:
    """Hold a name in the whole store until the stack unwinds; return whether others had it.

    until_command_ends: if we are killed, it is held until the command that we have started ends.
    shared: others may hold it in the same way.
    """
    directory = os.path.join(home.memo, "locks")
    path = os.path.join(directory, xxhash.xxh3_128_hexdigest(name.encode("utf-8", "surrogatepass")))
    others_held = False

    def wait() -> None:
        nonlocal others_held
        others_held = True
        waiting.enter_context(on_wait())

    with ExitStack() as waiting:
        try:
            os.makedirs(directory, exist_ok=True)
            lock = (locks.shared if shared else locks.exclusive)(path, waiting=wait)
        except OSError:
            return False  # a store that may only be read: nobody else can wait either
        stack.callback(_release, lock)
        if until_command_ends:
            let_inherit(lock.descriptor)
    return others_held


def let_inherit(descriptor: int) -> None:
    """Let commands inherit a lock, so that others wait for them even if we are killed."""
    if descriptor >= 0:
        os.set_inheritable(descriptor, True)


def _release(lock: locks.Lock) -> None:
    # Closing alone would not do: what a command has left running may have inherited it.
    fcntl.flock(lock.descriptor, fcntl.LOCK_UN)
    lock.release()
