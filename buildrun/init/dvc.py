"""A DVC pipeline as an MLproject: stages become entry points, what has no counterpart is told."""

from __future__ import annotations

import graphlib
import itertools
import os
import posixpath
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import printable
from buildrun.errors import ProjectError
from buildrun.init import python_env, scripts
from buildrun.init.draft import Draft, Proposal, draft, template
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
from buildrun.project.diagnostics import Path
from buildrun.project.model import Parameter
from buildrun.project.quoting import is_plain, places
from buildrun.project.yaml_loader import Document
from buildrun.store.memo import DependencyTracker

_PARAMS = "params.yaml"
_READ = frozenset(
    ("cmd", "wdir", "deps", "params", "outs", "metrics", "plots", "vars", "frozen",
     "always_changed", "desc", "matrix")
)  # fmt: skip
# What an output may say without a difference here.
_PLAIN = frozenset(
    ("cache", "desc", "type", "labels", "meta", "x", "y", "x_label", "y_label", "title", "template",
     "header")
)  # fmt: skip
_SHELL = re.compile(r"[;&|#()`\\]|<<")
_GLOB = re.compile(r"([*?\[\\])")


class _Stage(NamedTuple):
    """A stage with all but its command decided."""

    name: str
    pieces: Sequence[str | Reference]  # of its command
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
    proposals = _proposals(stages, pipeline.fixed)
    if not proposals:
        raise ProjectError("; ".join(("no stage can be taken over", *pipeline.notes)), place=path,
                           hint="is it a `dvc.yaml`?")  # fmt: skip
    environment = python_env.environment(root, scripts.find(root).trees)
    head = [f"Taken over from {os.path.basename(path)} by `buildrun init`.", *pipeline.notes]
    made = draft(os.path.basename(root) or "project", environment, proposals, head)
    return made._replace(notes=made.notes[1:], is_complete=not pipeline.is_lossy)


