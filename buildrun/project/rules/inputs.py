"""What an entry point's inputs mean, beside the outputs of others and on the disk."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence

from buildrun.console import did_you_mean, printable
from buildrun.project.diagnostics import Diagnostic, Findings, Path, pointer
from buildrun.project.model import Declared, EntryPoint, Pattern, ProjectSpec
from buildrun.project.producers import Producers, producers_of
from buildrun.project.rules.dependencies import (
    Graph,
    depends_on_any,
    graph_of,
    needed,
)
from buildrun.project.rules.outputs import check_fields, problem
from buildrun.project.rules.values import items
from buildrun.workspace import glob


def read_inputs(
    findings: Findings, path: Path, value: object, parameters: Collection[str]
) -> tuple[tuple[Path, Pattern], ...]:
    """Return the patterns as they are written, with their paths in the document."""
    found = []
    for where, text in items(path, value):
        if isinstance(text, str) and text and _check(findings, where, text):
            check_fields(findings, where, text, parameters)
            found.append((where, Pattern(text, *findings.document.place(where))))
    return tuple(found)


def all_inputs(findings: Findings, path: Path, value: object) -> tuple[Pattern, ...] | None:
    """Return the whole list, so that each has its index in it; None where every file counts."""
    if value is None:
        return None
    place = findings.document.place
    return tuple(Pattern(str(item), *place(where)) for where, item in items(path, value))


def check_origins(findings: Findings, entry_points: Sequence[Declared], graph: Graph) -> None:
    """Check that inputs which others make are depended on, and none is an own output."""
    producers = Producers(
        (item.name, output) for item in entry_points for _, output in item.outputs
    )
    for entry_point in entry_points:
        own, reached = entry_point.name, frozenset(graph[entry_point.name])
        for where, pattern in entry_point.inputs:
            found = producers.of(pattern.text)
            names = [name for name in found if name != own and name not in reached]
            if names and own in graph:
                reached |= needed(graph, own)
                names = [name for name in names if name not in reached]
            if names:
                _report_origin(findings, where, own, {name: found[name] for name in names}, graph)
            if own in found:
                _check_own(findings, where, pattern.text, found[own])


def check_effect(findings: Findings, entry_points: Sequence[Declared], graph: Graph) -> None:
    """Check that inputs are of use: to a cache, a sandbox, or a step that depends on this one."""
    named = {name for names in graph.values() for name in names}
    for entry_point in entry_points:
        declared = findings.document.value["entry_points"][entry_point.path[-1]]
        used = any(declared.get(key) for key in ("outputs", "sandbox", "check_inputs"))
        if entry_point.inputs and not used and entry_point.name not in named:
            message = "`inputs` has no effect: without `outputs` the entry point always runs"
            hint = "add `outputs`, or remove `inputs`"
            where = (*entry_point.path, "inputs")
            findings.warning("no-effect", message, where, key=True, hint=hint)


def unmatched(spec: ProjectSpec) -> tuple[Diagnostic, ...]:
    """Return an error for each input that nothing on the disk matches, and no step before makes."""
    found = []
    graph, producers = graph_of(spec), producers_of(spec)
    for entry_point in spec.entry_points:
        for pattern in entry_point.inputs or ():
            if not glob.is_inside(pattern.text) or glob.exists(spec.root, pattern.text):
                continue  # what leaves the project was told of before
            names = producers.of(pattern.text, possibly=True).keys() - {entry_point.name}
            if not depends_on_any(graph, entry_point.name, names):
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
        f"the input pattern `{printable(pattern.text[:60])}` of "
        f"`{printable(entry_point.name)}` matches nothing",
        spec.file or spec.root,
        pattern.line,
        pattern.column,
        pointer(where),
        _unmatched_hint(spec, entry_point, pattern.text),
    )


def _report_origin(
    findings: Findings, path: Path, own: str, made: Mapping[str, str], graph: Graph
) -> None:
    name, output = next(iter(made.items()))
    makers = ", ".join(f"`{maker}`" for maker in list(made)[:3])
    makers += " and others" if len(made) > 3 else ""
    message = (
        f"the input `{(findings.document.raw(path) or '')[:60]}` matches the output "
        f"`{output[:60]}` of `{name}`, and `{own}` does not depend on it"
    )
    hint = f"add {makers} to `depends_on`, or narrow the pattern"
    if own in needed(graph, name):
        hint = f"narrow the pattern: `{name}` depends on `{own}`, so it runs later"
    findings.warning("undeclared-dependency", message, path, hint=hint)


def _check_own(findings: Findings, path: Path, text: str, output: str) -> None:
    wanted, made = glob.split(text) or (), tuple(output.rstrip("/").split("/"))
    if wanted[: len(made)] == made:
        message = f"the input `{text[:60]}` is an output of the same entry point"
        hint = "remove it from `inputs`: what the command makes cannot decide whether it runs"
        findings.error("own-output", message, path, hint=hint)


def _check(findings: Findings, path: Path, text: str) -> bool:
    found = problem(text, "the input")
    if found is None and ".." in text.split("/"):
        hint = "write the path without `..`"
        found = True, f"the input `{text[:60]}` holds `..`, which may lead outside", hint
    if found is not None:
        is_outside, message, hint = found
        findings.error("input-outside" if is_outside else "bad-input", message, path, hint=hint)
        return False
    escapes = "[" in text or "\\" in text
    if escapes and any(glob.translate(part) == glob.NEVER for part in text.split("/")):
        message = f"the input `{text[:60]}` is no pattern: a `[` is not closed, or a `\\` ends it"
        hint = "write `\\[` for a bracket in a name"
        findings.error("bad-input", message, path, hint=hint)
        return False
    return True


def _unmatched_hint(spec: ProjectSpec, entry_point: EntryPoint, text: str) -> str:
    names = [name for name in producers_of(spec).of(text) if name != entry_point.name]
    if names:
        return f"`{names[0]}` makes it: add `{names[0]}` to `depends_on`"
    if "{" in text and "," in text:
        return "braces name no alternatives: write a pattern for each"
    directory = os.path.dirname(text.rstrip("/"))
    is_glob = any(glob.is_glob(part) for part in glob.split(text) or ())
    try:
        beside = os.listdir(os.path.join(spec.root, directory)) if not is_glob else []
    except (OSError, ValueError):
        beside = []
    meant = did_you_mean(text.rstrip("/"), [os.path.join(directory, name) for name in beside])
    return meant or (
        "check its spelling: it is relative to the project's root; put there what is missing, "
        "such as data that git ignores in a fresh clone; or remove it"
    )
