"""What is tracked and where, by MLflow's variables and flags."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

from buildrun.console import printable
from buildrun.errors import TrackingError

MODES = ("on", "optional", "off")

Status = Literal["FINISHED", "FAILED", "KILLED"]


class RunSpec(NamedTuple):
    """What is to be recorded; JSON values. MLFLOW_TRACKING_URI tells the store each time."""

    experiment_id: str | None  # or the name, or neither
    experiment_name: str | None
    run_id: str | None  # to go on with
    run_name: str | None  # None leaves it to the server
    tags: tuple[tuple[str, str], ...]
    params: tuple[tuple[str, str], ...]  # unquoted
    optional: bool  # trouble is only warned of


def is_wanted(mode: str | None, environ: Mapping[str, str], *named: str | None) -> bool:
    """Return whether a run is tracked, by `--tracking`, and by experiment and run as given."""
    if mode in ("on", "off"):
        return mode == "on"
    if any(named):
        return True
    return bool(environ.get("MLFLOW_TRACKING_URI") or environ.get("MLFLOW_RUN_ID"))


def status_of(exit_code: int, interrupted: int | None) -> Status:
    """Return how a run has ended; interrupted: the number of a signal, else None."""
    if interrupted is not None:
        return "KILLED"
    return "FAILED" if exit_code else "FINISHED"


ABSENT = "RESOURCE_DOES_NOT_EXIST"

# Characters of a store's own words that are shown.
_LONGEST = 2000

# What goes with every error: the run need not depend on tracking.
WITHOUT = "`--tracking optional` runs without it, and `--tracking off` does not ask"


class TrackingClient(Protocol):
    """A way to a tracking store that understands MLflow's REST API 2.0."""

    # Where the store is, for the command's MLFLOW_TRACKING_URI.
    @property
    def uri(self) -> str: ...

    # The same for messages and notes of ours, without credentials.
    @property
    def store(self) -> str: ...

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


# Stores that MLflow knows by a name.
_NAMES = ("databricks", "databricks-uc", "uc")


def absolute(uri: str, cwd: str) -> str:
    """Return the URI so that it means the same in any directory; cwd: the caller's."""
    scheme, colon, rest = uri.partition(":")
    if not colon and uri not in _NAMES:
        return _file(os.path.join(cwd, uri))
    if scheme == "file" and not rest.startswith("/"):
        return _file(os.path.join(cwd, rest))
    if scheme.startswith("sqlite") and rest.startswith("///") and rest[3:4] not in ("", "/", ":"):
        return f"{scheme}:///{os.path.join(cwd, rest[3:])}"
    return uri


def is_server(uri: str) -> bool:
    """Return whether the store is spoken to over HTTP."""
    return uri.lower().startswith(("http://", "https://"))


def is_databricks(uri: str) -> bool:
    """Return whether the store is a workspace at Databricks, of a profile or by variables.

    What a colon in the profile's place means only MLflow knows, in notebooks.
    """
    return uri == "databricks" or (uri.startswith("databricks://") and ":" not in uri[13:])


def directory(uri: str) -> str | None:
    """Return the path of a directory of this machine that a URI stands for, else None."""
    if uri.startswith("/"):
        return uri
    if not uri.startswith(("file:///", "file:/")):
        return None
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(uri)
    return unquote(parts.path) if parts.netloc in ("", "localhost") else None


def _file(path: str) -> str:
    from urllib.parse import quote

    return f"file://{quote(os.path.normpath(path))}"


def timeout_seconds(environ: Mapping[str, str], usual: float) -> float:
    """Return the seconds for an answer: what MLflow's variable says, else the usual."""
    given = environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    if given.isascii() and given.isdigit() and 0 < int(given) < 1_000_000:
        return float(given)
    return usual


def is_true(environ: Mapping[str, str], name: str) -> bool:
    """Return whether a variable says yes, as MLflow reads it."""
    return environ.get(name, "").lower() in ("true", "1")
