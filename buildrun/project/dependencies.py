"""Which entry points others depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set

from buildrun.project.spec import ProjectSpec

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
