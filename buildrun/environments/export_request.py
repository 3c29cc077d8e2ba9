"""What is exported of a lock, as every form of `lock --export` is given it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from buildrun.console import Console
from buildrun.environments.base import EnvironmentRequest
from buildrun.environments.lockfile import Lock, Package

_OF_CONDA = "conda"
_VCS = re.compile(r"(?:^|\s)(?:git|hg|svn|bzr)\+\S+")


class ExportRequest(NamedTuple):
    """What is exported.

    path: of the lock. platforms: those asked for, all of them in the lock. directory: what paths
    in the result are relative to.
    """

    environment: EnvironmentRequest
    lock: Lock
    path: str
    platforms: Sequence[str]
    directory: str
    console: Console


def is_conda(package: Package) -> bool:
    """Return whether conda installs it, and not pip."""
    return package.stage == _OF_CONDA


def is_vcs(package: Package) -> bool:
    """Return whether it comes from a repository."""
    return _VCS.search(package.line) is not None
