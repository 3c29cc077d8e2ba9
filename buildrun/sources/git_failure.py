"""What git says when it fails, told for people."""

from __future__ import annotations

from buildrun.errors import BuildrunError, ProjectError, StoreError
from buildrun.printable import printable
from buildrun.secrets import redact
from buildrun.sources.git_command import PATIENCE_VARIABLE, Done

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
