"""Solves and installs with rattler, and does nothing else: ADDRESS PREFIX CACHE SPEC…."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import rattler


async def main(address: str, prefix: str, cache: Path, *specs: str) -> None:
    """Solve and install into the prefix."""
    gateway = rattler.Gateway(cache_dir=cache / "repodata")
    platforms = [rattler.Subdir.current(), rattler.Subdir("noarch")]
    records = await rattler.solve(
        [rattler.Channel(address)],
        [rattler.MatchSpec(text) for text in specs],
        gateway=gateway,
        platforms=platforms,
        virtual_packages=rattler.VirtualPackage.detect(),
    )
    await rattler.install(records, prefix, cache_dir=cache / "pkgs", show_progress=False)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), *sys.argv[4:]))
    # rattler's threads may outlive the interpreter and crash it.
    os._exit(0)
