"""What would run, in which order, and why."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from buildrun import command, entry_point
from buildrun.command import Download
from buildrun.errors import BuildrunError, ProjectError
from buildrun.project.spec import DockerEnv, ProjectSpec

CacheState = Literal["uncached", "up-to-date", "hit", "miss"]


class Reason(NamedTuple):
    """Why a step is in its state; ``code`` is stable."""

    code: str
    detail: str


class EnvironmentState(NamedTuple):
    """The environment a step runs in; key is None where it cannot be known yet.

    lock: ``locked``, ``stale`` or ``unlocked``; None where nothing can be locked.
    """

    manager: str
    key: str | None
    ready: bool
    lock: str | None = None


class Step(NamedTuple):
    """An entry point with decided parameters.

    image: what a docker step runs, else None. cache_key: None for a step without outputs.
    """

    id: str
    entry_point: str
    parameters: tuple[tuple[str, str], ...]
    command: str
    depends_on: tuple[str, ...]
    backend: str
    environment: EnvironmentState
    image: str | None
    cache_key: str | None
    cache_state: CacheState
    reasons: tuple[Reason, ...]


class Plan(NamedTuple):
    """The steps in order, the requested one last; problems are what would stop a run."""

    project: ProjectSpec
    steps: tuple[Step, ...]
    problems: tuple[BuildrunError, ...]


class Wish(NamedTuple):
    """What the user asked for.

    values: parameters by name, in the user's order. cwd: where relative paths begin.
    backend: None leaves the choice to the project.
    """

    entry_point: str
    values: Mapping[str, str]
    cwd: str
    environ: Mapping[str, str]
    backend: str | None = None


def make(
    project: ProjectSpec,
    wish: Wish,
    environment: EnvironmentState,
    download: Download | None = None,
) -> Plan:
    """Return the plan; nothing is written, and without ``download`` nothing is fetched.

    Raises ProjectError and ParameterError where no command can be computed.
    """
    chosen = entry_point.find(project, wish.entry_point, wish.environ)
    rendered = command.render(chosen, wish.values, wish.cwd, download)
    problems: list[BuildrunError] = list(rendered.problems)
    if missing := entry_point.missing_script(project, chosen):
        problems.append(ProjectError(missing, hint="check the name given with `-e`"))
    docker = project.environment if isinstance(project.environment, DockerEnv) else None
    step = Step(
        id=chosen.name,
        entry_point=chosen.name,
        parameters=rendered.parameters,
        command=rendered.command,
        depends_on=(),
        backend=_backend(wish.backend, docker),
        environment=environment,
        image=docker.image if docker else None,
        cache_key=None,
        cache_state="uncached",
        reasons=(Reason("no-outputs", "an entry point without outputs always runs"),),
    )
    return Plan(project, (step,), tuple(problems))


def _backend(requested: str | None, docker: DockerEnv | None) -> str:
    if requested is not None and requested != "local":
        return requested
    return "docker" if docker else "local"
