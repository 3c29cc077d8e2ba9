"""The controlling terminal, and which process group it belongs to.

The kernel gives keys and their signals to one group only, the foreground. A command in a group
of its own must therefore be given the terminal, and it must be taken back afterwards.
"""

from __future__ import annotations

import os
import signal
from typing import Any


class Terminal:
    """Our controlling terminal while it is open; without one, every question is answered no."""

    def __init__(self) -> None:
        """Open the terminal, if there is one."""
        self._own = os.getpgrp()
        self._modes: list[Any] | None = None
        # The group that was made the foreground by us, else 0.
        self._given = 0
        # Whether the command is to have the foreground whenever we have it.
        self._wanted = False
        try:
            self._descriptor = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
        except OSError:
            self._descriptor = -1

    def __enter__(self) -> Terminal:
        """Return the open terminal."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the foreground back, and close."""
        self.take_back()
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def exists(self) -> bool:
        """Whether there is a controlling terminal."""
        return self._descriptor >= 0

    @property
    def given(self) -> bool:
        """Whether the foreground was handed over and not taken back."""
        return self._given != 0

    def descriptor_to_give(self) -> int | None:
        """Return the descriptor where a new command should have the terminal from its start.

        That is where we are in the foreground and nothing of ours is redirected. In a pipeline
        such as ``buildrun . | less`` the others need the keys, until the command asks for them.
        """
        try:
            # Answered only for the terminal that controls us, so this compares the devices too.
            ours = os.tcgetpgrp(0) == self._own == os.tcgetpgrp(1)
        except OSError:
            return None
        if not ours or not self.exists:
            return None
        self._keep_modes()
        return self._descriptor

    def record_given(self, group: int) -> None:
        """Note that the command of this group has given itself the foreground."""
        self._given = group
        self._wanted = True

    def give(self, group: int) -> bool:
        """Hand the foreground to the group if it is ours; return whether the group has it."""
        holder = self._holder()
        if holder not in (group, self._own):
            return False
        if holder == self._own:
            self._keep_modes()
            if not self._set_foreground(group):
                return False
        self.record_given(group)
        return True

    def give_again(self, group: int) -> None:
        """Hand the foreground over where the command had or wanted it, as after `fg`.

        While we were stopped the shell may have taken the terminal itself, so what we gave is
        found out anew.
        """
        self._given = 0
        if self._wanted:
            self.give(group)

    def take_back(self) -> None:
        """Make our own group the foreground again where we had handed it over."""
        if self._given:
            self._given = 0
            self._set_foreground(self._own)

    def restore_modes(self) -> None:
        """Undo what a command that was killed has left, such as keys that are not echoed."""
        if self._modes is None or self._holder() != self._own:
            return
        import termios

        try:
            # Not after draining: output held by Ctrl-S would keep us waiting.
            self._undisturbed(termios.tcsetattr, self._descriptor, termios.TCSANOW, self._modes)
        except termios.error:
            pass  # hung up

    def _keep_modes(self) -> None:
        # Only ever asked in the foreground: elsewhere these may be the modes of a shell's editor.
        if self._modes is None:
            import termios

            try:
                self._modes = termios.tcgetattr(self._descriptor)
            except termios.error:
                pass  # hung up

    def _holder(self) -> int:
        try:
            return os.tcgetpgrp(self._descriptor)
        except OSError:
            return 0

    def _set_foreground(self, group: int) -> bool:
        try:
            self._undisturbed(os.tcsetpgrp, self._descriptor, group)
        except OSError:
            return False  # hung up, or the group has ended
        return True

    @staticmethod
    def _undisturbed(call: Any, *arguments: Any) -> None:
        """Make the call with SIGTTOU blocked, which it raises and would stop us by."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            call(*arguments)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
