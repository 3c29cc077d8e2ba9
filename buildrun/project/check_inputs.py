"""What an entry point's inputs mean, beside the outputs of others and on the disk."""

from __future__ import annotations

import bisect
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from buildrun.project.check_path import check_fields, problem
from buildrun.project.compose import Path
from buildrun.project.declared import Declared
from buildrun.project.dependencies import Graph, graph_of, needed
from buildrun.project.diagnostics import Diagnostic
from buildrun.project.document import pointer
from buildrun.project.findings import Findings, did_you_mean
from buildrun.project.spec import EntryPoint, Pattern, ProjectSpec
from buildrun.tree import globs, patterns

_ANY_DEPTH = "**"


def read_inputs(
    findings: Findings, path: Path, value: object, parameters: Collection[str]
) -> tuple[tuple[Path, Pattern], ...]:
    """Return the patterns as they are written, with their paths in the document.

    parameters: the entry point's.
    """
    found = []
    for index, text in enumerate(value if isinstance(value, list) else ()):
        where = (*path, index)
        if isinstance(text, str) and text and _check(findings, where, text):
            check_fields(findings, where, text, parameters)
            found.append((where, Pattern(text, *findings.document.place(where))))
    return tuple(found)


def all_inputs(findings: Findings, path: Path, value: object) -> tuple[Pattern, ...] | None:
    """Return the whole list, so that each has its index in it; None where every file counts."""
    if value is None:
        return None
    items = value if isinstance(value, list) else ()
    return tuple(
        Pattern(str(item), *findings.document.place((*path, index)))
        for index, item in enumerate(items)
    )


def check_origins(findings: Findings, entry_points: Sequence[Declared], graph: Graph) -> None:
    """Check that inputs which others make are depended on, and none is an own output."""
    made = _Made((item.name, output) for item in entry_points for _, output in item.outputs)
    for entry_point in entry_points:
        own, reached = entry_point.name, frozenset(graph[entry_point.name])
        for where, pattern in entry_point.inputs:
            found = made.may_be_found(pattern.text)
            names = [name for name in found if name != own and name not in reached]
            if names and own in graph:
                reached |= needed(graph, own)
                names = [name for name in names if name not in reached]
            if names:
                _report_origin(findings, where, own, {name: found[name] for name in names}, graph)
            if own in found and not _is_glob(pattern.text):
                _check_own(findings, where, pattern.text, found[own])


def check_effect(findings: Findings, entry_points: Sequence[Declared], graph: Graph) -> None:
    """Check that inputs are of use: to a cache or to an entry point that depends on this one."""
    named = {name for names in graph.values() for name in names}
    for entry_point in entry_points:
        declared = findings.document.value["entry_points"][entry_point.path[-1]]
        if entry_point.inputs and not declared.get("outputs") and entry_point.name not in named:
            message = "`inputs` has no effect: without `outputs` the entry point always runs"
            hint = "add `outputs`, or remove `inputs`"
            where = (*entry_point.path, "inputs")
            findings.warning("no-effect", message, where, key=True, hint=hint)


def unmatched(spec: ProjectSpec) -> tuple[Diagnostic, ...]:
    """Return an error for each input pattern that nothing on the disk matches.

    What an entry point that it depends on will make counts as there.
    """
    found = []
    graph: Graph | None = None
    outputs = {item.name: item.outputs for item in spec.entry_points}
    for entry_point in spec.entry_points:
        for pattern in entry_point.inputs or ():
            if not patterns.is_inside(pattern.text) or patterns.exists(spec.root, pattern.text):
                continue  # what leaves the project was told of before
            graph = graph or graph_of(spec)
            before = needed(graph, entry_point.name) - {entry_point.name}
            made = (output for name in before for output in outputs.get(name, ()))
            if not any(_meets(pattern.text, output, loosely=True) for output in made):
                found.append(unmatched_diagnostic(spec, entry_point, pattern))
    return tuple(found)


def unmatched_diagnostic(
    spec: ProjectSpec, entry_point: EntryPoint, pattern: Pattern
) -> Diagnostic:
    """Return the error that an input pattern matches nothing, with its place in the MLproject."""
    inputs = entry_point.inputs or ()
    where: Path = ("entry_points", entry_point.name, "inputs")
    if pattern in inputs:
        where = (*where, inputs.index(pattern))
    return Diagnostic(
        "error",
        "unmatched-input",
        f"the input pattern `{pattern.text[:60]}` of `{entry_point.name}` matches nothing",
        spec.file or spec.root,
        pattern.line,
        pattern.column,
        pointer(where),
        _unmatched_hint(spec, entry_point, pattern.text),
    )


