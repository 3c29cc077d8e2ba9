"""Loading a project: opened at its source, read, and checked."""

import json
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.console import counted, has_credentials, holds, nearest, printable, redact
from buildrun.errors import ProjectError
from buildrun.planning import model
from buildrun.planning.context import RunContext
from buildrun.project import codec, locate
from buildrun.project.model import EntryPoint, ProjectSpec
from buildrun.project.rules import dependencies
from buildrun.project.rules.values import misfit
from buildrun.sources import base as sources
from buildrun.sources.base import Checkout as Source
from buildrun.sources.base import Origin, SourceRequest
from buildrun.store.memo import DependencyTracker, memoize

if TYPE_CHECKING:
    from buildrun.project.diagnostics import Diagnostic


# Findings said in full by a command that does something else than validating.
_SHOWN = 10


class LoadedProject(NamedTuple):
    """A project; leaving a ``with`` block on it removes what is temporary of it.

    fresh: it was read and checked just now, not remembered.
    """

    project: ProjectSpec
    diagnostics: "tuple[Diagnostic, ...]"
    fresh: bool
    source: Source

    @property
    def origin(self) -> Origin:
        """Return where the project comes from."""
        return self.source.origin

    def __enter__(self) -> "LoadedProject":
        """Use the project for a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what is temporary."""
        self.source.close()


def open_project(context: RunContext) -> LoadedProject:
    """Return the project that the options name, with every finding about it.

    Whoever opens it closes it. Raises ProjectError where it cannot be read at all, or where an
    error concerns the run.
    """
    options = context.options
    asked = SourceRequest(
        options.version, context.cwd, context.environ, context.home, context.console,
        options.offline, options.keep_workdir,
    )  # fmt: skip
    source = sources.open_project(options.uri, asked)
    try:
        if source.workdir is not None and source.recipe is None:
            context.tracker.untrackable = True  # its files are not there before it is opened again
        project, diagnostics, fresh = _read(context, source.root)
        return LoadedProject(project, diagnostics, fresh, source)
    except BaseException:
        source.close()
        raise


def project_at(context: RunContext, root: str) -> ProjectSpec:
    """Return the project in a directory; raises ProjectError where it cannot be read."""
    return _read(context, root)[0]


def _read(context: RunContext, root: str) -> "tuple[ProjectSpec, tuple[Diagnostic, ...], bool]":
    """Return the project, every finding about it, and whether it was read just now."""
    fresh = False

    def compute(reader: DependencyTracker) -> dict[str, Any]:
        nonlocal fresh
        fresh = True
        from buildrun.project.read import read_project

        reading = read_project(root, reader)
        found = {
            "spec": codec.dump_project(reading.spec) if reading.spec else None,
            "diagnostics": codec.encode_diagnostics(reading.diagnostics),
        }
        # What bears credentials is read again each time rather than kept.
        bears = has_credentials(json.dumps(found)) or (
            reading.spec is not None and _bears(reading.spec)
        )
        reader.untrackable = reader.untrackable or bears
        return found

    name = f"project {root} {locate.find_mlproject(root) or ''}"
    value = memoize(context.memo, name, context.environ, compute)
    diagnostics = codec.decode_diagnostics(value["diagnostics"])
    if value["spec"] is None:
        raise _refusal(context, diagnostics)
    return codec.load_project(value["spec"]), diagnostics, fresh


def notice(opened: LoadedProject, cwd: str) -> str:
    """Return the line that stands for warnings which were said before, or ""."""
    count = sum(item.severity == "warning" for item in opened.diagnostics)
    if not count:
        return ""
    file = _relative(opened.project.file or opened.project.root, cwd)
    return f"{file}: {counted(count, 'warning')}; `buildrun validate` shows them"


