"""A command's way from options to a project that is checked and an environment that is known."""

import json
import os
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun.commands.options import ProjectOptions
from buildrun.console import Console, has_credentials, holds, nearest, printable, redact
from buildrun.environments import base as registry
from buildrun.environments.base import EnvironmentRequest, Identity, identify
from buildrun.environments.prefix import prefix_of, why_unusable
from buildrun.errors import EnvironmentFailure, ProjectError
from buildrun.plan import codec, model
from buildrun.project import locate
from buildrun.project.model import EntryPoint, ProjectSpec
from buildrun.project.rules import dependencies
from buildrun.project.rules.values import misfit
from buildrun.sources import base as sources
from buildrun.sources.base import Checkout as Source
from buildrun.sources.base import Origin, SourceRequest
from buildrun.store import home
from buildrun.store.memo import DependencyTracker, Memo, memoize

if TYPE_CHECKING:
    from buildrun.environments.base import EnvironmentManager
    from buildrun.project.diagnostics import Diagnostic


# Findings said in full by a command that does something else than validating.
_SHOWN = 10


class RunContext(NamedTuple):
    """What a command on a project works with.

    tracker: everything that was read so far, and so what a prepared command depends on.
    """

    options: ProjectOptions
    environ: Mapping[str, str]
    cwd: str
    home: home.Home
    console: Console
    memo: Memo
    tracker: DependencyTracker


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


def new_context(
    options: ProjectOptions, environ: Mapping[str, str], cwd: str, *, quiet: bool, write: bool
) -> RunContext:
    """Return a session; ``write`` False leaves the store alone."""
    store = home.locate(environ)
    seen = DependencyTracker(environ)
    memory = Memo(store.memo, write, seen)
    return RunContext(options, environ, cwd, store, Console(environ, quiet=quiet), memory, seen)


def watch_config(session: RunContext, given: str | None) -> None:
    """Note that a prepared command depends on the file of a backend config, where it is one."""
    if given is None or not given.endswith(".json"):
        return
    try:
        session.tracker.read(os.path.abspath(given))
    except OSError:
        session.tracker.untrackable = True  # gone since it was read


def open_project(session: RunContext) -> LoadedProject:
    """Return the project that the options name, with every finding about it.

    Whoever opens it closes it. Raises ProjectError where it cannot be read at all, or where an
    error concerns the run.
    """
    options = session.options
    asked = SourceRequest(
        options.version, session.cwd, session.environ, session.home, session.console,
        options.offline, options.keep_workdir,
    )  # fmt: skip
    source = sources.open_project(options.uri, asked)
    try:
        return _read(session, source)
    except BaseException:
        source.close()
        raise


def _read(session: RunContext, source: Source) -> LoadedProject:
    if source.workdir is not None and source.recipe is None:
        session.tracker.untrackable = True  # its files are not there before it is opened again
    root, fresh = source.root, False

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
    value = memoize(session.memo, name, session.environ, compute)
    diagnostics = codec.decode_diagnostics(value["diagnostics"])
    if value["spec"] is None:
        raise _refusal(session, diagnostics)
    return LoadedProject(codec.load_project(value["spec"]), diagnostics, fresh, source)


def notice(opened: LoadedProject, cwd: str) -> str:
    """Return the line that stands for warnings which were said before, or ""."""
    count = sum(item.severity == "warning" for item in opened.diagnostics)
    if not count:
        return ""
    file = _relative(opened.project.file or opened.project.root, cwd)
    warnings = "1 warning" if count == 1 else f"{count} warnings"
    return f"{file}: {warnings}; `buildrun validate` shows them"


def require_valid(session: RunContext, opened: LoadedProject, *, entry_point: bool = True) -> None:
    """Say what was found; raises ProjectError for an error that concerns the run.

    entry_point: False where no entry point will be run, so that none is of concern.
    Warnings are said in full when the project is read; while its files are unchanged, a line
    stands for them.
    """
    graph = dependencies.graph_of(opened.project)
    chosen = dependencies.needed(graph, session.options.entry_point) if entry_point else ()
    concerned = [item for item in opened.diagnostics if _concerns(item, chosen, opened.project)]
    errors = tuple(item for item in concerned if item.severity == "error")
    if errors:
        raise _refusal(session, errors)
    if not opened.fresh and (line := notice(opened, session.cwd)):
        session.console.note(line)
    if opened.fresh:
        for item in concerned[:_SHOWN]:
            place = _relative(item.place, session.cwd)
            session.console.warn(f"{place}: {item.message} [{item.code}]", item.hint)
        if len(concerned) > _SHOWN:
            more = len(concerned) - _SHOWN
            session.console.warn(f"and {more} more; `buildrun validate` shows them all")
    if entry_point:
        _check_values(session, opened.project.entry_point(session.options.entry_point))


