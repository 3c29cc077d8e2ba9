"""Locks of conda environments, and their `pip:` section, which uv resolves and installs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.console import Console
from buildrun.environments import (
    base,
    failures,
    local_packages,
    pip_config,
    rattler,
    requirements,
    uv,
    virtual_packages,
    virtualenv,
)
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.condarc import Channel, without_secrets
from buildrun.environments.lockfile import Lock, Package, requirement_lines
from buildrun.environments.requirements import Line
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv
from buildrun.store.memo import DependencyTracker

NAME = "conda"

# Packages of a lock that conda installs, and those of the `pip:` section.
_CONDA_STAGE = "conda"
_PIP_STAGE = "pip"

# Of a package's record, what an installation needs and its address does not tell.
_KEPT = (
    "build", "build_number", "constrains", "depends", "noarch", "python_site_packages_path", "size",
)  # fmt: skip


def declared_by(request: EnvironmentRequest) -> CondaEnv:
    """Return the conda environment of the project; raises EnvironmentFailure where it has none."""
    environment = request.project.environment
    if not isinstance(environment, CondaEnv):
        raise EnvironmentFailure(
            "the project declares no conda environment", hint="use `--env-manager virtualenv`"
        )
    return environment


def inputs(request: EnvironmentRequest, reader: DependencyTracker) -> dict[str, Any]:
    """Return what a lock is resolved from, the same on every machine."""
    declared = declared_by(request)
    found: dict[str, Any] = {
        "channels": [without_secrets(channel) for channel in declared.channels],
        "dependencies": [_normalised(spec) for spec in declared.dependencies],
    }
    if declared.pip:
        folder = os.path.dirname(declared.path)
        found["pip"] = [
            local_packages.describe(line, folder, reader, request.project)
            for line in pip_lines(declared, reader)
        ]
    return found


def _normalised(spec: str) -> str:
    """Return a match spec without blanks that do not matter, and without secrets."""
    text = " ".join(spec.split())
    return without_secrets(re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", text))


def make(
    request: EnvironmentRequest, platforms: Sequence[str], previous: Lock | None, console: Console
) -> Lock:
    """Resolve for each platform; raises EnvironmentFailure."""
    declared, reader = declared_by(request), DependencyTracker(request.environ)
    used = rattler.sources(declared, reader)
    resolved_from = inputs(request, reader)
    found: dict[str, tuple[Package, ...]] = {}
    for platform in platforms:
        before = previous.platforms.get(platform, ()) if previous else ()
        subdir = base.CONDA_PLATFORMS[base.require_platform(platform)]
        solved = rattler.call(
            request, declared, used, console, -1,
            action="solve",
            prefix=os.path.join(os.path.dirname(declared.path), "prefix"),
            platform=subdir,
            virtual_packages=virtual_packages.listed(virtual_packages.assumed(subdir, reader)),
            records=records(before, used.channels),
        )  # fmt: skip
        packages = [_encode(record, used.channels) for record in solved]
        if declared.pip:
            known = json.dumps(resolved_from["pip"])
            packages += _resolve_pip(request, packages, known, platform, previous, console)
        found[platform] = tuple(packages)
    return Lock(NAME, resolved_from, "", found)


def records(packages: Sequence[Package], used: Sequence[Channel]) -> list[dict[str, Any]]:
    """Return the records of locked conda packages, with the addresses of this machine."""
    return [_decode(package, used) for package in packages if package.stage == _CONDA_STAGE]


def _encode(record: Mapping[str, Any], used: Sequence[Channel]) -> Package:
    kept = {name: record[name] for name in _KEPT if record.get(name) not in (None, [])}
    hashes = [f"{kind}:{record[kind]}" for kind in ("md5", "sha256") if record.get(kind)]
    address = without_secrets(record["url"])
    for channel in used:
        if record["url"].startswith(f"{channel.address}/"):
            address = channel.label + record["url"][len(channel.address) :]
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    line = f"{address} {text}"
    return Package(record["name"], record["version"], line, tuple(hashes), _CONDA_STAGE)


def _decode(package: Package, used: Sequence[Channel]) -> dict[str, Any]:
    address, _, text = package.line.partition(" ")
    url = address
    for channel in used:
        if address.startswith(f"{channel.label}/"):
            url = channel.address + address[len(channel.label) :]
    hashes = dict(item.split(":", 1) for item in package.hashes)
    head, _, file_name = url.rpartition("/")
    channel_url, _, subdir = head.rpartition("/")
    return {
        **dict.fromkeys(_KEPT),
        **json.loads(text),
        "name": package.name,
        "version": package.version,
        "url": url,
        "file_name": file_name,
        "channel": channel_url,
        "subdir": subdir,
        "sha256": hashes.get("sha256"),
        "md5": hashes.get("md5"),
    }


def pip_lines(declared: CondaEnv, reader: DependencyTracker) -> tuple[Line, ...]:
    """Return the lines of the `pip:` section, with the files that they name followed."""
    folder = os.path.dirname(declared.path)
    return requirements.follow(declared.pip, declared.path, folder, reader)


def locked_pip(packages: Sequence[Package]) -> list[str]:
    """Return the lines of the `pip:` section as they are locked."""
    return requirement_lines(packages).get(_PIP_STAGE, [])


def indexes(declared: CondaEnv, reader: DependencyTracker) -> list[str]:
    """Return where the packages of the `pip:` section come from, without credentials."""
    folder = os.path.dirname(declared.path)
    return [*pip_config.read(reader).indexes, *pip_config.choices(folder, reader)]


def install_pip(
    prefix: str,
    request: EnvironmentRequest,
    identity: Identity,
    locked: Sequence[Package] | None,
    console: Console,
    lock: int,
) -> None:
    """Install the `pip:` section, or the locked packages in its place.

    Raises EnvironmentFailure.
    """
    declared = declared_by(request)
    known = pip_lines(declared, DependencyTracker(request.environ))
    lines: Sequence[Line] = known
    # Locked packages are complete, but for what conda has installed.
    words = ["install", "--python", os.path.join(prefix, "bin", "python")]
    if locked is not None:
        words.append("--no-deps")
        lines = requirements.logical_lines(locked_pip(locked), declared.path)
        lines = [*requirements.sources(known), *lines] if lines else []
    folder, parts = os.path.dirname(declared.path), json.dumps(identity.parts)
    try:
        with local_packages.build_copies(folder, request.project, parts) as copies:
            if texts := copies.rewrite(lines):
                text = "\n".join(texts) + "\n"
                tool = _tool(request, declared, console, lock)

                def put(*options: str) -> None:
                    tool.pip(*words, *options, "-r", "-", text=text)

                virtualenv.install(prefix, tool, console, put)
    except failures.ToolFailure as failure:
        what = "the environment could not be built"
        raise failures.of_uv(failure, what, known, declared.path) from None


def _resolve_pip(
    request: EnvironmentRequest,
    conda: Sequence[Package],
    known: str,
    platform: str,
    previous: Lock | None,
    console: Console,
) -> list[Package]:
    """Return the packages that the `pip:` section adds to those of conda.

    known: has the digests of packages given by path. Raises EnvironmentFailure.
    """
    declared = declared_by(request)
    ours = {package.name: package.version for package in conda}
    lines = pip_lines(declared, DependencyTracker(request.environ))
    asked = {requirements.name_of(line.text) for line in lines}
    tool, python = _tool(request, declared, console, -1), ours["python"]
    with local_packages.build_copies(
        os.path.dirname(declared.path), request.project, known
    ) as copies:
        stages = {_PIP_STAGE: lines}
        found = tool.resolve(stages, copies, declared.path, platform, python, previous)
    return [package for package in found if package.name in asked or package.name not in ours]


def _tool(request: EnvironmentRequest, declared: CondaEnv, console: Console, lock: int) -> uv.Tool:
    settings = pip_config.read(DependencyTracker(request.environ))
    return uv.Tool(request, settings, console, lock, cwd=os.path.dirname(declared.path))