def require_valid(context: RunContext, opened: LoadedProject, *, entry_point: bool = True) -> None:
    """Say what was found; raises ProjectError for an error that concerns the run.

    entry_point: False where no entry point will be run, so that none is of concern.
    Warnings are said in full when the project is read; while its files are unchanged, a line
    stands for them.
    """
    graph = dependencies.graph_of(opened.project)
    chosen = dependencies.needed(graph, context.options.entry_point) if entry_point else ()
    concerned = [item for item in opened.diagnostics if _concerns(item, chosen, opened.project)]
    errors = tuple(item for item in concerned if item.severity == "error")
    if errors:
        raise _refusal(context, errors)
    if not opened.fresh and (line := notice(opened, context.cwd)):
        context.console.note(line)
    if opened.fresh:
        for item in concerned[:_SHOWN]:
            place = _relative(item.place, context.cwd)
            context.console.warn(f"{place}: {_fact(item)}", printable(item.hint))
        if len(concerned) > _SHOWN:
            more = len(concerned) - _SHOWN
            context.console.warn(f"and {more} more; `buildrun validate` shows them all")
    if entry_point and model.is_job(opened.project):
        _warn_of_unused(context)
    elif entry_point:
        _check_values(context, opened.project.entry_point(context.options.entry_point))


def _check_values(context: RunContext, entry_point: EntryPoint | None) -> None:
    """Warn of values that MLflow takes, and that look like mistakes."""
    given = context.options.parameters
    declared = {item.name: item.type for item in entry_point.parameters} if entry_point else {}
    for name, value in given.items():
        kind = declared.get(name)
        meant = nearest(name, declared.keys() - given.keys()) if kind is None else None
        if meant is not None:
            fact = f"the entry point declares no parameter `{name}`, so its command gets `--{name}`"
            hint = f"did you mean `{meant}`?"
        elif kind in (None, "float") or not (what := misfit(kind, value)):
            continue  # what is no float stops the run
        else:
            fact = f"parameter `{name}` is of type `{kind}`, and `{value}` is not {what}"
            hint = f"give {what}, or declare the parameter as a string"
        context.tracker.untrackable = True  # so that the warning is said each time
        context.console.warn(redact(printable(fact)), printable(hint))


def _warn_of_unused(context: RunContext) -> None:
    """Warn of what a job with a Python file of its own does not heed, as with MLflow."""
    given = context.options
    unused = ["-e"] * (given.entry_point != "main") + ["-P"] * bool(given.parameters)
    if unused:
        context.tracker.untrackable = True  # so that the warning is said each time
        fact = "`databricks_spark_job` has a `python_file` of its own, so there is no use for "
        context.console.warn(fact + " and ".join(unused), "its arguments are `parameters` there")


def _bears(spec: ProjectSpec) -> bool:
    """Return whether values of secrets stand in the project's file."""
    return any(
        any(parameter.secret and parameter.default for parameter in entry_point.parameters)
        or any(holds(name, text) for name, text in entry_point.env)
        for entry_point in spec.entry_points
    )


def plan_request(context: RunContext) -> model.PlanRequest:
    """Return what the options ask for."""
    options = context.options
    return model.PlanRequest(
        options.entry_point, options.parameters, context.cwd, context.environ, options.backend
    )


def _concerns(
    diagnostic: "Diagnostic", entry_points: Collection[str], project: ProjectSpec
) -> bool:
    """Return whether a run of these entry points has to know of the finding."""
    prefix = "/entry_points/"
    if diagnostic.severity == "warning" or not diagnostic.pointer.startswith(prefix):
        return True
    name = diagnostic.pointer[len(prefix) :].split("/")[0].replace("~1", "/").replace("~0", "~")
    if diagnostic.path != project.file:
        return True
    return name in entry_points


def _refusal(context: RunContext, diagnostics: "tuple[Diagnostic, ...]") -> ProjectError:
    first, *rest = [item for item in diagnostics if item.severity == "error"]
    place = _relative(first.place, context.cwd)
    if not rest:
        hint = printable(first.hint) or "`buildrun validate` shows every finding"
        return ProjectError(_fact(first), place=place, hint=hint)
    lines: list[str] = []
    for item in (first, *rest[: _SHOWN - 1]):
        where = f"{_relative(item.place, context.cwd)}: " if lines else ""
        lines.append(f"{where}{_fact(item)}")
        lines += [f"    hint: {printable(item.hint)}"] if item.hint else []
    if len(rest) >= _SHOWN:
        more = len(rest) - _SHOWN + 1
        lines.append(f"and {more} more; `buildrun validate` shows them all")
    return ProjectError("\n".join(lines), place=place)


def _fact(diagnostic: "Diagnostic") -> str:
    return f"{printable(diagnostic.message)} [{diagnostic.code}]"


def _relative(place: str, cwd: str) -> str:
    inside = cwd.rstrip(os.sep) + os.sep
    return printable(place[len(inside) :] if place.startswith(inside) else place)
