"""What git knows to have changed since a revision."""

from __future__ import annotations

import os
from collections.abc import Mapping

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.workspace.gitignore import ask_git, repository

_DIFF = (
    "diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--ignore-submodules=none",
)  # fmt: skip
_UNTRACKED = ("ls-files", "-z", "--others", "--exclude-standard")


def repository_top(directory: str) -> str | None:
    """Return the top of the git repository that a directory lies in, or None."""
    found = repository(os.fsencode(directory))
    return None if found is None else os.fsdecode(found.top)


def changed_since(directory: str, revision: str, environ: Mapping[str, str]) -> frozenset[str]:
    """Return the absolute paths of what has changed in a directory's repository.

    Since the revision from which the current branch parted from the one that is given: in commits,
    uncommitted, and in untracked files that git would not ignore. Raises ProjectError where git
    cannot tell, so that nothing is taken for unchanged by mistake.
    """
    top = repository_top(directory)
    if top is None:
        raise ProjectError(
            "this is no git repository, so nothing is known of changes",
            place=printable(directory),
            hint="leave `--since` out",
        )
    name = printable(revision)
    commit = _ask(top, environ, "rev-parse", "--verify", "--quiet", revision + "^{commit}")
    if not commit:
        raise _unknown(top, environ, f"git knows no commit `{name}`")
    base = _ask(top, environ, "merge-base", "HEAD", commit)
    if not base:
        raise _unknown(top, environ, f"git finds no commit that `{name}` and HEAD have in common")
    answers = [ask_git(top, environ, *words) for words in ((*_DIFF, base), _UNTRACKED)]
    paths = [os.fsdecode(path) for said in answers for path in (said or b"").split(b"\0") if path]
    if None in answers:
        raise ProjectError(
            f"git does not tell what has changed since `{name}`",
            place=printable(top),
            hint=f"see what `git diff {base}` says there",
        )
    return frozenset(os.path.join(top, path) for path in paths)


def staged_deletions(top: str, environ: Mapping[str, str]) -> list[str]:
    """Return the absolute paths of what the next commit deletes or renames."""
    words = ("diff", "--cached", "--name-only", "-z", "--no-renames", "--diff-filter=D")
    said = ask_git(top, environ, *words) or b""
    return [os.path.join(top, os.fsdecode(path)) for path in said.split(b"\0") if path]


def _ask(top: str, environ: Mapping[str, str], *words: str) -> str:
    return os.fsdecode((ask_git(top, environ, *words) or b"").strip())


def _unknown(top: str, environ: Mapping[str, str], fact: str) -> ProjectError:
    hint = "check the name; `git fetch` brings what only the remote has"
    shallow = _ask(top, environ, "rev-parse", "--is-shallow-repository")
    if not shallow:
        fact, hint = "git does not answer", "see what `git status` says there"
    elif shallow == "true":
        fact += ", and the clone is shallow"
        hint = (
            "`git fetch --unshallow` brings all commits; in GitHub Actions give "
            "`actions/checkout` `fetch-depth: 0`"
        )
    return ProjectError(fact, place=printable(top), hint=hint)
