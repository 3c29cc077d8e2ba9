"""`buildrun.run`: an entry point run by a program."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from buildrun import errors
from buildrun.api.arguments import StrPath, command_line
from buildrun.api.docker_login import forget, log_in
from buildrun.api.process import Child, LaunchSpec
from buildrun.api.types import RunReport, Status
from buildrun.errors import INTERRUPTED, BuildrunError, ExecutionError, UsageError
from buildrun.store import runs

# Exit codes of those whom SIGHUP, SIGINT, SIGTERM have ended.
_CANCELLED = (129, 130, 143)

# Backends where a run may wait before it begins.
_REMOTE = ("databricks", "kubernetes")

_STATUS: Mapping[str, Status] = {"ok": "FINISHED", "failed": "FAILED", "cancelled": "KILLED"}

# Seconds that a run gets to end by itself where the terminal has sent it our Ctrl-C as well.
_OWN_END = 1.0


class ExecutionException(ExecutionError):
    """A run was not successful, in MLflow's words.

    run: the run; it is not there in another process, such as one of a pool's callers.
    exit_code: the command's own. Where the run was refused, or could not be
    prepared, message, place and hint say why, and ``__cause__`` is an error of the fitting kind.
    """

    def __init__(self, run: Run) -> None:
        """Take the run, which has ended."""
        error = run.error
        if error is None:
            super().__init__(f"Run (ID '{run.run_id}') failed")
        else:
            super().__init__(error.message, place=error.place, hint=error.hint)
        self.run = run
        self.exit_code = run.exit_code or 1

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it says; a run cannot leave its process."""
        return _unpickled, (self.message, self.place, self.hint, self.exit_code)


def _unpickled(
    message: str, place: str | None, hint: str | None, exit_code: int
) -> ExecutionException:
    error = ExecutionException.__new__(ExecutionException)
    ExecutionError.__init__(error, message, place=place, hint=hint)
    error.exit_code = exit_code
    return error


class Run:
    """A run of a project, in a process of its own; may be used from several threads."""

    def __init__(self, spec: LaunchSpec, *, remote: bool = False) -> None:
        """Start it; remote: it waits for its turn elsewhere. Raises ExecutionError."""
        self._id = ""
        self._known = threading.Event()
        self._record: Mapping[str, Any] | None = None
        self._remote = remote
        self.error: BuildrunError | None = None
        self.child = Child(spec, self._hear)

    @property
    def run_id(self) -> str:
        """Return MLflow's id of a tracked run, else buildrun's; waits until it is known."""
        self._known.wait()
        return self._id

    @property
    def exit_code(self) -> int | None:
        """Return the command's exit code, 128 and the number for a signal; None before the end."""
        if not self.child.over:
            return None
        # Where our program ignores SIGCHLD, the system does not tell how a child has ended.
        recorded = self._record["exit_code"] if self._record else None
        return self.child.exit_code or recorded or 0

    @property
    def report(self) -> RunReport | None:
        """Return how it went, in the shape of ``run --report``; None before the end."""
        code = self.exit_code
        if code is None:
            return None
        status = self.get_status()
        word: Any = next(word for word, meant in _STATUS.items() if meant == status)
        report: RunReport = {
            "version": 1,
            "run_id": self.run_id,
            "status": word,
            "exit_code": code,
            "steps": [],
        }
        if self._record:
            names = ("project", "root", "entry_point", "started", "seconds", "steps")
            known = {name: self._record[name] for name in names}
            report.update({name: value for name, value in known.items() if value is not None})  # type: ignore[typeddict-item]
        return report

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end, and return whether the run was successful.

        timeout: in seconds; raises TimeoutError when they have passed, and the run goes on.
        """
        if not self.child.wait(timeout):
            raise TimeoutError(f"the run has not ended after {timeout} seconds")
        return self.get_status() == "FINISHED"

    def get_status(self) -> Status:
        """Return how the run stands, in MLflow's words."""
        if not self.child.over:
            return "SCHEDULED" if self._remote and self._record is None else "RUNNING"
        if self._record is not None and self._record["status"] in ("failed", "cancelled"):
            return _STATUS[self._record["status"]]
        if self.exit_code == 0:
            return "FINISHED"
        ended = self.child.told_to_end or self.exit_code in _CANCELLED
        return "KILLED" if ended else "FAILED"

    def cancel(self) -> None:
        """End the run with all that it has started, and wait for that; harmless afterwards."""
        self.child.end()

    def see_through(self) -> None:
        """Wait for the end as ``run`` does; raises ExecutionException, KeyboardInterrupt."""
        succeeded = self.attend()
        if not succeeded and self.exit_code == INTERRUPTED and self.get_status() == "KILLED":
            raise KeyboardInterrupt  # it had the terminal, and Ctrl-C reached it alone
        if not succeeded:
            raise ExecutionException(self) from self.error

    def attend(self) -> bool:
        """Wait for the end and return whether all went well; what interrupts us ends the run."""
        try:
            return self.wait()
        except BaseException as interruption:
            by_user = isinstance(interruption, KeyboardInterrupt)
            shared = not self.child.apart and any(map(os.isatty, (0, 1, 2)))
            # To be told twice would mean "at once".
            if not (by_user and shared and self.child.wait(_OWN_END)):
                self.child.end(signal.SIGINT if by_user else signal.SIGTERM)
            raise

    def __repr__(self) -> str:
        """Show how it stands."""
        return f"<Run {self._id or '(not begun)'} {self.get_status()}>"

    def _hear(self, told: Any) -> None:
        if "record" in told:
            self._record = told["record"]
            self._id = told["record"]["run_id"]
            self._known.set()
        elif "run_id" in told:
            self._id = told["run_id"]
            self._known.set()
        elif "error" in told:
            self.error = error_of(told["error"])
        elif not self._known.is_set():
            self._id = runs.new_id()  # it was refused before anything was recorded
            self._known.set()


