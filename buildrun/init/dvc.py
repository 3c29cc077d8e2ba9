"""A DVC pipeline as an MLproject: stages become entry points, what has no counterpart is told."""

from __future__ import annotations

import graphlib
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.init import dvc_command, python_env, scripts
from buildrun.init.draft import Draft, Proposal, draft, errors
from buildrun.init.dvc_values import (
    Reference,
    Unreadable,
    Values,
    load_document,
    load_file,
    load_vars,
    read_value,
    to_text,
)
from buildrun.project.diagnostics import Diagnostic, Path, pointer
from buildrun.project.model import Parameter
from buildrun.store.files import is_within
from buildrun.store.memo import DependencyTracker

_PARAMS = "params.yaml"
_HINT = "is it a `dvc.yaml`?"
_READ = frozenset(
    ("cmd", "wdir", "deps", "params", "outs", "metrics", "plots", "vars", "frozen",
     "always_changed", "desc", "matrix")
)  # fmt: skip
_TOLD = {
    "always_changed": "runs each time, without `outputs`",
    "frozen": "frozen: nothing depends on it, and it runs only when asked for with `-e`",
}
# What an output may say without a difference here.
_OUTPUT = frozenset(
    ("cache", "desc", "type", "labels", "meta", "x", "y", "x_label", "y_label", "title", "template",
     "header")
)  # fmt: skip
_GLOB = re.compile(r"([*?\[\\])")


class _Given(NamedTuple):
    """A stage as it stands in the file; wdir: relative to the root."""

    name: str
    definition: Any
    values: Values
    where: Path
    wdir: str = "."


class _Stage(NamedTuple):
    """A stage that was read, all but the parameters of its command."""

    name: str
    given: _Given
    pieces: Sequence[str | Reference]
    local: frozenset[str]  # names whose values belong to this stage alone
    inputs: Sequence[str]
    outputs: Sequence[str]
    description: str
    notes: Sequence[str]
    is_frozen: bool
    always: bool  # runs each time


def convert(path: str, environ: Mapping[str, str]) -> Draft:
    """Return the project that a dvc.yaml describes, beside it; raises ProjectError."""
    root = os.path.dirname(os.path.abspath(path))
    pipeline = _Pipeline(path, root, DependencyTracker(environ))
    stages = list(pipeline.stages())
    environment = python_env.environment(root, lambda: scripts.find(root).trees)
    while stages:
        head = [f"Taken over from {os.path.basename(path)} by `buildrun init`.", *pipeline.notes]
        proposals = _proposals(stages, pipeline.fixed)
        made = draft(os.path.basename(root) or "project", environment, proposals, head)
        kept = list(pipeline.valid(stages, errors(made, root)))
        if len(kept) == len(stages):
            return made._replace(notes=made.notes[1:], is_complete=not pipeline.is_lossy)
        stages = kept
    message = "; ".join(("no stage can be taken over", *pipeline.notes))
    raise ProjectError(message, place=path, hint=_HINT)


