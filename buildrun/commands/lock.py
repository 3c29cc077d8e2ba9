"""``buildrun lock``: pin an environment to versions and hashes, in a file beside its own."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence

from buildrun.commands import all_projects, export, table
from buildrun.commands import options as command_options
from buildrun.console import Console, printable
from buildrun.environments import base, lockfile, remote
from buildrun.environments.base import EnvironmentRequest, here, identify
from buildrun.environments.lockfile import Lock
from buildrun.errors import FAILURE, EnvironmentFailure, ProjectError, StoreError, UsageError
from buildrun.executors.base import builds_nothing_here
from buildrun.executors.base import load as load_executor
from buildrun.planning import project_loader
from buildrun.planning.context import RunContext, new_context
from buildrun.planning.project_loader import LoadedProject
from buildrun.project.locate import lock_path
from buildrun.project.model import DockerEnv, ProjectSpec
from buildrun.store.files import publish
from buildrun.store.memo import DependencyTracker


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    command_options.add_project_options(parser, uri=False)
    option = parser.add_argument
    option("uris", metavar="URI", nargs="*", help=command_options.URI_HELP)
    all_projects.add_arguments(parser)
    option(
        "--of-projects", action="store_true",
        help="take the URIs for files, and mean the projects of the repository that these concern",
    )  # fmt: skip
    option(
        "--platform", metavar="PLATFORM", action="append", default=[],
        help="such as linux-x86_64; repeatable; those of the lock stay; default: this one",
    )  # fmt: skip
    option("--update", action="store_true", help="take the newest versions that fit")
    option("--check", action="store_true", help="only say whether the lock is fresh; exit 1 if not")
    option("--dry-run", action="store_true", help="show what would change and write nothing")
    export.add_arguments(parser)
    option("--format", choices=("text", "json"), default="text", help="default: text")
    option("-q", "--quiet", action="store_true", help="say only what went wrong")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Lock one project or several, and show what changed."""
    export.check_options(arguments)
    uris = arguments.uris
    if len(uris) > 1 and not arguments.of_projects:
        raise UsageError("name one project", hint="or a directory, and give `--all`")
    arguments.uri = uris[0] if uris else None
    if not all_projects.asked_for(arguments) and not arguments.of_projects:
        return _open(arguments, environ, cwd, several=False)
    if arguments.format != "text":
        raise UsageError("`--format` is for one project", hint="leave it out")
    projects = (
        _concerned(uris, environ, cwd)
        if arguments.of_projects
        else all_projects.select(arguments, environ, cwd, write=True)
    )

    def lock_one(root: str) -> int:
        return _open(all_projects.alone(arguments, root), environ, cwd, several=True)

    return all_projects.each(projects, lock_one, cwd, Console(environ, quiet=True))


def _concerned(files: Sequence[str], environ: Mapping[str, str], cwd: str) -> list[str]:
    """Return the projects in which these files lie, or which name them or are locked by them."""
    from buildrun.project import discover
    from buildrun.workspace.changes import repository_top

    locked = [file.removesuffix("lock") for file in files if file.endswith(".lock")]
    named = [stem + ending for stem in locked for ending in ("yaml", "yml")]
    paths = [os.path.join(cwd, file) for file in (*files, *named)]
    projects = discover.find_projects(repository_top(cwd) or cwd, environ)
    return discover.concerned(projects, paths, environ)


def _open(
    arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str, *, several: bool
) -> int:
    """Lock a project; of several those without an environment are passed over."""
    options = command_options.read_project_options(arguments, environ, cwd)
    context = new_context(options, environ, cwd, quiet=arguments.quiet, write=True)
    with project_loader.open_project(context) as loaded:
        environment = loaded.project.environment
        if several and (isinstance(environment, DockerEnv) or environment.path is None):
            return 0
        return _lock(context, loaded, arguments)


