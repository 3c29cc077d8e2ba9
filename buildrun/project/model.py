"""What a project declares: entry points, parameters, environment."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from buildrun.project.diagnostics import Path


class Parameter(NamedTuple):
    """A declared parameter of an entry point.

    type: any word is accepted, as in MLflow; ``string``, ``float``, ``path`` and ``uri`` act.
    default: the text that stands in the command when no value is given (``str`` of the YAML
        value), or None where a value is required.
    secret: whether its values are not to be shown or kept.
    """

    name: str
    type: str = "string"
    default: str | None = None
    secret: bool = False


class Dependency(NamedTuple):
    """An entry point that has to be done first.

    parameters: what is handed down; each value is a template in Python's format syntax, filled
        with the parameters of the entry point that depends on it.
    """

    entry_point: str
    parameters: tuple[tuple[str, str], ...] = ()


class Pattern(NamedTuple):
    """An input pattern as it was written, with its place in the MLproject file, from 1."""

    text: str
    line: int
    column: int


class EntryPoint(NamedTuple):
    """A command that the project offers.

    command: a template in Python's format syntax.
    inputs: None stands for every project file that git would not ignore.
    outputs: normalised POSIX paths relative to the root; ``directory/`` ends in a slash. With
        outputs the result is cached.
    env: variables set for the command, part of the key. pass_env: names of variables taken from
        the caller, not part of the key.
    timeout: seconds, or None for no limit. retries: how often a failed command is tried again.
    """

    name: str
    parameters: tuple[Parameter, ...]
    command: str
    depends_on: tuple[Dependency, ...] = ()
    inputs: tuple[Pattern, ...] | None = None
    outputs: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    pass_env: tuple[str, ...] = ()
    timeout: float | None = None
    retries: int = 0


class PythonEnv(NamedTuple):
    """A virtualenv environment (``python_env.yaml``).

    path: the file it was read from, or None for MLflow's default (the running Python, nothing
        installed).
    python: the version asked for, or None for the version that runs buildrun.
    build_dependencies, dependencies: lines as pip's requirements files have them; paths in
        them are relative to the project's root.
    """

    path: str | None = None
    python: str | None = None
    build_dependencies: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()


class CondaEnv(NamedTuple):
    """A conda environment (``conda.yaml``).

    dependencies: match specs as written; pip: the lines of the ``pip:`` section;
    variables: pairs from the ``variables:`` section.
    """

    path: str
    name: str | None = None
    channels: tuple[str, ...] = ()
    dependencies: tuple[str, ...] = ()
    pip: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


class DockerEnv(NamedTuple):
    """A docker environment.

    environment: a pair defines a variable, a lone name copies it from the caller.
    """

    image: str
    volumes: tuple[str, ...] = ()
    environment: tuple[str | tuple[str, str], ...] = ()


EnvironmentSpec = PythonEnv | CondaEnv | DockerEnv


class ProjectSpec(NamedTuple):
    """A project as its files declare it.

    root: the absolute directory that commands run in.
    file: the absolute path of its MLproject file, or None when it has none.
    """

    name: str
    root: str
    file: str | None
    entry_points: tuple[EntryPoint, ...]
    environment: EnvironmentSpec

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
    """An entry point as it is checked against the others, with or without a command.

    path: its own. parameters: those that can be read. defaults: all with their default text, None
    where a value is required; None instead where the parameters cannot be read.
    """

    path: "Path"
    parameters: tuple[Parameter, ...]
    defaults: Mapping[str, str | None] | None
    depends_on: "tuple[tuple[Path, Dependency], ...]"
    inputs: "tuple[tuple[Path, Pattern], ...]"
    outputs: "tuple[tuple[Path, str], ...]"

    @property
    def name(self) -> str:
        """Return the entry point's name."""
        return str(self.path[-1])