class _Pipeline:
    """A dvc.yaml, read stage by stage."""

    def __init__(self, path: str, root: str, reader: DependencyTracker) -> None:
        """Read the file; raises ProjectError."""
        self.notes: list[str] = []
        self.fixed: set[str] = set()  # names that stand in paths
        self.is_lossy = False  # whether a stage was left out
        self._root, self._reader = root, reader
        self._document: Document = load_document(path, reader)
        self._value = read_value(self._document)
        if not isinstance(self._value, dict) or not isinstance(self._value.get("stages"), dict):
            raise ProjectError("there are no `stages`", place=path, hint="is it a `dvc.yaml`?")
        for key in self._value:
            if key not in ("stages", "vars"):
                self._note((key,), f"`{key}` at the top has no counterpart")

    def stages(self) -> Iterator[_Stage]:
        """Yield the stages that can be read; the others are noted."""
        try:
            values = self._values()
        except Unreadable as unreadable:
            raise ProjectError(str(unreadable), place=self._place(("vars",))) from None
        for name, definition in self._value["stages"].items():
            where = ("stages", name)
            try:
                if not isinstance(definition, dict):
                    raise Unreadable("it is no mapping")
                for full, each, inner, at in self._expanded(str(name), definition, values, where):
                    yield from self._read(full, each, inner, at)
            except Unreadable as unreadable:
                self._leave_out(str(name), where, unreadable)

    def _values(self) -> Values:
        default = os.path.join(self._root, _PARAMS)
        values = load_file(default, self._reader) if os.path.exists(default) else {}
        listed = [item for item in self._value.get("vars") or () if item != _PARAMS]
        return Values({**values, **load_vars(listed, self._root, self._reader)})

    def _expanded(
        self, name: str, definition: dict[str, Any], values: Values, where: Path
    ) -> Iterator[tuple[str, Any, Values, Path]]:
        """Yield a stage, or what `foreach` or `matrix` make of it."""
        if "foreach" in definition:
            items = values.resolve(definition["foreach"])
            if isinstance(items, list):
                deep = any(isinstance(item, (dict, list)) for item in items)
                keyed = {str(at) if deep else to_text(item): item for at, item in enumerate(items)}
            elif isinstance(items, dict):
                keyed = {to_text(key): item for key, item in items.items()}
            else:
                raise Unreadable("`foreach` is neither a list nor a mapping")
            for key, item in keyed.items():
                inner = values.within({"item": item, "key": key})
                yield f"{name}@{key}", definition.get("do"), inner, (*where, "do")
        elif "matrix" in definition:
            axes = values.resolve(definition["matrix"])
            if not isinstance(axes, dict) or not all(
                isinstance(axis, list) for axis in axes.values()
            ):
                raise Unreadable("`matrix` is no mapping of lists")
            for chosen in itertools.product(*(enumerate(axis) for axis in axes.values())):
                item = {axis: value for axis, (_, value) in zip(axes, chosen, strict=True)}
                key = "-".join(
                    f"{axis}{at}" if isinstance(value, (dict, list)) else to_text(value)
                    for axis, (at, value) in zip(axes, chosen, strict=True)
                )
                yield f"{name}@{key}", definition, values.within({"item": item, "key": key}), where
        else:
            yield name, definition, values, where

    def _read(self, name: str, definition: Any, values: Values, where: Path) -> Iterator[_Stage]:
        try:
            if not isinstance(definition, dict) or not definition.get("cmd"):
                raise Unreadable("there is no `cmd`")
            yield self._stage(name, definition, values, where)
        except Unreadable as unreadable:
            self._leave_out(name, where, unreadable)

    def _stage(self, name: str, definition: dict[str, Any], values: Values, where: Path) -> _Stage:
        notes = [
            self._told((*where, key), f"`{key}` has no counterpart")
            for key in definition
            if key not in _READ
        ]
        wdir = self._path(".", str(definition.get("wdir") or "."), values)
        if wdir.startswith(("/", "..")):
            raise Unreadable(f"the directory `{wdir}` is not below the pipeline's", "wdir")
        if definition.get("vars"):
            directory = os.path.join(self._root, wdir)
            values = values.within(load_vars(definition["vars"], directory, self._reader))
        outputs = list(self._outputs(definition, wdir, values, where, notes))
        inputs, always = self._inputs(definition, wdir, values, where, notes)
        if definition.get("always_changed"):
            always = True
            notes.append(
                self._told((*where, "always_changed"), "runs each time, without `outputs`")
            )
        if definition.get("frozen"):
            text = "frozen: nothing depends on it, and it runs only when asked for with `-e`"
            notes.append(self._told((*where, "frozen"), text))
        if not inputs and outputs and not always:
            notes.append(self._told(where, "there are no `deps`: every file of the project counts"))
        description = values.text(str(definition.get("desc") or ""))
        pieces = list(_command(definition["cmd"], wdir, values))
        return _Stage(name, pieces, values.local, inputs, outputs, description, notes,
                      bool(definition.get("frozen")), always)  # fmt: skip

    def _outputs(
        self, definition: Mapping[str, Any], wdir: str, values: Values, where: Path,
        notes: list[str],
    ) -> Iterator[str]:  # fmt: skip
        for key in ("outs", "metrics", "plots"):
            for index, item in enumerate(_listed(definition.get(key))):
                for text, flags in item.items() if isinstance(item, dict) else [(str(item), {})]:
                    path = self._path(wdir, str(text), values)
                    if _is_outside(path) or "*" in path or "?" in path:
                        raise Unreadable(f"the output `{path}` cannot be one here", str(text))
                    at = (*where, key, index, text)
                    given = flags if isinstance(flags, dict) else {}
                    if given.get("persist"):
                        fact = (
                            f"`persist`: what is in `{path}` is put aside before the command runs"
                        )
                        notes.append(self._told(at, fact))
                    notes += [
                        self._told(at, f"`{flag}` of `{path}` has no counterpart")
                        for flag in given
                        if flag not in _PLAIN | {"persist"}
                    ]
                    yield path

    def _inputs(
        self, definition: Mapping[str, Any], wdir: str, values: Values, where: Path,
        notes: list[str],
    ) -> tuple[list[str], bool]:  # fmt: skip
        """Return what the stage reads, and whether some of it cannot be watched."""
        found: dict[str, None] = {}
        outside = False
        for index, text in enumerate(_listed(definition.get("deps"))):
            path = self._path(wdir, str(text), values)
            if _is_outside(path):
                fact = f"`{path}` is not in the project, so the stage runs each time"
                notes.append(self._told((*where, "deps", index), fact))
                outside = True
            else:
                found[path] = None
        for item in _listed(definition.get("params")):
            for file in item if isinstance(item, dict) else (_PARAMS,):
                path = self._path(wdir, str(file), values)
                if not _is_outside(path) and path not in found:
                    fact = f"`{path}` counts as a whole, and not only the parameters named"
                    notes.append(self._told((*where, "params"), fact))
                    found[path] = None
        return list(found), outside

    def _path(self, wdir: str, text: str, values: Values) -> str:
        self.fixed |= values.names(text)
        path = values.text(text)
        return path if "://" in path else posixpath.normpath(posixpath.join(wdir, path))

    def _leave_out(self, name: str, where: Path, unreadable: Unreadable) -> None:
        self.is_lossy = True
        self._note(where, f"the stage `{name}` is left out: {unreadable}", unreadable.source)

    def _note(self, where: Path, text: str, source: str = "") -> None:
        self.notes.append(self._told(where, text, source))

    def _told(self, where: Path, text: str, source: str = "") -> str:
        return f"{self._place(where, source)}: {printable(text)}"

    def _place(self, where: Path, source: str = "") -> str:
        """Return file, line and column of a part, or of a text that stands in it."""
        document = self._document
        line, column = document.place(where, key=not source)
        if source:
            start = sum(len(each) + 1 for each in document.text.split("\n")[: line - 1])
            at = document.text.find(source, start)
            line, column = document.place_at(where, at) if at >= 0 else (line, column)
        return f"{os.path.basename(document.path)}:{line}:{column}"


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _is_outside(path: str) -> bool:
    return path.startswith(("/", "~")) or path.split("/", maxsplit=1)[0] == ".." or "://" in path


