"""The program that answers for MLflow, run by the user's own Python."""

import json
import os
import sys
from typing import Any, TextIO


def main() -> None:
    """Answer until there is no more call."""
    # The directory of this file would hide modules of other packages.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    # What MLflow prints is not for our caller.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        import mlflow
    except ImportError:
        tell(answers, {"missing": True})
        return
    try:
        store = Store(mlflow)
        tell(answers, {"uri": mlflow.get_tracking_uri(), "version": mlflow.__version__})
    except Exception as error:
        tell(answers, failure(error))
        return
    try:
        for line in sys.stdin:
            name, values = json.loads(line)
            try:
                answer = {"value": store.call(name, values)}
            except Exception as error:
                answer = failure(error)
            tell(answers, answer)
    except (OSError, KeyboardInterrupt):
        pass
    store.end_all()
    os._exit(0)  # MLflow's own end would take longer


def tell(answers: TextIO, value: Any) -> None:
    """Write a line of JSON."""
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def failure(error: Exception) -> Any:
    """Return an error as the REST API tells it."""
    code = getattr(error, "error_code", "") or ""
    text = getattr(error, "message", "") or str(error) or type(error).__name__
    return {"error": {"error_code": str(code), "message": str(text)}}


class Store:
    """What REST calls are about, by means of MLflow's client."""

    def __init__(self, mlflow: Any) -> None:
        """Take the module."""
        from mlflow.tracking import MlflowClient

        self.entities = mlflow.entities
        self.client = MlflowClient()
        self.open: Any = []

    def call(self, name: str, values: Any) -> Any:
        """Return the answer to a call."""
        return getattr(self, "_" + name.replace("/", "_").replace("-", "_"))(values)

    def end_all(self) -> None:
        """End the runs whose caller is gone."""
        for run_id in self.open:
            try:
                if self.client.get_run(run_id).info.status in ("RUNNING", "SCHEDULED"):
                    self.client.set_terminated(run_id, "KILLED")
            except Exception:  # noqa: S112
                continue  # nobody is left to be told

    def _runs_create(self, values: Any) -> Any:
        tags = {tag["key"]: tag["value"] for tag in values["tags"]}
        name = values.get("run_name")
        if name:
            tags.setdefault("mlflow.runName", name)
        run = self.client.create_run(
            values["experiment_id"], start_time=values["start_time"], tags=tags
        )
        self.open.append(run.info.run_id)
        return shown(run)

    def _runs_get(self, values: Any) -> Any:
        return shown(self.client.get_run(values["run_id"]))

    def _runs_update(self, values: Any) -> Any:
        run_id, status = values["run_id"], values["status"]
        if "end_time" in values:
            self.client.set_terminated(run_id, status, values["end_time"])
            self.open = [other for other in self.open if other != run_id]
        else:
            self.client.update_run(run_id, status=status)
            self.open.append(run_id)
        if values.get("run_name"):
            self.client.set_tag(run_id, "mlflow.runName", values["run_name"])
        return {}

    def _runs_log_batch(self, values: Any) -> Any:
        params = [self.entities.Param(one["key"], one["value"]) for one in values["params"]]
        tags = [self.entities.RunTag(one["key"], one["value"]) for one in values.get("tags", ())]
        self.client.log_batch(values["run_id"], params=params, tags=tags)
        return {}

    def _experiments_get_by_name(self, values: Any) -> Any:
        found = self.client.get_experiment_by_name(values["experiment_name"])
        if found is None:
            raise Absent("there is no such experiment")
        stage = found.lifecycle_stage
        return {"experiment": {"experiment_id": found.experiment_id, "lifecycle_stage": stage}}

    def _experiments_create(self, values: Any) -> Any:
        return {"experiment_id": self.client.create_experiment(values["name"])}


class Absent(Exception):
    """There is nothing of that name."""

    error_code = "RESOURCE_DOES_NOT_EXIST"


def shown(run: Any) -> Any:
    """Return a run as the REST API tells it."""
    info = run.info
    status = info.status
    if isinstance(status, int):
        from mlflow.entities import RunStatus

        status = RunStatus.to_string(status)
    return {
        "run": {
            "info": {
                "run_id": info.run_id,
                "experiment_id": info.experiment_id,
                "status": status,
                "artifact_uri": info.artifact_uri,
                "lifecycle_stage": info.lifecycle_stage,
            },
            "data": {"params": [{"key": key} for key in run.data.params]},
        }
    }


if __name__ == "__main__":
    main()
