"""Names, labels and annotations that the API accepts, from any text."""

import re
from typing import NamedTuple

from buildrun import digest

# Of labels and annotations that buildrun makes.
PREFIX = "buildrun/"
KEY = f"{PREFIX}key"
OWNER = f"{PREFIX}owner"
PROJECT = f"{PREFIX}project"
STEP = f"{PREFIX}step"
VERSION = f"{PREFIX}version"
RUN = f"{PREFIX}run"
# A Job that was kept though its end is known: the next one of its name replaces it.
HARVESTED = f"{PREFIX}harvested"
# The run that follows a Job which another run has submitted, and cleans up after it.
FOLLOWER = f"{PREFIX}follower"
MANAGED_BY = "app.kubernetes.io/managed-by"

_LONGEST = 63


class Identity(NamedTuple):
    """What a Job is of.

    project, step: as the user named them. key: ``sha256:…`` of all that decides what it does.
    owner: whose it is; others' Jobs are never attached to.
    """

    project: str
    step: str
    key: str
    owner: str


def dns(text: str, longest: int = _LONGEST) -> str:
    """Return the text as a DNS label: lower case letters, digits and dashes."""
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:longest].strip("-")
    return made or "x"


def label(text: str) -> str:
    """Return the text as a label's value."""
    made = re.sub(r"[^A-Za-z0-9._-]+", "-", text)[:_LONGEST]
    return re.sub(r"^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", made)


def job_name(identity: Identity, attempt: int) -> str:
    """Return the name of a Job, the same whoever submits the same; attempt: counts from 0.

    A pod's name is longer by six characters and is cut by the cluster.
    """
    # Two owners may do the same at once, each with a Job of their own.
    key = digest.key("job", [identity.key, identity.owner]).rpartition(":")[2][:16]
    rest = f"-{key}" + (f"-{attempt}" if attempt else "")
    room = _LONGEST - len("br-") - len(rest) - 1
    step = dns(identity.step, room // 2)
    return f"br-{dns(identity.project, room - len(step))}-{step}{rest}"


def labels(identity: Identity) -> dict[str, str]:
    """Return what Jobs and pods are found by."""
    return {
        MANAGED_BY: "buildrun",
        PROJECT: label(identity.project),
        STEP: label(identity.step),
        KEY: label(identity.key.rpartition(":")[2]),
        OWNER: label(identity.owner),
    }


def annotations(identity: Identity, version: str, run_id: str) -> dict[str, str]:
    """Return what tells a Job's whole story; labels are cut and changed."""
    return {
        PROJECT: identity.project,
        STEP: identity.step,
        KEY: identity.key,
        OWNER: identity.owner,
        VERSION: version,
        RUN: run_id,
    }


def selector(owner: str) -> str:
    """Return the label selector for all Jobs and pods of an owner."""
    return f"{MANAGED_BY}=buildrun,{OWNER}={label(owner)}"