def _lock(context: RunContext, loaded: LoadedProject, arguments: argparse.Namespace) -> int:
    options = context.options
    project_loader.require_valid(context, loaded, entry_point=False)
    writes = not (arguments.check or arguments.dry_run or arguments.export)
    if loaded.source.workdir is not None and writes:
        raise UsageError(
            "the lock of a project from git or an archive would be lost with its directory",
            place=loaded.origin.name,
            hint="lock a checkout and commit the lock; `--check`, `--dry-run` and `--export` work "
            "here",
        )
    path = _environment_file(loaded.project, is_checked=arguments.check)
    name = base.choose(loaded.project.environment, options.env_manager)
    request = EnvironmentRequest(
        loaded.project, name, context.environ, context.memo, options.offline
    )
    manager = base.load(name)
    if not path:
        sys.stdout.write("the project declares no environment; there is nothing to lock\n")
        return 0
    previous, reasons = _state(request, path)
    asked = list(arguments.platform)
    if options.backend and builds_nothing_here(load_executor(options.backend)):
        asked.append(remote.PLATFORM)
        reasons = [reason for reason in reasons if reason != lockfile.lacks(here())]
    if arguments.export:
        return export.write(context, request, path, previous, reasons, arguments)
    if arguments.check:
        absent = set(asked).difference(previous.platforms if previous else ())
        reasons = [*reasons, *(lockfile.lacks(name) for name in sorted(absent))]
        code = _say_state(lock_path(path), reasons)
        if reasons and loaded.source.workdir is None:
            context.console.note(f"hint: `{_command(context, loaded, absent)}` makes a fresh one")
        return code
    platforms = _platforms(asked, previous)
    fresh = not reasons and previous is not None and set(platforms) <= set(previous.platforms)
    if fresh and not arguments.update:
        return _show(lock_path(path), previous, previous, arguments.format)
    lock = manager.lock(request, platforms, None if arguments.update else previous, context.console)
    if not arguments.dry_run:
        _write(lock_path(path), lock)
    return _show(lock_path(path), previous, lock, arguments.format)


def _environment_file(project: ProjectSpec, *, is_checked: bool) -> str:
    environment = project.environment
    if isinstance(environment, DockerEnv):
        raise ProjectError(
            "a docker project has no environment to lock",
            place=project.file,
            hint="name the image by its digest instead: `image: NAME@sha256:…`",
        )
    if environment.path is None and is_checked and project.file is not None:
        return ""
    if environment.path is None:
        fact = "the project declares no environment" if project.file else "there is no MLproject"
        raise ProjectError(
            f"{fact}, so there is nothing to lock",
            place=project.file or project.root,
            hint="list its dependencies in `python_env.yaml`"
            + ("" if project.file else ", or name the directory of a project"),
        )
    return environment.path


def _state(request: EnvironmentRequest, path: str) -> tuple[Lock | None, Sequence[str]]:
    """Return the lock that is there and why it does not serve; reasons are empty when it does."""
    try:
        previous = lockfile.load(path, DependencyTracker(request.environ))
    except EnvironmentFailure as failure:
        return None, [failure.message]
    if previous is None:
        return None, ["there is no lock"]
    identity = identify(base.load(request.manager), request)
    return previous, identity.stale if identity.lock == "stale" else ()


def _command(context: RunContext, loaded: LoadedProject, platforms: Iterable[str]) -> str:
    """Return the command that makes the lock fresh."""
    manager = context.options.env_manager
    given = [] if manager is None else ["--env-manager", manager]
    given += [f"--platform={name}" for name in sorted(platforms)]
    directory = os.path.relpath(loaded.project.root, context.cwd)
    return printable(shlex.join(["buildrun", "lock", *given, directory]))


def _say_state(path: str, reasons: Sequence[str]) -> int:
    if not reasons:
        sys.stdout.write(f"{path}: fresh\n")
        return 0
    for reason in reasons:
        sys.stdout.write(f"{path}: {reason}\n")
    sys.stdout.flush()  # what else is said comes after it
    return FAILURE


def _platforms(asked: Sequence[str], previous: Lock | None) -> list[str]:
    known = list(previous.platforms) if previous is not None else []
    return list(dict.fromkeys([*known, *asked])) or [here()]


def _write(path: str, lock: Lock) -> None:
    try:
        publish(path, lockfile.dump(lock))
    except OSError as error:
        raise StoreError(
            f"cannot write the lock: {error.strerror}", place=path, hint="check its directory"
        ) from None


def _show(path: str, old: Lock | None, new: Lock | None, form: str) -> int:
    before = old.platforms if old is not None else {}
    after = new.platforms if new is not None else {}
    names = sorted(before.keys() | after.keys())
    changes = {
        name: lockfile.difference(before.get(name, ()), after.get(name, ())) for name in names
    }
    if form == "json":
        value = {"version": 1, "path": path, "changes": changes}
        table.write_json(value)
        return 0
    sys.stdout.write(f"{path}\n")
    for name, lines in changes.items():
        count = len(after.get(name, ()))
        sys.stdout.write(
            f"{name}: {count} package{'s'[: count != 1]}{'' if lines else ', unchanged'}\n"
        )
        sys.stdout.writelines(f"  {line}\n" for line in lines)
    return 0
