"""The store's place on disk."""

import os
import sys
from collections.abc import Mapping

import xxhash

from buildrun.errors import BuildrunError
from buildrun.store.files import names_in

# How the directory in a project begins that outputs are moved to and from.
STAGING = ".buildrun-"


def has_staging(root: str) -> bool:
    """Return whether there is a staging directory in a project, in use or left by a killed run."""
    return any(name.startswith(STAGING) for name in names_in(root))


class Home:
    """The directory of everything that buildrun keeps, and those in it.

    images: records of those that were made. blobs, results: contents and manifests by digest.
    sources: what projects are fetched from, and where they run. memo: remembered values.
    """

    def __init__(self, root: str) -> None:
        """Name the directories; none is made."""
        self.root = root
        self.environments = os.path.join(root, "envs")
        self.images = os.path.join(root, "images")
        self.blobs = os.path.join(root, "blobs")
        self.results = os.path.join(root, "results")
        self.runs = os.path.join(root, "runs")
        self.sources = os.path.join(root, "sources")
        self.memo = os.path.join(root, "index")

    def about(self, root: str, kind: str) -> str:
        """Return the file of what is remembered of the project in ``root``; kind: its suffix."""
        name = xxhash.xxh3_128_hexdigest(os.fsencode(root))
        return os.path.join(self.memo, "projects", f"{name}.{kind}")


def locate(environ: Mapping[str, str]) -> Home:
    """Return the store: ``BUILDRUN_HOME``, else the platform's cache directory for the user.

    Raises BuildrunError for a user who has no home directory.
    """
    if chosen := environ.get("BUILDRUN_HOME"):
        return Home(os.path.abspath(os.path.expanduser(chosen)))
    base = environ.get("XDG_CACHE_HOME", "")
    if sys.platform == "darwin":
        base = os.path.join(_user(environ), "Library", "Caches")
    elif not os.path.isabs(base):  # a relative one is to be ignored, says the XDG specification
        base = os.path.join(_user(environ), ".cache")
    return Home(os.path.join(base, "buildrun"))


def of_user(environ: Mapping[str, str]) -> str | None:
    """Return the user's home directory, or None for a user who has none."""
    given = environ.get("HOME", "")
    if os.path.isabs(given):
        return given
    from pwd import getpwuid

    try:
        return getpwuid(os.getuid()).pw_dir
    except KeyError:
        return None


def _user(environ: Mapping[str, str]) -> str:
    found = of_user(environ)
    if found is None:
        raise BuildrunError(
            f"the user {os.getuid()} has no home directory: neither `HOME` nor the password file "
            "names one",
            hint="set BUILDRUN_HOME to a directory for what buildrun keeps, or HOME",
        )
    return found
