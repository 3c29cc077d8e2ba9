"""Calls of git: no question asked, bounded in time, errors and credentials handled."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from buildrun.console import printable, redact
from buildrun.errors import BuildrunError, ProjectError, StoreError, UsageError

# Seconds for which a remote may say nothing.
_PATIENCE = 120.0
PATIENCE_VARIABLE = "BUILDRUN_SOURCE_TIMEOUT"
# Bytes of messages that are kept; a remote may send any number.
_KEPT = 1 << 20


class Done(NamedTuple):
    """How a call ended; stalled: it was stopped, since nothing came for too long."""

    code: int
    out: bytes
    err: str
    stalled: bool


def git(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    secrets: Mapping[str, str] | None = None,
    remote: str | None = None,
    holding: Sequence[int] = (),
    tell: Callable[[str], None] | None = None,
) -> Done:
    """Return how git ended.

    environ: the caller's. secrets: see ``credentials``. remote: the URL that is spoken to, if
    any. holding: descriptors that git keeps open, so that a lock outlives us with it. tell: is
    given what git says of its progress. Raises ProjectError without git.
    """
    patience = patience_of(environ)
    variables = environment(environ, remote=remote, patience=patience)

    def listen(child: int, out: int, err: int) -> tuple[bytes, bytes, bool]:
        found = _read(out, err, patience, tell)
        if found[2]:
            terminate(child)
        return found

    argv, seen = ("git", *arguments), {**variables, **(secrets or {})}
    try:
        code, (said, told, stalled) = run_attended(argv, seen, 2, holding, listen)
    except OSError as error:
        raise missing(error) from None
    return Done(code, said, told.decode(errors="replace"), stalled)


def missing(error: OSError) -> ProjectError:
    """Return the error for a git that cannot be started."""
    return ProjectError(
        f"git cannot be started: {error.strerror}",
        hint="install git, which fetches the project",
    )


def patience_of(environ: Mapping[str, str]) -> float:
    """Return for how many seconds a remote may say nothing; raises UsageError."""
    given = environ.get(PATIENCE_VARIABLE)
    if not given:
        return _PATIENCE
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{PATIENCE_VARIABLE} is `{given}`", hint="give seconds, such as 60")
    return seconds


def _read(
    out: int, err: int, patience: float, tell: Callable[[str], None] | None
) -> tuple[bytes, bytes, bool]:
    """Return what git wrote to both pipes, and whether it was silent for too long."""
    found = {out: bytearray(), err: bytearray()}
    with selectors.DefaultSelector() as selector:
        for pipe in found:
            selector.register(pipe, selectors.EVENT_READ)
        last = time.monotonic()
        while selector.get_map():
            ready = selector.select(max(0.0, last + patience - time.monotonic()))
            if not ready:
                return bytes(found[out]), bytes(found[err]), True
            last = time.monotonic()
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                if not chunk:
                    selector.unregister(key.fd)
                    continue
                found[key.fd].extend(chunk)
                if key.fd == err:
                    _tell(chunk, tell)
                    del found[err][:-_KEPT]
    return bytes(found[out]), bytes(found[err]), False


def _tell(chunk: bytes, tell: Callable[[str], None] | None) -> None:
    lines = chunk.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    if tell is not None and last:
        tell(last.strip())


# Where git finds its repository; within a hook they name another one than ours.
_ELSEWHERE = frozenset(
    {
        "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CEILING_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR",
        "GIT_GRAFT_FILE", "GIT_INDEX_FILE", "GIT_INDEX_VERSION", "GIT_INTERNAL_SUPER_PREFIX",
        "GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH",
        "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_TEMPLATE_DIR", "GIT_WORK_TREE",
    }
)  # fmt: skip
# Transports that start no program of somebody else's choice.
_PROTOCOLS = "file:git:http:https:ssh"
# git neither asks nor waits for ever, and its messages are those that we read.
_ALWAYS = {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}


def environment(
    environ: Mapping[str, str], *, remote: str | None = None, patience: float = 0.0
) -> dict[str, str]:
    """Return the variables for a call; remote: the URL that is spoken to, if any."""
    found = {name: value for name, value in environ.items() if name not in _ELSEWHERE}
    found.update(_ALWAYS)
    found.setdefault("GIT_ALLOW_PROTOCOL", _PROTOCOLS)
    if remote is None:
        return found
    seconds = max(1, round(patience))
    found.setdefault("GIT_HTTP_LOW_SPEED_LIMIT", "1")
    found.setdefault("GIT_HTTP_LOW_SPEED_TIME", str(seconds))
    found.pop("SSH_ASKPASS", None)  # a window that asks, where nobody may look
    if not {"GIT_SSH", "GIT_SSH_COMMAND"} & found.keys() and _is_ssh(remote):
        found["GIT_SSH_COMMAND"] = (
            f"{_configured_ssh(found) or 'ssh'} -o BatchMode=yes -o ConnectTimeout={seconds} "
            f"-o ServerAliveInterval={seconds}"
        )
    return found


def _is_ssh(remote: str) -> bool:
    return "://" not in remote or remote.partition("://")[0].endswith("ssh")


def _configured_ssh(environ: Mapping[str, str]) -> str:
    """Return the command that the user has set for ssh, if any."""
    import subprocess

    try:
        done = subprocess.run(
            ("git", "config", "--global", "core.sshCommand"),
            env=dict(environ),
            cwd=os.sep,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()


_RIGHTS = (
    "authentication failed", "permission denied", "could not read username",
    "could not read password", "terminal prompts disabled", "access denied", "error: 401",
    "error: 403", "host key verification failed", "invalid credentials", "not authorized",
)  # fmt: skip
_ABSENT = (
    "does not appear to be a git repository", "repository not found", "not found",
    "does not exist", "error: 404", "no such file or directory", "not valid: is this a git",
    "repository not exported",
)  # fmt: skip
_UNREACHED = (
    "could not resolve", "name or service not known", "connection refused", "timed out",
    "network is unreachable", "unable to connect", "failed to connect", "no route to host",
    "couldn't connect", "unable to look up", "operation too slow", "nodename nor servname",
    "connection reset", "early eof", "unexpected disconnect", "connection closed",
)  # fmt: skip
# What git adds to what ssh says.
_BESIDE = ("fatal: Could not read from remote", "Please make sure you have", "and the repository")
_NO_SSH = ("ssh: not found", "ssh: command not found", "cannot run ssh")
_FULL = ("no space left on device", "disk quota exceeded")


def failure(done: Done, shown: str) -> BuildrunError:
    """Return the error for a call that failed; shown: the repository, as people may see it."""
    text, reason = done.err.lower(), _reason(done)
    if _says(text, _FULL):
        return StoreError("there is no room for the repository on the disk", place=shown)
    if done.stalled or "operation too slow" in text:
        fact = f"`{shown}` does not answer"
        hint = f"try again; {PATIENCE_VARIABLE} sets for how many seconds to wait"
    elif "dubious ownership" in text:
        fact = f"the repository at `{shown}` belongs to somebody else, and git does not trust it"
        hint = "if you do: git config --global --add safe.directory PATH"
    elif _says(text, _RIGHTS):
        fact = f"there is no repository at `{shown}` that you may read: {reason}"
        hint = (
            "check the URL, and that `git ls-remote` reads it without a question: by a credential "
            "helper, an ssh agent, or a token"
        )
    elif "not allowed" in text and "transport" in text:
        fact, hint = f"git may not use `{shown}`: {reason}", "give an https:// or ssh:// URL"
    elif _says(text, _NO_SSH):
        fact = f"`{shown}` cannot be reached: there is no `ssh`"
        hint = "install it, such as Debian's openssh-client, or give an https:// URL"
    elif _says(text, _UNREACHED):
        fact = f"`{shown}` cannot be reached: {reason}"
        hint = "check the host and the network; `--offline` uses what was fetched before"
    elif _says(text, _ABSENT):
        fact, hint = f"there is no git repository at `{shown}`: {reason}", "check the URL"
    else:
        fact, hint = f"git failed on `{shown}`: {reason}", "`git ls-remote` says more"
    return ProjectError(fact, hint=hint)


def no_version(version: str, shown: str) -> ProjectError:
    """Return the error for a branch, tag or commit that is not there."""
    return ProjectError(
        f"there is no branch, tag or commit `{printable(version)}` in `{shown}`",
        hint="`git ls-remote` lists branches and tags; a commit must be reachable from one",
    )


def _says(text: str, phrases: tuple[str, ...]) -> bool:
    return any(phrase in text for phrase in phrases)


def _reason(done: Done) -> str:
    """Return the line that tells most: the first that git calls fatal or an error."""
    lines = [line.strip() for line in done.err.splitlines() if line.strip()]
    for mark in ("fatal: ", "error: ", "remote: "):
        for line in lines:
            if line.startswith(mark) and not line.startswith(_BESIDE):
                return printable(redact(line.removeprefix(mark)))[:500]
    said = [line for line in lines if not line.startswith(_BESIDE)]
    return printable(redact(said[0]))[:500] if said else f"exit code {done.code}"


_USER, _PASSWORD = "BUILDRUN_GIT_USERNAME", "BUILDRUN_GIT_PASSWORD"
# Run by the shell that git starts for helpers; the values are data there.
_HELPER = (
    f'!f() {{ test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    f'"${_USER}" "${_PASSWORD}"; }}; f'
)


class Remote(NamedTuple):
    """A git URL without credentials, and the variables that bear them for git."""

    url: str
    secrets: Mapping[str, str]


def split(url: str, environ: Mapping[str, str]) -> Remote:
    """Return the URL and what git has to be given with it.

    The name alone, as in `https://alice@host/`, is left to git's own helpers to complete.
    """
    if "@" not in url:
        return Remote(url, {})
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Remote(url, {})
    userinfo, _, host = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    bare = urlunsplit(parts._replace(netloc=host))
    scope = f"credential.{parts.scheme}://{host}"
    if not colon:
        # A token may stand there as well: where no helper knows a password, it has none.
        settings = [(f"{scope}.username", unquote(user)), (f"{scope}.helper", _HELPER)]
    else:
        settings = [(f"{scope}.helper", ""), (f"{scope}.helper", _HELPER)]
    values = {_USER: unquote(user), _PASSWORD: unquote(password)}
    return Remote(bare, {**values, **_configured(settings, environ)})


def _configured(settings: list[tuple[str, str]], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that add settings to git's, after those that are there already."""
    count = environ.get("GIT_CONFIG_COUNT", "")
    number = int(count) if count.isascii() and count.isdigit() else 0
    found = {"GIT_CONFIG_COUNT": str(number + len(settings))}
    for offset, (key, value) in enumerate(settings):
        found[f"GIT_CONFIG_KEY_{number + offset}"] = key
        found[f"GIT_CONFIG_VALUE_{number + offset}"] = value
    return found


