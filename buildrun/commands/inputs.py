"""``buildrun inputs``: the input files of a step, and by a traced run what it reads and makes."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

from buildrun import runner
from buildrun.commands import options as command_options
from buildrun.commands import run as run_command
from buildrun.commands import table
from buildrun.commands.parser import group
from buildrun.console import Console, printable
from buildrun.errors import ProjectError, UsageError
from buildrun.planning import model, project_loader
from buildrun.planning.context import (
    CacheSettings,
    PlanSummary,
    ProjectOptions,
    RunContext,
    RunOptions,
    new_context,
)
from buildrun.planning.graph import find_entry_point
from buildrun.planning.plan_cache import PlanLease
from buildrun.planning.state import open_state
from buildrun.planning.suggest import Suggestion, suggest
from buildrun.project import fix, report, rewrite
from buildrun.sandbox import accesses
from buildrun.store import own_files, runs, stat_signature
from buildrun.store.files import read_or_none
from buildrun.workspace.tree import Tree, look

if TYPE_CHECKING:
    from buildrun.planning.model import Plan
    from buildrun.planning.parameters import Download
    from buildrun.project.model import ProjectSpec
    from buildrun.workspace.select import FileSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    command_options.add_cache_options(parser)
    command_options.add_project_options(parser, uri=False)
    option = group(parser, command_options.OUTPUT).add_argument
    option(
        "--suggest", action="store_true",
        help="run the entry point, and tell what it should declare under `inputs` and `outputs`",
    )  # fmt: skip
    option("--write", action="store_true", help="with --suggest: put that into the MLproject")
    option("--format", choices=("text", "json"), default="text", help="default: text")


def execute(arguments: argparse.Namespace, environ: Mapping[str, str], cwd: str) -> int:
    """Write the inputs, or what is suggested, to standard output; a failed run's code else."""
    settings = command_options.read_cache_options(arguments, environ, cwd)
    options = command_options.read_project_options(arguments, environ, cwd)
    if arguments.suggest:
        return _suggest(options, settings, arguments, environ, cwd)
    if arguments.write:
        raise UsageError("`--write` goes with `--suggest`", hint="give both")
    context = new_context(options, environ, cwd, quiet=False, write=False)
    step, files = _inputs(context, settings)
    for problem in files.problems:
        context.console.warn(problem)
    paths = [
        os.fsdecode(path) + ("/" if stat_signature.is_directory(signature) else "")
        for path, signature in files.selection.files()
    ]
    if arguments.format == "json":
        table.write_json({"version": 1, "entry_point": step.entry_point, "inputs": paths})
    else:
        sys.stdout.write("".join(f"{printable(path)}\n" for path in paths))
    return 0


def _inputs(context: RunContext, settings: CacheSettings) -> tuple[model.Step, FileSet]:
    """Return the requested step, and its input files; nothing is run or written."""
    with project_loader.open_project(context) as loaded:
        project_loader.require_valid(context, loaded)
        unknown = model.EnvironmentState("", None, False)
        plan = model.make_plan(loaded.project, project_loader.plan_request(context), unknown)
        state = open_state(
            plan, context.home, settings._replace(remote=None), context.environ, context.console,
            write=False,
        )  # fmt: skip
        return plan.steps[-1], state.staleness.inputs(plan.steps[-1])


def _suggest(
    options: ProjectOptions,
    settings: CacheSettings,
    arguments: argparse.Namespace,
    environ: Mapping[str, str],
    cwd: str,
) -> int:
    """Run the entry point, and write what it should declare."""
    forced = None if settings.force is None else (*settings.force, options.entry_point)
    run_options = RunOptions(settings._replace(force=forced), 1, False, None, False, False, ())
    context = new_context(options, environ, cwd, quiet=False, write=True)
    run = _TracedRun(context, run_options, write=arguments.write)
    # Standard output is for what is suggested; what the steps write is shown beside it.
    with redirect_stdout(sys.stderr):
        code = run.go()
    if code:
        context.console.warn(
            "nothing is suggested, since a command that failed has not done all that it does",
            "mend it, and run this again",
        )
        return code
    suggestion = run.suggestion()
    _tell(suggestion, options.entry_point, arguments.format, context.console)
    if arguments.write:
        _write(suggestion, run, context.console, cwd)
    return 0