def run(
    uri: StrPath,
    entry_point: str = "main",
    version: str | None = None,
    parameters: Mapping[str, object] | None = None,
    docker_args: Mapping[str, object] | None = None,
    experiment_name: str | None = None,
    experiment_id: str | int | None = None,
    backend: str | None = "local",
    backend_config: Mapping[str, object] | StrPath | None = None,
    storage_dir: StrPath | None = None,
    synchronous: bool = True,
    run_id: str | None = None,
    run_name: str | None = None,
    env_manager: str | None = None,
    build_image: bool = False,
    docker_auth: Mapping[str, Any] | None = None,
    *,
    jobs: int | None = None,
    keep_going: bool = False,
    output: str | None = None,
    quiet: bool = False,
    force: bool | str | Sequence[str] = False,
    cache: bool = True,
    remote_cache: str | None = None,
    remote_cache_write: bool = False,
    strict_cache: bool = False,
    check_inputs: bool = False,
    sandbox: bool = False,
    refresh: bool = False,
    locked: bool = False,
    offline: bool = False,
    tracking: str | None = None,
    keep_workdir: bool = False,
    cwd: StrPath | None = None,
    environ: Mapping[str, str] | None = None,
) -> Run:
    """Run an entry point of a project, as ``mlflow.projects.run`` does; return the run.

    uri, entry_point, version: as on the command line. parameters: values are made texts by
    ``str``, and paths by ``os.fsdecode``. docker_args: a flag where the value is True; a list is an
        argument for each of its items.
    experiment_name or experiment_id, run_id, run_name: for MLflow. backend: ``local``, ``docker``,
    ``kubernetes`` or ``databricks``; the project decides where it is ``local``. backend_config: a
    mapping, JSON text, or the path of a file that ends in ``.json``. storage_dir: where ``path``
    parameters are downloaded to. env_manager: ``local``, ``virtualenv``, ``uv`` or ``conda``.
    docker_auth: as for docker-py's ``login``.

    synchronous: wait for the end, with our standard streams; raises ExecutionException where the
    run fails, and KeyboardInterrupt where the user stops it. Else return at once: the run goes
    on beside us with nothing to read, and we wait for it before we exit; when we are interrupted
    or die, it ends too.

    The rest are options of ``buildrun run``: jobs, keep_going, output, quiet, force (True for
    every step, or names), cache (False: `--no-cache`), remote_cache, remote_cache_write,
    strict_cache, check_inputs, sandbox, refresh, locked, offline, tracking (``on``, ``optional``
    or ``off``), keep_workdir. cwd: where relative paths begin; environ: the variables; both default
    to ours.

    Raises UsageError and ParameterError for arguments that cannot be, at once.
    """
    arguments = {**locals()}  # all of the above by their names
    for name in ("synchronous", "docker_auth", "cwd", "environ"):
        del arguments[name]
    main = threading.current_thread() is threading.main_thread()
    started = start(arguments, docker_auth, cwd, environ, apart=not (synchronous and main))
    if synchronous:
        started.see_through()
    return started


