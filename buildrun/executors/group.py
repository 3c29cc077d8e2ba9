"""A process group: its members, and signals to them."""

from __future__ import annotations

import os


def send(group: int, number: int) -> None:
    """Send the signal to the group; one that has ended, or belongs to another user, is passed."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


class Members:
    """What is left of a group whose leader has been waited for."""

    def __init__(self, group: int) -> None:
        """Take the group."""
        self._group = group
        # The last one seen alive; asked first, as a look at all processes takes milliseconds.
        self._known = group

    def exist(self) -> bool:
        """Return whether there are living members that we may signal."""
        self._reap()
        try:
            os.killpg(self._group, 0)
        except (ProcessLookupError, PermissionError):
            return False  # macOS: PermissionError also for a group of nothing but zombies
        if not os.path.exists("/proc/self/stat"):
            return True
        # Zombies count for killpg until they are reaped, which the first process of a container
        # may do late or never. Looked for twice: a process that is passed on its way to its end
        # may have left a child that the list of processes does not have yet.
        return self._is_alive(self._known) or self._find() or self._find()

    def _reap(self) -> None:
        # As a container's first process, we inherit orphans.
        try:
            while os.waitpid(-self._group, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _find(self) -> bool:
        for name in os.listdir("/proc"):
            if name.isdigit() and self._is_alive(int(name)):
                self._known = int(name)
                return True
        return False

    def _is_alive(self, pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # The name before the state may itself contain spaces and parentheses.
                state, _, group = file.read().rpartition(b")")[2].split()[:3]
        except (OSError, ValueError):
            return False
        return int(group) == self._group and state not in (b"Z", b"X")
