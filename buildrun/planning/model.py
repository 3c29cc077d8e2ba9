"""The records of a plan: what is asked for, its steps, and how each of them ended."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from buildrun.console import MASK, printable, redact
from buildrun.errors import BuildrunError

if TYPE_CHECKING:
    from buildrun.executors.base import Result, Task, Usage
    from buildrun.planning import graph
    from buildrun.planning.evidence import Assurance
    from buildrun.planning.parameters import Download
    from buildrun.project.model import DockerEnv, Pattern, ProjectSpec, Sandbox

CacheState = Literal["uncached", "up-to-date", "hit", "miss"]


class Reason(NamedTuple):
    """Why a step is in its state; ``code`` is stable."""

    code: str
    detail: str


NO_OUTPUTS = Reason("no-outputs", "an entry point without outputs always runs")


class EnvironmentState(NamedTuple):
    """The environment a step runs in; key is None where it cannot be known yet.

    lock: ``locked``, ``stale`` or ``unlocked``; None where nothing can be locked. platform: that it
    is for, such as ``linux-x86_64``, where packages are installed elsewhere; else None.
    """

    manager: str
    key: str | None
    ready: bool
    lock: str | None = None
    platform: str | None = None


class Step(NamedTuple):
    """An entry point with decided parameters.

    image: what a docker step runs, else None.
    key_text, paths: the command for the key, see ``RenderedCommand``.
    inputs: None stands for every project file that git would not ignore.
    downloads: ``path`` parameters that only a run fetches, so that their content is not known.
    secrets, shown: the parameters that are not to be shown, and the command without their values.
    key_env: variables of the caller with digests of their values, "" for one that is not set.
    check_inputs, sandbox: as declared, or as the command line asks for.
    The rest is as declared, see ``EntryPoint``.
    """

    id: str
    entry_point: str
    parameters: tuple[tuple[str, str], ...]
    command: str
    depends_on: tuple[str, ...]
    backend: str
    environment: EnvironmentState
    image: str | None
    key_text: str
    paths: tuple[tuple[str, str], ...]
    inputs: "tuple[Pattern, ...] | None" = None
    outputs: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pass_env: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 0
    downloads: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    shown: str = ""
    key_env: tuple[tuple[str, str], ...] = ()
    check_inputs: bool = False
    sandbox: "Sandbox | None" = None

    def task(self) -> "Task":
        """Return what an executor is told of the step."""
        from buildrun.executors.base import Task

        return Task(
            id=self.id,
            command=self.command,
            shown=self.shown,
            depends_on=self.depends_on,
            inputs=tuple(pattern.text for pattern in self.inputs or ()),
            outputs=self.outputs,
            paths=self.paths,
            env=self.env,
            pass_env=(*self.pass_env, *(name for name, _ in self.key_env)),
            timeout=self.timeout,
            retries=self.retries,
            secret=bool(self.secrets),
            declared_only=self.sandbox is not None and self.inputs is not None,
            check_inputs=self.check_inputs,
            network=self.sandbox is None or self.sandbox.network,
        )

    @property
    def shown_parameters(self) -> tuple[tuple[str, str], ...]:
        """Return the parameters as they may be shown, kept and sent to others."""
        return tuple(
            (name, MASK if name in self.secrets else redact(value))
            for name, value in self.parameters
        )


class Plan(NamedTuple):
    """The steps in order, the requested one last; problems are what would stop a run.

    project, root: the project's name and directory. outputs: of all its entry points, also of those
    that take no part. content: what stands for the environment in the keys of results, None where
    it is not known. spec: the project as it was read; None in a plan from a record.
    """

    project: str
    root: str
    steps: tuple[Step, ...]
    problems: tuple[BuildrunError, ...]
    outputs: tuple[str, ...] = ()
    content: str | None = None
    spec: "ProjectSpec | None" = None


class PlanRequest(NamedTuple):
    """What the user asked for.

    values: parameters by name, in the user's order. cwd: where relative paths begin.
    backend: None leaves the choice to the project.
    """

    entry_point: str
    values: Mapping[str, str]
    cwd: str
    environ: Mapping[str, str]
    backend: str | None = None


def make_plan(
    project: "ProjectSpec",
    request: PlanRequest,
    environment: EnvironmentState,
    download: "Download | None" = None,
    *,
    content: str | None = None,
) -> Plan:
    """Return the plan; nothing is written, and without ``download`` nothing is fetched.

    Raises ProjectError and ParameterError where no command can be computed.
    """
    from buildrun.planning import graph

    entry_point, values = request.entry_point, request.values
    if is_job(project):
        entry_point, values = "main", {}
    nodes = graph.expand(project, entry_point, values, request.cwd, request.environ, download)
    backend, docker = backend_of(project, request.backend), docker_env(project)
    image = docker.image if docker else None
    steps = tuple(_step(node, backend, environment, image, request.environ) for node in nodes)
    problems = tuple(problem for node in nodes for problem in node.problems)
    return Plan(project.name, project.root, steps, problems, project.outputs, content, project)


def with_environment(plan: Plan, state: EnvironmentState, content: str | None) -> Plan:
    """Return the plan with its environment; content: see ``Plan``."""
    steps = tuple(step._replace(environment=state) for step in plan.steps)
    return plan._replace(steps=steps, content=content)


def guarded(plan: Plan, *, check_inputs: bool, sandbox: bool) -> Plan:
    """Return the plan with all its steps checked, sandboxed, or both, as the user asks for."""
    if check_inputs:
        plan = plan._replace(steps=tuple(step._replace(check_inputs=True) for step in plan.steps))
    if not sandbox:
        return plan
    from buildrun.project.model import Sandbox

    return plan._replace(
        steps=tuple(
            step._replace(sandbox=(step.sandbox or Sandbox())._replace(required=True))
            for step in plan.steps
        )
    )


def is_passthrough(plan: Plan) -> bool:
    """Return whether the plan is a lone command that runs as with MLflow: always, and directly."""
    (first, *rest) = plan.steps
    watched = first.check_inputs or first.sandbox is not None
    limited = first.timeout is not None or bool(first.retries)
    return not (rest or first.outputs or limited or watched)


def _step(
    node: "graph.ResolvedStep",
    backend: str,
    environment: EnvironmentState,
    image: str | None,
    environ: Mapping[str, str],
) -> Step:
    chosen, rendered = node.entry_point, node.rendered
    return Step(
        id=node.id,
        entry_point=chosen.name,
        parameters=rendered.parameters,
        command=rendered.command,
        depends_on=node.depends_on,
        backend=backend,
        environment=environment,
        image=image,
        key_text=rendered.key_text,
        paths=rendered.paths,
        inputs=chosen.inputs,
        outputs=chosen.outputs,
        env=chosen.env,
        pass_env=chosen.pass_env,
        timeout=chosen.timeout,
        retries=chosen.retries,
        downloads=node.downloads,
        secrets=rendered.secrets,
        shown=redact(rendered.shown),
        key_env=_digests(chosen.key_env, environ),
        check_inputs=chosen.check_inputs,
        sandbox=chosen.sandbox,
    )


def _digests(names: Sequence[str], environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return variables with digests of their values, "" for one that is not set."""
    if not names:
        return ()
    from buildrun.store import digest

    return tuple((name, digest.of_text(environ[name]) if name in environ else "") for name in names)


