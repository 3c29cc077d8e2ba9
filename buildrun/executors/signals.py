"""Signals to this process, read one after another from a pipe."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

# They ask buildrun to end.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# Without a handler these never reach the pipe; ignored on entry or not, we cannot do without.
_NEEDED = (signal.SIGCHLD, signal.SIGCONT)
CAUGHT = (*ENDING, signal.SIGTSTP, signal.SIGWINCH, *_NEEDED)

# Blocked while the command is forked. SIGTTOU for the child, which changes the foreground; the
# others as handlers of our caller's may raise: in the hooks that Python runs around a fork the
# exception would vanish, and just after it the command would be lost.
_HELD = (*CAUGHT, signal.SIGTTOU, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)


class Signals:
    """Turns signals into numbers to be read, from entry to exit.

    CPython's own C handler writes each signal's number into a pipe, in whichever thread it
    arrives, so a signal that comes just before we block in ``read`` still wakes us. That is what
    a flag set by a Python handler cannot do: PEP 475 restarts the call it interrupted.

    From entry or `block` until `unblock` signals are blocked: whatever arrives while the command
    is forked waits, and is read once the command can be told of it.

    What our caller ignores, as `nohup` does with SIGHUP, stays ignored. Outside the main thread
    handlers cannot be installed: then nothing is caught, and the caller answers for signals.
    """

    def __init__(self) -> None:
        """Prepare; nothing is caught before entry."""
        self.active = False
        self.mask: set[int] = set()
        self._handlers: dict[int, Any] = {}
        self._wakeup = -1
        self._reader = self._writer = -1

    def __enter__(self) -> Signals:
        """Start to catch, with everything blocked until `unblock`."""
        # Asked for before anything is blocked: a handler of our caller's may raise out of the
        # call that blocks, and the old mask must be known by then.
        self.mask = set(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        try:
            self.block()
            self._install()
        except BaseException:
            self._uninstall()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Put handlers and mask back, and raise again what was not read."""
        self._uninstall()

    def fileno(self) -> int:
        """Return the descriptor to wait for until `read` has something."""
        return self._reader

    def block(self) -> None:
        """Block signals while a command is started."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)

    def unblock(self) -> None:
        """Let signals arrive; even where our caller has blocked those we cannot do without."""
        allowed = self.mask.difference(_NEEDED) if self.active else self.mask
        signal.pthread_sigmask(signal.SIG_SETMASK, allowed)

    def read(self, seconds: float | None = None) -> bytes:
        """Wait for signals and return their numbers; nothing where the time has passed first."""
        if not self.active:
            time.sleep(seconds or 0)
            return b""
        if seconds == 0:
            return self._read_present()
        if seconds is not None:
            import select  # only needed to end what was interrupted

            poll = select.poll()
            poll.register(self._reader, select.POLLIN)
            if not poll.poll(seconds * 1000):
                return b""
        return os.read(self._reader, 4096)

    def _read_present(self) -> bytes:
        os.set_blocking(self._reader, False)
        try:
            return os.read(self._reader, 4096)
        except BlockingIOError:
            return b""
        finally:
            os.set_blocking(self._reader, True)

    def wake(self) -> None:
        """Have the descriptor become readable, from any thread; `read` gives a 0 for it."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            pass  # whoever reads it is awake

    def stop(self, number: int, *, siblings: bool) -> None:
        """Stop this process, or its whole group, as the signal does; return when continued.

        The kernel discards the signal where nobody could continue us: in a group that has no
        parent in the session, such as a container's first process.
        """
        catching = self._handlers.get(number) is not None
        if catching:
            signal.signal(number, signal.SIG_DFL)
        os.kill(0 if siblings else os.getpid(), number)
        if catching:
            signal.signal(number, _note)

    def _install(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        try:
            # A full pipe is no harm, see `wake`.
            self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        except ValueError:  # not the main thread
            return
        self.active = True
        for number in CAUGHT:
            handler = signal.getsignal(number)
            if handler is not signal.SIG_IGN or number in _NEEDED:
                self._handlers[number] = handler
                signal.signal(number, _note)

    def _uninstall(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        try:
            late = self.read(0) if self.active else b""
            if self.active:
                for number, handler in self._handlers.items():
                    # None is a handler that Python did not install and cannot put back.
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
                signal.set_wakeup_fd(self._wakeup)
                self.active = False
            for descriptor in (self._reader, self._writer):
                if descriptor >= 0:
                    os.close(descriptor)
            # A request to end that came after the last look is our caller's. Sent to this thread,
            # as any other would let it in at once: our caller's handler may raise.
            for number in late:
                if number in ENDING:
                    signal.raise_signal(number)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, self.mask)


def _note(number: int, frame: object) -> None:
    """Do nothing: the number is already in the pipe."""
