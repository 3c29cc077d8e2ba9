"""What commands run in on a cluster that installs the packages itself: nothing is built here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import has_credentials
from buildrun.environments import conda_lock, lockfile, requirements, uv, virtualenv
from buildrun.environments.base import EnvironmentRequest, Identity
from buildrun.environments.requirements import VARIABLE, Line
from buildrun.errors import EnvironmentFailure
from buildrun.executors.base import ContainerOptions, Environment
from buildrun.planning.model import EnvironmentState
from buildrun.project import codec
from buildrun.project.locate import lock_path
from buildrun.store import digest
from buildrun.store.memo import DependencyTracker, frozen, memoize

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.planning.context import RunContext
    from buildrun.project.model import ProjectSpec

# That of the nodes, whatever runs here: what a key holds, and what a lock has to be made for.
PLATFORM = "linux-x86_64"

# What a backend config says of the software that is there before any package is installed.
_RUNTIME = (
    "docker_image", "existing_cluster_id", "init_scripts", "libraries", "serverless",
    "spark_version",
)  # fmt: skip

# Conda packages that stand for what every runtime brings.
_BROUGHT = ("pip", "python", "setuptools", "wheel")


class RemotePackages(NamedTuple):
    """The packages that a cluster is to install; JSON values.

    key: of all that decides what is there then. packages: requirement lines. lock, stale: see
    ``Identity``. warnings: what of the declared environment has no effect there.
    """

    manager: str
    key: str
    packages: tuple[str, ...]
    lock: str | None = None
    stale: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class RemoteProvider:
    """Packages for an executor that has them installed where its commands run."""

    prefix = None
    image = None
    containers = ContainerOptions()

    def __init__(self, resolve: Callable[[], RemotePackages]) -> None:
        """Take what finds the packages out; it is called when they are needed first."""
        self._resolve = resolve
        self._found: RemotePackages | None = None

    @property
    def found(self) -> RemotePackages:
        """Return the packages; raises BuildrunError for what no cluster can install."""
        if self._found is None:
            self._found = self._resolve()
        return self._found

    @property
    def packages(self) -> tuple[str, ...]:
        """See ``EnvironmentProvider``."""
        return self.found.packages

    def identify(self, repository: str | None = None) -> tuple[EnvironmentState, str]:
        """See ``PrefixProvider``."""
        del repository
        found = self.found
        state = EnvironmentState(found.manager, found.key, True, found.lock, PLATFORM)
        return state, found.key

    known = identify

    def provide(self) -> Environment:
        """See ``EnvironmentProvider``."""
        return Environment(self.found.manager, self.found.key, None, True, {})

    def record(self) -> Any:
        """Return JSON values, of which ``remembered`` makes the same provider."""
        return {"remote": self.found}

    def close(self) -> None:
        """See ``EnvironmentProvider``."""


def remembered(record: Any) -> RemoteProvider:
    """Return the provider of a remembered plan."""
    return RemoteProvider(lambda: RemotePackages(*frozen(record["remote"])))


def resolve(context: RunContext, project: ProjectSpec) -> RemotePackages:
    """Return the packages of a project, and say what of it has no effect on a cluster.

    Raises BuildrunError.
    """
    from buildrun.environments.resolve import request_of, tell_of_lock

    request, console = request_of(context, project), context.console
    libraries = project.spark_job.python_libraries if project.spark_job is not None else ()
    runtime = _runtime(context.options.backend_config)

    def compute(reader: DependencyTracker) -> RemotePackages:
        identity, lines, warnings = _read(request, runtime, libraries, reader, console)
        texts = dict.fromkeys((*_installable(lines, request.project.root, warnings), *libraries))
        lock = identity.lock if lines else None
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
        tool = uv.Tool(request, spec.settings, console, -1)
        lines: Sequence[Line] = requirements.logical_lines(tool.export(), place)
    elif "packages" in found.parts:
        lines = _locked(found.parts["packages"], "run", lock_path(place))
    else:
        lines = spec.lines["run"]
    return found, lines, list(spec.warnings)


def _read_conda(
    request: EnvironmentRequest, parts: dict[str, Any], reader: DependencyTracker
) -> tuple[Identity, Sequence[Line], list[str]]:
    declared, inputs = conda_lock.declared_by(request), conda_lock.inputs(request, reader)
    lock = lockfile.load(declared.path, reader, conda_lock.NAME)
    state, stale = lockfile.check(
        lock, inputs, PLATFORM, "", declared.path, locked=request.locked
    )  # fmt: skip
    if lock is not None and state == "locked":
        parts |= lockfile.key_parts(lock, PLATFORM, inputs)
        lines: Sequence[Line] = _locked(parts["packages"], "pip", lock_path(declared.path))
    else:
        parts["pip"] = inputs.get("pip", [])
        lines = conda_lock.pip_lines(declared, reader)
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
        if line.constraint or text.startswith("-"):
            what = f"constraint `{text}`" if line.constraint else f"`{text}`"
            warnings.append(f"{line.place}: {what} has no effect on a cluster")
        else:
            yield text
