"""MLflow tracking: what a run leaves at a tracking server, and what its command sees of that.

Its face: `config`, `recorder`, `session`; the other modules are its own.
"""

from collections.abc import Mapping


def variables(
    *, run_id: str | None, experiment_id: str | None, experiment_name: str | None
) -> Mapping[str, str | None]:
    """Return what an untracked command sees: a text to set, or None to remove.

    Without a run of that name in the store, MLFLOW_RUN_ID would make the client fail; so it is
    set only where the caller names a run, and the command's own ``start_run`` makes one else.
    """
    wanted: dict[str, str | None] = {}
    if run_id is not None:
        wanted["MLFLOW_RUN_ID"] = run_id
    if experiment_id is not None:
        wanted["MLFLOW_EXPERIMENT_ID"] = experiment_id
        wanted["MLFLOW_EXPERIMENT_NAME"] = None
    elif experiment_name is not None:
        wanted["MLFLOW_EXPERIMENT_NAME"] = experiment_name
        wanted["MLFLOW_EXPERIMENT_ID"] = None
    return wanted
