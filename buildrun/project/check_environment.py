"""What python_env and conda files mean."""

from __future__ import annotations

import os
import re
from typing import Any

from buildrun.memo import Reader
from buildrun.project.check_schema import check_schema
from buildrun.project.compose import Path
from buildrun.project.findings import Findings
from buildrun.project.python_version import is_readable
from buildrun.project.requirement import ignored, is_valid, named_file, remedy
from buildrun.project.spec import CondaEnv, PythonEnv

_VERSION = re.compile(r"\d+(\.\d+)*")


def read_python_env(findings: Findings, root: str | None, reader: Reader) -> PythonEnv:
    """Return what a python_env file declares, as far as it can be read.

    root: the directory that ``-r`` lines are relative to; None leaves those files unchecked.
    """
    document = findings.document
    value = document.value
    if _is_empty(findings):
        return PythonEnv(document.path)
    _check_conda_lookalike(findings)
    check_schema("python_env", findings)
    if not isinstance(value, dict):
        return PythonEnv(document.path)
    folders = () if root is None else (root,)
    build = _requirements(findings, ("build_dependencies",), value.get("build_dependencies"))
    lines = _requirements(findings, ("dependencies",), value.get("dependencies"))
    _check_files(findings, (*build, *lines), folders, reader)
    return PythonEnv(document.path, _python(findings), _texts(build), _texts(lines))


def read_conda_env(findings: Findings, root: str | None, reader: Reader) -> CondaEnv:
    """Return what a conda file declares, as far as it can be read; root: as above."""
    document = findings.document
    value = document.value
    if _is_empty(findings):
        return CondaEnv(document.path)
    check_schema("conda", findings)
    if not isinstance(value, dict):
        return CondaEnv(document.path)
    given = value.get("dependencies")
    items = list(enumerate(given)) if isinstance(given, list) else []
    pip = _pip(findings, items)
    folders = () if root is None else (root, os.path.dirname(document.path))
    _check_files(findings, pip, folders, reader)
    variables = value.get("variables")
    return CondaEnv(
        document.path,
        None if value.get("name") is None else str(value["name"]),
        tuple(str(item) for item in _list(value.get("channels"))),
        tuple(item for _, item in items if isinstance(item, str)),
        _texts(pip),
        tuple(
            (str(name), str(text))
            for name, text in (variables.items() if isinstance(variables, dict) else ())
        ),
    )


Line = tuple[Path, str]


def _is_empty(findings: Findings) -> bool:
    if findings.document.value is not None:
        return False
    message = (
        "the file is empty; MLflow fails on it, buildrun reads an environment without packages"
    )
    hint = "list the dependencies or remove the file"
    findings.warning("empty-file", message, hint=hint)
    return True


def _check_conda_lookalike(findings: Findings) -> None:
    value = findings.document.value
    if not isinstance(value, dict) or "channels" not in value:
        return
    for key in value:
        if key not in ("python", "build_dependencies", "dependencies"):
            message = f"unknown key `{str(key)[:60]}`: this is a conda environment file"
            hint = "name it as `conda_env:` in MLproject instead of `python_env:`"
            findings.error("unknown-key", message, (key,), key=True, hint=hint)


def _python(findings: Findings) -> str | None:
    value = findings.document.value.get("python")
    if isinstance(value, str) and value and not is_readable(value):
        message = f"`{value[:60]}` is not a Python version"
        hint = "ask for one such as `3.12`, `3.12.1` or `>=3.10,<3.13`"
        findings.error("bad-version", message, ("python",), hint=hint)
    if value is None or isinstance(value, str):
        return value or None
    raw = findings.document.raw(("python",)) or ""
    if isinstance(value, (int, float)) and _VERSION.fullmatch(raw):
        return raw
    if not isinstance(value, (dict, list, bool)):
        message = f"`{raw[:60]}` is not a Python version"
        hint = 'write the version in quotes, such as `python: "3.12"`'
        findings.error("wrong-type", message, ("python",), hint=hint)
    return None


def _requirements(findings: Findings, path: Path, given: object) -> list[Line]:
    found: list[Line] = []
    for index, item in enumerate(_list(given)):
        where = (*path, index)
        if isinstance(item, str):
            found.append((where, item))
        elif isinstance(item, dict):
            found += _nested_pip(findings, where, item)
    _check_requirements(findings, found)
    return found


def _nested_pip(findings: Findings, path: Path, item: dict[Any, Any]) -> list[Line]:
    lines = item.get("pip")
    if set(item) != {"pip"} or not all(isinstance(line, str) for line in _list(lines)):
        message = "a requirement must be a string, not a mapping"
        hint = "write one requirement a line, such as `- numpy==2.3.0`"
        findings.error("wrong-type", message, path, hint=hint)
        return []
    message = "a `pip` section belongs to conda files; MLflow fails on it, buildrun reads its lines"
    hint = "write its lines directly beneath `dependencies:`"
    findings.warning("nested-pip", message, path, hint=hint)
    return [((*path, "pip", index), line) for index, line in enumerate(_list(lines))]


def _pip(findings: Findings, items: list[tuple[int, Any]]) -> list[Line]:
    """Return the lines of the last pip section, the one that counts for conda and MLflow."""
    found: list[Line] = []
    sections = [(index, item["pip"]) for index, item in items if _is_pip(item)]
    for position, (index, lines) in enumerate(sections):
        path = ("dependencies", index, "pip")
        if position:
            message = "this second `pip` section replaces the one before"
            hint = "put all requirements into one section"
            findings.warning("duplicate-key", message, path, key=True, hint=hint)
        found = [
            ((*path, number), line)
            for number, line in enumerate(_list(lines))
            if isinstance(line, str)
        ]
        _check_requirements(findings, found)
    return found


def _is_pip(item: object) -> bool:
    return isinstance(item, dict) and "pip" in item


def _check_requirements(findings: Findings, lines: list[Line]) -> None:
    for path, line in lines:
        if not is_valid(line):
            message = f"pip cannot read the requirement `{line[:80]}`"
            findings.warning("invalid-requirement", message, path, hint=remedy(line))
        if options := " ".join(ignored(line)):
            message = f"pip ignores `{options}` behind a requirement"
            hint = "give each option a line of its own, or leave it out"
            findings.warning("ignored-option", message, path, hint=hint)


def _check_files(
    findings: Findings,
    lines: tuple[Line, ...] | list[Line],
    folders: tuple[str, ...],
    reader: Reader,
) -> None:
    for path, line in lines if folders else ():
        name = named_file(line)
        places = [os.path.join(folder, name) for folder in folders] if name else []
        if name and not any(reader.exists(place) for place in places):
            message = f"there is no file `{name[:80]}` in the project"
            hint = "paths in requirements are relative to the project's root"
            findings.error("missing-requirements-file", message, path, hint=hint)
        elif name and not any(os.path.isfile(place) for place in places):
            directory = any(os.path.isdir(place) for place in places)
            kind = "directory" if directory else "device, pipe or socket"
            message = f"`{name[:80]}`: this is a {kind}, not a file"
            findings.error("not-a-file", message, path, hint="put a file in its place")


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(lines: list[Line]) -> tuple[str, ...]:
    return tuple(line for _, line in lines)