class _Pipeline:
    """A dvc.yaml, read stage by stage."""

    def __init__(self, path: str, root: str, reader: DependencyTracker) -> None:
        """Read the file; raises ProjectError."""
        self.notes: list[str] = []
        self.fixed: set[str] = set()  # references that stand in paths
        self.is_lossy = False  # whether a stage was left out
        self._root, self._reader = root, reader
        self._document = load_document(path, reader)
        self._value = read_value(self._document)
        if not isinstance(self._value, dict) or not isinstance(self._value.get("stages"), dict):
            raise ProjectError("there are no `stages`", place=path, hint=_HINT)
        for key in self._value:
            if key not in ("stages", "vars"):
                self.notes.append(self._told((key,), f"`{key}` at the top has no counterpart"))

    def stages(self) -> Iterator[_Stage]:
        """Yield the stages that can be read; the others are noted."""
        values = self._values()
        names: set[str] = set()
        for name, definition in self._value["stages"].items():
            given = _Given(str(name), definition, values, ("stages", name))
            try:
                every = list(_expanded(given))
            except Unreadable as unreadable:
                self._leave_out(given, unreadable)
                continue
            for each in every:
                try:
                    if each.name in names:
                        raise Unreadable("another one has its name")
                    names.add(each.name)
                    yield self._stage(each)
                except (Unreadable, ProjectError) as error:
                    self._leave_out(each, error)

    def valid(self, stages: Sequence[_Stage], found: Sequence[Diagnostic]) -> Iterator[_Stage]:
        """Yield the stages about which no error was found in the MLproject; note the others."""
        bad = {"/".join(error.pointer.split("/")[:3]): error.message for error in reversed(found)}
        for stage in stages:
            if message := bad.get(pointer(("entry_points", stage.name))):
                # Without a place in a file that is not there.
                self._leave_out(stage.given, Unreadable(message.partition(", in line ")[0]))
            else:
                yield stage

    def _values(self) -> Values:
        default = os.path.join(self._root, _PARAMS)
        values = load_file(default, self._reader) if os.path.exists(default) else {}
        try:
            listed = load_vars(self._value.get("vars") or [], self._root, self._reader)
            return Values({**values, **listed})
        except Unreadable as unreadable:
            raise ProjectError(str(unreadable), place=self._place(("vars",))) from None

    def _stage(self, given: _Given) -> _Stage:
        name, definition, values, where, _ = given
        if not isinstance(definition, dict) or not definition.get("cmd"):
            raise Unreadable("there is no `cmd`")
        given = given._replace(wdir=self._path(given, str(definition.get("wdir") or ".")))
        if _is_outside(given.wdir):
            raise Unreadable(f"the directory `{given.wdir}` is not below the pipeline's")
        if definition.get("vars"):
            directory = os.path.normpath(os.path.join(self._root, given.wdir))
            values = values.within(load_vars(definition["vars"], directory, self._reader))
            given = given._replace(values=values)
        notes = [
            self._told((*where, key), f"`{key}` has no counterpart")
            for key in definition
            if key not in _READ
        ]
        outputs = list(self._outputs(given, notes))
        inputs = list(dict.fromkeys(self._inputs(given, notes)))
        if own := [each for each in inputs if any(is_within(each, out) for out in outputs)]:
            raise Unreadable(f"it both reads and makes `{own[0]}`")
        always = bool(definition.get("always_changed")) or any(map(_is_outside, inputs))
        notes += [
            self._told((*where, key), text) for key, text in _TOLD.items() if definition.get(key)
        ]
        if not inputs and outputs and not always:
            notes.append("there are no `deps`: every file of the project counts")
        description = values.text(str(definition.get("desc") or ""))
        pieces = list(dvc_command.pieces(definition["cmd"], given.wdir, values))
        if any("\0" in str(piece) for piece in pieces):
            raise Unreadable("its command holds a NUL byte")
        frozen = bool(definition.get("frozen"))
        return _Stage(
            name, given, pieces, values.local, inputs, outputs, description, notes, frozen, always
        )

    def _outputs(self, given: _Given, notes: list[str]) -> Iterator[str]:
        for key in ("outs", "metrics", "plots"):
            for index, item in enumerate(_listed(given, key)):
                for text, flags in (item if isinstance(item, dict) else {str(item): {}}).items():
                    path = self._path(given, str(text))
                    at = (*given.where, key, index, text)
                    flags = flags if isinstance(flags, dict) else {}  # noqa: PLW2901
                    notes += [
                        self._told(at, f"`{flag}` of `{path}` has no counterpart")
                        for flag in flags
                        if flag not in _OUTPUT
                    ]
                    yield path

    def _inputs(self, given: _Given, notes: list[str]) -> Iterator[str]:
        for index, text in enumerate(_listed(given, "deps")):
            path = self._path(given, str(text))
            if _is_outside(path):
                fact = f"`{path}` is not in the project, so the stage runs each time"
                notes.append(self._told((*given.where, "deps", index), fact))
            yield path
        files: dict[str, None] = {}
        for item in _listed(given, "params"):
            files |= dict.fromkeys(map(str, item) if isinstance(item, dict) else (_PARAMS,))
        for file in files:
            path = self._path(given, file)
            notes.append(f"`{path}` counts as a whole, and not only the parameters named")
            yield path

    def _path(self, given: _Given, text: str) -> str:
        self.fixed |= given.values.names(text)
        path = given.values.text(text)
        if "\0" in path:
            raise Unreadable("a path holds a NUL byte")
        return path if "://" in path else posixpath.normpath(posixpath.join(given.wdir, path))

    def _leave_out(self, given: _Given, error: Exception) -> None:
        self.is_lossy = True
        reason = str(error).replace(os.path.join(self._root, ""), "").partition("\n")[0]
        text = f"the stage `{given.name}` is left out: {reason}"
        self.notes.append(self._told(given.where, text, getattr(error, "source", "")))

    def _told(self, where: Path, text: str, source: str = "") -> str:
        return f"{self._place(where, source)}: {printable(text)}"

    def _place(self, where: Path, source: str = "") -> str:
        """Return file, line and column of a part, or of a text that stands in it."""
        document = self._document
        line, column = document.place(where, key=not source)
        start = sum(len(each) + 1 for each in document.text.split("\n")[: line - 1])
        at = document.text.find(source, start) if source else -1
        line, column = document.place_at(where, at) if at >= 0 else (line, column)
        return f"{os.path.basename(document.path)}:{line}:{column}"


