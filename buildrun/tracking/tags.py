"""The tags by which MLflow tells where a run comes from."""

import json
import os
from collections.abc import Mapping, Sequence

from buildrun.secrets import redact
from buildrun.tracking import credentials
from buildrun.tracking.git import Checkout

Tags = tuple[tuple[str, str], ...]

_THERE = ("cached", "up-to-date")

# Characters of a value that every version of MLflow takes.
_LONGEST = 5000


def source(name: str, checkout: Checkout | None, environ: Mapping[str, str]) -> Tags:
    """Return the tags on who runs what, as MLflow has them, but without credentials.

    name: where the project comes from. checkout: what git knows of it.
    """
    tags = [
        ("mlflow.user", credentials.user(environ)),
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


def local_name(root: str, checkout: Checkout | None) -> str:
    """Return how MLflow names a directory of this machine."""
    if checkout is None:
        return root
    inside = os.path.relpath(os.path.realpath(root), os.path.realpath(checkout.top))
    return f"file://{checkout.top}" + ("" if inside == os.curdir else f"#{inside}")
