"""Conda environments for images, installed in a build container."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun.console import Console
from buildrun.environments import (
    conda,
    conda_activate,
    conda_lock,
    virtual_packages,
)
from buildrun.environments.base import CONDA_PLATFORMS, EnvironmentRequest, Identity
from buildrun.environments.condarc import without_secrets
from buildrun.environments.images import build_pip, build_worker, layer
from buildrun.environments.images.build_container import BuildContainer, json_line
from buildrun.environments.images.build_pip import CODE, PREFIX, PipStages
from buildrun.environments.images.engine import Image
from buildrun.environments.lockfile import Package
from buildrun.environments.provision import unwritable
from buildrun.errors import EnvironmentFailure
from buildrun.project.model import CondaEnv
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker
from buildrun.workspace.archive import Layer

# Holds a container, until its standard input ends.
_HOLD = ("sh", "-c", "echo '{}'; read -r line")

# Of conda's records, what says where packages were on the machine that installed them.
_OF_THIS_MACHINE = ("extracted_package_dir", "package_tarball_full_path", "link")

# What names a conda executable, which could not install for another place.
_EXECUTABLES = ("MLFLOW_CONDA_HOME", "CONDA_EXE", "MLFLOW_CONDA_CREATE_ENV_CMD")


def identify(request: EnvironmentRequest, base: Image, reader: DependencyTracker) -> Identity:
    """Return what the environment is made of, beside its base; raises EnvironmentFailure."""
    there = _elsewhere(request, base)
    seen = DependencyTracker(there.environ)
    found = conda.identify(there, seen)
    reader.add(seen.files, {}, volatile=seen.untrackable)
    for name in seen.variables:
        reader.variable(name)
    folder = os.path.dirname(conda_lock.declared_by(request).path)
    parts = {**found.parts, "pip": build_pip.portable(found.parts.get("pip") or (), folder)}
    return found._replace(parts=parts, key=digest.key("environment in an image", parts))


def make(
    site: BuildContainer,
    base: Image,
    name: str,
    directory: str,
    identity: Identity,
    request: EnvironmentRequest,
    console: Console,
) -> tuple[Layer, dict[str, str]]:
    """Make the environment; return its layer, and the variables that containers of it need.

    name: the base's, for people. directory: is made, and left to be removed once the layer was
    read. Raises EnvironmentFailure.
    """
    there, declared = _elsewhere(request, base), conda_lock.declared_by(request)
    packages = conda.locked_packages(identity)
    prefix = os.path.join(directory, "env")
    try:
        _remove_others(directory)
        os.makedirs(directory)
        conda.install(identity, prefix, there, packages, console, -1, place=PREFIX)
        whole = layer.of_directory(prefix, PREFIX, _edited)
    except OSError as error:
        raise unwritable(directory, error) from error
    fixed, stages = dict(declared.variables), _stages(request, declared, packages)
    links = _link_scripts(prefix)
    if not links and stages is None and not conda_activate.scripts(prefix):
        return whole, _variables(conda_activate.learn(prefix, PREFIX, fixed, None), base)
    site.create(_HOLD, (stages or PipStages(request, CODE)).access())
    site.put(whole.chunks())
    if stages is not None:
        stages.copy(site)
    with site.started():
        for each in links:
            _link(site, each, prefix)
        if stages is not None:
            _install_pip(site, stages, base, name, request, declared, console)
        changes = conda_activate.learn(prefix, PREFIX, fixed, _source(site, prefix))
    return layer.of_archive(lambda: site.take(PREFIX), PREFIX), _variables(changes, base)


def _remove_others(directory: str) -> None:
    """Remove what builds of the same environment that were killed have left; there is a lock."""
    folder, name = os.path.split(directory)
    start, _, _ = name.removesuffix(".prefix").rpartition(".")
    for each in os.listdir(folder):
        if each.startswith(f"{start}.") and each.endswith(".prefix"):
            shutil.rmtree(os.path.join(folder, each), ignore_errors=True)


def _variables(changes: Mapping[str, str | None], base: Image) -> dict[str, str]:
    """Return what containers have set; what activation removes is empty, where the base has it."""
    own = {**base.environ, "PATH": base.search_path}
    found = conda_activate.apply(changes, PREFIX, own)
    return {name: value or "" for name, value in found.items() if value is not None or name in own}


def _elsewhere(request: EnvironmentRequest, base: Image) -> EnvironmentRequest:
    """Return the request with what a solve counts on, which is the image's and not ours."""
    subdir = CONDA_PLATFORMS.get(build_pip.platform_of(base))
    if subdir is None:
        raise EnvironmentFailure(
            f"conda environments cannot be made for {build_pip.platform_of(base)}",
            hint="choose another `docker_base`",
        )
    environ = {name: value for name, value in request.environ.items() if name not in _EXECUTABLES}
    environ["CONDA_SUBDIR"] = subdir
    versions = virtual_packages.assumed(subdir, DependencyTracker(request.environ))
    for name in virtual_packages.NAMES:
        environ[f"CONDA_OVERRIDE_{name.upper()}"] = versions.get(name, "")
    return request._replace(environ=environ)