def _check_values(session: RunContext, entry_point: EntryPoint | None) -> None:
    """Warn of values that MLflow takes, and that look like mistakes."""
    given = session.options.parameters
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
        session.tracker.untrackable = True  # so that the warning is said each time
        session.console.warn(redact(printable(fact)), printable(hint))


def environment_of(
    session: RunContext, project: ProjectSpec, *, fetch: bool
) -> "tuple[EnvironmentManager | None, EnvironmentRequest, Identity | None]":
    """Return the manager, the request and the identity of the project's environment.

    Manager and identity are None for docker. fetch: a Python that is missing may be downloaded.
    Raises EnvironmentFailure.
    """
    request = request_of(session, project)
    if request.manager == "docker":
        return None, request, None
    manager = registry.load(request.manager)
    try:
        return manager, request, _identify(session, manager, request)
    except EnvironmentFailure as failure:
        obtain = getattr(failure, "obtain", None)
        if not fetch or obtain is None or session.options.offline:
            raise
        obtain(session.console)
        return manager, request, _identify(session, manager, request)


def request_of(session: RunContext, project: ProjectSpec) -> EnvironmentRequest:
    """Return what the project's environment is asked for as; raises EnvironmentFailure."""
    options = session.options
    name = registry.choose(project.environment, options.env_manager)
    return EnvironmentRequest(
        project, name, session.environ, session.memo, options.offline, options.locked
    )


def tell_of_lock(session: RunContext, identity: Identity) -> None:
    """Warn of a lock that is stale."""
    if identity.lock == "stale":
        session.tracker.untrackable = True  # so that the warning is said each time
        reasons = "; ".join(identity.stale)
        session.console.warn(f"the lock is stale and not used: {reasons}", "run `buildrun lock`")


def _bears(spec: ProjectSpec) -> bool:
    """Return whether values of secrets stand in the project's file."""
    return any(
        any(parameter.secret and parameter.default for parameter in entry_point.parameters)
        or any(holds(name, text) for name, text in entry_point.env)
        for entry_point in spec.entry_points
    )


def _identify(
    session: RunContext, manager: "EnvironmentManager", request: EnvironmentRequest
) -> Identity:
    identity = identify(manager, request)
    tell_of_lock(session, identity)
    return identity


def environment_state(
    session: RunContext, manager: "EnvironmentManager | None", identity: Identity | None
) -> model.EnvironmentState:
    """Return how the environment stands, for a plan."""
    if manager is None or identity is None:
        return model.EnvironmentState("docker", None, False)
    if not identity.key:
        return model.EnvironmentState(manager.NAME, None, True)
    prefix = prefix_of(session.home, identity.key)
    ready = why_unusable(prefix, identity.key) is None
    return model.EnvironmentState(manager.NAME, identity.key, ready, identity.lock)


def environment_content(request: EnvironmentRequest, identity: Identity) -> str:
    """Return what stands for the environment in the keys of results."""
    if identity.key:
        return identity.key
    from buildrun.environments import system

    return system.describe_active_python(request)


def plan_request(session: RunContext) -> model.PlanRequest:
    """Return what the options ask for."""
    options = session.options
    return model.PlanRequest(
        options.entry_point, options.parameters, session.cwd, session.environ, options.backend
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


def _refusal(session: RunContext, diagnostics: "tuple[Diagnostic, ...]") -> ProjectError:
    first, *rest = [item for item in diagnostics if item.severity == "error"]
    place = _relative(first.place, session.cwd)
    if not rest:
        hint = first.hint or "`buildrun validate` shows every finding"
        return ProjectError(f"{first.message} [{first.code}]", place=place, hint=hint)
    lines: list[str] = []
    for item in (first, *rest[: _SHOWN - 1]):
        where = f"{_relative(item.place, session.cwd)}: " if lines else ""
        lines.append(f"{where}{item.message} [{item.code}]")
        lines += [f"    hint: {item.hint}"] if item.hint else []
    if len(rest) >= _SHOWN:
        more = len(rest) - _SHOWN + 1
        lines.append(f"and {more} more; `buildrun validate` shows them all")
    return ProjectError("\n".join(lines), place=place)


def _relative(place: str, cwd: str) -> str:
    inside = cwd.rstrip(os.sep) + os.sep
    return place[len(inside) :] if place.startswith(inside) else place
