"""The variables that git sees: those of the caller, less what would lead it elsewhere."""

import os
from collections.abc import Mapping

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