class _Made:
    """The outputs of all entry points, found without going through all of them."""

    def __init__(self, outputs: Iterator[tuple[str, str]]) -> None:
        """Take pairs of an entry point's name and an output."""
        self._sorted = sorted((tuple(output.rstrip("/").split("/")), name, output)
                              for name, output in outputs)  # fmt: skip
        self._parts = [parts for parts, _, _ in self._sorted]

    def may_be_found(self, pattern: str) -> Mapping[str, str]:
        """Return an output by the entry point that makes it, for all that the pattern may match."""
        parts = patterns.split(pattern) or ()
        literal = next((at for at, part in enumerate(parts) if globs.is_glob(part)), len(parts))
        found: dict[str, str] = {}
        for name, output in self._near(parts[:literal]):
            if name not in found and _meets(pattern, output, loosely=False):
                found[name] = output
        return found

    def _near(self, parts: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        """Yield the outputs above a directory, and those beneath it or equal to it."""
        for length in range(1, len(parts)):
            yield from self._from(parts[:length], beneath=False)
        yield from self._from(parts, beneath=True)

    def _from(self, parts: tuple[str, ...], *, beneath: bool) -> Iterator[tuple[str, str]]:
        for at in range(bisect.bisect_left(self._parts, parts), len(self._parts)):
            own = self._parts[at]
            if own[: len(parts)] != parts or (not beneath and own != parts):
                return
            yield self._sorted[at][1:]


class _Origin(NamedTuple):
    """Who makes what an input pattern matches."""

    name: str
    output: str


def _report_origin(
    findings: Findings, path: Path, own: str, made: Mapping[str, str], graph: Graph
) -> None:
    origin = _Origin(*next(iter(made.items())))
    message = (
        f"the input `{_text(findings, path)}` matches the output `{origin.output[:60]}` of "
        f"`{origin.name}`, and `{own}` does not depend on it"
    )
    hint = f"add {_listed(list(made))} to `depends_on`, or narrow the pattern"
    if own in needed(graph, origin.name):
        hint = f"narrow the pattern: `{origin.name}` depends on `{own}`, so it runs later"
    findings.warning("undeclared-dependency", message, path, hint=hint)


def _check_own(findings: Findings, path: Path, text: str, output: str) -> None:
    wanted, made = patterns.split(text) or (), tuple(output.rstrip("/").split("/"))
    if wanted[: len(made)] == made:
        message = f"the input `{text[:60]}` is an output of the same entry point"
        hint = "remove it from `inputs`: what the command makes cannot decide whether it runs"
        findings.error("own-output", message, path, hint=hint)


def _text(findings: Findings, path: Path) -> str:
    return (findings.document.raw(path) or "")[:60]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:3]) + (" and others" if len(names) > 3 else "")


def _check(findings: Findings, path: Path, text: str) -> bool:
    found = problem(text, "the input")
    if found is None and ".." in text.split("/"):
        hint = "write the path without `..`"
        found = "outside", f"the input `{text[:60]}` holds `..`, which may lead outside", hint
    if found is not None:
        kind, message, hint = found
        if kind == "outside":
            findings.error("input-outside", message, path, hint=hint)
        else:
            findings.error("bad-input", message, path, hint=hint)
        return False
    if any(globs.translate(part) == globs.NEVER for part in text.split("/")):
        message = f"the input `{text[:60]}` is no pattern: a `[` is not closed, or a `\\` ends it"
        hint = "write `\\[` for a bracket in a name"
        findings.error("bad-input", message, path, hint=hint)
        return False
    return True


def _meets(pattern: str, output: str, *, loosely: bool) -> bool:
    """Return whether a pattern may match an output, or something beneath it.

    loosely: also where only the disk could tell: what lacks a slash may be a directory, and a
    pattern that begins with ``**`` may match beneath any.
    """
    if patterns.matches(pattern, output):
        return True
    if not loosely and not output.endswith("/"):
        return False
    parts = patterns.split(pattern) or ()
    reached = {0}
    for name in output.rstrip("/").split("/"):
        reached = _step(parts, reached, name)
    if not loosely and parts[:1] == (_ANY_DEPTH,):
        reached.discard(0)
    return bool(reached)


def _step(parts: tuple[str, ...], reached: Collection[int], name: str) -> set[int]:
    """Return how many parts may be used up after one more name, each of them or more to come."""
    after = set()
    waiting = list(reached)
    for at in waiting:
        if at == len(parts):
            continue
        if parts[at] == _ANY_DEPTH:
            after.add(at)
            waiting.append(at + 1)
        elif patterns.matches(parts[at], name):
            after.add(at + 1)
    return after


def _is_glob(text: str) -> bool:
    return any(globs.is_glob(part) for part in patterns.split(text) or ())


def _unmatched_hint(spec: ProjectSpec, entry_point: EntryPoint, text: str) -> str:
    for other in spec.entry_points:
        for output in other.outputs:
            if other.name != entry_point.name and _meets(text, output, loosely=False):
                return f"`{other.name}` makes it: add `{other.name}` to `depends_on`"
    if "{" in text and "," in text:
        return "braces name no alternatives: write a pattern for each"
    directory, name = os.path.split(text.rstrip("/"))
    try:
        beside = os.listdir(os.path.join(spec.root, directory)) if not _is_glob(text) else []
    except (OSError, ValueError):
        beside = []
    meant = did_you_mean(os.path.join(directory, name), [os.path.join(directory, item)
                                                         for item in beside])  # fmt: skip
    return meant or "check its spelling: it is relative to the project's root; or remove it"
