"""A tracking server that is spoken to over MLflow's REST API 2.0."""

import json
import time
from collections.abc import Mapping
from typing import Any

from buildrun.errors import TrackingError
from buildrun.printable import printable
from buildrun.tracking import address
from buildrun.tracking.connection import Connection
from buildrun.tracking.link import WITHOUT, Refused
from buildrun.tracking.wire import Answer, Broken

_READING = frozenset({"runs/get", "experiments/get", "experiments/get-by-name"})

_OK = 200

# Answers after which it is worth asking again, and the pauses in seconds. The first of them say
# that nothing was done; after the others a thing may be done twice.
_BUSY = (429, 503)
_TROUBLED = (500, 502, 504)
_PAUSES = (0.5, 1.0, 2.0)

_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what "
    "the server knows"
)


class Rest:
    """A link to a server."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        """Read the settings; nothing is sent yet. Raises TrackingError for those that are odd."""
        self.uri = uri
        self._shown = address.shown(uri)
        self._connection = Connection(uri, environ)

    def call(self, name: str, values: Mapping[str, Any], *, patient: bool = False) -> Any:
        """Call the server; see ``Link``."""
        verb, path, body = "POST", f"/api/2.0/mlflow/{name}", b""
        if name in _READING:
            verb, path = "GET", f"{path}?{_query(values)}"
        else:
            body = json.dumps(values).encode()
        repeated = _BUSY + _TROUBLED if patient else _BUSY
        for pause in (*_PAUSES, 0.0):
            try:
                answer = self._connection.request(verb, path, body)
            except (OSError, Broken) as error:
                if not patient or not pause:
                    raise self._unreachable(error) from None
            else:
                if answer.status not in repeated or not pause:
                    return self._value(answer)
            time.sleep(pause)
        raise AssertionError(name)

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _value(self, answer: Answer) -> Any:
        """Return what is in an answer; raises TrackingError."""
        try:
            value = json.loads(answer.body) if answer.body else {}
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            if answer.status == _OK:
                return value
            if isinstance(value.get("message"), str) and answer.status not in (401, 403):
                raise Refused(str(value.get("error_code", "")), value["message"], self._shown)
        raise self._unsound(answer)

    def _unsound(self, answer: Answer) -> TrackingError:
        status = answer.status
        if status in (401, 403):
            return self._error(f"the tracking server does not let you in ({status})", _LOGIN)
        if 300 <= status < 400:
            there = printable(answer.headers.get("location", ""))
            place = address.shown(there).partition("/api/2.0/")[0]
            where = f" to `{place}`" if place else " elsewhere"
            hint = "set MLFLOW_TRACKING_URI to the address that it leads to"
            return self._error(f"the tracking server sends us{where} ({status})", hint)
        if status >= 500:
            return self._error(f"the tracking server failed ({status})", WITHOUT)
        kind = printable(answer.headers.get("content-type", "").partition(";")[0])
        kind = kind or "nothing that can be read"
        fact = f"this is no MLflow server: it answers with {kind} ({status})"
        return self._error(fact, "set MLFLOW_TRACKING_URI to the address of one")

    def _unreachable(self, error: Exception) -> TrackingError:
        if isinstance(error, TimeoutError):
            reason = "it does not answer in time"
        elif isinstance(error, OSError):
            reason = (getattr(error, "reason", "") or error.strerror or str(error)).lower()
        else:
            reason = "it hangs up, or does not speak HTTP"
        return self._error(f"the tracking server cannot be reached: {reason}", WITHOUT)

    def _error(self, fact: str, hint: str) -> TrackingError:
        return TrackingError(fact, place=self._shown, hint=hint)


def _query(values: Mapping[str, Any]) -> str:
    ((name, value),) = values.items()
    if not (value.isascii() and value.isalnum()):
        from urllib.parse import quote

        value = quote(value, safe="")
    return f"{name}={value}"
