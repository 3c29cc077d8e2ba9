"""What is known of one project: fingerprints, history and results, opened together."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from buildrun.planning import evidence
from buildrun.planning.context import CacheSettings
from buildrun.planning.model import Plan
from buildrun.planning.step_history import History
from buildrun.planning.uptodate import CheckOptions, StalenessCheck
from buildrun.store import own_files
from buildrun.store.action_cache import ActionCache
from buildrun.store.home import Home
from buildrun.workspace.fingerprints import Fingerprints

if TYPE_CHECKING:
    from buildrun.console import Console
    from buildrun.planning.quick_check import Conditions
    from buildrun.store.remote.client import Remote


# Among the details of a result: the MLflow run that made it.
MADE_BY = "mlflow_run"


class ProjectState(NamedTuple):
    """Where a plan is worked on, and with what.

    logs: the run's directory for them. store_results: whether results are kept; strict: only those
    whose inputs were checked. origins: the MLflow runs that make the results, by step; None where
    nothing is tracked. environ: the caller's variables.
    """

    plan: Plan
    home: Home
    staleness: StalenessCheck
    fingerprints: Fingerprints
    results: ActionCache
    history: History
    console: "Console"
    logs: str
    store_results: bool
    environ: Mapping[str, str]
    origins: dict[str, str] | None = None
    strict: bool = False


def open_state(
    plan: Plan,
    home: Home,
    settings: CacheSettings,
    environ: Mapping[str, str],
    console: "Console",
    *,
    logs: str = "",
    write: bool = True,
    explain: bool = False,
) -> ProjectState:
    """Return the state; nothing is read from the disk yet.

    logs: the directory for the logs of this run. write: False leaves the disk alone. explain:
    whether old results are searched for the one most like a new one.
    """
    root, salt = plan.root, environ.get("BUILDRUN_SALT") or None
    fingerprints = fingerprints_of(root, home, write=write)
    history = History(home.about(root, "steps"), write=write)
    results = ActionCache(
        home, root, _remote(settings, console), write=write,
        shareable=evidence.is_checked if settings.remote_strict else None,
    )  # fmt: skip
    staleness = StalenessCheck(
        plan,
        fingerprints,
        results,
        history,
        salt=salt,
        options=CheckOptions(
            None if settings.force is None else frozenset(settings.force),
            settings.cache,
            settings.strict,
            settings.remote_strict,
        ),
        explain=explain,
    )
    keep = write and settings.cache
    return ProjectState(
        plan, home, staleness, fingerprints, results, history, console, logs, keep, environ,
        strict=settings.strict,
    )  # fmt: skip


def fingerprints_of(root: str, home: Home, *, write: bool = True) -> Fingerprints:
    """Return what knows the files of a project; see ``open_state``."""
    ours = own_files.below(home, root)
    return Fingerprints(root, home.about(root, "index"), write=write, without=ours)


def origins_of(history: History, steps: Iterable[str]) -> dict[str, str]:
    """Return the MLflow runs that made the last results of steps, as far as that is known."""
    found = {}
    for step in steps:
        last = history.last(step)
        if last is not None and isinstance(made_by := last.details.get(MADE_BY), str):
            found[step] = made_by
    return found


def conditions_of(history: History, plan: Plan) -> "Conditions":
    """Return the conditions under which the last results of a plan's steps count."""
    last = [history.last(step.id) for step in plan.steps]
    found = [evidence.from_details(each.details).conditions for each in last if each is not None]
    return [conditions for conditions in found if conditions], plan.outputs


def close(state: ProjectState) -> None:
    """Save what was found out."""
    state.fingerprints.save()
    state.history.compact()


def _remote(settings: CacheSettings, console: "Console") -> "Remote | None":
    if not settings.remote or not settings.cache:
        return None
    from buildrun.store.remote.client import Remote

    return Remote(
        settings.remote, write=settings.remote_write, warn=console.warn, note=console.note
    )