def _expanded(given: _Given) -> Iterator[_Given]:
    """Yield a stage, or all that `foreach` or `matrix` make of it."""
    definition, values = given.definition, given.values
    items: Iterable[tuple[str, Any]]
    if not isinstance(definition, dict) or not definition.keys() & {"foreach", "matrix"}:
        yield given
        return
    if "foreach" in definition:
        found = values.resolve(definition["foreach"])
        if isinstance(found, list):
            deep = any(isinstance(item, (dict, list)) for item in found)
            items = [(str(at) if deep else to_text(item), item) for at, item in enumerate(found)]
        elif isinstance(found, dict):
            items = [(to_text(key), item) for key, item in found.items()]
        else:
            raise Unreadable("`foreach` is neither a list nor a mapping")
        given = given._replace(definition=definition.get("do"), where=(*given.where, "do"))
    else:
        items = _combinations(values.resolve(definition["matrix"]))
    for key, item in items:
        inner = values.within({"item": item, "key": key})
        yield given._replace(name=f"{given.name}@{key}", values=inner)


def _combinations(axes: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield a name and the values of each cell of a matrix."""
    if not isinstance(axes, dict) or not all(isinstance(axis, list) for axis in axes.values()):
        raise Unreadable("`matrix` is no mapping of lists")
    for chosen in itertools.product(*(enumerate(axis) for axis in axes.values())):
        named = list(zip(axes, chosen, strict=True))
        words = [
            f"{axis}{at}" if isinstance(value, (dict, list)) else to_text(value)
            for axis, (at, value) in named
        ]
        yield "-".join(words), {axis: value for axis, (_, value) in named}


def _listed(given: _Given, key: str) -> Sequence[Any]:
    value = given.definition.get(key) or []
    if not isinstance(value, list):
        raise Unreadable(f"`{key}` is no list")
    return value


def _is_outside(path: str) -> bool:
    return path.startswith(("/", "~", "../")) or path == ".." or "://" in path


def _proposals(stages: Sequence[_Stage], fixed: set[str]) -> list[Proposal]:
    """Return entry points, each after what it depends on, and `main`."""
    by_name = {stage.name: stage for stage in stages}
    graph = {stage.name: _makers(stage, stages) for stage in stages}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        hint = "let no stage depend on what is made of its own outputs"
        raise ProjectError(f"the stages wait for each other: {cycle}", hint=hint) from None
    names: dict[str, str] = {}
    always = {stage.name for stage in stages if stage.always}
    done: dict[str, Proposal] = {}
    for name in order:
        stage = by_name[name]
        command, parameters = dvc_command.fill(stage.pieces, fixed, stage.local, names)
        notes = list(stage.notes)
        if always.intersection(graph[name]):
            always.add(name)
            notes.append("it depends on what runs each time, so it does as well")
        proposal = _depending(Proposal(name, command, parameters), graph[name], done)
        proposal = proposal._replace(description=stage.description, notes=notes)
        if stage.outputs and not stage.is_frozen and name not in always:
            inputs = [_GLOB.sub(r"\\\1", path) for path in stage.inputs]
            proposal = proposal._replace(inputs=inputs, outputs=stage.outputs)
        done[name] = proposal
    needed = {maker for makers in graph.values() for maker in makers}
    ends = [name for name in by_name if name not in needed and not by_name[name].is_frozen]
    every = Proposal("main", "true", description="all stages, as `dvc repro` runs them")
    done.setdefault("main", _depending(every, ends, done))
    return list(done.values())


def _depending(proposal: Proposal, names: Sequence[str], done: Mapping[str, Proposal]) -> Proposal:
    """Return a proposal with what it depends on, to which it hands down all parameters."""
    every: dict[str, Parameter] = {each.name: each for each in proposal.parameters}
    for name in names:
        every |= {each.name: each for each in done[name].parameters}
    handed = {name: [each.name for each in done[name].parameters] for name in names}
    return proposal._replace(parameters=list(every.values()), depends_on=handed)


def _makers(stage: _Stage, stages: Sequence[_Stage]) -> list[str]:
    """Return the stages that make what a stage reads."""
    return [
        other.name
        for other in stages
        if other is not stage
        and not other.is_frozen
        and any(_overlap(path, output) for path in stage.inputs for output in other.outputs)
    ]


def _overlap(first: str, second: str) -> bool:
    return is_within(first, second) or is_within(second, first)
