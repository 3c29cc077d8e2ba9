"""A run at a tracking store, from its beginning to its end."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from buildrun.errors import TrackingError
from buildrun.store.home import Home
from buildrun.tracking import config, open_runs
from buildrun.tracking.config import ABSENT, WITHOUT, Refused, RunSpec, Status, TrackingClient

if TYPE_CHECKING:
    from buildrun.console import Console

_OPEN = ("RUNNING", "SCHEDULED")

# MLflow's limits: parameters in one request, and characters of values.
_BATCH = 100
_LONGEST_PARAM = 6000
_LONGEST_TAG = 5000

# MLflow's experiment for whoever names none.
_DEFAULT = "0"


class TrackedRun:
    """A run that is open at a store. Runs that share a client are safe to be used by threads."""

    def __init__(
        self,
        client: TrackingClient,
        guard: AbstractContextManager[bool],
        home: Home,
        info: Mapping[str, Any],
    ) -> None:
        """Take over a run that the store has told of."""
        self._client = client
        self._guard = guard
        self._home = home
        self.run_id = str(info.get("run_id") or info.get("run_uuid"))
        self.experiment_id = str(info["experiment_id"])
        # A directory of this machine where its artifacts go, else None.
        self.artifacts = config.directory(str(info.get("artifact_uri") or ""))
        self._hold = open_runs.keep(home, self.run_id, client.store)

    @property
    def variables(self) -> Mapping[str, str | None]:
        """Return what the run's command sees: a text to set, or None to remove."""
        return {
            "MLFLOW_RUN_ID": self.run_id,
            "MLFLOW_EXPERIMENT_ID": self.experiment_id,
            "MLFLOW_EXPERIMENT_NAME": None,
            "MLFLOW_TRACKING_URI": self._client.uri,
        }

    def log(
        self,
        tags: Sequence[tuple[str, str]] = (),
        params: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Add tags and parameters; raises TrackingError."""
        wanted = [_pair(key, value[:_LONGEST_PARAM]) for key, value in params]
        more = [_pair(key, value[:_LONGEST_TAG]) for key, value in tags]
        for start in range(0, max(len(wanted), 1), _BATCH):
            batch = {"run_id": self.run_id, "params": wanted[start : start + _BATCH]}
            if start == 0 and more:
                batch["tags"] = more
            if len(batch) > 2 or batch["params"]:
                self._call("runs/log-batch", batch)

    def nested(self, wanted: RunSpec) -> TrackedRun:
        """Return a new run below this one; raises TrackingError."""
        with self._guard:
            made = _create(self._client, wanted, self.experiment_id, self.run_id)
            run = TrackedRun(self._client, self._guard, self._home, made)
        _fill(run, (), wanted.params)
        return run

    def end(self, status: Status, console: Console) -> None:
        """Say how the run ended; where the store cannot be told, a later run will."""
        ended = _now()
        try:
            with self._guard:
                _end(self._client, self.run_id, status, ended)
        except Refused as error:
            self._hold.drop()
            console.warn(f"the MLflow run {self.run_id} was not ended: {error.message}")
        except TrackingError as error:
            self._hold.leave(status, ended)
            console.warn(
                f"the MLflow run {self.run_id} seems to go on, though it has ended ({status}): "
                f"{error.message}",
                "the next run with the same tracking server ends it",
            )
        except BaseException:
            self._hold.leave(status, ended)
            raise
        self._hold.drop()

    def leave(self) -> None:
        """Leave it open, for whoever goes on with it."""
        self._hold.drop()

    def abandon(self) -> None:
        """End a run whose beginning has failed, as far as that goes without more trouble."""
        ended = _now()
        try:
            with self._guard:
                _end(self._client, self.run_id, "FAILED", ended, patient=False)
            self._hold.drop()
        except TrackingError:
            self._hold.leave("FAILED", ended)

    def close(self) -> None:
        """Let go of the store."""
        self._client.close()

    def _call(self, name: str, values: Mapping[str, Any]) -> Any:
        with self._guard:
            return self._client.call(name, values)


def begin(
    wanted: RunSpec,
    environ: Mapping[str, str],
    cwd: str,
    home: Home,
    prefixes: Sequence[str] = (),
) -> TrackedRun:
    """Return the run that was asked for, new or resumed; raises TrackingError."""
    client = _connect(environ, cwd, prefixes)
    try:
        _end_abandoned(client, home)
        if wanted.run_id:
            return _resume(client, wanted, wanted.run_id, home)
        # The run whose command called us.
        parent = environ.get("MLFLOW_RUN_ID") or None
        made = _create(client, wanted, _experiment(client, wanted), parent)
        run = TrackedRun(client, allocate_lock(), home, made)
        _fill(run, (), wanted.params)
    except BaseException:
        client.close()
        raise
    return run


def _fill(
    run: TrackedRun, tags: Sequence[tuple[str, str]], params: Sequence[tuple[str, str]]
) -> None:
    """Add to a run that has just begun; one that cannot be filled has failed."""
    try:
        run.log(tags, params)
    except BaseException:
        run.abandon()
        raise


def _create(client: TrackingClient, wanted: RunSpec, experiment: str, parent: str | None) -> Any:
    tags = [*wanted.tags]
    if parent:
        tags.append(("mlflow.parentRunId", parent))
    values: dict[str, Any] = {
        "experiment_id": experiment,
        "user_id": dict(tags).get("mlflow.user", "unknown"),
        "start_time": _now(),
        "tags": [_pair(key, value[:_LONGEST_TAG]) for key, value in tags],
    }
    if wanted.run_name:
        values["run_name"] = _text(wanted.run_name)
    return _info(client, client.call("runs/create", values))


def _resume(client: TrackingClient, wanted: RunSpec, run_id: str, home: Home) -> TrackedRun:
    """Go on with a run; what it holds already is left as it is."""
    try:
        found = client.call("runs/get", {"run_id": run_id})
    except Refused as error:
        if error.code != ABSENT:
            raise
        raise TrackingError(
            f"there is no MLflow run {run_id}", place=client.store,
            hint="leave `--run-id` out for a new run",
        ) from None  # fmt: skip
    info = _info(client, found)
    if info.get("lifecycle_stage") == "deleted":
        raise TrackingError(
            f"the MLflow run {run_id} is deleted", place=client.store,
            hint="restore it, or leave `--run-id` out for a new run",
        )  # fmt: skip
    known = {item.get("key") for item in found["run"].get("data", {}).get("params", ())}
    values = {"run_id": run_id, "status": "RUNNING"}
    if wanted.run_name:
        values["run_name"] = _text(wanted.run_name)
    client.call("runs/update", values)
    run = TrackedRun(client, allocate_lock(), home, info)
    _fill(run, wanted.tags, [pair for pair in wanted.params if pair[0] not in known])
    return run


def _experiment(client: TrackingClient, wanted: RunSpec) -> str:
    """Return the id of the experiment, made now if it is only a name yet."""
    if wanted.experiment_name is None:
        if wanted.experiment_id is None and config.is_databricks(client.uri):
            raise TrackingError(
                "Databricks has no default experiment", place=client.store,
                hint="name one: `--experiment-name /Users/YOU/NAME`, or by MLFLOW_EXPERIMENT_NAME",
            )  # fmt: skip
        return wanted.experiment_id or _DEFAULT
    name = wanted.experiment_name
    try:
        found = client.call("experiments/get-by-name", {"experiment_name": name})["experiment"]
    except Refused as error:
        if error.code != ABSENT:
            raise
        return _new_experiment(client, name)
    if found.get("lifecycle_stage") == "deleted":
        raise TrackingError(
            f"the MLflow experiment `{name}` is deleted", place=client.store,
            hint="restore it with `mlflow experiments restore`, or name another one",
        )  # fmt: skip
    return str(found["experiment_id"])


def _new_experiment(client: TrackingClient, name: str) -> str:
    try:
        return str(client.call("experiments/create", {"name": name})["experiment_id"])
    except Refused as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    # Another run has made it meanwhile.
    found = client.call("experiments/get-by-name", {"experiment_name": name})
    return str(found["experiment"]["experiment_id"])


def _end(
    client: TrackingClient, run_id: str, status: str, ended: int, *, patient: bool = True
) -> None:
    """End a run, unless its command has done so with as much truth."""
    info = _info(client, client.call("runs/get", {"run_id": run_id}, patient=patient))
    now = info.get("status")
    # A command may have ended its run as finished, and failed thereafter.
    if now in _OPEN or (now == "FINISHED" and status != now) or status == "KILLED":
        values = {"run_id": run_id, "status": status, "end_time": ended}
        client.call("runs/update", values, patient=patient)


def _end_abandoned(client: TrackingClient, home: Home) -> None:
    """End the runs at the same store whose buildrun was killed."""
    for note, hold in open_runs.abandoned(home, client.store):
        try:
            _end(client, note.run_id, note.status or "KILLED", note.ended or _now(), patient=False)
        except Refused:
            pass  # deleted meanwhile
        hold.drop()


def _info(client: TrackingClient, answer: Any) -> Any:
    try:
        info = answer["run"]["info"]
        if (info.get("run_id") or info["run_uuid"]) and "experiment_id" in info:
            return info
    except (KeyError, TypeError, AttributeError):
        pass
    raise TrackingError(
        "the tracking server's answer is not about a run", place=client.store,
        hint=WITHOUT,
    )  # fmt: skip


def _pair(key: str, value: str) -> dict[str, str]:
    return {"key": _text(key), "value": _text(value)}


def _text(given: str) -> str:
    """Return a text that any server can read; arguments may hold bytes that are no text."""
    return given.encode("utf-8", "backslashreplace").decode()


def _now() -> int:
    """Return the time as MLflow has it, in milliseconds."""
    return int(time.time() * 1000)


def _connect(environ: Mapping[str, str], cwd: str, prefixes: Sequence[str]) -> TrackingClient:
    """Return a client of the caller's store; raises TrackingError."""
    given = environ.get("MLFLOW_TRACKING_URI", "")
    uri = config.absolute(given, cwd) if given else ""
    if config.is_databricks(uri) and not _is_driver(environ):
        from buildrun.tracking.http import connect_databricks

        return connect_databricks(uri, environ)
    if config.is_server(uri) and not _needs_mlflow(environ):
        from buildrun.tracking.http import connect

        return connect(uri, environ)
    from buildrun.tracking.mlflow_process import MlflowProcess

    return MlflowProcess(uri, environ, cwd, prefixes)


def _needs_mlflow(environ: Mapping[str, str]) -> bool:
    """Return whether only MLflow's own client can sign requests as the caller wants."""
    if environ.get("MLFLOW_TRACKING_AUTH"):
        return True
    return config.is_true(environ, "MLFLOW_TRACKING_AWS_SIGV4")


def _is_driver(environ: Mapping[str, str]) -> bool:
    """Return whether we run at Databricks itself, where MLflow's client needs no credentials."""
    return bool(environ.get("DATABRICKS_RUNTIME_VERSION")) and not environ.get("DATABRICKS_HOST")
