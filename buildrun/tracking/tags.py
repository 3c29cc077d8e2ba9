"""The tags of a run, with what git knows of the project."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from buildrun.console import redact
from buildrun.store.memo import DependencyTracker
from buildrun.workspace import gitignore

Tags = tuple[tuple[str, str], ...]

_THERE = ("cached", "up-to-date")

# Characters of a value that every version of MLflow takes.
_LONGEST = 5000


def source(name: str, checkout: Checkout | None, environ: Mapping[str, str]) -> Tags:
    """Return the tags on who runs what, as MLflow has them, but without credentials."""
    tags = [
        ("mlflow.user", user(environ)),
        ("mlflow.source.name", redact(name)),
        ("mlflow.source.type", "PROJECT"),
    ]
    if checkout is not None:
        tags += [
            (f"mlflow.source.git.{kind}", value)
            for kind, value in (
                ("commit", checkout.commit),
                ("repoURL", redact(checkout.url)),
                ("branch", checkout.branch),
            )
            if value
        ]
    return tuple(tags)


def execution(entry_point: str, backend: str, manager: str) -> Tags:
    """Return the tags on how it is run; manager: of the environment, "" for the caller's own."""
    tags = [("mlflow.project.entryPoint", entry_point), ("mlflow.project.backend", backend)]
    if manager:
        tags.append(("mlflow.project.env", manager))
    return tuple(tags)


def image(reference: str, identity: str) -> Tags:
    """Return the tags on the image that a container was made from."""
    return (("mlflow.docker.image.uri", reference), ("mlflow.docker.image.id", identity))


def outcomes(states: Sequence[tuple[str, str]], origins: Mapping[str, str]) -> Tags:
    """Return the tags on what was there already; states: the requested step's last."""
    last, state = states[-1]
    tags = []
    if state in _THERE:
        tags.append(("buildrun.cache", state))
        if last in origins:
            tags.append(("buildrun.madeBy", origins[last]))
    steps = {
        name: {"state": state, **({"run_id": origins[name]} if name in origins else {})}
        for name, state in states[:-1]
    }
    text = json.dumps(steps)
    if steps and len(text) <= _LONGEST:
        tags.append(("buildrun.steps", text))
    return tuple(tags)


def local_name(root: str, checkout: Checkout | None) -> str:
    """Return how MLflow names a directory of this machine."""
    if checkout is None:
        return root
    inside = os.path.relpath(os.path.realpath(root), os.path.realpath(checkout.top))
    return f"file://{checkout.top}" + ("" if inside == os.curdir else f"#{inside}")


# What tells the user's name.
USER = ("LOGNAME", "USER", "LNAME", "USERNAME")


def user(environ: Mapping[str, str]) -> str:
    """Return the name of the user for the tag, as MLflow finds it."""
    for variable in USER:
        if environ.get(variable):
            return environ[variable]
    from pwd import getpwuid

    try:
        return getpwuid(os.getuid()).pw_name
    except KeyError:
        return "unknown"


class Checkout(NamedTuple):
    """A directory in a repository."""

    top: str  # the working tree's
    commit: str  # "" where git ignores the directory, or has none yet
    url: str  # of the first remote, without credentials
    branch: str = ""  # the one that was asked for


def look(directory: str, environ: Mapping[str, str], seen: DependencyTracker) -> Checkout | None:
    """Return the checkout that a directory is in, or None; the files that tell it are noted."""
    words = ("rev-parse", "--show-toplevel", "--absolute-git-dir", "--git-common-dir")
    there = gitignore.repository(os.fsencode(directory)) is not None
    lines = _ask(directory, environ, *words).splitlines() if there else []
    if len(lines) != 3:
        seen.exists(os.path.join(directory, ".git"))
        return None
    top, own, common = lines[0], lines[1], os.path.normpath(os.path.join(directory, lines[2]))
    commit = _ask(directory, environ, "rev-parse", "--verify", "--quiet", "HEAD").strip()
    _watch(seen, own, common)
    if commit and directory != top and _ask(directory, environ, "check-ignore", "--", directory):
        commit = ""
    return Checkout(top, commit, first_remote(directory, environ))


def first_remote(directory: str, environ: Mapping[str, str]) -> str:
    """Return the URL of a repository's first remote, without credentials, or ""."""
    urls = _ask(directory, environ, "config", "--get-regexp", r"^remote\..*\.url$").splitlines()
    return redact(urls[0].partition(" ")[2]) if urls else ""


def _watch(seen: DependencyTracker, own: str, common: str) -> None:
    """Note the files that change with the commit or the remotes; absent ones count too."""
    names = [os.path.join(own, "HEAD"), os.path.join(common, "config")]
    names += [os.path.join(common, name) for name in ("packed-refs", "reftable/tables.list")]
    try:
        head = seen.read(names[0])
    except OSError:
        head = b""
    if head.startswith(b"ref: "):
        names.append(os.path.join(common, os.fsdecode(head[5:].strip())))
    for name in names[1:]:
        try:
            seen.read(name)
        except OSError:
            pass


def _ask(directory: str, environ: Mapping[str, str], *words: str) -> str:
    return os.fsdecode(gitignore.ask_git(directory, environ, *words) or b"")
