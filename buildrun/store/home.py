"""The store's place on disk."""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple

import xxhash

from buildrun.errors import BuildrunError

# How the directory in a project begins that outputs are moved to and from.
STAGING = ".buildrun-"


def has_staging(root: str) -> bool:
    """Return whether there is a staging directory in a project, in use or left by a killed run."""
    try:
        return any(name.startswith(STAGING) for name in os.listdir(root))
    except OSError:
        return False


class Home(NamedTuple):
    """The root directory of everything buildrun keeps."""

    root: str

    @property
    def environments(self) -> str:
        """Return the directory of environments."""
        return os.path.join(self.root, "envs")

    @property
    def images(self) -> str:
        """Return the directory of records of the images that were made."""
        return os.path.join(self.root, "images")

    @property
    def blobs(self) -> str:
        """Return the directory of contents, each named by its digest."""
        return os.path.join(self.root, "blobs")

    @property
    def results(self) -> str:
        """Return the directory of manifests, each named by its key."""
        return os.path.join(self.root, "results")

    @property
    def runs(self) -> str:
        """Return the directory of past runs and their logs."""
        return os.path.join(self.root, "runs")

    @property
    def sources(self) -> str:
        """Return the directory of what projects are fetched from, and of where they run."""
        return os.path.join(self.root, "sources")

    def about(self, root: str, kind: str) -> str:
        """Return the file of what is remembered of the project in ``root``; kind: its suffix."""
        name = xxhash.xxh3_128_hexdigest(os.fsencode(root))
        return os.path.join(self.memo, "projects", f"{name}.{kind}")

    @property
    def memo(self) -> str:
        """Return the directory of remembered values."""
        return os.path.join(self.root, "index")


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
