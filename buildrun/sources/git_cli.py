"""Calls of git: no question is asked, a silent remote is given up, errors are explained."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from buildrun.console import printable, redact
from buildrun.errors import ProjectError, StoreError, UsageError

if TYPE_CHECKING:
    from subprocess import Popen

PATIENCE_VARIABLE = "BUILDRUN_SOURCE_TIMEOUT"
# Bytes of messages that are kept; a remote may send any number.
_KEPT = 1 << 20
# As git has it of http, where it watches this itself.
_TOO_SLOW = "operation too slow"
# What git would run or do beside what it is asked for.
QUIET = (
    "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0",
    "-c", "maintenance.auto=false", "-c", "fetch.unpackLimit=1", "-c", "advice.detachedHead=false",
)  # fmt: skip


_INTERRUPTIONS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


class Remote(NamedTuple):
    """A git URL without credentials, and the variables that bear them for git."""

    url: str
    secrets: Mapping[str, str]


class Done(NamedTuple):
    """How a call ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        """Return the line that it wrote, which may be a path."""
        return os.fsdecode(self.out.removesuffix(b"\n"))


def git(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    *,
    remote: Remote | None = None,
    holding: Sequence[int] = (),
    progress: Callable[[str], None] | None = None,
) -> Done:
    """Return how git ended; raises ProjectError where it is missing.

    remote: what it speaks to. holding: descriptors that it keeps open, so that a lock outlives us.
    """
    import subprocess

    patience = patience_of(environ) if remote is not None else None
    variables = environment(environ, remote)
    allowed = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        # What interrupts us waits until we know whom to end.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTIONS)
        # In a session without a terminal, so that nobody can ask there for a password.
        child = subprocess.Popen(
            ("git", *QUIET, *arguments), env=variables, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=holding,
            start_new_session=True,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_SETMASK, allowed),  # noqa: PLW1509
        )  # fmt: skip
    except BaseException as error:
        signal.pthread_sigmask(signal.SIG_SETMASK, allowed)
        if not isinstance(error, OSError):
            raise
        raise ProjectError(
            f"git cannot be started: {error.strerror}",
            hint="install git, which fetches the project",
        ) from None
    with child:
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, allowed)
            out, err = _read(child, patience, progress)
        except BaseException:
            terminate(child.pid)
            raise
    return Done(child.returncode, out, err.decode(errors="replace"))


def terminate(child: int) -> None:
    """End a program and all it has started, such as ssh."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def patience_of(environ: Mapping[str, str]) -> float:
    """Return for how many seconds a remote may say nothing; raises UsageError."""
    given = environ.get(PATIENCE_VARIABLE) or "120"
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise UsageError(f"{PATIENCE_VARIABLE} is `{given}`", hint="give seconds, such as 60")
    return seconds


def _read(
    child: Popen[bytes], patience: float | None, progress: Callable[[str], None] | None
) -> tuple[bytes, bytes]:
    """Return what git wrote to its outputs; it is ended where it is silent for too long."""
    import selectors

    out, err = bytearray(), bytearray()
    with selectors.DefaultSelector() as selector:
        for pipe, kept in ((child.stdout, out), (child.stderr, err)):
            selector.register(cast(IO[bytes], pipe), selectors.EVENT_READ, kept)
        while selector.get_map():
            ready = selector.select(patience)
            if not ready:
                terminate(child.pid)
                err += b"\nfatal: " + _TOO_SLOW.encode()
                break
            for key, _ in ready:
                chunk = os.read(key.fd, 1 << 16)
                key.data.extend(chunk)
                if not chunk:
                    selector.unregister(key.fd)
                elif key.data is err:
                    del err[:-_KEPT]
                    _show(chunk, progress)
    return bytes(out), bytes(err)


def _show(chunk: bytes, progress: Callable[[str], None] | None) -> None:
    lines = chunk.decode(errors="replace").replace("\r", "\n").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    if progress is not None and last:
        progress(last)


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


def environment(environ: Mapping[str, str], remote: Remote | None = None) -> dict[str, str]:
    """Return the variables for a call; remote: what git speaks to, if anything."""
    found = {name: value for name, value in environ.items() if name not in _ELSEWHERE}
    found.update(_ALWAYS)
    found.setdefault("GIT_ALLOW_PROTOCOL", _PROTOCOLS)
    if remote is None:
        return found
    seconds = max(1, round(patience_of(environ)))
    found.setdefault("GIT_HTTP_LOW_SPEED_LIMIT", "1")
    found.setdefault("GIT_HTTP_LOW_SPEED_TIME", str(seconds))
    found.pop("SSH_ASKPASS", None)  # a window that asks, where nobody may look
    is_ssh = "://" not in remote.url or remote.url.partition("://")[0].endswith("ssh")
    if is_ssh and not {"GIT_SSH", "GIT_SSH_COMMAND"} & found.keys():
        ssh = git(("config", "--global", "core.sshCommand"), environ).text or "ssh"
        found["GIT_SSH_COMMAND"] = (
            f"{ssh} -o BatchMode=yes -o ConnectTimeout={seconds} -o ServerAliveInterval={seconds}"
        )
    return {**found, **remote.secrets}


# Failures that messages of git and ssh tell: a pattern, the fact for people, and the remedy. The
# first that is found counts.
_SIGNS = (
    (
        _TOO_SLOW,
        "`{shown}` does not answer",
        f"try again; {PATIENCE_VARIABLE} sets for how many seconds to wait",
    ),
    (
        "dubious ownership",
        "the repository at `{shown}` belongs to somebody else, and git does not trust it",
        "if you do: git config --global --add safe.directory PATH",
    ),
    (
        "authentication failed|permission denied|could not read username|could not read password"
        "|terminal prompts disabled|access denied|error: 40[13]|host key verification failed"
        "|invalid credentials|not authorized",
        "there is no repository at `{shown}` that you may read: {reason}",
        "check the URL, and that `git ls-remote` reads it without a question: by a credential "
        "helper, an ssh agent, or a token",
    ),
    (
        "transport .* not allowed",
        "git may not use `{shown}`: {reason}",
        "give an https:// or ssh:// URL",
    ),
    (
        "ssh: not found|ssh: command not found|cannot run ssh",
        "`{shown}` cannot be reached: there is no `ssh`",
        "install it, such as Debian's openssh-client, or give an https:// URL",
    ),
    (
        "could not resolve|name or service not known|connection refused|timed out"
        "|network is unreachable|unable to connect|failed to connect|no route to host"
        "|couldn't connect|unable to look up|nodename nor servname|connection reset|early eof"
        "|unexpected disconnect|connection closed",
        "`{shown}` cannot be reached: {reason}",
        "check the host and the network; `--offline` uses what was fetched before",
    ),
    (
        "does not appear to be a git repository|not found|does not exist|error: 404"
        "|no such file or directory|not valid: is this a git|repository not exported",
        "there is no git repository at `{shown}`: {reason}",
        "check the URL",
    ),
    ("", "git failed on `{shown}`: {reason}", "`git ls-remote` says more"),
)
# What git adds to what ssh says.
_BESIDE = ("fatal: Could not read from remote", "Please make sure you have", "and the repository")


def check(done: Done, shown: str) -> None:
    """Raise ProjectError, or StoreError, where a call has failed; shown: the repository's name."""
    if done.code == 0:
        return
    if is_full(done):
        raise StoreError("there is no room for the repository on the disk", place=shown)
    said = done.err.lower()
    fact, hint = next(signs[1:] for signs in _SIGNS if re.search(signs[0], said))
    raise ProjectError(fact.format(shown=shown, reason=reason(done)), hint=hint)


