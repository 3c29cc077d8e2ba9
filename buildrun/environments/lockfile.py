"""Lock files: every package of an environment with version and hashes, beside its file.

``python_env.yaml`` is locked by ``python_env.lock``, ``conda.yaml`` by ``conda.lock``; both are
JSON. A lock is fresh while what it was resolved from is unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.errors import EnvironmentFailure
from buildrun.project.locate import lock_path
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker

VERSION = 1


class Package(NamedTuple):
    """A locked package.

    line: what the manager installs from. hashes: each with its algorithm, such as ``sha256:…``.
    stage: packages of one stage are installed together, stages in the order of their appearance.
    """

    name: str
    version: str
    line: str
    hashes: tuple[str, ...] = ()
    stage: str = "run"


class Lock(NamedTuple):
    """A lock file's content.

    manager: which manager made it. inputs: what it was resolved from, JSON values; python: the
    ``major.minor`` it was resolved for, "" where the packages bring their own.
    """

    manager: str
    inputs: Mapping[str, Any]
    python: str
    platforms: Mapping[str, tuple[Package, ...]]


def load(environment_file: str | None, reader: DependencyTracker, manager: str = "") -> Lock | None:
    """Return the lock beside an environment file, or None where there is none.

    manager: one that another has made does not count.
    Raises EnvironmentFailure for a file that is no lock of this version.
    """
    if environment_file is None:
        return None
    path = lock_path(environment_file)
    try:
        text = reader.read(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise EnvironmentFailure(
            f"the lock cannot be read: {error.strerror}",
            place=path,
            hint="mend its permissions, or make it anew with `buildrun lock`",
        ) from None
    try:
        lock = _decode(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise EnvironmentFailure(
            "this is not a lock that this version of buildrun can read",
            place=path,
            hint="make it anew with `buildrun lock`, or delete it",
        ) from None
    return lock if manager in ("", lock.manager) else None


def check(
    lock: Lock | None,
    inputs: Mapping[str, Any],
    platform: str,
    python: str,
    environment_file: str | None,
    *,
    locked: bool,
) -> tuple[str, Sequence[str]]:
    """Return whether a lock is ``locked``, ``stale`` or ``unlocked``, and why it is stale.

    locked: nothing but a fresh one will do. Raises EnvironmentFailure.
    """
    stale = changes(lock, inputs, platform, python) if lock is not None else []
    if lock is not None and not stale:
        return "locked", stale
    if locked:
        fact = (
            "the lock is stale: " + "; ".join(stale) if stale else "the environment is not locked"
        )
        place = lock_path(environment_file) if environment_file else None
        raise EnvironmentFailure(fact, place=place, hint="run `buildrun lock` and commit its file")
    return "stale" if stale else "unlocked", stale


def requirement_lines(packages: Sequence[Sequence[Any]]) -> dict[str, list[str]]:
    """Return locked packages as requirement lines with hashes, by stage."""
    stages: dict[str, list[str]] = {}
    for fields in packages:
        package = Package(*fields)
        hashes = "".join(f" --hash={item}" for item in package.hashes)
        stages.setdefault(package.stage, []).append(package.line + hashes)
    return stages


def key_parts(lock: Lock, platform: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fresh lock adds to a key: its packages, and the content of local ones."""
    lists = [value for value in inputs.values() if isinstance(value, list)]
    items = [item for each in lists for item in each if isinstance(item, dict)]
    local = [item for item in items if "content" in item]
    packages = [list(package) for package in lock.platforms[platform]]
    return {"packages": packages, **({"local": local} if local else {})}


def dump(lock: Lock) -> bytes:
    """Return the file's content; the same lock gives the same bytes."""
    inputs = _resolved_from(lock.inputs)
    value = {
        "version": VERSION,
        "manager": lock.manager,
        "digest": digest.key("lock inputs", inputs),
        "inputs": inputs,
        "python": lock.python,
        "platforms": {
            platform: [_encode_package(package) for package in packages]
            for platform, packages in sorted(lock.platforms.items())
        },
    }
    return (json.dumps(value, indent=1, ensure_ascii=True) + "\n").encode()


def changes(lock: Lock, inputs: Mapping[str, Any], platform: str, python: str) -> list[str]:
    """Return why a lock does not serve, in words; empty while it is fresh."""
    now = _resolved_from(inputs)
    found = [_change(name, lock.inputs.get(name), now[name]) for name in sorted(now)]
    reasons = [text for group in found for text in group]
    if platform not in lock.platforms:
        reasons.append(lacks(platform))
    if python != lock.python:
        reasons.append(f"it is for Python {lock.python}, and the environment has {python}")
    return reasons


def lacks(platform: str) -> str:
    """Return, in words, that a lock does not serve a platform."""
    return f"it has no packages for {platform}"


def difference(old: Sequence[Package], new: Sequence[Package]) -> list[str]:
    """Return a readable list of what changes from one set of packages to another."""
    before, after = ({(item.stage, item.name): item for item in group} for group in (old, new))
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key), after.get(key)
        if was is None and now is not None:
            lines.append(f"+ {now.name} {now.version}")
        elif now is None and was is not None:
            lines.append(f"- {was.name} {was.version}")
        elif was is not None and now is not None and was != now:
            how = f"{was.version} -> {now.version}"
            lines.append(f"~ {now.name} {how if was.version != now.version else 'other files'}")
    return lines


def _resolved_from(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs without the content of local packages, of which only metadata is resolved."""
    return {
        name: [
            {key: text for key, text in item.items() if key != "content"}
            if isinstance(item, dict) and "metadata" in item
            else item
            for item in value
        ]
        if isinstance(value, list)
        else value
        for name, value in inputs.items()
    }


def _change(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list):
        added = [_said(item) for item in new if item not in old]
        removed = [_said(item) for item in old if item not in new]
        words = [f"what {text} requires changed" for text in added if text in removed]
        words += [f"{text} was added" for text in added if text not in removed]
        words += [f"{text} was removed" for text in removed if text not in added]
        return words or [f"the order of `{name}` changed"]
    return [f"`{name}` changed from {_said(old)} to {_said(new)}"]


def _said(value: Any) -> str:
    if isinstance(value, dict) and "text" in value:
        value = value["text"]
    return f"`{value}`"


def _encode_package(package: Package) -> dict[str, Any]:
    return {**package._asdict(), "hashes": list(package.hashes)}


def _decode(value: dict[str, Any]) -> Lock:
    if value["version"] != VERSION:
        raise ValueError(value["version"])
    return Lock(
        manager=str(value["manager"]),
        inputs=dict(value["inputs"]),
        python=str(value["python"]),
        platforms={
            platform: tuple(
                Package(**{**item, "hashes": tuple(item["hashes"])}) for item in packages
            )
            for platform, packages in value["platforms"].items()
        },
    )
