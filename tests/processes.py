"""The processes of this machine: from /proc where that is, else from `ps`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple


class Process(NamedTuple):
    """A process as the system lists it; the state is one letter or more, as `ps` has it."""

    pid: int
    parent: int
    group: int
    state: str


def processes() -> Iterator[Process]:
    """Yield every process, ended ones that nobody has reaped too."""
    if os.path.exists("/proc/self/stat"):
        for name in os.listdir("/proc"):
            if name.isdigit() and (found := _from_proc(int(name))):
                yield found
        return
    command = ("ps", "-A", "-o", "pid=,ppid=,pgid=,stat=")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ps:
        listed, _ = ps.communicate()
    for line in listed.splitlines():
        pid, parent, group, state = line.split()
        if int(pid) != ps.pid:
            yield Process(int(pid), int(parent), int(group), state)


def state_of(pid: int) -> str:
    """Return the state of a process, empty where there is none."""
    return next((each.state for each in processes() if each.pid == pid), "")


def kill_session(session: int) -> None:
    """Kill all processes of a session."""
    for each in processes():
        with suppress(ProcessLookupError, PermissionError):
            if os.getsid(each.pid) == session:
                os.kill(each.pid, signal.SIGKILL)


def _from_proc(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name before the state may itself contain spaces and parentheses.
            state, parent, group = file.read().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):
        return None
    return Process(pid, int(parent), int(group), state.decode())
