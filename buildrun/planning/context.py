"""What a command works with: its options, its surroundings, and what it has looked at."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from buildrun.console import Console
from buildrun.store import home
from buildrun.store.memo import DependencyTracker, Memo


class ProjectOptions(NamedTuple):
    """What the command line says of a project, see its help texts; JSON values."""

    uri: str
    entry_point: str = "main"
    version: str | None = None
    parameters: Mapping[str, str] = {}
    docker_args: tuple[tuple[str, str | bool], ...] = ()
    experiment_name: str | None = None
    experiment_id: str | None = None
    backend: str | None = None
    backend_config: Mapping[str, Any] = {}
    config_given: str | None = None
    env_manager: str | None = None
    storage_dir: str | None = None
    run_id: str | None = None
    run_name: str | None = None
    build_image: bool = False
    offline: bool = False
    locked: bool = False
    keep_workdir: bool = False


class CacheSettings(NamedTuple):
    """What the user asked of the cache; JSON values.

    force: ids or entry points that run in any case; None means all. remote: the URL of a shared
    cache. remote_write: whether results are put there as well. strict: whether only results count
    whose inputs were checked or that were made in a sandbox; remote_strict: whether of the shared
    cache.
    """

    force: tuple[str, ...] | None = ()
    cache: bool = True
    remote: str | None = None
    remote_write: bool = False
    strict: bool = False
    remote_strict: bool = False


class RunOptions(NamedTuple):
    """How a run goes, as the user asked; JSON values.

    jobs: how many steps at once. keep_going: whether a failure stops only what depends on it.
    output: how it is shown, None for what suits. detach: steps are only submitted.
    reports: the absolute paths of reports. provenance: that of the statement on what was made.
    check_inputs, sandbox: whether all steps are checked, or kept from what they do not declare.
    """

    cache: CacheSettings
    jobs: int
    keep_going: bool
    output: str | None
    detach: bool
    quiet: bool
    reports: tuple[str, ...]
    provenance: str | None = None
    check_inputs: bool = False
    sandbox: bool = False


class PlanSummary(NamedTuple):
    """What a run is told by; known before its plan is decoded.

    root: the project's directory. where: its place, as records of runs tell it. executor: its
    name. steps: ids and entry points, the requested one last.
    """

    project: str
    root: str
    where: str
    executor: str
    steps: Sequence[tuple[str, str]]


class RunContext(NamedTuple):
    """What a command on a project works with.

    tracker: everything that was read so far, and so what a remembered plan depends on.
    """

    options: ProjectOptions
    environ: Mapping[str, str]
    cwd: str
    home: home.Home
    console: Console
    memo: Memo
    tracker: DependencyTracker


def new_context(
    options: ProjectOptions, environ: Mapping[str, str], cwd: str, *, quiet: bool, write: bool
) -> RunContext:
    """Return a context; ``write`` False leaves the store alone."""
    store = home.locate(environ)
    tracker = DependencyTracker(environ)
    memo = Memo(store.memo, write, tracker)
    return RunContext(options, environ, cwd, store, Console(environ, quiet=quiet), memo, tracker)
