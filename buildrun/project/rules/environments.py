"""Rules of python_env and conda files, requirements and Python versions."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from buildrun.errors import ProjectError
from buildrun.project.diagnostics import Findings, Path
from buildrun.project.model import CondaEnv, PythonEnv
from buildrun.project.rules.values import items
from buildrun.project.schemas import check_schema
from buildrun.store.memo import DependencyTracker

_VERSION = re.compile(r"\d+(\.\d+)*")


def read_python_env(findings: Findings, root: str | None, reader: DependencyTracker) -> PythonEnv:
    """Return what a python_env file declares; `-r` files are looked for below `root`, if given."""
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


def read_conda_env(findings: Findings, root: str | None, reader: DependencyTracker) -> CondaEnv:
    """Return what a conda file declares, as far as it can be read; root: as above."""
    document = findings.document
    value = document.value
    if _is_empty(findings):
        return CondaEnv(document.path)
    check_schema("conda", findings)
    if not isinstance(value, dict):
        return CondaEnv(document.path)
    listed = items(("dependencies",), value.get("dependencies"))
    pip = _pip(findings, listed)
    folders = () if root is None else (root, os.path.dirname(document.path))
    _check_files(findings, pip, folders, reader)
    variables = value.get("variables")
    return CondaEnv(
        document.path,
        None if value.get("name") is None else str(value["name"]),
        tuple(str(item) for _, item in items((), value.get("channels"))),
        tuple(item for _, item in listed if isinstance(item, str)),
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
    for where, item in items(path, given):
        if isinstance(item, str):
            found.append((where, item))
        elif isinstance(item, dict):
            found += _nested_pip(findings, where, item)
    _check_requirements(findings, found)
    return found


def _nested_pip(findings: Findings, path: Path, item: dict[Any, Any]) -> list[Line]:
    lines = items((*path, "pip"), item.get("pip"))
    if set(item) != {"pip"} or not all(isinstance(line, str) for _, line in lines):
        message = "a requirement must be a string, not a mapping"
        hint = "write one requirement a line, such as `- numpy==2.3.0`"
        findings.error("wrong-type", message, path, hint=hint)
        return []
    message = "a `pip` section belongs to conda files; MLflow fails on it, buildrun reads its lines"
    hint = "write its lines directly beneath `dependencies:`"
    findings.warning("nested-pip", message, path, hint=hint)
    return lines


def _pip(findings: Findings, dependencies: list[tuple[Path, Any]]) -> list[Line]:
    """Return the lines of the last pip section, the one that counts for conda and MLflow."""
    found: list[Line] = []
    sections = [
        ((*path, "pip"), item["pip"])
        for path, item in dependencies
        if isinstance(item, dict) and "pip" in item
    ]
    for number, (path, lines) in enumerate(sections):
        if number:
            message = "this second `pip` section replaces the one before"
            hint = "put all requirements into one section"
            findings.warning("duplicate-key", message, path, key=True, hint=hint)
        found = [line for line in items(path, lines) if isinstance(line[1], str)]
        _check_requirements(findings, found)
    return found


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
    reader: DependencyTracker,
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


def _texts(lines: list[Line]) -> tuple[str, ...]:
    return tuple(line for _, line in lines)


_PIN = re.compile(
    r"^(?P<package>python|pip|setuptools|wheel)"
    r"(?P<operator><|>|<=|>=|=|==|!=)?"
    r"(?P<version>[\d.]+)?$"
)


def as_python_env(conda: CondaEnv) -> tuple[PythonEnv, tuple[str, ...]]:
    """Return the virtualenv that MLflow makes of a conda environment, and what it leaves out.

    Raises ProjectError for a python that is listed without a version to take.
    """
    python: str | None = None
    build: list[str] = []
    dropped: list[str] = []
    for dependency in conda.dependencies:
        pin = _PIN.match(dependency)
        if pin is None:
            dropped.append(dependency)
        elif pin["package"] == "python" and not python:
            _refuse_unpinned(conda.path, dependency, pin["operator"])
            python = pin["version"]
        else:
            operator = "==" if pin["operator"] == "=" else pin["operator"] or ""
            build.append(pin["package"] + operator + (pin["version"] or ""))
    return PythonEnv(conda.path, python, tuple(build), conda.pip), tuple(dropped)


def _refuse_unpinned(path: str, dependency: str, operator: str | None) -> None:
    if operator is None:
        message = f"`{dependency}` names no version, which a virtualenv needs"
    elif operator in ("<", ">", "!="):
        message = f"`{dependency}` names no version to take: `{operator}` only excludes some"
    else:
        return
    raise ProjectError(message, place=path, hint="pin it, such as `python=3.12`")


_VERSION_NUMBER = (
    r"v?(\d+!)?\d+(\.\d+)*([._-]?(a|b|c|rc|alpha|beta|pre|preview)[._-]?\d*)?"
    r"(-\d+|[._-]?(post|rev|r)[._-]?\d*)?([._-]?dev[._-]?\d*)?"
)
_CLAUSE = (
    rf"((===\s*\S+)|(~=|<=|>=|<|>)\s*{_VERSION_NUMBER}(\+[\w.-]+)?"
    rf"|(==|!=)\s*{_VERSION_NUMBER}(\.\*|\+[\w.-]+)?)"
)
_REQUIREMENT = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\s*(\[[\w\s.,-]*\])?\s*"
    rf"(@\s*\S+|\(?\s*({_CLAUSE}\s*(,\s*{_CLAUSE}\s*)*,?)?\s*\)?)\s*",
    re.IGNORECASE,
)
# What pip looks for on the disk or fetches, and only then knows.
_PLACE = re.compile(
    r"\.|file:|.*(://|[/\\]|\$\{)|.*\.(whl|zip|t(ar\.)?(gz|bz2|xz|lzma)|tar)(\[[^]]*\])?$",
    re.IGNORECASE,
)
_COMMENT = re.compile(r"(^|\s)#.*$")
_OPTIONS = (
    "requirement=", "constraint=", "editable=", "index-url=", "extra-index-url=", "find-links=",
    "no-index", "no-binary=", "only-binary=", "pre", "prefer-binary", "require-hashes",
    "trusted-host=", "use-feature=", "hash=", "config-settings=", "global-option=",
    "install-option=",
)  # fmt: skip
_SHORT = {
    "-r": "--requirement", "-c": "--constraint", "-e": "--editable", "-i": "--index-url",
    "-f": "--find-links", "-C": "--config-settings",
}  # fmt: skip
# Options that pip heeds behind a requirement; others, which it knows, it ignores there.
OF_REQUIREMENTS = ("--hash", "--config-settings", "--global-option", "--install-option")
# What pip took until 2024, and uv does not: `>=1.*` is `>=1`, and `<=1.*` is `<1`.
_WILDCARD = re.compile(r"([<>])=?(\s*)(\d[\w.!]*?)\.\*")
_SINGLE_EQUALS = re.compile(r"(?P<name>[\w.-]+)\s*=\s*(?P<version>[\d.]+)(=.*)?")


class Parsed(NamedTuple):
    """A line as pip takes it apart."""

    requirement: str  # "" for options alone; an editable one begins with `-e`
    options: tuple[tuple[str, str], ...] = ()  # long names, and values ("" for flags)
    ignored: tuple[str, ...] = ()  # options that are without effect behind it


def parse(line: str) -> Parsed:
    """Take a line without comment apart; raises ValueError with what pip would not take."""
    from getopt import GetoptError, gnu_getopt

    words = line.split(" ")
    start = next((i for i, word in enumerate(words) if word.startswith("-")), len(words))
    requirement = re.sub(r"\s*;\s*$", "", " ".join(words[:start]).strip())
    options: list[tuple[str, str]] = []
    if start < len(words):
        import shlex

        try:
            found, _ = gnu_getopt(shlex.split(" ".join(words[start:])), "r:c:e:i:f:C:", _OPTIONS)
        except GetoptError as error:
            raise ValueError(error.msg) from None
        options = [(_SHORT.get(name, name), value.strip()) for name, value in found]
    editable = [value for name, value in options if name == "--editable"]
    if not requirement and editable:
        requirement = f"-e {editable[0]}"
    if not requirement:
        return Parsed("", tuple(options))
    kept = tuple(option for option in options if option[0] in OF_REQUIREMENTS)
    others = (name for name, _ in options if name not in (*OF_REQUIREMENTS, "--editable"))
    return Parsed(modern(requirement), kept, tuple(others))


def modern(requirement: str) -> str:
    """Return a requirement with the wildcards that pip once took replaced by what they mean."""

    def bound(match: re.Match[str]) -> str:
        operator, blank, version = match.groups()
        return f"{'>=' if operator == '>' else '<'}{blank}{version}"

    return requirement if "://" in requirement else _WILDCARD.sub(bound, requirement)


def is_valid(line: str) -> bool:
    """Return whether pip can take a line; options, paths, URLs and variables pass unread."""
    text = re.split(r"\s#|^#", line, maxsplit=1)[0].strip()
    text = re.split(r"\s--?[A-Za-z]", text.split(";", 1)[0], maxsplit=1)[0].strip()
    if not text or text.startswith("-") or _PLACE.match(text):
        return True
    return len(text) < 1000 and _REQUIREMENT.fullmatch(text) is not None


def remedy(line: str) -> str:
    """Return what an invalid line should be, as a hint."""
    match = _SINGLE_EQUALS.fullmatch(line.strip())
    if match:
        return f"pip pins with two signs: `{match['name']}=={match['version']}`"
    if (meant := modern(line)) != line:
        return f"only old versions of pip take it; write `{meant}`"
    return "write it as `name==version`"


def named_file(line: str) -> str | None:
    """Return the local file that a ``-r`` or ``-c`` line names, or None."""
    requirement, options, _ = _parsed(line)
    names = [value for option, value in options if option in ("--requirement", "--constraint")]
    if requirement or not names or "://" in names[0] or "${" in names[0]:
        return None
    return names[0]


def ignored(line: str) -> tuple[str, ...]:
    """Return the options behind a requirement that pip takes and ignores."""
    return _parsed(line).ignored


def _parsed(line: str) -> Parsed:
    try:
        return parse(_COMMENT.sub("", line).strip())
    except ValueError:
        return Parsed("")


Version = tuple[int, ...]

_PYTHON_CLAUSE = re.compile(r"^(===|==|~=|!=|<=|>=|<|>|=)?\s*([0-9]+(?:\.[0-9]+)*)(\.\*)?$")


def fits(version: str, request: str) -> bool:
    """Return whether a full version satisfies a request; an unreadable request fits nothing."""
    have = parse_version(version)
    return all(_satisfies(have, clause.strip()) for clause in request.split(","))


def is_readable(request: str) -> bool:
    """Return whether a request has a form that ``fits`` understands."""
    return all(_PYTHON_CLAUSE.match(clause.strip()) for clause in request.split(","))


def _satisfies(have: Version, clause: str) -> bool:
    match = _PYTHON_CLAUSE.match(clause)
    if match is None:
        return False
    operator, want = match.group(1) or "", parse_version(match.group(2))
    head = have[: len(want)]
    if operator in ("", "=", "==", "==="):
        return head == want
    if operator == "!=":
        return head != want
    if operator == "~=":
        return head >= want and have[: len(want) - 1] == want[:-1]
    return {
        "<": have < want,
        "<=": head <= want,
        ">": head > want,
        ">=": have >= want,
    }[operator]


def parse_version(version: str) -> Version:
    """Return the numbers of a version such as ``3.11.7``."""
    return tuple(int(part) for part in version.split("."))
