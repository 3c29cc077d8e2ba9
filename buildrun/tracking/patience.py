"""How long a store may take."""

from collections.abc import Mapping


def seconds(environ: Mapping[str, str], usual: float) -> float:
    """Return the seconds for an answer: what MLflow's variable says, else the usual."""
    given = environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    if given.isascii() and given.isdigit() and 0 < int(given) < 1_000_000:
        return float(given)
    return usual
