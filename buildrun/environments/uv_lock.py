"""Resolving requirements into locked packages, with ``uv pip compile``."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from buildrun.environments import base, failures
from buildrun.environments.local_packages import Copies
from buildrun.environments.lockfile import Lock, Package
from buildrun.environments.requirements import Line, name_of
from buildrun.errors import EnvironmentFailure

_VERSION = re.compile(r"===?\s*([^\s;]+)")
_HASH = re.compile(r"--hash=([a-z0-9]+:[0-9a-f]+)")


def resolve(
    pip: Callable[..., str],
    stages: Mapping[str, Sequence[Line]],
    copies: Copies,
    default: str,
    platform: str,
    python: str,
    previous: Lock | None,
) -> tuple[Package, ...]:
    """Return the packages of every stage for one platform and Python version.

    pip: calls ``uv pip``. copies: where packages given by path are built from. default: the place
        of what is in none of the lines.
    previous: its versions are kept where they still fit.
    Raises EnvironmentFailure with uv's reason.
    """
    target = base.UV_PLATFORMS[base.require_platform(platform)]
    packages: list[Package] = []
    for stage, requirements in stages.items():
        texts = copies.rewrite(requirements)
        if not texts:
            continue
        before = previous.platforms.get(platform, ()) if previous else ()
        kept = "".join(f"{item.line}\n" for item in before if item.stage == stage)
        words = ("--quiet", "--generate-hashes", "--no-annotate", "--no-header")
        where = ("--python-platform", target, "--python-version", python)
        lines = "\n".join(texts) + "\n"
        try:
            text = _output(pip, "compile", "-", *words, *where, before=kept, text=lines)
            text = copies.relative_paths(text)
        except failures.ToolFailure as failure:
            what = f"the requirements could not be resolved for {platform}"
            failure.output = copies.restore_paths(failure.output)
            raise failures.of_uv(failure, what, requirements, default) from None
        packages += _parse(text, stage)
    return tuple(packages)


def lines(packages: Sequence[Sequence[Any]]) -> dict[str, list[str]]:
    """Return locked packages as requirement lines with hashes, by stage."""
    stages: dict[str, list[str]] = {}
    for fields in packages:
        package = Package(*fields)
        hashes = "".join(f" --hash={item}" for item in package.hashes)
        stages.setdefault(package.stage, []).append(package.line + hashes)
    return stages


def export(run: Callable[..., str]) -> list[str]:
    """Return the packages of the project's own ``uv.lock``, as ``uv sync --no-dev`` takes them.

    run: calls uv in the project's root. Raises ToolFailure.
    """
    words = ("--frozen", "--no-dev", "--no-emit-project", "--quiet", "--no-header", "--no-annotate")
    return _output(run, "export", *words).splitlines()


def _output(call: Callable[..., str], *words: str, before: str = "", **more: str) -> str:
    """Return what uv writes into a file; before: what the file holds first."""
    with tempfile.TemporaryDirectory(prefix="buildrun-") as directory:
        output = os.path.join(directory, "requirements.txt")
        if before:
            with open(output, "w", encoding="utf-8") as file:
                file.write(before)
        call(*words, "--output-file", output, **more)
        with open(output, encoding="utf-8") as file:
            return file.read()


def _parse(text: str, stage: str) -> list[Package]:
    whole = re.sub(r"\\\n\s*", " ", text)
    return [
        _package(line.strip(), stage)
        for line in whole.splitlines()
        if line.strip() and not line.strip().startswith("#")
    ]


def _package(text: str, stage: str) -> Package:
    hashes = tuple(sorted(_HASH.findall(text)))
    line = re.sub(r"\s*--hash=\S+", "", text).strip()
    if line.startswith(("-e", "--editable")):
        raise EnvironmentFailure(
            f"`{line}` is an editable install, which has no version to lock",
            hint="list the package without `-e`, or leave the environment unlocked",
        )
    version = _VERSION.search(line)
    name, found = name_of(line), version.group(1) if version else ""
    wheel = re.search(r"([^/\\]+?)-([^-/]+)-[^/]*\.whl(?=$|[\s;#])", line)
    if not found and wheel:
        name, found = name_of(wheel.group(1)), wheel.group(2)
    return Package(name, found, line, hashes, stage)
