"""The packages that a cluster is to install for a project, of its lock or as declared."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from buildrun.console import has_credentials, redact
from buildrun.environments import conda_lock, failures, lockfile, requirements, uv, virtualenv
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.remote import PLATFORM, RemotePackages
from buildrun.environments.requirements import VARIABLE, Line
from buildrun.environments.resolve import request_of, tell_of_lock
from buildrun.environments.virtualenv import VirtualenvSpec
from buildrun.errors import EnvironmentFailure
from buildrun.project import codec
from buildrun.project.locate import lock_path
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker, frozen, memoize

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.planning.context import RunContext
    from buildrun.project.model import ProjectSpec

# What a backend config says of the software that is there before any package is installed.
_RUNTIME = (
    "docker_image", "existing_cluster_id", "init_scripts", "libraries", "serverless",
    "spark_conf", "spark_env_vars", "spark_version",
)  # fmt: skip

# Conda packages that stand for what every runtime brings.
_BROUGHT = ("pip", "python", "setuptools", "wheel")


def resolve(context: RunContext, project: ProjectSpec) -> RemotePackages:
    """Return the packages of a project, and say what of it has no effect on a cluster.

    Raises BuildrunError.
    """
    request, console = request_of(context, project), context.console
    libraries = project.spark_job.python_libraries if project.spark_job is not None else ()
    runtime = _runtime(context.options.backend_config)

    def compute(reader: DependencyTracker) -> RemotePackages:
        identity, lines, warnings = _read(request, runtime, libraries, reader, console)
        texts = dict.fromkeys((*_installable(lines, request.project.root, warnings), *libraries))
        lock = identity.lock if lines else "unlocked" if libraries else None
        return RemotePackages(
            identity.manager, identity.key, tuple(texts), lock, tuple(identity.stale),
            tuple(warnings),
        )  # fmt: skip

    value = memoize(
        context.memo,
        f"packages {request.manager} {request.locked} {project.root}",
        context.environ,
        compute,
        subject=[codec.encode_environment(project.environment), runtime, libraries],
    )
    found = RemotePackages(*frozen(value))
    for warning in found.warnings:
        console.warn(warning)
    identity = Identity(found.manager, found.key, {}, found.lock or "", found.stale)
    tell_of_lock(identity, context.tracker, console)
    return found


def _runtime(config: Mapping[str, Any]) -> Mapping[str, Any]:
    cluster = config.get("new_cluster")
    said = {**config, **(cluster if isinstance(cluster, dict) else {})}
    return {name: said[name] for name in _RUNTIME if name in said}


def _read(
    request: EnvironmentRequest,
    runtime: Mapping[str, Any],
    libraries: Sequence[str],
    reader: DependencyTracker,
    console: Console,
) -> tuple[Identity, Sequence[Line], list[str]]:
    """Return what decides the environment, its requirements, and what has no effect."""
    parts = {
        "manager": request.manager,
        "platform": PLATFORM,
        "runtime": runtime,
        "libraries": list(libraries),
    }
    if request.manager in ("local", "system"):
        return _identity("local", parts), (), []
    if request.manager == "conda":
        return _read_conda(request, parts, reader)
    spec = virtualenv.read(request, reader)._replace(indexes=())
    found = virtualenv.identity(spec, request, reader, parts, spec.inputs, "", _KIND)
    place = spec.declared.path or request.project.root
    if virtualenv.UV_LOCK in spec.inputs:
        return found, _of_uv_lock(request, spec, console), list(spec.warnings)
    lines = spec.lines["run"]
    if "packages" in found.parts:
        locked = _locked(found.parts["packages"], "run", lock_path(place))
        lines = [*requirements.sources(lines), *locked]
    return found, lines, list(spec.warnings)


def _of_uv_lock(
    request: EnvironmentRequest, spec: VirtualenvSpec, console: Console
) -> Sequence[Line]:
    place = os.path.join(request.project.root, virtualenv.UV_LOCK)
    try:
        texts = uv.Tool(request, spec.settings, console, -1).export()
    except failures.ToolFailure as failure:
        raise failures.of_uv(failure, "its packages could not be read", [], place) from None
    return requirements.logical_lines(texts, place)


def _read_conda(
    request: EnvironmentRequest, parts: dict[str, Any], reader: DependencyTracker
) -> tuple[Identity, Sequence[Line], list[str]]:
    declared, inputs = conda_lock.declared_by(request), conda_lock.inputs(request, reader)
    lock = lockfile.load(declared.path, reader, conda_lock.NAME)
    lines: Sequence[Line] = conda_lock.pip_lines(declared, reader)
    state, stale = lockfile.check(lock, inputs, PLATFORM, "", declared.path, locked=request.locked)
    if lock is not None and state == "locked":
        parts |= lockfile.key_parts(lock, PLATFORM, inputs)
        locked = _locked(parts["packages"], "pip", lock_path(declared.path))
        lines = [*requirements.sources(lines), *locked]
    else:
        parts["pip"] = inputs.get("pip", [])
    dropped = [text for text in declared.dependencies if requirements.name_of(text) not in _BROUGHT]
    dropped += [f"{name}=…" for name, _ in declared.variables]
    names = ", ".join(f"`{text}`" for text in dropped)
    warning = (
        f"of a conda environment only its `pip:` section is installed on a cluster, not {names}"
    )
    return _identity(conda_lock.NAME, parts, state, stale), lines, [warning] if dropped else []


_KIND = "packages on a cluster"


def _identity(
    manager: str, parts: Mapping[str, Any], state: str = "unlocked", stale: Sequence[str] = ()
) -> Identity:
    return Identity(manager, digest.key(_KIND, parts), parts, state, stale)


def _locked(packages: Sequence[Sequence[Any]], stage: str, place: str) -> Sequence[Line]:
    found = [lockfile.Package(*fields) for fields in packages]
    return requirements.logical_lines([each.line for each in found if each.stage == stage], place)


def _installable(lines: Sequence[Line], root: str, warnings: list[str]) -> Iterator[str]:
    """Yield lines that a cluster can install; raises EnvironmentFailure for one that it cannot.

    warnings: is added what has no effect.
    """
    for line in lines:
        text = line.text.split(" --hash=")[0].strip()
        if line.constraint or requirements.sources([line]):
            what = f"{'constraint ' * line.constraint}`{redact(text)}`"
            warnings.append(f"{line.place}: {what} has no effect on a cluster")
            continue
        if requirements.local_path(line, root) is not None:
            raise EnvironmentFailure(
                f"`{text}` is a package of this machine, which no cluster can install from there",
                place=line.place,
                hint="put its directory on the path in the command, such as `PYTHONPATH=src python "
                "…`, or upload a wheel and name it in `libraries` of the backend config",
            )
        if VARIABLE.search(text) or has_credentials(text):
            raise EnvironmentFailure(
                "the requirement needs credentials, which everybody who may see the job would see",
                place=line.place,
                hint="have an administrator set the index in the workspace, or upload a wheel and "
                "name it in `libraries` of the backend config",
            )
        if not text.startswith("-"):  # an option without an effect on what is installed
            yield text
