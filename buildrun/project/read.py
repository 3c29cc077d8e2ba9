"""Reading and checking projects: MLproject files and the environment files that they name."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from buildrun.console import did_you_mean
from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Diagnostic, Findings
from buildrun.project.locate import CONDA_ENV, PYTHON_ENV, find_mlproject, scripts_in
from buildrun.project.model import DockerEnv, EnvironmentSpec, ProjectSpec, PythonEnv
from buildrun.project.rules.backends import (
    DATABRICKS_KEYS,
    KEYS,
    check_databricks_config,
    check_kubernetes,
    load_json,
    read_docker_env,
)
from buildrun.project.rules.environments import read_conda_env, read_python_env
from buildrun.project.rules.inputs import unmatched
from buildrun.project.rules.outputs import reserved
from buildrun.project.rules.project import (
    ENVIRONMENTS,
    check_environment_keys,
    check_key_env,
    entry_point_of,
    read_entry_points,
    read_name,
    read_spark_job,
)
from buildrun.project.schemas import check_schema
from buildrun.project.yaml_loader import Document, load
from buildrun.store.memo import DependencyTracker


class FileReading(NamedTuple):
    """What was found about one file, or about a directory without an MLproject."""

    path: str
    diagnostics: tuple[Diagnostic, ...]


class Reading(NamedTuple):
    """A project as far as it can be read, and the findings by file, the MLproject's first."""

    spec: ProjectSpec | None  # None only where nothing can be read
    files: tuple[FileReading, ...]

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """Return the findings about all files."""
        return tuple(finding for file in self.files for finding in file.diagnostics)


def read_project(root: str, reader: DependencyTracker, file: str | None = None) -> Reading:
    """Read the project in a directory, from its MLproject or else from `file`; never raises."""
    root = os.path.abspath(root)
    try:
        file = file or find_mlproject(root)
    except ProjectError as error:
        reader.executable(root)  # so that a change of the directory is noticed
        finding = Diagnostic("error", "unreadable-file", error.message, root, hint=error.hint or "")
        return Reading(None, (FileReading(root, (finding,)),))
    if file is None:
        return _without_mlproject(root, reader)
    document = load(file, reader)
    if isinstance(document, Diagnostic):
        return Reading(None, (FileReading(file, (document,)),))
    return _with_mlproject(root, document, reader)


def read_environment(
    file: EnvironmentFile, root: str | None, reader: DependencyTracker
) -> tuple[EnvironmentSpec, FileReading]:
    """Read an environment file; root: the project's, or None for a file on its own."""
    document = load(file.path, reader)
    if isinstance(document, Diagnostic):
        return PythonEnv(), FileReading(file.path, (document,))
    findings = Findings(document)
    read = read_conda_env if file.is_conda else read_python_env
    environment = read(findings, root, reader)
    return environment, FileReading(file.path, findings.sorted())


def _without_mlproject(root: str, reader: DependencyTracker) -> Reading:
    reader.exists(os.path.join(root, "MLproject"))  # so that its arrival is noticed
    environment, files = _environment(None, root, reader)
    spec = ProjectSpec(_directory_name(root), root, None, (), environment)
    misnamed = [
        Diagnostic(
            "warning",
            "misnamed-file",
            f"`{name}` is ignored: the file must be called `MLproject`",
            os.path.join(root, name),
            hint="rename it to `MLproject`",
        )
        for name in sorted(os.listdir(root))
        if is_misnamed(name)
    ]
    return Reading(spec, (FileReading(root, tuple(misnamed)), *files))


def is_misnamed(name: str) -> bool:
    """Return whether a file's name is that of an MLproject with a suffix, which MLflow ignores."""
    return name.lower() in ("mlproject.yaml", "mlproject.yml")


def _with_mlproject(root: str, document: Document, reader: DependencyTracker) -> Reading:
    findings = Findings(document)
    if document.value is None:
        message = "the file is empty; MLflow fails on it, buildrun reads no entry points"
        findings.warning("empty-file", message, hint="declare an entry point, or remove the file")
    else:
        check_schema("MLproject", findings)
    if not isinstance(document.value, dict | None):
        return Reading(None, (FileReading(document.path, findings.sorted()),))
    environment, files = _environment(findings, root, reader)
    spec = _spec(findings, root, environment)
    return Reading(spec, (FileReading(document.path, findings.sorted()), *files))


