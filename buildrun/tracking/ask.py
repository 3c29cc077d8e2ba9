"""What is to be recorded of a run, and whether anything is."""

from collections.abc import Mapping
from typing import NamedTuple

MODES = ("on", "optional", "off")


class Ask(NamedTuple):
    """What is to be recorded; JSON values.

    The store is not in it: MLFLOW_TRACKING_URI tells it each time. experiment_id,
    experiment_name: at most one of them; neither stands for MLflow's default. run_id: a run to go
    on with, else None. run_name: None leaves the name to the server. params: unquoted. optional:
    whether trouble is only warned of.
    """

    experiment_id: str | None
    experiment_name: str | None
    run_id: str | None
    run_name: str | None
    tags: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, str], ...]
    optional: bool


def is_wanted(mode: str | None, environ: Mapping[str, str], *named: str | None) -> bool:
    """Return whether a run is tracked.

    mode: one of MODES, None where the user said nothing. named: experiment and run, as far as the
    user named them.
    """
    if mode in ("on", "off"):
        return mode == "on"
    if any(named):
        return True
    return bool(environ.get("MLFLOW_TRACKING_URI") or environ.get("MLFLOW_RUN_ID"))


def parent(ask: Ask, environ: Mapping[str, str]) -> str | None:
    """Return the run whose command called us, which the new one is nested in."""
    return None if ask.run_id else environ.get("MLFLOW_RUN_ID") or None
