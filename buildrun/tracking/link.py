"""The contract of a link to a tracking store; and how a store says no."""

from collections.abc import Mapping
from typing import Any, Protocol

from buildrun.errors import TrackingError
from buildrun.printable import printable

ABSENT = "RESOURCE_DOES_NOT_EXIST"

# Characters of a store's own words that are shown.
_LONGEST = 2000

# What goes with every error: the run need not depend on tracking.
WITHOUT = "`--tracking optional` runs without it, and `--tracking off` does not ask"


class Link(Protocol):
    """A way to a tracking store that understands MLflow's REST API 2.0."""

    # Where the store is, for the command's MLFLOW_TRACKING_URI.
    @property
    def uri(self) -> str: ...

    # Calls `/api/2.0/mlflow/<name>` and returns the answer. patient: it may be called twice, and
    # is worth waiting for. Raises Refused, or TrackingError where there is no sound answer.
    def call(self, name: str, values: Mapping[str, Any], *, patient: bool = False) -> Any: ...

    # Lets go of the store.
    def close(self) -> None: ...


class Missing(TrackingError):
    """There is no MLflow, and nobody else can use the store."""


class Refused(TrackingError):
    """The store understood and said no; code: MLflow's name for the reason."""

    def __init__(self, code: str, message: str, place: str) -> None:
        """Take what the store said."""
        super().__init__(printable(message[:_LONGEST]), place=place, hint=WITHOUT)
        self.code = code
