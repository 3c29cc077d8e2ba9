"""A process that ends our commands should we be killed, when we cannot do it any more.

The kernel's own way, PR_SET_PDEATHSIG, reaches a command's first process alone, and not what that
has started; and Python can ask for it only after a fork, or at the price of loading `ctypes`.
"""

from __future__ import annotations

import os
import signal

from buildrun.executors.process import move_above_standard, open_pipe
from buildrun.executors.termination import GRACE

# It reads the groups that run now, a line each time they change; the end of the file is our own.
# $1: tenths of a second from SIGTERM to SIGKILL.
_SCRIPT = """\
trap '' INT TERM HUP QUIT TSTP TTIN TTOU
while read -r line; do groups=$line; done
each() {
  found=1
  for group in $groups; do kill -s "$1" -- "-$group" && found=0; done
  return "$found"
}
each TERM
each CONT
left=$1
while [ "$left" -gt 0 ] && each 0; do sleep 0.1; left=$((left - 1)); done
each KILL
"""


class Watchdog:
    """Knows which process groups run, from entry to exit.

    Without it nothing else is different, so where it cannot be started, nothing is said.
    """

    def __init__(self) -> None:
        """Prepare; nothing is started before entry."""
        self._groups: set[int] = set()
        self._process = 0
        self._writer = -1

    def __enter__(self) -> Watchdog:
        """Start the process, in a session of its own and with nothing of ours."""
        null = reader = -1
        try:
            reader, self._writer = open_pipe()
            null = move_above_standard(os.open(os.devnull, os.O_WRONLY))
            streams = (reader, null, null)
            self._process = os.posix_spawn(
                "/bin/sh",
                ("sh", "-c", _SCRIPT, "sh", str(round(GRACE.end * 10))),
                {},
                file_actions=[(os.POSIX_SPAWN_DUP2, own, n) for n, own in enumerate(streams)],
                setsigmask=(),
                setsid=True,
            )
        except (OSError, NotImplementedError):
            self._close()
        finally:
            for descriptor in (reader, null):
                if descriptor >= 0:
                    os.close(descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        """Let the process end; what still runs is left alone."""
        if self._process:
            try:
                os.kill(self._process, signal.SIGKILL)
                os.waitpid(self._process, 0)
            except (ProcessLookupError, ChildProcessError):
                pass  # another part of this process has taken it
        self._close()

    def add(self, group: int) -> None:
        """End this group too, should we be killed."""
        self._groups.add(group)
        self._tell()

    def discard(self, group: int) -> None:
        """Leave a group alone, which has ended."""
        self._groups.discard(group)
        self._tell()

    def _tell(self) -> None:
        if self._writer >= 0:
            try:
                os.write(self._writer, " ".join(map(str, self._groups)).encode() + b"\n")
            except OSError:
                self._close()  # it was ended by somebody

    def _close(self) -> None:
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
