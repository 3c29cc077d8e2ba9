"""`buildrun.plan` and `buildrun.validate`."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, cast

from buildrun.api.arguments import StrPath, command_line
from buildrun.api.process import Child
from buildrun.api.run import error_of, launch_spec
from buildrun.api.types import PlanReport, ValidationReport
from buildrun.errors import BuildrunError, ExecutionError, UsageError


def plan(
    uri: StrPath,
    entry_point: str = "main",
    version: str | None = None,
    parameters: Mapping[str, object] | None = None,
    docker_args: Mapping[str, object] | None = None,
    backend: str | None = "local",
    backend_config: Mapping[str, object] | StrPath | None = None,
    storage_dir: StrPath | None = None,
    env_manager: str | None = None,
    build_image: bool = False,
    *,
    force: bool | str | Sequence[str] = False,
    cache: bool = True,
    remote_cache: str | None = None,
    strict_cache: bool = False,
    locked: bool = False,
    offline: bool = False,
    cwd: StrPath | None = None,
    environ: Mapping[str, str] | None = None,
) -> PlanReport:
    """Return what ``run`` with these arguments would run, and why; nothing is written.

    The shape is that of ``buildrun plan --format json``; the requested entry point is the last
    step. Raises BuildrunError of the fitting kind where there is no plan.
    """
    arguments = {**locals()}  # all of the above by their names
    del arguments["cwd"], arguments["environ"]
    argv = [*command_line("plan", arguments), "--format=json"]
    errors: list[BuildrunError] = []

    def hear(told: Any) -> None:
        if "error" in told:
            errors.append(error_of(told["error"]))

    spec = launch_spec(argv, cwd, environ, apart=True)
    child = Child(spec._replace(stdout=subprocess.PIPE), hear)
    stream = cast(BinaryIO, child.process.stdout)
    try:
        with stream:
            text = stream.read()
        child.wait()
    except BaseException:
        child.end()
        raise
    if errors:
        raise errors[0]
    if child.exit_code != 0:
        raise ExecutionError(f"the plan could not be made: exit code {child.exit_code}")
    return cast(PlanReport, json.loads(text))


def validate(
    paths: StrPath | Sequence[StrPath] = ".", *, strict: bool = False, cwd: StrPath | None = None
) -> ValidationReport:
    """Check projects and their files, and return every finding.

    paths: directories, MLproject files or environment files. strict: warnings make a file
    invalid. cwd: where relative paths begin, and what the shown ones are relative to; default:
    ours. The shape is that of ``buildrun validate --format json``.
    """
    from buildrun.project import report
    from buildrun.project.places import Style
    from buildrun.project.read import check_files
    from buildrun.store.memo import DependencyTracker

    given = (paths,) if isinstance(paths, (str, os.PathLike)) else paths
    if not isinstance(given, Sequence) or not all(
        isinstance(path, (str, os.PathLike)) for path in given
    ):
        raise UsageError(f"`paths` must be a path or several, not {paths!r}")
    directory = os.getcwd() if cwd is None else os.path.abspath(os.fsdecode(cwd))
    rows = check_files(
        [os.fsdecode(path) for path in given], directory, DependencyTracker(os.environ)
    )
    text = report.as_json(rows, Style(directory, strict=strict))
    return cast(ValidationReport, json.loads(text))