def start(
    arguments: Mapping[str, Any],
    docker_auth: Mapping[str, Any] | None,
    cwd: StrPath | None,
    environ: Mapping[str, str] | None,
    *,
    apart: bool,
) -> Run:
    """Return a run that goes on beside us; apart: see `LaunchSpec`, the rest is as for `run`."""
    spec = launch_spec(command_line("run", arguments), cwd, environ, apart=apart)
    # The run of MLflow's that our program is in, which the new one is nested in.
    parent = getattr(sys.modules.get("mlflow"), "active_run", lambda: None)()
    if parent is not None and "MLFLOW_RUN_ID" not in spec.environ:
        environ = {**spec.environ, "MLFLOW_RUN_ID": str(parent.info.run_id)}
        spec = spec._replace(environ=environ)
    if docker_auth:
        directory = log_in(docker_auth, spec.environ)
        environ = {**spec.environ, "DOCKER_CONFIG": directory}
        spec = spec._replace(directory=directory, environ=environ)
    try:
        started = Run(spec, remote=arguments.get("backend") in _REMOTE)
    except BaseException:
        forget(spec.directory)
        raise
    _look_after(started)
    return started


def launch_spec(
    argv: Sequence[str],
    cwd: StrPath | None,
    environ: Mapping[str, str] | None,
    *,
    apart: bool,
) -> LaunchSpec:
    """Return what starts buildrun with our directory and variables, or with others."""
    if cwd is not None and not isinstance(cwd, (str, os.PathLike)):
        raise UsageError(f"`cwd` must be a path, not {cwd!r}")
    variables = dict(os.environ) if environ is None else _variables(environ)
    return LaunchSpec(argv, None if cwd is None else os.fsdecode(cwd), variables, apart)


def _variables(given: Mapping[str, str]) -> dict[str, str]:
    if not isinstance(given, Mapping):
        raise UsageError(f"`environ` must be a mapping, not a {type(given).__name__}")
    for name, value in given.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise UsageError(f"`environ` takes names and values that are texts: {name!r}")
        if not name or "=" in name or "\0" in name + value:
            raise UsageError(f"`{name}` in `environ` is no variable that a process can have")
    return dict(given)


# Runs that have not ended, and the process that is their parent, not one that it has forked.
_live: list[Run] = []
_owner = 0
_guard = threading.Lock()


def _look_after(run: Run) -> None:
    """See to it that we do not exit before the run has ended."""
    global _owner  # noqa: PLW0603
    with _guard:
        if _owner != os.getpid():
            _owner = os.getpid()
            _live.clear()
            atexit.unregister(_exit)
            atexit.register(_exit)
        _live[:] = [one for one in _live if one.exit_code is None]
        _live.append(run)


def _exit() -> None:
    if _owner != os.getpid():
        return
    try:
        if getattr(sys, "last_type", None) is not KeyboardInterrupt:
            for run in _live:
                run.wait()
    except KeyboardInterrupt:
        pass
    for run in _live:
        run.child.tell_to_end()
    for run in _live:
        run.cancel()


def error_of(told: Mapping[str, Any]) -> BuildrunError:
    """Return the error; one of a kind that is raised otherwise becomes the base's."""
    kind = getattr(errors, told["kind"], BuildrunError)
    parts = {"place": told["place"], "hint": told["hint"]}
    if not (isinstance(kind, type) and issubclass(kind, BuildrunError)):
        kind = BuildrunError
    try:
        error: BuildrunError = kind(told["message"], **parts)
    except TypeError:
        error = BuildrunError(told["message"], **parts)
    error.exit_code = told["exit_code"]
    return error
