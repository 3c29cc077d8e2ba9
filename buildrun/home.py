"""The store's place on disk."""

import os
import sys
from collections.abc import Mapping
from typing import NamedTuple


class Home(NamedTuple):
    """The root directory of everything buildrun keeps."""

    root: str

    @property
    def environments(self) -> str:
        """Return the directory of environments."""
        return os.path.join(self.root, "envs")

    @property
    def memory(self) -> str:
        """Return the directory of remembered values."""
        return os.path.join(self.root, "index")


def locate(environ: Mapping[str, str]) -> Home:
    """Return the store: ``BUILDRUN_HOME``, else the platform's cache directory for the user."""
    if chosen := environ.get("BUILDRUN_HOME"):
        return Home(os.path.abspath(os.path.expanduser(chosen)))
    if sys.platform == "darwin":
        return Home(os.path.expanduser("~/Library/Caches/buildrun"))
    base = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Home(os.path.join(base, "buildrun"))
