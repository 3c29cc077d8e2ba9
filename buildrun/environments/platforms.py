"""The names of platforms that locks are made for."""

from __future__ import annotations

import os
import sys

from buildrun.errors import UsageError

# Our names, and what uv and conda call them; a Linux lock holds for glibc 2.28 and newer.
UV = {
    "linux-x86_64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "darwin-arm64": "aarch64-apple-darwin",
    "darwin-x86_64": "x86_64-apple-darwin",
}
CONDA = {
    "linux-x86_64": "linux-64",
    "linux-aarch64": "linux-aarch64",
    "darwin-arm64": "osx-arm64",
    "darwin-x86_64": "osx-64",
}


def here() -> str:
    """Return this machine's platform, such as ``linux-x86_64``."""
    return f"{sys.platform}-{os.uname().machine}"


def check(platform: str) -> str:
    """Return the platform; raises UsageError where it is not one that can be locked for."""
    if platform not in UV:
        raise UsageError(f"unknown platform `{platform}`", hint=f"choose of {', '.join(UV)}")
    return platform
