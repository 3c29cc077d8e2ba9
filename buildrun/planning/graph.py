"""From an entry point to the steps it needs, in order."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from buildrun.console import nearest, printable
from buildrun.errors import BuildrunError, NoEntryPoint, ProjectError
from buildrun.planning import parameters as command
from buildrun.planning.parameters import Download, RenderedCommand
from buildrun.project.locate import scripts_in
from buildrun.project.model import Dependency, EntryPoint, ProjectSpec
from buildrun.store import digest


class ResolvedStep(NamedTuple):
    """An entry point with decided parameters, and the ids of those that go before it."""

    id: str
    entry_point: EntryPoint
    rendered: RenderedCommand
    depends_on: tuple[str, ...]
    problems: tuple[BuildrunError, ...]
    downloads: tuple[str, ...]


_Identity = tuple[str, tuple[tuple[str, str], ...]]


class _Frame(NamedTuple):
    """An entry point on the way down to what it depends on."""

    identity: _Identity
    entry_point: EntryPoint
    rendered: RenderedCommand
    waiting: list[Dependency]
    found: list[_Identity]


def expand(
    project: ProjectSpec,
    name: str,
    values: Mapping[str, str],
    cwd: str,
    environ: Mapping[str, str],
    download: Download | None,
) -> list[ResolvedStep]:
    """Return the entry point and all that it depends on, each after what it depends on.

    An entry point that is needed twice with the same parameters is one node.
    Raises ProjectError for an unknown entry point, a cycle, or two nodes with the same outputs;
    ParameterError for a value that is missing or does not fit.
    """

    def visit(target: str, given: Mapping[str, str], secrets: Collection[str] = ()) -> _Frame:
        chosen = find_entry_point(project, target, environ)
        rendered = command.render(chosen, given, cwd, download, project.root, secrets)
        return _Frame((target, rendered.parameters), chosen, rendered, list(chosen.depends_on), [])

    done: dict[_Identity, _Frame] = {}
    path = [visit(name, values)]
    while path:
        here = path[-1]
        if not here.waiting:
            done[here.identity] = path.pop()
            continue
        dependency = here.waiting.pop(0)
        _refuse_cycle(project, path, dependency.entry_point)
        below = visit(dependency.entry_point, *_handed_down(dependency, here))
        here.found.append(below.identity)
        if below.identity not in done:
            path.append(below)
    ids = _ids(done)
    nodes = [_node(project, item, ids) for item in done.values()]
    _refuse_same_outputs(project, nodes)
    return nodes


def critical_path(
    depends_on: Mapping[str, Sequence[str]], seconds: Mapping[str, float]
) -> dict[str, float]:
    """Return for each id the seconds of the longest chain that begins with it.

    depends_on: the ids in order, each after what it depends on. seconds: past times; one that is
    not known counts as a second.
    """
    longest = dict.fromkeys(depends_on, 0.0)
    for name in reversed(list(depends_on)):
        longest[name] += seconds.get(name, 1.0)
        for before in depends_on[name]:
            longest[before] = max(longest[before], longest[name])
    return longest


def _node(project: ProjectSpec, item: _Frame, ids: Mapping[_Identity, str]) -> ResolvedStep:
    problems: list[BuildrunError] = list(item.rendered.problems)
    if missing := missing_script(project, item.entry_point):
        what = "`python_file`" if project.spark_job is not None else "the name given with `-e`"
        problems.append(NoEntryPoint(missing, hint=f"check {what}"))
    values = dict(item.rendered.parameters)
    local = dict(item.rendered.paths)
    downloads = tuple(
        parameter.name
        for parameter in item.entry_point.parameters
        if parameter.type == "path"
        and parameter.name not in local
        and command.is_remote(values[parameter.name])
    )
    depends_on = tuple(dict.fromkeys(ids[found] for found in item.found))
    return ResolvedStep(
        ids[item.identity], item.entry_point, item.rendered, depends_on, tuple(problems), downloads
    )


def _handed_down(dependency: Dependency, dependent: _Frame) -> tuple[dict[str, str], list[str]]:
    """Return the values, and the names of those that a secret has gone into."""
    values = dict(dependent.rendered.parameters)
    masked = {**values, **dict.fromkeys(dependent.rendered.secrets, "")}
    handed, secrets = {}, []
    for name, template in dependency.parameters:
        try:
            handed[name] = template.format(**values)
            if template.format(**masked) != handed[name]:
                secrets.append(name)
        except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
            raise ProjectError(
                f"the parameter `{printable(name)}` for `{printable(dependency.entry_point)}` "
                f"cannot be filled in: {printable(str(error))}",
                place=f"entry point `{dependent.entry_point.name}`",
                hint="use `{name}` of a parameter of this entry point, `{{` for a brace",
            ) from None
    return handed, secrets


def _refuse_cycle(project: ProjectSpec, path: Sequence[_Frame], name: str) -> None:
    names = [item.entry_point.name for item in path]
    if name in names:
        cycle = " -> ".join([*names[names.index(name) :], name])
        raise ProjectError(
            f"the entry points depend on each other in a cycle: {printable(cycle)}",
            place=project.file,
            hint="remove one of these from `depends_on`",
        )


def _refuse_same_outputs(project: ProjectSpec, nodes: Sequence[ResolvedStep]) -> None:
    seen: dict[str, ResolvedStep] = {}
    for node in nodes:
        known = seen.setdefault(node.entry_point.name, node)
        if known is not node and node.entry_point.outputs:
            pairs = dict(set(known.rendered.parameters) ^ set(node.rendered.parameters))
            which = ", ".join(f"`{name}`" for name in sorted(pairs))
            raise ProjectError(
                f"`{printable(node.entry_point.name)}` is needed twice with different parameters, "
                f"{printable(which)}, and both would write "
                f"`{printable(node.entry_point.outputs[0])}`",
                place=project.file,
                hint="hand down the same parameters, or make it two entry points",
            )


def _ids(done: Mapping[_Identity, _Frame]) -> dict[_Identity, str]:
    """Return the entry point's name, with a digest of parameters where it occurs more than once.

    Ids stand in shared caches. So no value stands in them, and of secrets not even a digest, which
    would tell whoever guesses one that it is right; steps that differ in secrets alone are counted.
    """
    counts = Counter(name for name, _ in done)
    found: dict[_Identity, str] = {}
    seen: Counter[str] = Counter()
    for (name, parameters), item in done.items():
        told = name
        if counts[name] > 1:
            hidden = item.rendered.secrets
            open_ones = sorted(pair for pair in parameters if pair[0] not in hidden)
            told = f"{name}[{digest.key('step', open_ones).rpartition(':')[2][:8]}]"
            seen[told] += 1
            if seen[told] > 1:
                told = f"{told[:-1]}-{seen[told]}]"
        found[name, parameters] = told
    return found


def find_entry_point(spec: ProjectSpec, name: str, environ: Mapping[str, str]) -> EntryPoint:
    """Return the declared entry point, else one that runs the script of this name.

    The commands for scripts are MLflow's: ``.py`` by python, ``.sh`` by the caller's shell,
    ``.R`` through MLflow's R package.
    Raises NoEntryPoint where the name is neither.
    """
    declared = spec.entry_point(name)
    if declared is not None:
        return declared
    import shlex

    extension = os.path.splitext(name)[1]
    if extension == ".py":
        command = f"python {shlex.quote(name)}"
    elif extension == ".sh":
        command = f"{environ.get('SHELL', 'bash')} {shlex.quote(name)}"
    elif extension == ".R":
        command = f"Rscript -e \"mlflow::mlflow_source('{shlex.quote(name)}')\" --args"
    else:
        raise _unknown(spec, name)
    return EntryPoint(name, (), command.replace("{", "{{").replace("}", "}}"))


def missing_script(spec: ProjectSpec, entry_point: EntryPoint) -> str | None:
    """Return why a script that is no command of an entry point cannot run, or None."""
    name = entry_point.name
    if spec.spark_job is not None and spec.spark_job.python_file is not None:
        name = spec.spark_job.python_file
    elif spec.entry_point(name) is not None:
        return None
    if os.path.isfile(os.path.join(spec.root, name)):
        return None
    return f"there is no script `{name}` in {spec.root}"


def _unknown(spec: ProjectSpec, name: str) -> NoEntryPoint:
    names = [entry_point.name for entry_point in spec.entry_points]
    return NoEntryPoint(
        f"could not find `{name}` among the entry points, "
        "nor is it the name of a script (.py, .sh or .R)",
        place=spec.file or spec.root,
        hint=_choices(spec, name, names),
    )


def _choices(spec: ProjectSpec, name: str, names: list[str]) -> str:
    scripts = scripts_in(spec.root)
    meant = nearest(name, names + scripts)
    if meant is not None:
        return f"did you mean `-e {meant}`?"
    if names or scripts:
        return f"choose one with `-e NAME`: {', '.join(names + scripts[:10])}"
    return "declare it under `entry_points:` in a file named MLproject"
