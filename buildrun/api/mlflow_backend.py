"""`mlflow run -b buildrun`."""

from __future__ import annotations

import atexit
import getpass
import logging
import os
import sys
import threading
from collections.abc import Mapping
from typing import Any

import click
import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import ExecutionException
from mlflow.projects import SubmittedRun
from mlflow.projects.backend.abstract_backend import AbstractBackend

from buildrun.api.run import Run, start
from buildrun.console import redact
from buildrun.errors import BuildrunError

_NAME = "buildrun"

# What MLflow puts into the backend config, and our names for it.
_PASSED = {
    "ENV_MANAGER": "env_manager",
    "DOCKER_ARGS": "docker_args",
    "STORAGE_DIR": "storage_dir",
    "build_image": "build_image",
}

# What the user may put there: `backend` and `backend_config` are those of buildrun.
_OWN = frozenset(
    {
        "backend", "backend_config", "cache", "check_inputs", "force", "jobs", "keep_going",
        "keep_workdir", "locked", "offline", "output", "quiet", "refresh", "remote_cache",
        "remote_cache_write", "run_id", "sandbox", "strict_cache",
    }
)  # fmt: skip

_logger = logging.getLogger("mlflow.projects.buildrun")


class BuildrunRun(SubmittedRun):  # type: ignore[misc]  # MLflow need not be installed
    """A run of MLflow's that buildrun carries out."""

    def __init__(self, run_id: str, run: Run, client: Any) -> None:
        """Take MLflow's run, and ours."""
        super().__init__()
        self._run_id = run_id
        self._run = run
        self._client = client
        self._lock = threading.Lock()
        self._settled = False
        _submitted.append(self)
        threading.Thread(target=self.settle, daemon=True).start()

    @property
    def run_id(self) -> str:
        """Return the id of MLflow's run."""
        return self._run_id

    @property
    def exit_code(self) -> int | None:
        """Return the command's own exit code; None before the end."""
        return self._run.exit_code

    def wait(self) -> bool:
        """Wait for the end, and return whether the run was successful."""
        succeeded = self._run.wait() if self._run.child.apart else self._run.attend()
        self.settle()
        return succeeded

    def get_status(self) -> str:
        """Return how the run stands."""
        return self._run.get_status()

    def cancel(self) -> None:
        """End the run with all that it has started."""
        self._run.cancel()
        self.settle()

    def settle(self) -> None:
        """See to it that MLflow's run has ended as ours has, whoever waits for it or does not."""
        self._run.wait()
        with self._lock:
            if self._settled:
                return
            self._settled = True
            try:
                # buildrun's own tracking names the place where the command ran instead.
                self._client.set_tag(self._run_id, "mlflow.project.backend", _NAME)
                if self._client.get_run(self._run_id).info.status in ("RUNNING", "SCHEDULED"):
                    self._client.set_terminated(self._run_id, self._run.get_status())
            except Exception as error:  # MLflow's stores raise what they like
                _logger.warning("the end of run '%s' could not be told: %s", self._run_id, error)


class BuildrunBackend(AbstractBackend):  # type: ignore[misc]  # MLflow need not be installed
    """Runs projects by buildrun."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: Mapping[str, Any] | None,
        version: str | None,
        backend_config: Mapping[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> BuildrunRun:
        """Start a run, and return it; raises MLflow's ExecutionException."""
        config = dict(backend_config)
        synchronous = bool(config.pop("SYNCHRONOUS", True))
        docker_auth = config.pop("docker_auth", None)
        options = {ours: config.pop(theirs, None) for theirs, ours in _PASSED.items()}
        if unknown := sorted(config.keys() - _OWN):
            raise ExecutionException(
                f"buildrun does not know `{unknown[0]}` in a backend config; it knows "
                + ", ".join(sorted(_OWN))
            )
        client = MlflowClient(tracking_uri)
        run_id = config.pop("run_id", None) or _create(
            client, project_uri, entry_point, experiment_id
        )
        arguments = {
            "uri": project_uri,
            "entry_point": entry_point,
            "version": version,
            "parameters": params,
            "experiment_id": experiment_id,
            "run_id": run_id,
            **options,
            "build_image": bool(options["build_image"]),
            **config,
        }
        context = _command_line()
        environ = {**os.environ, "MLFLOW_TRACKING_URI": tracking_uri}
        apart = not synchronous and context is None
        try:
            started = start(arguments, docker_auth, None, environ, apart=apart)
        except BuildrunError as error:
            client.set_terminated(run_id, "FAILED")
            raise ExecutionException(str(error)) from error
        submitted = BuildrunRun(run_id, started, client)
        if context is not None and not synchronous:
            context.call_on_close(lambda: _finish(submitted))
        return submitted


def _create(client: Any, uri: str, entry_point: str, experiment_id: str) -> str:
    """Return the id of a new run; buildrun's tracking adds to it what the project tells."""
    tags = {
        "mlflow.source.name": os.path.abspath(uri) if os.path.exists(uri) else redact(uri),
        "mlflow.source.type": "PROJECT",
        "mlflow.project.entryPoint": entry_point,
    }
    try:
        tags["mlflow.user"] = getpass.getuser()
    except (ImportError, KeyError, OSError):
        pass  # a container's user need not have a name
    if (parent := mlflow.active_run()) is not None:
        tags["mlflow.parentRunId"] = parent.info.run_id
    return str(client.create_run(experiment_id, tags=tags).info.run_id)


def _command_line() -> Any:
    """Return click's context of `mlflow run`, or None where a program has called MLflow."""
    context = click.get_current_context(silent=True)
    command = getattr(sys.modules.get("mlflow.cli"), "run", None)
    return context if context is not None and context.command is command else None


def _finish(submitted: BuildrunRun) -> None:
    """Wait for the run as `mlflow run` does for its own alone, and exit with the command's code."""
    if submitted.wait():
        _logger.info("=== Run (ID '%s') succeeded ===", submitted.run_id)
        return
    _logger.error("=== Run (ID '%s') failed ===", submitted.run_id)
    raise click.exceptions.Exit(submitted.exit_code or 1)


_submitted: list[BuildrunRun] = []


def _settle_all() -> None:
    for submitted in _submitted:
        submitted.settle()


# Before any run is started, so that it comes after the waiting for them.
atexit.register(_settle_all)
