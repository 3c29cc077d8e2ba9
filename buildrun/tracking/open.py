"""From MLFLOW_TRACKING_URI to a link: the server itself, or the user's own MLflow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from buildrun.tracking import address, credentials

if TYPE_CHECKING:
    from buildrun.tracking.link import Link


def open_link(environ: Mapping[str, str], cwd: str, prefixes: Sequence[str] = ()) -> "Link":
    """Return a link to the caller's store.

    cwd: where relative paths begin. prefixes: of environments whose Python may have MLflow.
    Raises TrackingError.
    """
    given = environ.get("MLFLOW_TRACKING_URI", "")
    uri = address.absolute(given, cwd) if given else ""
    if address.is_server(uri) and not credentials.needs_mlflow(environ):
        from buildrun.tracking.rest import Rest

        return Rest(uri, environ)
    from buildrun.tracking.child import Child

    return Child(uri, environ, cwd, prefixes)
