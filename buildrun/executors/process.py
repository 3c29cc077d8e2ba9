"""Process groups: a command started in one, signals to all of it."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any, NoReturn

from buildrun.errors import ExecutionError
from buildrun.executors.base import Job, Usage
from buildrun.executors.signals import CAUGHT

# What becomes a command's stdin, stdout and stderr, none of them itself one of ours; None where it
# has our own.
Streams = tuple[int, int, int] | None

# Bytes of the unit in which systems tell the memory of a process.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024

# Python ignores them at its own start; commands such as `yes | head` rely on the default.
_IGNORED_BY_PYTHON = tuple(
    getattr(signal, name) for name in ("SIGPIPE", "SIGXFSZ") if hasattr(signal, name)
)


def find_program(job: Job) -> str:
    """Return the path of the program that the job's PATH leads to; raises ExecutionError."""
    name = job.words[0]
    for directory in job.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(job.cwd, directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    raise ExecutionError(
        f"`{name}` is not on the command's `PATH`",
        hint=f"install {name}, or add its directory to `PATH`",
    )


def open_pipe() -> tuple[int, int]:
    """Return a new pipe's reader and writer, neither of them a standard stream; raises OSError.

    Where a standard stream of ours is closed its number is free, and a stream that is given to a
    command could overwrite the pipe.
    """
    reader, writer = os.pipe()
    try:
        reader = move_above_standard(reader)
        writer = move_above_standard(writer)
    except OSError:
        os.close(reader)
        os.close(writer)
        raise
    return reader, writer


def move_above_standard(descriptor: int) -> int:
    """Return the descriptor, moved where its number is a standard stream's; raises OSError."""
    if descriptor > 2:
        return descriptor
    import fcntl  # only needed where a standard stream is closed

    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(descriptor)
    return moved


def spawn(
    program: str, job: Job, *, terminal: int | None, mask: set[int], streams: Streams = None
) -> int:
    """Start the command as the leader of a new process group, and return the group's number.

    terminal: a descriptor of the terminal whose foreground the group becomes, else None.
    mask: the signals that stay blocked in the command; the caller has blocked all of `CAUGHT`.
    streams: what the command has instead of our standard streams. It then leads a session of its
        own, which has no terminal: what asks there for a password fails, instead of being stopped.

    Raises ExecutionError where the command cannot be started. Once this has returned, the
    command runs in its group and its program has been loaded. Descriptors of this process are not
    inherited because Python opens them close-on-exec; what our own caller passed on deliberately,
    such as make's job server or bash's ``<(...)``, is.
    """
    if terminal is None and job.restrict is None and _is_here(job.cwd):
        try:
            return _posix_spawn(program, job, mask, streams)
        except NotImplementedError:
            pass  # a C library that knows no new sessions
    return _fork(program, job, terminal, mask, streams)


def _posix_spawn(program: str, job: Job, mask: set[int], streams: Streams) -> int:
    """Start the command as it is; what we catch gets its default by exec itself."""
    group: dict[str, Any] = {"setpgroup": 0} if streams is None else {"setsid": True}
    try:
        return os.posix_spawn(
            program,
            job.words,
            job.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, n, i) for i, n in enumerate(streams or ())],
            setsigmask=mask,
            setsigdef=_IGNORED_BY_PYTHON,
            **group,
        )
    except OSError as error:
        raise _failure(job, "exec", error.errno or 0, _reason(error)) from None
    except ValueError as error:
        raise _failure(job, "exec", 0, str(error)) from None


