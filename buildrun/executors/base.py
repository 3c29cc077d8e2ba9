"""The executor interface: what executors take and return, and how they are found by name."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.store.home import Home

# What `timeout` exits with.
TIMED_OUT = 124


class ResolvedImage(NamedTuple):
    """The image that commands run in; JSON values.

    id: what containers run, never a name that can move. base: the id of what the project names.
    reference: its name for people. workdir: where commands run. user: whom the image runs as, ""
    for root. reused: nothing had to be built. key: of the image with the project's code, "" where
    there is none. below: the id of the image that the code is above. environment: the key of the
    image with the project's environment, "" where the base is all there is. python: False where
    commands that begin with `python` need a shell to find a `python3`. pushed: its reference in the
    registry that the executor pulls from, "" where it was not pushed.
    """

    id: str
    base: str
    reference: str
    workdir: str
    user: str
    reused: bool
    key: str = ""
    below: str = ""
    environment: str = ""
    python: bool = True
    pushed: str = ""


class Environment(NamedTuple):
    """What commands run in, ready to be used.

    key: None for the caller's own environment. prefix: the directory of a virtualenv or conda
    environment, else None. variables: what activation sets (a text) or removes (None) for the
    command.
    """

    manager: str
    key: str | None
    prefix: str | None
    reused: bool
    variables: Mapping[str, str | None]


class Task(NamedTuple):
    """What a step declares of its command.

    command: shell text, given whole to ``bash -c``. shown: the command without secrets, and
    secret: whether it has any. depends_on: ids of the tasks before it. inputs: patterns, and
    outputs: paths, below the project's directory. paths: names and values of `path` parameters.
    env: variables with values; pass_env: names of the caller's variables for containers.
    timeout: seconds. retries: how often it may run again after a failure. declared_only: it is to
    find no file of the project but its inputs, and outputs of steps before it. check_inputs: it is
    to be watched for what it reads. network: whether it may use the network.
    """

    id: str
    command: str
    shown: str
    depends_on: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    paths: tuple[tuple[str, str], ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pass_env: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 0
    secret: bool = False
    declared_only: bool = False
    check_inputs: bool = False
    network: bool = True


def upstream(tasks: Mapping[str, Task], task: Task) -> list[Task]:
    """Return the tasks that one depends on, near or far."""
    waiting, seen = list(task.depends_on), dict[str, None]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen[name] = None
            waiting += tasks[name].depends_on
    return [tasks[name] for name in seen]


class Job(NamedTuple):
    """A command that is ready to run.

    command: shell text, given whole to ``bash -c``.
    cwd: the absolute directory it runs in.
    environ: every variable it sees, where it runs on this machine.
    timeout: seconds after which it is ended, else None; time that it is stopped together with us,
        as by Ctrl-Z, does not count.
    argv: the words of a program to run instead of the command, such as one that runs it elsewhere.
    log: the file that keeps what it writes to our own streams, see ``tee``; None for none.
    task: the step whose command it is, None for a program of our own.
    image: what it runs in, for executors that run containers.
    tracking: the variables that tell of its MLflow run; artifacts: the directory of this machine
        where the artifacts of that run go, else None.
    identity: returns the key of all that decides the step's result, or "" where that is unknown.
    restrict: is called in the new process of a command of this machine, just before its program is
        loaded; what it raises as OSError is why the command cannot be started.
    anew: the user wants it to run, whatever ended run of it is left somewhere.
    """

    command: str
    cwd: str
    environ: Mapping[str, str]
    timeout: float | None = None
    argv: tuple[str, ...] = ()
    log: str | None = None
    task: Task | None = None
    image: ResolvedImage | None = None
    tracking: Mapping[str, str | None] = {}
    artifacts: str | None = None
    identity: Callable[[], str] = str
    restrict: Callable[[], None] | None = None
    anew: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Return the program and its arguments."""
        return self.argv or ("bash", "-c", self.command)


class Usage(NamedTuple):
    """What a command has taken of the machine it ran on.

    cpu_seconds: of user and system, with all processes that it waited for. peak_memory: bytes, of
    the largest of these processes.
    """

    cpu_seconds: float
    peak_memory: int


class Result(NamedTuple):
    """How a command ended.

    exit_code: the command's own code; 128 plus the number for a command ended by a signal;
        TIMED_OUT for one that did not end in time.
    interrupted: the number of the signal by which the user or the system ended the run (Ctrl-C
        included), else None.
    timed_out: whether the command was ended by its timeout.
    detached: it was only handed over, and how it ends is not known yet.
    usage: None where that is not known.
    sandboxed: the executor has seen to it that no file of the project was there but those declared.
    """

    exit_code: int
    interrupted: int | None = None
    timed_out: bool = False
    detached: bool = False
    usage: Usage | None = None
    sandboxed: bool = False

    def describe(self, timeout: float | None) -> str:
        """Return how it ended, for people; timeout: that it had, in seconds."""
        if self.timed_out:
            return f"the command was ended after its timeout of {timeout or 0:g} s"
        number = f" (signal {self.exit_code - 128})" if self.exit_code > 128 else ""
        return f"the command ended with exit code {self.exit_code}{number}"


# Takes the stream, 1 or 2, and what was written to it.
OutputSink = Callable[[int, bytes], None]