def _command(cmd: Any, wdir: str, values: Values) -> Iterator[str | Reference]:
    """Yield the parts of a command; DVC runs its lines one by one, and ends at a failure."""
    given = cmd if isinstance(cmd, list) else str(cmd).splitlines()
    lines = [line for line in map(str, given) if line.strip()]
    if wdir != ".":
        yield f"cd {shlex.quote(wdir if wdir[0] != '-' else f'./{wdir}')} || exit\n"
    parted = [list(values.pieces(line, command=True)) for line in lines]
    plain = not any(_SHELL.search(line) for line in lines)
    for index, pieces in enumerate(parted):
        if len(lines) == 1 or plain:
            yield " &&\n" if index else ""
            yield from pieces
        else:
            yield "\n(\n" if index else "(\n"
            yield from pieces
            yield "\n) || exit"


def _proposals(stages: Sequence[_Stage], fixed: set[str]) -> list[Proposal]:
    """Return entry points, each after what it depends on, and `main`."""
    by_name = {stage.name: stage for stage in stages}
    graph = {stage.name: _makers(stage, stages) for stage in stages}
    try:
        order = list(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ProjectError(f"the stages wait for each other: {cycle}") from None
    names: dict[str, str] = {}
    parameters: dict[str, dict[str, Parameter]] = {}
    always = {stage.name for stage in stages if stage.always}
    proposals = []
    for name in order:
        stage, makers = by_name[name], graph[name]
        own: dict[str, Parameter] = {}
        command = _fill(stage, fixed, names, own)
        handed = {maker: tuple(parameters[maker]) for maker in makers}
        parameters[name] = {
            **own,
            **{k: v for maker in makers for k, v in parameters[maker].items()},
        }
        told = list(stage.notes)
        if always.intersection(makers):
            always.add(name)
            told.append("it depends on what runs each time, so it does as well")
        runs = name in always or stage.is_frozen
        inputs = (
            [] if runs or not stage.outputs else [_GLOB.sub(r"\\\1", each) for each in stage.inputs]
        )
        proposals.append(
            Proposal(name, command, tuple(parameters[name].values()), handed, inputs,
                     () if runs else stage.outputs, stage.description, told)
        )  # fmt: skip
    return [*proposals, *_main(proposals, by_name, parameters)]


def _main(
    proposals: Sequence[Proposal],
    by_name: Mapping[str, _Stage],
    parameters: Mapping[str, Mapping[str, Parameter]],
) -> Iterator[Proposal]:
    """Yield the entry point that makes all, as `dvc repro` does."""
    needed = {maker for proposal in proposals for maker in proposal.depends_on}
    ends = [each for each in by_name if each not in needed and not by_name[each].is_frozen]
    if "main" not in by_name:
        handed = {end: tuple(parameters[end]) for end in ends}
        every = {name: item for end in ends for name, item in parameters[end].items()}
        yield Proposal("main", "true", tuple(every.values()), handed,
                       description="all stages, as `dvc repro` runs them")  # fmt: skip


def _makers(stage: _Stage, stages: Sequence[_Stage]) -> list[str]:
    """Return the stages that make what a stage reads."""
    return [
        other.name
        for other in stages
        if other.name != stage.name
        and not other.is_frozen
        and any(_overlap(path, output) for path in stage.inputs for output in other.outputs)
    ]


def _overlap(first: str, second: str) -> bool:
    return f"{first}/".startswith(f"{second}/") or f"{second}/".startswith(f"{first}/")


def _fill(stage: _Stage, fixed: set[str], names: dict[str, str], own: dict[str, Parameter]) -> str:
    """Return a stage's command as a template, and add the parameters that it uses.

    A value becomes a parameter where the text stays the same when it is quoted as one.
    names: what each parameter of the project stands for.
    """
    written: set[int] = set()  # references that stand as text
    for index, piece in enumerate(stage.pieces):
        if isinstance(piece, Reference):
            name = _parameter_name(piece.name)
            local = piece.name.split(".")[0] in stage.local
            if (local or piece.name in fixed or not name or not is_plain(piece.text)
                    or names.setdefault(name, piece.name) != piece.name):  # fmt: skip
                written.add(index)
    while True:
        fields = [
            index
            for index, piece in enumerate(stage.pieces)
            if isinstance(piece, Reference) and index not in written
        ]
        parts = [
            f"{{{_parameter_name(piece.name)}}}"
            if index in fields and isinstance(piece, Reference)
            else template(piece if isinstance(piece, str) else piece.text)
            for index, piece in enumerate(stage.pieces)
        ]
        found = places("".join(parts))
        odd = {index for index, place in zip(fields, found, strict=False) if place[:2] != ("", "")}
        if not odd:
            break
        written |= odd
    for index in fields:
        piece = stage.pieces[index]
        if isinstance(piece, Reference):
            name = _parameter_name(piece.name)
            own[name] = Parameter(name, _type(piece.text), piece.text)
    return "".join(parts)


def _parameter_name(name: str) -> str:
    """Return the parameter for a name such as `train.alpha`, or "" where there is none."""
    plain = re.sub(r"[.-]", "_", name)
    return plain if plain.isidentifier() else ""


def _type(text: str) -> str:
    try:
        float(text)
    except ValueError:
        return "string"
    return "float"
