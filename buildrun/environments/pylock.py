"""Locks as `pylock.toml`, see PEP 751: with the address of each file.

A lock of ours has hashes and no addresses: uv tells those of the locked versions, and just the
files with a locked hash are taken.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

from buildrun.console import redact
from buildrun.environments import (
    conda_lock,
    failures,
    local_packages,
    pip_config,
    requirements,
    uv,
    virtualenv,
)
from buildrun.environments.export_request import ExportRequest
from buildrun.environments.local_packages import Copies
from buildrun.environments.lockfile import Package, requirement_lines
from buildrun.environments.requirements import Line, logical_lines
from buildrun.errors import EnvironmentFailure
from buildrun.store.memo import DependencyTracker

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# Our platforms as markers.
_MARKER = "sys_platform == '{}' and platform_machine == '{}'"


def encode(request: ExportRequest, packages: Mapping[str, Sequence[Package]]) -> bytes:
    """Return the packages of each platform in one file; raises EnvironmentFailure."""
    markers = {name: _MARKER.format(*name.split("-", 1)) for name in packages}
    merged: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for platform, wanted in packages.items():
        for entry in _located(request, platform, wanted):
            known, platforms = merged.setdefault(_identity(entry), (entry, []))
            platforms.append(platform)
            known.update(_with_files_of(known, entry))
    head: dict[str, Any] = {
        "lock-version": "1.0",
        "environments": sorted(markers.values()),
        "requires-python": f"=={_python(request)}.*",
        "created-by": "buildrun",
    }
    tables: list[dict[str, Any]] = []
    for _, (entry, platforms) in sorted(merged.items()):
        where = " or ".join(sorted(markers[name] for name in platforms))
        marker = {"marker": where} if len(platforms) < len(packages) else {}
        names: dict[str, Any] = {name: entry[name] for name in ("name", "version") if name in entry}
        tables.append({**names, **marker, **entry})
    return "".join(_toml(head, tables)).encode()


def _python(request: ExportRequest) -> str:
    """Return the ``major.minor`` that the lock is for; conda brings its own, or none."""
    platform = request.lock.platforms[request.platforms[0]]
    found = [package.version for package in platform if package.name == "python"]
    if not request.lock.python and not found:
        raise EnvironmentFailure(
            "the lock has no Python, and pip installs nothing without one",
            place=request.path,
            hint="list `python` among the dependencies",
        )
    return request.lock.python or ".".join(found[0].split(".")[:2])


def _identity(entry: Mapping[str, Any]) -> str:
    """Return what tells an entry from others, on all platforms alike."""
    rest = {name: value for name, value in entry.items() if name not in ("sdist", "wheels")}
    return json.dumps([entry["name"], rest], sort_keys=True)


def _with_files_of(known: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    wheels = [*known.get("wheels", ()), *entry.get("wheels", ())]
    unique = {json.dumps(wheel, sort_keys=True): wheel for wheel in wheels}
    return {"wheels": [unique[text] for text in sorted(unique)]} if unique else {}


def _located(
    request: ExportRequest, platform: str, packages: Sequence[Package]
) -> Iterator[dict[str, Any]]:
    """Yield the entries of one platform, with those files alone whose hashes are locked."""
    environment = request.environment
    folder, declared, known = _declared(request)
    texts = [line for lines in requirement_lines(packages).values() for line in lines]
    lines = [*requirements.sources(declared), *logical_lines(texts, request.path)]
    settings = pip_config.read(DependencyTracker(environment.environ))
    tool = uv.Tool(environment, settings, request.console, -1, cwd=folder)
    try:
        with local_packages.build_copies(folder, environment.project, known) as copies:
            text, base = tool.locate(copies.rewrite(lines), platform, _python(request))
            found = tomllib.loads(text).get("packages", ())
            for entry in found:
                _set_paths(entry, base, copies, request.directory)
    except failures.ToolFailure as failure:
        what = f"the files of the locked packages cannot be found for {platform}"
        raise failures.of_uv(failure, what, lines, request.path) from None
    locked = {package.name: package for package in packages if package.hashes}
    for entry in found:
        yield _verified(entry, locked.get(requirements.name_of(entry["name"])), request.path)


def _declared(request: ExportRequest) -> tuple[str, Iterable[Line], str]:
    """Return the directory of the requirements, their lines, and digests of what is in paths."""
    environment, reader = request.environment, DependencyTracker(request.environment.environ)
    if request.lock.manager == conda_lock.NAME:
        declared = conda_lock.declared_by(environment)
        known = json.dumps(conda_lock.inputs(environment, reader))
        return os.path.dirname(declared.path), conda_lock.pip_lines(declared, reader), known
    spec = virtualenv.read(environment, reader)
    return environment.project.root, spec.all_lines, json.dumps(spec.inputs)


def _set_paths(entry: dict[str, Any], base: str, copies: Copies, directory: str) -> None:
    """Make paths relative to the new file's directory, and leave credentials out of URLs."""
    parts = [entry[name] for name in ("vcs", "directory", "archive", "sdist") if name in entry]
    for part in [*parts, *entry.get("wheels", ())]:
        part.pop("upload-time", None)
        if (url := part.get("url", "")).startswith("file:") and part.get("type") is None:
            part["path"] = unquote(urlsplit(part.pop("url")).path)
        elif url:
            part["url"] = redact(url)
        if "path" in part:
            path = copies.restore_paths(os.path.normpath(os.path.join(base, part["path"])))
            part["path"] = os.path.relpath(path, directory)


def _verified(entry: dict[str, Any], package: Package | None, place: str) -> dict[str, Any]:
    """Return an entry with the files that the lock has; raises EnvironmentFailure without one."""
    if package is None:
        return entry  # from a directory or a repository

    def is_locked(file: Mapping[str, Any]) -> bool:
        hashes = {f"{kind}:{value}" for kind, value in file["hashes"].items()}
        return not hashes.isdisjoint(package.hashes)

    wheels = [file for file in entry.pop("wheels", ()) if is_locked(file)]
    for name in ("sdist", "archive"):
        if name in entry and not is_locked(entry[name]):
            del entry[name]
    if wheels:
        entry["wheels"] = wheels
    if entry.keys() <= {"name", "version"}:
        raise EnvironmentFailure(
            f"the index has no file of `{package.line}` with a hash of the lock",
            place=place,
            hint="run `buildrun lock --update`",
        )
    return entry


def _toml(head: Mapping[str, Any], tables: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for name, value in head.items():
        yield f"{name} = {_value(value)}\n"
    for table in tables:
        yield "\n[[packages]]\n"
        for name, value in table.items():
            yield f"{name} = {_value(value)}\n"


def _value(value: Any) -> str:
    """Return a value in TOML, whose strings and numbers are JSON's."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"    {_value(each)},\n" for each in value) + "]"
    return json.dumps(value, ensure_ascii=False)
