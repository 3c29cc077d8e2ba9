"""What a project declares: entry points, parameters, environment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from buildrun.project.diagnostics import Path


class Parameter(NamedTuple):
    """A declared parameter of an entry point."""

    name: str
    type: str = "string"  # any word; `string`, `float`, `path` and `uri` act
    default: str | None = None  # as text; None where a value is required
    secret: bool = False  # is not to be shown or kept


class Dependency(NamedTuple):
    """An entry point that has to be done first."""

    entry_point: str
    parameters: tuple[tuple[str, str], ...] = ()  # each value is a template


class Pattern(NamedTuple):
    """An input pattern as it was written, with its place in the MLproject file, from 1."""

    text: str
    line: int
    column: int


class Sandbox(NamedTuple):
    """What a command is kept from: project files that it does not declare, and perhaps more.

    required: False where it may run without, if this machine cannot do it. network: whether it may
    use the network. allow: paths out of the project that it may read; absolute, or below `~`.
    """

    required: bool = True
    network: bool = True
    allow: tuple[str, ...] = ()


class EntryPoint(NamedTuple):
    """A command that the project offers."""

    name: str
    parameters: tuple[Parameter, ...]
    command: str  # a template in Python's format syntax
    depends_on: tuple[Dependency, ...] = ()
    inputs: tuple[Pattern, ...] | None = None  # None: every file that git would not ignore
    outputs: tuple[str, ...] = ()  # normalised and relative; a directory ends in a slash
    env: tuple[tuple[str, str], ...] = ()  # part of the key
    pass_env: tuple[str, ...] = ()  # taken from the caller, no part of the key
    timeout: float | None = None  # seconds
    retries: int = 0  # how often a failed command is tried again
    key_env: tuple[str, ...] = ()  # taken from the caller, part of the key
    check_inputs: bool = False  # whether it is watched for what it reads and does not declare
    sandbox: Sandbox | None = None  # None: it may read all that its user may


class PythonEnv(NamedTuple):
    """A virtualenv environment (`python_env.yaml`)."""

    path: str | None = None  # None for MLflow's default
    python: str | None = None  # None for the version that runs buildrun
    build_dependencies: tuple[str, ...] = ()  # lines of pip's, relative to the project's root
    dependencies: tuple[str, ...] = ()


class CondaEnv(NamedTuple):
    """A conda environment (`conda.yaml`)."""

    path: str
    name: str | None = None
    channels: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()  # match specs as written
    pip: tuple[str, ...] = ()  # the lines of the `pip:` section
    variables: tuple[tuple[str, str], ...] = ()


class DockerEnv(NamedTuple):
    """A docker environment."""

    image: str
    volumes: tuple[str, ...] = ()
    environment: tuple[str | tuple[str, str], ...] = ()  # a lone name is copied from the caller


EnvironmentSpec = PythonEnv | CondaEnv | DockerEnv


class SparkJob(NamedTuple):
    """A job of Databricks (`databricks_spark_job`), see `docs/databricks.md`."""

    python_file: str | None = None  # where there is one, the only entry point runs it
    parameters: tuple[str, ...] = ()  # its arguments
    python_libraries: tuple[str, ...] = ()  # requirements to install on the cluster


class ProjectSpec(NamedTuple):
    """A project as its files declare it."""

    name: str
    root: str  # the absolute directory that commands run in
    file: str | None  # the absolute path of its MLproject
    entry_points: tuple[EntryPoint, ...]
    environment: EnvironmentSpec
    spark_job: SparkJob | None = None

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the outputs of all entry points, sorted."""
        return tuple(sorted({path for point in self.entry_points for path in point.outputs}))

    def entry_point(self, name: str) -> EntryPoint | None:
        """Return the declared entry point of this name, or None."""
        for entry_point in self.entry_points:
            if entry_point.name == name:
                return entry_point
        return None


class Declared(NamedTuple):
    """An entry point as it is checked against the others, with or without a command."""

    path: "Path"
    parameters: tuple[Parameter, ...]  # those that can be read
    defaults: Mapping[str, str | None] | None  # all, None where a value is required; or unreadable
    depends_on: "tuple[tuple[Path, Dependency], ...]"
    inputs: "tuple[tuple[Path, Pattern], ...]"
    outputs: "tuple[tuple[Path, str], ...]"

    @property
    def name(self) -> str:
        """Return the entry point's name."""
        return str(self.path[-1])
