"""Rules of `depends_on`: known steps, no cycles, and which step makes which file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from buildrun.console import did_you_mean
from buildrun.project.diagnostics import Findings, Path
from buildrun.project.model import Declared, Dependency, Parameter, ProjectSpec
from buildrun.project.rules.command import check_value
from buildrun.project.rules.values import check_scalar, items, misfit


def read_dependencies(
    findings: Findings, path: Path, value: object
) -> tuple[tuple[Path, Dependency], ...]:
    """Return the dependencies that name an entry point, with their paths in the document."""
    found = []
    for where, item in items(path, value):
        if isinstance(item, str):
            found.append((where, Dependency(item)))
        elif isinstance(item, dict) and isinstance(item.get("entry_point"), str):
            handed = _handed(findings, (*where, "parameters"), item.get("parameters"))
            found.append((where, Dependency(item["entry_point"], handed)))
    return tuple(found)


def check_handed_down(
    findings: Findings,
    depends_on: Sequence[tuple[Path, Dependency]],
    defaults: Mapping[str, str | None],
) -> set[str]:
    """Check the values handed down as templates; return the parameters that they use."""
    used: set[str] = set()
    for path, dependency in depends_on:
        for name, text in dependency.parameters:
            used |= check_value(findings, (*path, "parameters", name), text, defaults)
    return used


def check_dependencies(findings: Findings, entry_points: Sequence[Declared], graph: Graph) -> None:
    """Check the dependencies of all entry points against each other."""
    by_name = {entry_point.name: entry_point for entry_point in entry_points}
    for entry_point in entry_points:
        seen: set[Dependency] = set()
        for path, dependency in entry_point.depends_on:
            target = by_name.get(dependency.entry_point)
            if dependency in seen:
                message = f"`{dependency.entry_point}` stands here a second time"
                findings.warning("repeated-dependency", message, path, hint="keep one of the two")
            elif target is None:
                _report_unknown(findings, path, dependency.entry_point, list(by_name))
            else:
                _check_parameters(findings, path, dependency, entry_point, target)
            seen.add(dependency)
    for cycle in dict.fromkeys(cycles(graph)):
        _report_cycle(findings, by_name[cycle[0]], cycle)


def _handed(findings: Findings, path: Path, value: object) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    for key, item in value.items() if isinstance(value, dict) else ():
        if not isinstance(item, (str, int, float)):
            continue  # the schema says so
        if not isinstance(key, str):
            message = f"the name of this parameter is read as `{key}`"
            hint = "put the name in quotes"
            findings.warning("yaml-value", message, (*path, key), key=True, hint=hint)
        check_scalar(findings, (*path, key), item, "what is handed down is", exact=False)
        found[str(key)] = str(item)
    return tuple(found.items())


def _report_unknown(findings: Findings, path: Path, name: str, known: list[str]) -> None:
    hint = did_you_mean(name, known)
    if not hint and name.endswith((".py", ".sh", ".R")):
        hint = f"declare an entry point whose command runs `{name[:60]}`, and name that"
    hint = hint or f"declare `{name[:60]}` under `entry_points:`, or remove it"
    message = f"there is no entry point `{name[:60]}` to depend on"
    findings.error("unknown-dependency", message, path, hint=hint)


def _report_cycle(findings: Findings, first: Declared, cycle: tuple[str, ...]) -> None:
    following = cycle[1] if len(cycle) > 1 else cycle[0]
    path = next(path for path, item in first.depends_on if item.entry_point == following)
    alone = "the entry point waits for itself"
    what = "the entry points wait for each other" if len(cycle) > 1 else alone
    message = f"{what}: {' -> '.join((*cycle, cycle[0]))}"
    findings.error("dependency-cycle", message, path, hint="remove one of them from `depends_on`")


def _check_parameters(
    findings: Findings, path: Path, dependency: Dependency, own: Declared, target: Declared
) -> None:
    if target.defaults is None:
        return
    handed = dict(dependency.parameters)
    missing = [
        parameter.name
        for parameter in target.parameters
        if parameter.default is None and parameter.name not in handed
    ]
    if missing:
        named = ", ".join(f"`{name[:60]}`" for name in missing)
        message = f"`{target.name}` needs a value for {named}, and none is handed down"
        hint = f"{_missing_hint(target.name, missing[0], own)}, or give it a default"
        findings.error("missing-parameter", message, path, hint=hint)
    kinds = {parameter.name: parameter for parameter in target.parameters}
    for name, text in handed.items():
        where = (*path, "parameters", name)
        if name in kinds:
            _check_kind(findings, where, target.name, kinds[name], text)
        elif name not in target.defaults:
            message = f"`{target.name}` declares no parameter `{name[:60]}`; its command gets the "
            message += f"option `--{name[:60]}`"
            hint = did_you_mean(name, target.defaults) or f"declare it for `{target.name}`"
            findings.warning("undeclared-parameter", message, where, key=True, hint=hint)


def _missing_hint(target: str, name: str, own: Declared) -> str:
    value = f'"{{{name}}}"' if name in (own.defaults or ()) else "…"
    return f"write `{{entry_point: {target}, parameters: {{{name}: {value}}}}}`"


def _check_kind(
    findings: Findings, path: Path, target: str, parameter: Parameter, text: str
) -> None:
    if "{" in text or not (what := misfit(parameter.type, text)):
        return
    message = f"`{text[:60]}` is not {what}"
    message += f", and `{parameter.name}` of `{target}` is of type `{parameter.type}`"
    if parameter.type == "float":
        findings.error("parameter-mismatch", message, path, hint=f"hand down {what}")
    else:  # a type that MLflow does not check
        findings.warning("parameter-mismatch", message, path, hint=f"hand down {what}")


# What each entry point names under depends_on, by name.
Graph = Mapping[str, Sequence[str]]


def graph_of(project: ProjectSpec) -> dict[str, tuple[str, ...]]:
    """Return the names that each entry point depends on; they need not be declared."""
    return {
        entry_point.name: tuple(item.entry_point for item in entry_point.depends_on)
        for entry_point in project.entry_points
    }


def needed(graph: Graph, name: str) -> frozenset[str]:
    """Return the name and all that it depends on, directly or not; cycles come to an end."""
    found, waiting = {name}, [name]
    while waiting:
        fresh = set(graph.get(waiting.pop(), ())) - found
        found |= fresh
        waiting += fresh
    return frozenset(found)


def depends_on_any(graph: Graph, name: str, others: Set[str]) -> bool:
    """Return whether a name depends on one of the others, directly or not."""
    if not others:
        return False
    return not others.isdisjoint(graph.get(name, ())) or not others.isdisjoint(needed(graph, name))


def cycles(graph: Graph) -> Iterator[tuple[str, ...]]:
    """Yield at least one cycle of each knot, begun with the name that stands first in ``graph``."""
    order = {name: number for number, name in enumerate(graph)}
    done: set[str] = set()
    for start in graph:
        # Not by recursion: a chain may be longer than Python's stack.
        path = [start] if start not in done else []
        waiting = [iter(graph[start])]
        on_path = {start: 0}
        while path:
            name = next(waiting[-1], None)
            if name is None:
                done.add(path[-1])
                del on_path[path.pop()]
                waiting.pop()
            elif name in on_path:
                cycle = path[on_path[name] :]
                first = cycle.index(min(cycle, key=order.__getitem__))
                yield (*cycle[first:], *cycle[:first])
            elif name in graph and name not in done:
                on_path[name] = len(path)
                path.append(name)
                waiting.append(iter(graph[name]))