_Result = TypeVar("_Result")

# What ends us; while a child comes into being it waits, or nobody would know of the child.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Where a child finds the descriptors that it is to keep open, one after the other.
_FIRST = 200


def run_attended(
    argv: Sequence[str],
    environ: Mapping[str, str],
    pipes: int,
    keep: Sequence[int],
    work: Callable[..., _Result],
) -> tuple[int, _Result]:
    """Return the exit code of a program, and what ``work`` returned while it ran.

    pipes: 2 for one each for what it writes to standard output and error, 1 for one for both.
    keep: descriptors that it inherits. work: is given the program's number and where the pipes
    are read; when that raises, the program is ended with all it has started. Raises OSError where
    it cannot be started.
    """
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    ends = [os.pipe() for _ in range(pipes)]
    reading, writing = [pair[0] for pair in ends], [pair[1] for pair in ends]
    try:
        child = _spawn(argv, environ, (writing[0], writing[-1]), keep, mask)
        while writing:
            os.close(writing.pop())
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            result = work(child, *reading)
            _, status = os.waitpid(child, 0)
        except BaseException:
            terminate(child)
            os.waitpid(child, 0)
            raise
    finally:
        for descriptor in (*reading, *writing):
            os.close(descriptor)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return os.waitstatus_to_exitcode(status), result


def terminate(child: int) -> None:
    """End the program and all it has started, such as ssh."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _spawn(
    argv: Sequence[str],
    environ: Mapping[str, str],
    streams: tuple[int, int],
    keep: Sequence[int],
    mask: Any,
) -> int:
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, stream, number) for number, stream in enumerate(streams, 1)]
    actions += [
        (os.POSIX_SPAWN_DUP2, descriptor, _FIRST + number) for number, descriptor in enumerate(keep)
    ]
    program, argv, environ = argv[0], list(argv), dict(environ)
    try:
        # Without a terminal, so that nobody can ask there for a password.
        return os.posix_spawnp(
            program, argv, environ, file_actions=actions, setsigmask=mask, setsid=True
        )
    except NotImplementedError:
        return os.posix_spawnp(
            program, argv, environ, file_actions=actions, setsigmask=mask, setpgroup=0
        )
