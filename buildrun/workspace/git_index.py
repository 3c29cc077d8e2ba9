"""Files that git tracks although its rules ignore them."""

import os
import time
from typing import Any

from buildrun.store import stat_signature
from buildrun.workspace.gitignore import Repository

# git would run what a repository's configuration names, and would look at the user's own rules.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.excludesFile=")
_SECONDS = 60


class GitIndex:
    """Asks git, once for each state of its index and of the rules.

    Where there is no git, or it refuses the repository, no such files are known.
    """

    def __init__(self, remembered: Any) -> None:
        """Take what is known."""
        self.remembered = remembered if isinstance(remembered, dict) else {}

    def though_ignored(self, root: bytes, repository: Repository, rules: str) -> tuple[bytes, ...]:
        """Return the relative paths of what is tracked and ignored; rules: a digest of git's."""
        began = time.time_ns()
        try:
            seen = stat_signature.of(os.stat(repository.index_file))
        except OSError:
            return ()  # nothing was ever added
        state = [seen.hex(), rules]
        try:
            if self.remembered["state"] == state:
                return tuple([os.fsencode(path) for path in self.remembered["paths"]])
        except (KeyError, TypeError, ValueError):
            pass
        paths = _ask(root)
        if not stat_signature.is_racy(seen, began):
            self.remembered = {"state": state, "paths": [os.fsdecode(path) for path in paths]}
        return paths


def _ask(root: bytes) -> tuple[bytes, ...]:
    import subprocess

    # What steers git elsewhere, as it does within a hook, is not meant for this repository.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            (*_GIT, "ls-files", "-z", "--cached", "--ignored", "--exclude-standard"),
            cwd=root,
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(sorted(set(done.stdout.split(b"\0")) - {b""})) if done.returncode == 0 else ()
