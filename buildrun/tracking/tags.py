"""The tags by which MLflow tells where a run comes from."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from buildrun.secrets import redact
from buildrun.tracking import credentials
from buildrun.tracking.git import Checkout

Tags = tuple[tuple[str, str], ...]

_THERE = ("cached", "up-to-date")

# Characters of a value that every version of MLflow takes.
_LONGEST = 5000


class Origin(NamedTuple):
    """Where a project comes from.

    uri: as the user gave it. root: its directory. local: whether that is the user's own.
    """

    uri: str
    root: str
    local: bool


def source(origin: Origin, checkout: Checkout | None, environ: Mapping[str, str]) -> Tags:
    """Return the tags on who runs what, as MLflow has them, but without credentials."""
    tags = [
        ("mlflow.user", credentials.user(environ)),
        ("mlflow.source.name", _name(origin, checkout)),
        ("mlflow.source.type", "PROJECT"),
    ]
    if checkout is not None:
        if checkout.commit:
            tags.append(("mlflow.source.git.commit", checkout.commit))
        if checkout.url:
            tags.append(("mlflow.source.git.repoURL", checkout.url))
        if checkout.branch:
            tags.append(("mlflow.source.git.branch", checkout.branch))
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
    """Return the tags on what was there already.

    states: how each step ended, by id, the requested one last. origins: the MLflow runs that made
    the results, by step.
    """
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


def _name(origin: Origin, checkout: Checkout | None) -> str:
    if not origin.local:
        return redact(origin.uri.strip("'\""))
    if checkout is None:
        return origin.root
    inside = os.path.relpath(os.path.realpath(origin.root), os.path.realpath(checkout.top))
    return f"file://{checkout.top}" + ("" if inside == os.curdir else f"#{inside}")
