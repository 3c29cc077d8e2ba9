"""A lock in the forms that other tools read: requirements, PEP 751 and CycloneDX."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from buildrun.console import MASK, redact
from buildrun.environments import requirements
from buildrun.environments.export_request import ExportRequest, is_conda, is_vcs
from buildrun.environments.lockfile import Lock, Package
from buildrun.environments.requirements import Line
from buildrun.errors import EnvironmentFailure

FORMATS = ("pylock", "requirements", "cyclonedx")


def export(form: str, request: ExportRequest) -> bytes:
    """Return the lock in one of FORMATS; the same lock gives the same bytes.

    Raises EnvironmentFailure for what the form cannot hold.
    """
    if form == "cyclonedx":
        from buildrun.environments import cyclonedx

        return cyclonedx.encode(request, installed(request.lock, request.platforms[0]))
    packages = {name: _of_pip(request, name) for name in request.platforms}
    if form == "pylock":
        from buildrun.environments import pylock

        return pylock.encode(request, packages)
    return _requirements(request, packages[request.platforms[0]])


def installed(lock: Lock, platform: str) -> list[Package]:
    """Return what is there in the end: of a package in several stages, the last one's."""
    found = {package.name or package.line: package for package in lock.platforms[platform]}
    return sorted(found.values(), key=lambda package: (package.name, package.line))


def sources(inputs: Mapping[str, object]) -> list[str]:
    """Return the indexes and directories that requirements name, without credentials.

    Where one stands in a query, it is masked.
    """
    lists = [value for value in inputs.values() if isinstance(value, list)]
    texts = [item["text"] for each in lists for item in each if isinstance(item, dict)]
    lines = requirements.sources([Line(text, "", 0) for text in texts])
    return list(dict.fromkeys(redact(line.text) for line in lines))


def _of_pip(request: ExportRequest, platform: str) -> list[Package]:
    """Return the packages that pip can install; says which ones are left out."""
    every = installed(request.lock, platform)
    found = [package for package in every if not is_conda(package)]
    if len(found) == len(every):
        return found
    what = f"{len(every) - len(found)} packages are conda's"
    if not found:
        raise EnvironmentFailure(
            f"{what}, and pip installs none of them",
            place=request.path,
            hint="`--export cyclonedx` holds them all",
        )
    request.console.warn(f"{what} and left out; the rest is what pip installs beside them")
    return found


def _requirements(request: ExportRequest, packages: Sequence[Package]) -> bytes:
    """Return them in pip's syntax; pip takes only what has a hash, and the rest is a comment."""
    name, python = os.path.basename(request.path), request.lock.python
    target = f"{request.platforms[0]}{f', Python {python}' if python else ''}"
    lines = [f"# The packages of {name} for {target}, made by `buildrun lock --export`."]
    for text in sources(request.lock.inputs):
        lines.append(_commented(text, request) if MASK in text else text)
    for package in packages:
        text = redact(package.line)
        if MASK in text:
            lines.append(_commented(text, request))
            continue
        if package.hashes:
            lines.append(" \\\n    ".join([text, *(f"--hash={each}" for each in package.hashes)]))
            continue
        where = "an index" if package.version else "a directory"
        where = "a repository" if is_vcs(package) else where
        lines.append(f"# from {where} without hashes: {text}")
        request.console.warn(
            f"`{text}` is from {where} without hashes for pip to verify, and only a comment",
            "install it by itself, with `pip install --no-deps`",
        )
    return "".join(f"{line}\n" for line in lines).encode()


def _commented(text: str, request: ExportRequest) -> str:
    """Return a line that pip could not use as a comment, and say so."""
    text = text.replace("\n", " ")
    request.console.warn(
        f"`{text}` would need the credentials of its address, which are not exported, and is only "
        "a comment",
        "give pip the whole address by itself",
    )
    return f"# needs credentials: {text}"
