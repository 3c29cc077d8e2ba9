"""Names of images, as registries and engines know them.

The grammar is that of ``reference/regexp.go`` in github.com/distribution/reference.
"""

import re
from typing import NamedTuple

from buildrun.errors import EnvironmentFailure
from buildrun.printable import printable

_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]+)?"
_NAME = rf"(?:{_DOMAIN}/)?{_PART}(?:/{_PART})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_NAME})(?::({_TAG}))?(?:@({_DIGEST}))?")
_ID = re.compile(r"sha256:[0-9a-f]{64}")
_LONGEST = 255


class Reference(NamedTuple):
    """The parts of a name; an empty text for what is not there."""

    repository: str
    tag: str
    digest: str


def parse(text: str) -> Reference:
    """Return the parts; raises EnvironmentFailure for what no image may be called."""
    match = _REFERENCE.fullmatch(text)
    if match is None or len(match.group(1)) > _LONGEST:
        raise EnvironmentFailure(
            f"`{printable(text[:300])}` is not a name that an image may have",
            hint="names are lower case, such as `python:3.12-slim` or `host:5000/team/image:tag`",
        )
    return Reference(*(part or "" for part in match.groups()))


def is_id(text: str) -> bool:
    """Return whether it is the whole id of an image."""
    return _ID.fullmatch(text) is not None


def component(text: str) -> str:
    """Return a part of a name made from any text, such as a project's name."""
    made = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].strip("-")
    return made or "project"
