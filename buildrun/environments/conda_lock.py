"""Locks of conda environments: every package with its address and hashes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.environments import conda_order, conda_pip, lockfile, platforms, virtual_packages
from buildrun.environments.channels import Channel, without_secrets
from buildrun.environments.lockfile import Lock, Package
from buildrun.errors import EnvironmentFailure

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.contract import Request
    from buildrun.memo import Reader
    from buildrun.project.spec import CondaEnv, ProjectSpec

MANAGER = "conda"
CONDA_STAGE = "conda"

# Of a package's record, what an installation needs and its address does not tell.
_KEPT = (
    "build", "build_number", "constrains", "depends", "noarch", "python_site_packages_path", "size",
)  # fmt: skip


def inputs(project: ProjectSpec, declared: CondaEnv, reader: Reader) -> dict[str, Any]:
    """Return what a lock is resolved from, the same on every machine."""
    found: dict[str, Any] = {
        "channels": [without_secrets(channel) for channel in declared.channels],
        "dependencies": [normalised(spec) for spec in declared.dependencies],
    }
    if declared.pip:
        found["pip"] = conda_pip.describe(project, declared, reader)
    return found


def normalised(spec: str) -> str:
    """Return a match spec without blanks that do not matter, and without secrets."""
    text = " ".join(spec.split())
    return without_secrets(re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", text))


def usable(
    request: Request, declared: CondaEnv, subdir: str, reader: Reader
) -> tuple[Sequence[Package] | None, str, Sequence[str]]:
    """Return the locked packages if they may be used, the lock's state and why it is stale.

    subdir: conda's name of the platform. Raises EnvironmentFailure where only a fresh lock will
    do and there is none.
    """
    lock = lockfile.load(declared.path, reader)
    if lock is not None and lock.manager != MANAGER:
        lock = None
    names = {conda: name for name, conda in platforms.CONDA.items()}
    platform = names.get(subdir, subdir)
    stale = (
        lockfile.changes(lock, inputs(request.project, declared, reader), platform, "")
        if lock
        else []
    )
    if lock is not None and not stale:
        return lock.platforms[platform], "locked", ()
    if request.locked:
        fact = (
            "the lock is stale: " + "; ".join(stale) if stale else "the environment is not locked"
        )
        raise EnvironmentFailure(
            fact,
            place=lockfile.path_for(declared.path),
            hint="run `buildrun lock` and commit its file",
        )
    return None, "stale" if lock else "unlocked", stale


def make(
    request: Request,
    declared: CondaEnv,
    wanted: Sequence[str],
    previous: Lock | None,
    console: Console,
) -> Lock:
    """Resolve for each platform; raises EnvironmentFailure."""
    from buildrun.memo import Reader

    reader = Reader(request.environ)
    found: dict[str, tuple[Package, ...]] = {}
    for platform in wanted:
        before = previous.platforms.get(platform, ()) if previous else ()
        packages = _solve(request, declared, platforms.check(platform), before, console)
        if declared.pip:
            packages += conda_pip.lock(request, declared, packages, platform, previous, console)
        found[platform] = tuple(packages)
    return Lock(MANAGER, inputs(request.project, declared, reader), "", found)


def records(packages: Sequence[Package], used: Sequence[Channel]) -> list[dict[str, Any]]:
    """Return the records of locked conda packages, with the addresses of this machine."""
    return [_decode(package, used) for package in packages if package.stage == CONDA_STAGE]


def _solve(
    request: Request,
    declared: CondaEnv,
    platform: str,
    before: Sequence[Package],
    console: Console,
) -> list[Package]:
    from buildrun.environments import rattler_call
    from buildrun.memo import Reader

    reader = Reader(request.environ)
    used = conda_order.sources(declared, reader)
    order = conda_order.make(
        request, declared, used, reader,
        action="solve",
        prefix=os.path.join(os.path.dirname(declared.path), "prefix"),
        platform=platforms.CONDA[platform],
        virtual_packages=virtual_packages.assumed(platforms.CONDA[platform], reader),
        records=records(before, used.channels),
        live=console.live,
    )  # fmt: skip
    solved = rattler_call.perform(order, declared, used.settings, request, console, -1)
    return [_encode(record, used.channels) for record in solved]


def _encode(record: Mapping[str, Any], used: Sequence[Channel]) -> Package:
    kept = {name: record[name] for name in _KEPT if record[name] not in (None, [])}
    hashes = [f"{kind}:{record[kind]}" for kind in ("md5", "sha256") if record[kind]]
    address = without_secrets(record["url"])
    for channel in used:
        if record["url"].startswith(f"{channel.address}/"):
            address = channel.label + record["url"][len(channel.address) :]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return Package(
        record["name"], record["version"], f"{address} {text}", tuple(sorted(hashes)), CONDA_STAGE
    )


def _decode(package: Package, used: Sequence[Channel]) -> dict[str, Any]:
    address, _, text = package.line.partition(" ")
    url = address
    for channel in used:
        if address.startswith(f"{channel.label}/"):
            url = channel.address + address[len(channel.label) :]
    hashes = dict(item.split(":", 1) for item in package.hashes)
    head, _, file_name = url.rpartition("/")
    return {
        **dict.fromkeys(_KEPT),
        **json.loads(text),
        "name": package.name,
        "version": package.version,
        "url": url,
        "file_name": file_name,
        "channel": head.rpartition("/")[0],
        "subdir": head.rpartition("/")[2],
        "sha256": hashes.get("sha256"),
        "md5": hashes.get("md5"),
    }
