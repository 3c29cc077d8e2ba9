"""What a project declares, as records without behaviour.

Named tuples, because a warm run must not pay for importing ``dataclasses``; and annotations that
are values, not texts, because ``typing`` compiles each text when the class is made.
"""

from typing import NamedTuple


class Parameter(NamedTuple):
    """A declared parameter of an entry point.

    type: any word is accepted, as in MLflow; ``string``, ``float``, ``path`` and ``uri`` act.
    default: the text that stands in the command when no value is given (``str`` of the YAML
        value), or None where a value is required.
    """

    name: str
    type: str = "string"
    default: str | None = None


class EntryPoint(NamedTuple):
    """A command that the project offers.

    command: a template in Python's format syntax.
    """

    name: str
    parameters: tuple[Parameter, ...]
    command: str


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

    def entry_point(self, name: str) -> EntryPoint | None:
        """Return the declared entry point of this name, or None."""
        for entry_point in self.entry_points:
            if entry_point.name == name:
                return entry_point
        return None