class ProcessRunner(Protocol):
    """What runs processes of this machine, such as ``Supervisor``; used by several threads."""

    # Runs a command of this machine, its output given to the sink, and returns how it ended.
    def run(self, job: Job, sink: OutputSink) -> Result: ...

    # Has it called in the one thread that sinks are called in, and raises what it raises.
    def call_in_loop(self, call: Callable[[], None]) -> None: ...

    # Has it called for each signal by which the user asks to end, as long as it is entered.
    def on_interrupt(self, call: Callable[[int], None]) -> AbstractContextManager[None]: ...


# Runs a job as one of several steps, see ``Executor.run``.
Perform = Callable[[Job, ProcessRunner, OutputSink], Result]


class ContainerOptions(NamedTuple):
    """What a project and its user want of every container; JSON values.

    volumes, environment: as in `docker_env`. arguments: words for `docker run`.
    """

    volumes: tuple[str, ...] = ()
    environment: tuple[str | tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()


class ExecutorContext(NamedTuple):
    """What an executor is opened with.

    project: the project's name. root: its directory. outputs: the paths that its entry points
    make. config: the backend config; config_given: its text or the path of its file, None where
    there is none. environ, cwd: the caller's. run_id: of this run. remote: the URL of the remote
    cache, else None. detach: steps are submitted and not waited for. packages: requirements that
    are to be installed where commands run, see ``builds_nothing_here``.
    """

    project: str
    root: str
    outputs: tuple[str, ...]
    config: Mapping[str, Any]
    config_given: str | None
    environ: Mapping[str, str]
    cwd: str
    home: "Home"
    console: "Console"
    run_id: str
    remote: str | None
    detach: bool
    containers: ContainerOptions
    packages: tuple[str, ...] = ()


class Executor(Protocol):
    """A place where the commands of one run are executed, from ``open`` to ``close``."""

    # Whether it runs containers: then jobs have an image instead of an environment of this machine.
    USES_IMAGE: ClassVar[bool]

    # Whether a lone command can have our own streams and terminal.
    HAS_TERMINAL: ClassVar[bool]

    # Where images have to be pushed to, None where it takes them from the engine of this machine.
    @property
    def repository(self) -> str | None: ...

    # Connects to whatever runs the commands; raises BuildrunError.
    @classmethod
    def open(cls, context: ExecutorContext) -> "Executor": ...

    # Is told all steps before anything is built; raises BuildrunError for what it cannot run.
    def check(self, tasks: Sequence[Task]) -> None: ...

    # Runs a command to its end. With a runner and a sink it is one of several steps, called in a
    # thread of its own; without, it gets our own streams and terminal. Raises ExecutionError.
    def run(self, job: Job, runner: ProcessRunner | None, sink: OutputSink | None) -> Result: ...

    # Leaves nothing behind; interrupted: the run was ended by a signal.
    def close(self, *, interrupted: bool) -> None: ...


# What `--backend` takes, and the class that does it.
EXECUTORS = {
    "local": "buildrun.executors.local:LocalExecutor",
    "docker": "buildrun.executors.docker:DockerExecutor",
    "kubernetes": "buildrun.executors.kubernetes.executor:KubernetesExecutor",
    "databricks": "buildrun.executors.databricks.executor:DatabricksExecutor",
}

# The entry point group in which other packages name executors of theirs.
ENTRY_POINTS = "buildrun.executors"


# Those that need a backend config: the fact that there is none, in MLflow's words, and a remedy.
_CONFIGURED = {
    "kubernetes": (
        "specify 'backend_config' when using kubernetes mode",
        '`-c kubernetes_config.json`, with at least `{"repository-uri": "…"}`; '
        "see docs/kubernetes.md",
    ),
    "databricks": (
        "backend spec must be provided when launching MLflow project runs on Databricks",
        '`-c cluster.json`, with at least `{"new_cluster": …}` or `{"serverless": true}`; '
        "see docs/databricks.md",
    ),
}


def refuse_without_config(name: str | None) -> None:
    """Raise UsageError for an executor that needs a backend config."""
    if name in _CONFIGURED:
        from buildrun.errors import UsageError

        fact, hint = _CONFIGURED[name]
        raise UsageError(fact, hint=hint)


def builds_nothing_here(kind: type[Executor]) -> bool:
    """Return whether it has the project's packages installed where its commands run.

    It says so by an attribute that others need not have, `BUILDS_NOTHING_HERE = True`.
    """
    return bool(getattr(kind, "BUILDS_NOTHING_HERE", False))


def is_known(name: str) -> bool:
    """Return whether there is an executor of this name, ours or of an installed package."""
    return name in EXECUTORS or bool(_installed(name))


def load(name: str) -> type[Executor]:
    """Return the executor of this name; raises UsageError where there is none, or it is broken."""
    from importlib import import_module

    if name in EXECUTORS:
        module, _, attribute = EXECUTORS[name].partition(":")
        return cast("type[Executor]", getattr(import_module(module), attribute))
    from buildrun.errors import UsageError

    for entry_point in _installed(name):
        try:
            return cast("type[Executor]", entry_point.load())
        except Exception as error:
            raise UsageError(
                f"the executor `{name}` cannot be loaded: {error!r}",
                hint=f"it is `{entry_point.value}` of the entry point group {ENTRY_POINTS}",
            ) from error
    raise UsageError(f"there is no executor `{name}`", hint=f"known: {', '.join(EXECUTORS)}")


def _installed(name: str) -> Sequence[Any]:
    from importlib.metadata import entry_points

    return tuple(entry_points(group=ENTRY_POINTS, name=name))