def _spec(findings: Findings, root: str, environment: EnvironmentSpec) -> ProjectSpec:
    path, name = findings.document.path, _directory_name(root)
    if findings.document.value is None:
        return ProjectSpec(name, root, path, (), environment)
    check_environment_keys(findings)
    job = read_spark_job(findings)
    files = {path: "the MLproject file"}
    if not isinstance(environment, DockerEnv) and environment.path is not None:
        files[environment.path] = "the environment file"
    entry_points = read_entry_points(findings, reserved(root, files))
    if job is not None and (only := entry_point_of(job)):
        entry_points = (only,)  # beside it MLflow takes no others
    check_key_env(findings, environment, entry_points)
    return ProjectSpec(read_name(findings, name), root, path, entry_points, environment, job)


def _environment(
    findings: Findings | None, root: str, reader: DependencyTracker
) -> tuple[EnvironmentSpec, list[FileReading]]:
    """Return the environment, the default one where what is declared cannot be read."""
    chosen: list[EnvironmentSpec] = []
    readings = []
    value: Any = findings.document.value if findings is not None else None
    if findings is not None and isinstance(value, dict) and value.get("docker_env"):
        docker = read_docker_env(findings)
        chosen += [docker] if docker is not None else []
    for file in _environment_files(findings, root, reader):
        environment, reading = read_environment(file, root, reader)
        chosen.append(environment)
        readings.append(reading)
    return (chosen[0] if chosen else PythonEnv()), readings


def _directory_name(root: str) -> str:
    return os.path.basename(root) or "project"


class EnvironmentFile(NamedTuple):
    """A file to read the environment from."""

    is_conda: bool
    path: str


def _environment_files(
    findings: Findings | None, root: str, reader: DependencyTracker
) -> Iterator[EnvironmentFile]:
    """Yield the environment files that the project names, else the one that MLflow picks."""
    value: Any = findings.document.value if findings is not None else None
    value = value if isinstance(value, dict) else {}
    if isinstance(value.get("databricks_spark_job"), dict):
        return
    named = [key for key in ("python_env", "conda_env") if value.get(key)]
    for key in named:
        if findings is not None and isinstance(value[key], str):
            yield from _named(findings, key, root, reader)
    for name in (PYTHON_ENV, CONDA_ENV) if not named and not value.get("docker_env") else ():
        path = os.path.join(root, name)
        if reader.exists(path):
            yield EnvironmentFile(name == CONDA_ENV, path)
            return


def _named(
    findings: Findings, key: str, root: str, reader: DependencyTracker
) -> Iterator[EnvironmentFile]:
    name = findings.document.value[key]
    path = os.path.join(root, name)
    if ".." not in name.split("/"):
        path = os.path.normpath(path)  # never over `..`: a link may stand before it
    if not reader.exists(path):
        message = f"the environment file `{name[:200]}` does not exist"
        findings.error("missing-environment-file", message, (key,), hint=_near(path))
    elif os.path.isdir(path):
        message = f"the environment file `{name[:200]}` is a directory"
        reader.executable(path)  # so that a file in its place is noticed
        findings.error("missing-environment-file", message, (key,), hint="name the file in it")
    else:
        yield EnvironmentFile(key == "conda_env", path)


def _near(path: str) -> str:
    directory, wanted = os.path.split(path)
    try:
        names = [name for name in os.listdir(directory) if name.endswith((".yaml", ".yml"))]
    except (OSError, ValueError):
        names = []
    return did_you_mean(wanted, names) or "the path is relative to the directory of MLproject"


Kind = Literal["mlproject", "python_env", "conda", "kubernetes", "databricks"]

# What a file is by its name, in lower case, or else by any of its keys.
_NAMES: Mapping[Kind, str] = {
    "mlproject": r"mlproject(\.ya?ml)?",
    "python_env": r"python_env.*\.ya?ml",
    "conda": r"(conda|environment).*\.ya?ml",
}
_KEYS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (KEYS, "kubernetes"),
    (DATABRICKS_KEYS, "databricks"),
    (("entry_points", *ENVIRONMENTS, "databricks_spark_job"), "mlproject"),
    (("channels", "prefix"), "conda"),
    (("python", "build_dependencies"), "python_env"),
    (("dependencies",), "conda"),
)