def _stages(
    request: EnvironmentRequest, declared: CondaEnv, packages: Sequence[Package] | None
) -> PipStages | None:
    """Return what pip installs, None for nothing."""
    stages = PipStages(request, CODE, os.path.dirname(declared.path))
    lines = conda_lock.pip_lines(declared, DependencyTracker(request.environ))
    if packages is None:
        stages.add(lines)
        return stages if declared.pip else None
    texts = conda_lock.locked_pip(packages)
    stages.add_locked(texts, lines)
    return stages if texts else None


def _install_pip(
    site: BuildContainer,
    stages: PipStages,
    base: Image,
    name: str,
    request: EnvironmentRequest,
    declared: CondaEnv,
    console: Console,
) -> None:
    python = f"{PREFIX}/bin/python"
    order = json_line(stages.order(python, ()))
    search = f"PATH={PREFIX}/bin:{base.search_path}"
    answer = site.run(
        lambda _: order,
        console.progress,
        ("env", search, f"CONDA_PREFIX={PREFIX}", python, "-c", inspect.getsource(build_worker)),
    )
    known = conda_lock.pip_lines(declared, DependencyTracker(request.environ))
    build_pip.require_success(answer, name, known, request, declared.path)


def _link_scripts(prefix: str) -> list[str]:
    """Return what packages want to be run once they are in their place."""
    folder = os.path.join(prefix, "bin")
    if not os.path.isdir(folder):
        return []
    return sorted(name for name in os.listdir(folder) if name.endswith("-post-link.sh"))


def _link(site: BuildContainer, script: str, prefix: str) -> None:
    package = script.removesuffix("-post-link.sh").removeprefix(".")
    version = build = ""
    for name in os.listdir(os.path.join(prefix, "conda-meta")):
        stem, _, rest = name.removesuffix(".json").rpartition("-")
        if stem.rpartition("-")[0] == package:
            version, build = stem.rpartition("-")[2], rest
    told = {
        "PREFIX": PREFIX, "CONDA_PREFIX": PREFIX, "PKG_NAME": package, "PKG_VERSION": version,
        "PKG_BUILDNUM": build.rpartition("_")[2],
    }  # fmt: skip
    pairs = [f"{key}={value}" for key, value in told.items()]
    done = site.call(("env", *pairs, "bash", f"{PREFIX}/bin/{script}"))
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise EnvironmentFailure(
            f"the script that the package `{package}` runs once it is installed fails: {said}",
            hint="choose another version of the package, or a base that has what it needs",
        )


def _source(site: BuildContainer, prefix: str) -> conda_activate.Source:
    def source(scripts: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
        # Nothing but these: the container itself has variables that no image may have.
        pairs = [f"{key}={value}" for key, value in {**environ, "HOME": "/root"}.items()]
        there = [PREFIX + path[len(prefix) :] for path in scripts]
        shell = ("bash", "--noprofile", "--norc", "-c", conda_activate.RUN, "bash", *there)
        done = site.call(("env", "-i", *pairs, *shell))
        return conda_activate.listed(done.stdout) if done.returncode == 0 else dict(environ)

    return source


def _edited(path: bytes, place: bytes) -> bytes | None:
    """Return one of conda's records without this machine's paths, its clock and secrets."""
    folder, name = os.path.split(path)
    if folder != b"conda-meta" or not (name == b"history" or name.endswith(b".json")):
        return None
    if name == b"history":
        return b""
    with open(place, "rb") as file:
        content = file.read()
    try:
        value: Any = json.loads(content)
    except ValueError:
        return content
    for field in _OF_THIS_MACHINE:
        value.pop(field, None)
    text = without_secrets(json.dumps(value, sort_keys=True, indent=1))
    return text.encode() + b"\n"