def docker_env(project: "ProjectSpec") -> "DockerEnv | None":
    """Return the image that the project declares, with all that belongs to it, or None."""
    from buildrun.project.model import DockerEnv

    return project.environment if isinstance(project.environment, DockerEnv) else None


def is_job(project: "ProjectSpec") -> bool:
    """Return whether the project is one Python file that Databricks runs."""
    return project.spark_job is not None and project.spark_job.python_file is not None


def backend_of(project: "ProjectSpec", requested: str | None) -> str:
    """Return the name of the executor; requested: what the user said, None for nothing."""
    if requested is not None and requested != "local":
        return requested
    return "docker" if docker_env(project) else "local"


OutcomeState = Literal["ok", "cached", "up-to-date", "failed", "skipped", "cancelled", "submitted"]

# Those whose outputs are there for the steps that follow.
GOOD: tuple[OutcomeState, ...] = ("ok", "cached", "up-to-date")


class Outcome(NamedTuple):
    """How a step ended.

    exit_code: None where no command ran. seconds: that it took now; saved: that its command would
    have taken. log: the path of what it wrote. started: seconds since the epoch, None where it has
    not. usage: of its command. key: of its result. outputs: paths and bytes of the first
    hundred files. assurance: of its result, see ``evidence``; None where none is kept.
    """

    step: Step
    state: OutcomeState
    reasons: tuple[Reason, ...]
    exit_code: int | None = None
    seconds: float = 0.0
    saved: float = 0.0
    log: str | None = None
    started: float | None = None
    usage: "Usage | None" = None
    key: str | None = None
    outputs: tuple[tuple[str, int], ...] = ()
    assurance: "Assurance | None" = None


def label(step: Step) -> str:
    """Return what a message about a step begins with."""
    return f"[{printable(step.id)}]"


def failure_reasons(result: "Result", step: Step) -> list[Reason]:
    """Return what a report tells of a failure, where the exit code is not all of it."""
    if result.interrupted is not None or not (result.timed_out or step.retries):
        return []
    tries = f", in the last of {step.retries + 1} tries" if step.retries else ""
    code = "timed-out" if result.timed_out else "retried"
    return [Reason(code, result.describe(step.timeout) + tries)]
