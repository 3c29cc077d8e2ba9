"""What a run's provenance tells of its project: the commit, and the lock of its environment."""

from __future__ import annotations

import os

from buildrun.console import redact
from buildrun.errors import ProjectError
from buildrun.planning import project_loader
from buildrun.planning.context import RunContext
from buildrun.project.locate import lock_path
from buildrun.project.model import DockerEnv
from buildrun.reports import provenance
from buildrun.reports.model import RunReport
from buildrun.reports.provenance import Origin
from buildrun.store import files
from buildrun.store.memo import DependencyTracker
from buildrun.tracking import tags
from buildrun.workspace import gitignore

# The commit of a project, and the content of its lock.
State = tuple[str, bytes | None]


def look(root: str, context: RunContext) -> State:
    """Return what a run is made from, beside the files that are in its keys."""
    checkout = tags.look(root, context.environ, DependencyTracker(context.environ))
    path = _lock_path(root, context)
    lock = files.read_or_none(path) if path is not None else None
    return checkout.commit if checkout is not None else "", lock


def write(
    path: str, report: RunReport, root: str, context: RunContext, before: State | None
) -> None:
    """Write the provenance of a run that has ended; what is wrong is told, and raised never.

    before: what was there when it began.
    """

    def find() -> Origin:
        if before != look(root, context):
            raise ProjectError("the commit or the lock changed while it ran", hint="run again")
        return _origin(report, root, context)

    provenance.write(path, report, find, context.home, context.console)


def _origin(report: RunReport, root: str, context: RunContext) -> Origin:
    environ = context.environ
    checkout = tags.look(root, environ, DependencyTracker(environ))
    changed: bytes | None = b""
    if checkout is not None and checkout.commit:
        words = ("status", "--porcelain", "--untracked-files=no", "--", ".")
        changed = gitignore.ask_git(root, environ, *words)
    if changed is None:
        raise ProjectError(
            "git does not tell whether files differ from the commit",
            hint="see what `git status` says there",
        )
    return Origin(
        uri=redact(context.options.uri),
        root=root,
        commit=checkout.commit if checkout is not None else "",
        url=_as_url(checkout.url, checkout.top) if checkout is not None else "",
        modified=bool(changed),
        lock=_lock(report, root, context),
    )


def _as_url(remote: str, top: str) -> str:
    """Return a remote as a URL: `host:path` is what git calls one of ssh; paths begin at `top`."""
    if "://" in remote or not remote:
        return remote
    host, colon, path = remote.partition(":")
    if colon and "/" not in host:
        return f"ssh://{host}/{path.lstrip('/')}"
    return f"file://{os.path.abspath(os.path.join(top, remote))}"


def _lock(report: RunReport, root: str, context: RunContext) -> str | None:
    if not any(step["environment"]["lock"] == "locked" for step in report["steps"]):
        return None
    return _lock_path(root, context)


def _lock_path(root: str, context: RunContext) -> str | None:
    environment = project_loader.project_at(context, root).environment
    if isinstance(environment, DockerEnv) or environment.path is None:
        return None
    path = lock_path(environment.path)
    return path if os.path.exists(path) else None  # where nothing is installed, none is needed