def is_full(done: Done) -> bool:
    """Return whether there was no room for what git had to write."""
    return re.search("no space left on device|disk quota exceeded", done.err, re.I) is not None


def no_version(version: str, shown: str) -> ProjectError:
    """Return the error for a branch, tag or commit that is not there."""
    return ProjectError(
        f"there is no branch, tag or commit `{printable(version)}` in `{shown}`",
        hint="`git ls-remote` lists branches and tags; a commit must be reachable from one",
    )


def reason(done: Done) -> str:
    """Return the line that tells most: the first that git calls fatal or an error."""
    lines = [line.strip() for line in done.err.splitlines()]
    said = [line for line in lines if line and not line.startswith(_BESIDE)]
    for mark in ("fatal: ", "error: ", "remote: ", ""):
        for line in said:
            if line.startswith(mark):
                return printable(redact(line.removeprefix(mark)))[:500]
    return f"exit code {done.code}"


_USER, _PASSWORD = "BUILDRUN_GIT_USERNAME", "BUILDRUN_GIT_PASSWORD"
# Run by the shell that git starts for helpers; the values are data there.
_HELPER = (
    f'!f() {{ test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    f'"${_USER}" "${_PASSWORD}"; }}; f'
)


def parse_remote(url: str, environ: Mapping[str, str]) -> Remote:
    """Return the URL and its credentials as git has to be given them; its helpers know the rest."""
    if "@" not in url:
        return Remote(url, {})
    from urllib.parse import unquote, urlsplit, urlunsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or "@" not in parts.netloc:
        return Remote(url, {})
    userinfo, _, host = parts.netloc.rpartition("@")
    user, colon, password = userinfo.partition(":")
    scope = f"credential.{parts.scheme}://{host}"
    # A token may stand as the name as well: where no helper knows a password, it has none.
    first = (f"{scope}.helper", "") if colon else (f"{scope}.username", unquote(user))
    secrets = {_USER: unquote(user), _PASSWORD: unquote(password)}
    # Settings in the environment are numbered; ours come after those that are there.
    count = environ.get("GIT_CONFIG_COUNT", "")
    number = int(count) if count.isascii() and count.isdigit() else 0
    secrets["GIT_CONFIG_COUNT"] = str(number + 2)
    for offset, (key, value) in enumerate((first, (f"{scope}.helper", _HELPER)), number):
        secrets[f"GIT_CONFIG_KEY_{offset}"] = key
        secrets[f"GIT_CONFIG_VALUE_{offset}"] = value
    return Remote(urlunsplit(parts._replace(netloc=host)), secrets)
