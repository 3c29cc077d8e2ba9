"""Locks of conda environments, with their `pip:` section."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.environments import (
    base,
    failures,
    local_packages,
    lockfile,
    pip_config,
    private_files,
    requirements,
    uv,
    uv_lock,
    virtual_packages,
    virtualenv,
)
from buildrun.environments.condarc import Channel, without_secrets
from buildrun.environments.lockfile import Lock, Package
from buildrun.errors import EnvironmentFailure
from buildrun.store.memo import DependencyTracker

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.environments.base import EnvironmentRequest, Identity
    from buildrun.environments.lockfile import Lock, Package
    from buildrun.environments.requirements import Line
    from buildrun.project.model import CondaEnv, ProjectSpec
    from buildrun.store.memo import DependencyTracker

MANAGER = "conda"
CONDA_STAGE = "conda"

# Of a package's record, what an installation needs and its address does not tell.
_KEPT = (
    "build", "build_number", "constrains", "depends", "noarch", "python_site_packages_path", "size",
)  # fmt: skip


def inputs(project: ProjectSpec, declared: CondaEnv, reader: DependencyTracker) -> dict[str, Any]:
    """Return what a lock is resolved from, the same on every machine."""
    found: dict[str, Any] = {
        "channels": [without_secrets(channel) for channel in declared.channels],
        "dependencies": [normalised(spec) for spec in declared.dependencies],
    }
    if declared.pip:
        found["pip"] = describe(project, declared, reader)
    return found


def normalised(spec: str) -> str:
    """Return a match spec without blanks that do not matter, and without secrets."""
    text = " ".join(spec.split())
    return without_secrets(re.sub(r"\s*([<>=!~,|]+)\s*", r"\1", text))


def usable(
    request: EnvironmentRequest, declared: CondaEnv, subdir: str, reader: DependencyTracker
) -> tuple[Sequence[Package] | None, str, Sequence[str]]:
    """Return the locked packages if they may be used, the lock's state and why it is stale.

    subdir: conda's name of the platform. Raises EnvironmentFailure where only a fresh lock will
    do and there is none.
    """
    lock = lockfile.load(declared.path, reader)
    if lock is not None and lock.manager != MANAGER:
        lock = None
    names = {conda: name for name, conda in base.CONDA.items()}
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
    request: EnvironmentRequest,
    declared: CondaEnv,
    wanted: Sequence[str],
    previous: Lock | None,
    console: Console,
) -> Lock:
    """Resolve for each platform; raises EnvironmentFailure."""
    from buildrun.store.memo import DependencyTracker

    reader = DependencyTracker(request.environ)
    found: dict[str, tuple[Package, ...]] = {}
    for platform in wanted:
        before = previous.platforms.get(platform, ()) if previous else ()
        packages = _solve(request, declared, base.check(platform), before, console)
        if declared.pip:
            packages += lock(request, declared, packages, platform, previous, console)
        found[platform] = tuple(packages)
    return Lock(MANAGER, inputs(request.project, declared, reader), "", found)


def records(packages: Sequence[Package], used: Sequence[Channel]) -> list[dict[str, Any]]:
    """Return the records of locked conda packages, with the addresses of this machine."""
    return [_decode(package, used) for package in packages if package.stage == CONDA_STAGE]


def _solve(
    request: EnvironmentRequest,
    declared: CondaEnv,
    platform: str,
    before: Sequence[Package],
    console: Console,
) -> list[Package]:
    from buildrun.environments import rattler
    from buildrun.store.memo import DependencyTracker

    reader = DependencyTracker(request.environ)
    used = rattler.sources(declared, reader)
    order = rattler.solve_request(
        request, declared, used, reader,
        action="solve",
        prefix=os.path.join(os.path.dirname(declared.path), "prefix"),
        platform=base.CONDA[platform],
        virtual_packages=virtual_packages.assumed(base.CONDA[platform], reader),
        records=records(before, used.channels),
        live=console.live,
    )  # fmt: skip
    solved = rattler.call(order, declared, used.settings, request, console, -1)
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


_STAGE = "pip"


def describe(
    project: ProjectSpec, declared: CondaEnv, reader: DependencyTracker
) -> list[dict[str, str]]:
    """Return what decides the lines' effect, with the contents of every file that they name."""
    folder, outputs = os.path.dirname(declared.path), requirements.outputs_of(project)
    return [
        local_packages.describe(line, folder, reader, outputs) for line in _lines(declared, reader)
    ]


def indexes(declared: CondaEnv, reader: DependencyTracker) -> list[str]:
    """Return where the packages come from, without credentials."""
    folder = os.path.dirname(declared.path)
    return [*pip_config.read(reader).indexes, *pip_config.choices(folder, reader)]


def install(
    prefix: str,
    request: EnvironmentRequest,
    declared: CondaEnv,
    identity: Identity,
    locked: Sequence[Package] | None,
    console: Console,
    lock: int,
) -> None:
    """Install the lines, or the locked packages in their place; raises EnvironmentFailure."""
    known, more = _lines(declared, DependencyTracker(request.environ)), []
    lines: Sequence[Line] = known
    if locked is not None:
        texts = uv_lock.lines([list(package) for package in locked]).get(_STAGE, [])
        lines = requirements.logical_lines(texts, declared.path)
        if lines:
            lines = [*requirements.sources(known), *lines]
        more = ["--no-deps"]  # they are complete, but for what conda has installed
    folder, parts = os.path.dirname(declared.path), json.dumps(identity.parts)
    python = os.path.join(prefix, "bin", "python")
    try:
        with local_packages.copies(folder, request.project, parts) as copies:
            if texts := copies.place(lines):
                text = "\n".join(texts) + "\n"
                tool = _tool(request, declared, console, lock)

                def put(*options: str) -> None:
                    tool.pip("install", "--python", python, *more, *options, "-r", "-", text=text)

                private_files.install(prefix, virtualenv.recorded, tool, console, put)
    except failures.ToolFailure as failure:
        what = "the environment could not be built"
        raise failures.of_uv(failure, what, known, declared.path) from None


def lock(
    request: EnvironmentRequest,
    declared: CondaEnv,
    conda: Sequence[Package],
    platform: str,
    previous: Lock | None,
    console: Console,
) -> list[Package]:
    """Return the packages that the section adds to those of conda; raises EnvironmentFailure."""
    ours = {package.name: package.version for package in conda}
    reader = DependencyTracker(request.environ)
    lines = _lines(declared, reader)
    asked = {requirements.name_of(line.text) for line in lines}
    known = json.dumps(describe(request.project, declared, reader))
    with local_packages.copies(os.path.dirname(declared.path), request.project, known) as copies:
        found = uv_lock.resolve(
            _tool(request, declared, console, -1).pip,
            {_STAGE: lines},
            copies,
            declared.path,
            platform,
            ours["python"],
            previous,
        )
    return [package for package in found if package.name in asked or package.name not in ours]


def _tool(request: EnvironmentRequest, declared: CondaEnv, console: Console, lock: int) -> uv.Tool:
    settings = pip_config.read(DependencyTracker(request.environ))
    return uv.Tool(request, settings, console, lock, cwd=os.path.dirname(declared.path))


def _lines(declared: CondaEnv, reader: DependencyTracker) -> tuple[Line, ...]:
    folder = os.path.dirname(declared.path)
    return requirements.follow(declared.pip, declared.path, folder, reader)