def _fork(program: str, job: Job, terminal: int | None, mask: set[int], streams: Streams) -> int:
    """Start the command after what only a process of its own can do.

    With other threads about, any lock they hold stays locked in the child. So until exec it makes
    hardly more than system calls: it imports nothing and logs nothing.
    """
    try:
        reader, writer = open_pipe()
    except OSError as error:
        raise ExecutionError(
            f"no process can be started: {_reason(error)}",
            hint="raise the limit of open files with `ulimit -n`",
        ) from None
    try:
        pid = os.fork()
    except OSError as error:
        os.close(reader)
        os.close(writer)
        raise ExecutionError(f"no process can be started: {_reason(error)}") from None
    if pid == 0:
        _exec_child(program, job, writer, terminal, mask, streams)
    os.close(writer)
    try:
        report = os.read(reader, 4096)
        if report:
            os.waitpid(pid, 0)
    except BaseException:
        # A handler of our caller's has raised; the child must not be lost.
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    finally:
        os.close(reader)
    if report:
        step, number, reason = report.decode(errors="replace").split(":", 2)
        raise _failure(job, step, int(number), reason)
    return pid


def _exec_child(
    program: str, job: Job, writer: int, terminal: int | None, mask: set[int], streams: Streams
) -> NoReturn:
    """Turn the forked child into the command; the pipe is closed by exec, or says what failed."""
    step = "start"
    try:
        if streams is None:
            os.setpgid(0, 0)
        else:
            os.setsid()
        if terminal is not None:
            # SIGTTOU is blocked, so this succeeds from the background; and it is done before
            # exec, so the command never sees itself there.
            try:
                os.tcsetpgrp(terminal, os.getpid())
            except OSError:
                pass  # hung up meanwhile
        # From here to exec our own handlers must not run, and their wake-up pipe is the parent's.
        signal.set_wakeup_fd(-1)
        for caught in CAUGHT:
            if callable(signal.getsignal(caught)):
                signal.signal(caught, signal.SIG_DFL)
        for ignored in _IGNORED_BY_PYTHON:
            signal.signal(ignored, signal.SIG_DFL)
        for number, descriptor in enumerate(streams or ()):
            os.dup2(descriptor, number)
        step = "cwd"
        os.chdir(job.cwd)
        if job.restrict is not None:
            step = "restrict"
            job.restrict()
        step = "exec"
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.execve(program, job.words, job.environ)
    except OSError as error:
        os.write(writer, f"{step}:{error.errno}:{_reason(error)}".encode())
    except BaseException as error:
        os.write(writer, f"{step}:0:{error}".encode(errors="replace"))
    finally:
        os._exit(127)


def _is_here(directory: str) -> bool:
    try:
        return os.path.samefile(os.curdir, directory)
    except OSError:
        return False


def _failure(job: Job, step: str, number: int, reason: str) -> ExecutionError:
    if step == "cwd":
        if number == errno.ENOENT:
            return ExecutionError("the working directory does not exist", place=job.cwd)
        return ExecutionError(f"the working directory cannot be entered: {reason}", place=job.cwd)
    if step == "restrict":
        return ExecutionError(f"the command cannot be watched or kept from files: {reason}")
    if number == errno.E2BIG:
        return ExecutionError(
            "the command and its environment are longer than the system allows",
            hint="pass long values in a file, or unset large environment variables",
        )
    return ExecutionError(f"the command cannot be started: {reason}")


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def send_signal(group: int, number: int) -> None:
    """Send the signal to the group; one that has ended, or belongs to another user, is passed."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass


def destroy(group: int) -> None:
    """Kill the group at once, and wait for its leader."""
    send_signal(group, signal.SIGKILL)
    try:
        os.waitpid(group, 0)
    except ChildProcessError:
        pass  # it had ended already


def shell_code(code: int) -> int:
    """Return an exit code as shells have it: 128 and the number for the end by a signal."""
    return code if code >= 0 else 128 - code


def usage_of(told: Any) -> Usage:
    """Return what a process has used; told: as `os.wait4` returns it.

    Linux counts for its memory also that of the process that has started it, which is us.
    """
    return Usage(told.ru_utime + told.ru_stime, told.ru_maxrss * _MEMORY_UNIT)


class GroupMembers:
    """What is left of a group whose leader has been waited for."""

    def __init__(self, group: int) -> None:
        """Take the group."""
        self._group = group
        # The last one seen alive; asked first, as a look at all processes takes milliseconds.
        self._known = group

    def any_alive(self) -> bool:
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