class Row(NamedTuple):
    """The verdict on one file, or on a directory without an MLproject."""

    argument: str  # what was asked about
    path: str  # absolute
    diagnostics: tuple[Diagnostic, ...]

    def is_valid(self, *, strict: bool = False) -> bool:
        """Return whether there is no error and, when strict, no warning either."""
        return not any(strict or found.severity == "error" for found in self.diagnostics)


def check_files(arguments: Sequence[str], cwd: str, reader: DependencyTracker) -> tuple[Row, ...]:
    """Check files, and projects with the environment files that they use; never raises."""
    rows: list[Row] = []
    for argument in arguments:
        path = os.path.normpath(os.path.join(cwd, argument)) if argument else cwd
        if not argument:
            missing = Diagnostic("error", "missing-file", "the path is empty", cwd)
            rows.append(Row(argument, cwd, (missing,)))
        elif os.path.isdir(path):
            rows += [Row(argument, *file) for file in check_project(path, reader)]
        else:
            rows.append(Row(argument, path, _check_file(path, cwd, reader)))
    return tuple(rows)


def check_project(root: str, reader: DependencyTracker) -> tuple[FileReading, ...]:
    """Check a project's files; a directory without any is an error of its own."""
    found = read_project(root, reader)
    files = _with_unmatched(found)
    empty = found.spec is not None and not found.spec.file and len(files) == 1
    if not empty or files[0].diagnostics or scripts_in(root):
        return files
    message = "there is neither an MLproject nor an environment file here, nor a script to run"
    hint = "name a project's directory; `buildrun validate` alone finds all of the repository"
    path = files[0].path
    return (FileReading(path, (Diagnostic("error", "no-project", message, path, hint=hint),)),)


def check_content(content: bytes, path: str, cwd: str, environ: Mapping[str, str]) -> Row:
    """Check a file by content that may not be on the disk yet; never raises."""
    reader = DependencyTracker(environ, {os.path.realpath(path): content})
    return Row("-", path, _check_file(path, cwd, reader))


def _check_file(path: str, cwd: str, reader: DependencyTracker) -> tuple[Diagnostic, ...]:
    name = os.path.basename(path).lower()
    kind = next((kind for kind in _NAMES if re.fullmatch(_NAMES[kind], name, re.DOTALL)), None)
    document: Document | Diagnostic | None = None
    if kind is None:
        document = (load_json if name.endswith(".json") else load)(path, reader)
        if isinstance(document, Diagnostic):
            return (document,)
        keys = document.value if isinstance(document.value, dict) else {}
        kind = next((kind for known, kind in _KEYS if not keys.keys().isdisjoint(known)), None)
    if kind is None:
        message = "this is neither an MLproject nor an environment file"
        hint = "name the project's directory, its MLproject or its environment file"
        return (Diagnostic("error", "unknown-file", message, path, hint=hint),)
    if kind == "mlproject":
        return _check_mlproject(path, reader)
    if kind in ("kubernetes", "databricks") and isinstance(document, Document):
        findings = Findings(document)
        if kind == "kubernetes":
            check_kubernetes(findings, cwd, reader)
        else:
            check_databricks_config(findings)
        return findings.sorted()
    return read_environment(EnvironmentFile(kind == "conda", path), None, reader)[1].diagnostics


def _check_mlproject(path: str, reader: DependencyTracker) -> tuple[Diagnostic, ...]:
    found = _with_unmatched(read_project(os.path.dirname(path), reader, path))[0].diagnostics
    if not is_misnamed(os.path.basename(path)):
        return found
    message = "MLflow ignores this file: it must be called `MLproject`"
    hint = "rename it to `MLproject`"
    return (Diagnostic("warning", "misnamed-file", message, path, hint=hint), *found)


def _with_unmatched(found: Reading) -> tuple[FileReading, ...]:
    """Return the findings file by file, with those that only a look at the disk brings."""
    spec = found.spec
    if spec is None or spec.file is None or not any(item.inputs for item in spec.entry_points):
        return found.files
    first, *rest = found.files
    told = {(item.line, item.column) for item in first.diagnostics if item.severity == "error"}
    more = [item for item in unmatched(spec) if (item.line, item.column) not in told]
    every = sorted((*first.diagnostics, *more), key=lambda item: (item.line, item.column))
    return FileReading(first.path, tuple(every)), *rest