class _TracedRun(run_command.NewRun):
    """A run whose last step is watched; the project's files before it and after it."""

    _before: Tree
    _after: Tree

    def __init__(self, context: RunContext, options: RunOptions, *, write: bool) -> None:
        """Take the options; write: whether the project's MLproject has to be one to write to."""
        super().__init__(context, options, None, refresh=False)
        self._write = write
        self._records: list[runs.Record] = []

    def go(self) -> int:
        """Run, and return the exit code; raises BuildrunError."""
        runs.listeners.append(self._records.append)
        try:
            return runner.carry_out(self, PlanLease())
        finally:
            runs.listeners.remove(self._records.append)

    def open(self) -> PlanSummary:
        """Read the project, and look at its files."""
        summary = super().open()
        self._require_local()
        if self._write:
            self._require_file()
        ours = frozenset(own_files.below(self.context.home, summary.root))
        self._before = look(summary.root, ours)

        def look_again() -> None:
            self._after = look(summary.root, ours)

        self._cleanup.callback(look_again)  # before the project is removed, if it was fetched
        return summary

    def keep(self, plan: Plan, lease: PlanLease) -> None:
        """Leave nothing: it is no plan of `run`."""

    def suggestion(self) -> Suggestion:
        """Return what the entry point should declare; raises ProjectError without a trace."""
        step, project = self.plan.steps[-1], self._project
        point = find_entry_point(project, step.entry_point, self.context.environ)
        paths = [path for _, path in step.paths]
        return suggest(self._accesses(), self._before, self._after, project, point, paths)

    @property
    def file(self) -> str:
        """Return the path of the MLproject."""
        return self._project.file or self._project.root

    def _make_plan(self, project: ProjectSpec, download: Download | None = None) -> Plan:
        """Return the plan with its last step watched, and kept from nothing."""
        plan = super()._make_plan(project, download)
        *before, last = plan.steps
        return plan._replace(steps=(*before, last._replace(check_inputs=True, sandbox=None)))

    @property
    def _project(self) -> ProjectSpec:
        if self.plan.spec is None:
            raise AssertionError(self.plan.project)
        return self.plan.spec

    def _require_local(self) -> None:
        """Raise UsageError where the command runs elsewhere, unseen."""
        backend = self.plan.steps[-1].backend
        if backend != "local":
            raise UsageError(
                f"a command is watched on this machine alone, and this one runs on {backend}",
                hint="write `inputs` and `outputs` yourself",
            )

    def _require_file(self) -> None:
        """Raise UsageError where there is no entry point in a file that stays."""
        name = self.plan.steps[-1].entry_point
        if self._loaded is not None and self._loaded.source.workdir is not None:
            raise UsageError(
                "`--write` is for a project in a directory: this one is fetched anew each time",
                hint="leave `--write` out, or clone the project",
            )
        if self._project.entry_point(name) is None:
            raise UsageError(
                f"`{printable(name)}` is no entry point of an MLproject, so there is nowhere to "
                "write to",
                place=self.file,
                hint="declare it under `entry_points`; `buildrun init` writes a first MLproject",
            )

    def _accesses(self) -> accesses.Accesses:
        name = self.plan.steps[-1].id
        steps = self._records[-1].steps if self._records else ()
        log = next((step["log"] for step in steps if step["id"] == name), None)
        record = read_or_none(f"{log.removesuffix('.log')}.accesses.json") if log else None
        if record is None:
            raise ProjectError(
                f"what the command of `{printable(name)}` does with files was not seen",
                hint="see what was warned of, and write `inputs` and `outputs` yourself",
            )
        return accesses.decode(record)


def _tell(suggestion: Suggestion, name: str, form: str, console: Console) -> None:
    """Write the suggestion to standard output, and its notes to standard error."""
    if form == "json":
        value = suggestion._asdict()
        del value["whole"]
        table.write_json({"version": 1, "entry_point": name, **value})
        return
    for note in suggestion.notes:
        console.warn(note)
    sys.stdout.write(rewrite.block(_lists(suggestion)))
    sys.stdout.flush()


def _lists(suggestion: Suggestion) -> dict[str, tuple[str, ...]]:
    """Return what there is to be written, by key: an empty list would be an error."""
    lists = {"inputs": suggestion.inputs, "outputs": suggestion.outputs}
    return {key: values for key, values in lists.items() if values}


def _write(suggestion: Suggestion, run: _TracedRun, console: Console, cwd: str) -> None:
    """Put the suggestion into the MLproject, and show what changes; raises ProjectError."""
    if not suggestion.whole:
        raise ProjectError(
            "not written, since not all that the command does was seen",
            place=run.file,
            hint="look the suggestion through, and put it there yourself",
        )
    point = run.plan.steps[-1].entry_point
    mended = rewrite.declare(run.file, point, _lists(suggestion), cwd)
    if mended.before == mended.after:
        console.note(f"{printable(run.file)}: nothing to be changed")
        return
    fix.write(mended)
    sys.stderr.write(report.diff(mended, cwd))
