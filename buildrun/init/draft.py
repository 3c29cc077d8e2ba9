"""An MLproject to be: its entry points, and its text with what a reader should know as comments."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from buildrun.console import broken, listed, printable
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.model import Parameter
from buildrun.project.read import read_project
from buildrun.store.memo import DependencyTracker

_WIDTH = 100  # columns
_MOST_NAMES = 8  # in a note about several entry points
_WRITTEN_TOO = "missing-environment-file"  # no error: the file may be one of the draft's


class Proposal(NamedTuple):
    """An entry point as it is to be written."""

    name: str
    command: str  # a template in Python's format syntax
    parameters: Sequence[Parameter] = ()
    depends_on: Mapping[str, Sequence[str]] = {}  # by name, the parameters that are handed down
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    description: str = ""
    notes: Sequence[str] = ()  # what has no counterpart; comments


class Environment(NamedTuple):
    """The environment of a project: the key and the file in the MLproject."""

    key: str = ""  # `python_env` or `conda_env`; empty for none
    file: str = ""
    text: str = ""  # of the file, where it is to be written
    notes: Sequence[str] = ()


class Draft(NamedTuple):
    """The files of a project to be, by name, and what could not be taken over."""

    files: Mapping[str, str]
    entry_points: Sequence[str] = ()
    notes: Sequence[str] = ()  # each a line
    is_complete: bool = True  # False where a part is missing that was asked for


def draft(
    name: str, environment: Environment, proposals: Sequence[Proposal], notes: Sequence[str]
) -> Draft:
    """Return the files of a project; name: its own. notes: what is said of the whole."""
    files = {environment.file: environment.text} if environment.text else {}
    lines = list(_comments(notes, ""))
    if name.isprintable():
        lines.append(f"name: {scalar(name)}")
    if environment.key:
        lines.append(f"{environment.key}: {scalar(environment.file)}")
    lines += ["", "entry_points:"]
    for proposal in proposals:
        lines += [*_entry_point(proposal), ""]
    files["MLproject"] = "\n".join(lines)
    owners: dict[str, list[str]] = {}
    for item in proposals:
        for note in item.notes:
            owners.setdefault(note, []).append(item.name)
    told = [f"{listed(of, _MOST_NAMES)}: {note}" for note, of in owners.items()]
    names = [item.name for item in proposals]
    return Draft(files, names, [*notes, *told, *environment.notes])


def errors(made: Draft, root: str) -> list[Diagnostic]:
    """Return what makes a draft's MLproject invalid in a directory."""
    path = os.path.join(root, "MLproject")
    given = {os.path.realpath(path): made.files["MLproject"].encode()}
    found = read_project(root, DependencyTracker({}, given), path).files[0].diagnostics
    return [each for each in found if each.severity == "error" and each.code != _WRITTEN_TOO]


class _OneLine(yaml.SafeDumper):
    """Writes with escapes what could not stand on one line."""

    def choose_scalar_style(self) -> Any:
        """Return PyYAML's own choice, or double quotes where there are control characters."""
        text = str(getattr(self.event, "value", ""))
        return super().choose_scalar_style() if text.isprintable() else '"'


def scalar(value: object) -> str:
    """Return a value as YAML on one line, in quotes where it would be read otherwise."""
    text = yaml.dump(
        value, Dumper=_OneLine, default_flow_style=True, allow_unicode=True, width=float("inf"),
        sort_keys=False,
    )  # fmt: skip
    return str(text).removesuffix("\n").removesuffix("\n...")


def template(text: str) -> str:
    """Return text as it stands for itself in a command."""
    return text.replace("{", "{{").replace("}", "}}")


def comments(notes: Iterable[str]) -> str:
    """Return notes as lines of a YAML file."""
    return "".join(f"{line}\n" for line in _comments(notes, ""))


def _comments(notes: Iterable[str], indent: str) -> Iterator[str]:
    for note in notes:
        yield from broken(printable(note), _WIDTH, f"{indent}# ", f"{indent}#   ")


def _entry_point(proposal: Proposal) -> Iterator[str]:
    yield f"  {scalar(proposal.name)}:"
    yield from _comments(proposal.notes, "    ")
    if proposal.description:
        yield f"    description: {scalar(proposal.description)}"
    if proposal.parameters:
        yield "    parameters:"
        for parameter in proposal.parameters:
            yield f"      {scalar(parameter.name)}: {scalar(_declaration(parameter))}"
    if proposal.depends_on:
        yield "    depends_on:"
        for item in proposal.depends_on.items():
            yield f"      - {scalar(_dependency(item))}"
    for key, paths in (("inputs", proposal.inputs), ("outputs", proposal.outputs)):
        if paths:
            yield f"    {key}: {scalar(list(paths))}"
    yield f"    command: {_command(proposal.command)}"


def _declaration(parameter: Parameter) -> object:
    if parameter.default is None:
        return parameter.type
    return {"type": parameter.type, "default": _default(parameter)}


def _default(parameter: Parameter) -> object:
    """Return a number where YAML gives back its very text, else the text."""
    text = parameter.default
    number = yaml.safe_load(text) if text and parameter.type == "float" else text
    return number if isinstance(number, (int, float)) and str(number) == text else text


def _dependency(item: tuple[str, Sequence[str]]) -> Any:
    name, handed = item
    if not handed:
        return name
    return {"entry_point": name, "parameters": {each: f"{{{each}}}" for each in handed}}


def _command(command: str) -> str:
    lines = command.split("\n")
    if len(lines) == 1 or not all(map(str.isprintable, lines)) or lines[0][:1] in ("", " "):
        return scalar(command)
    return "\n".join(["|-", *(f"      {line}" if line else "" for line in lines)])
