"""The MLflow REST API over HTTP."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from buildrun import __version__, http
from buildrun.console import printable, redact
from buildrun.errors import ExecutionError, TrackingError
from buildrun.http import Answer, Certificates, HttpClient, Server
from buildrun.tracking.config import WITHOUT, Refused, is_true, timeout_seconds

_READING = frozenset({"runs/get", "experiments/get", "experiments/get-by-name"})

# Answers after which it is worth asking again, and the pauses in seconds. The first of them say
# that nothing was done; after the others a thing may be done twice.
_BUSY = (429, 503)
_TROUBLED = (500, 502, 504)
_PAUSES = (0.5, 1.0, 2.0)

_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what "
    "the server knows"
)

_LEADS = "set MLFLOW_TRACKING_URI to the address that it leads to"
_ONE = "set MLFLOW_TRACKING_URI to the address of one"

# What the messages call it.
_NAME = "the tracking server"


class Access(NamedTuple):
    """How a server is told who we are. headers: raises TrackingError, and what is in http.TROUBLE.

    renew: has other credentials used, False where there are none. login, address: hints for who is
    not let in, and for what is another server. hide: makes the server's words fit to be shown, None
    where they are not.
    """

    headers: Callable[[], Mapping[str, str]]
    login: str = _LOGIN
    address: str = ""
    renew: Callable[[], bool] = lambda: False
    hide: Callable[[str], str] | None = None


class RestClient:
    """A client of a server that speaks MLflow's REST API; uri: as commands see it."""

    def __init__(
        self, uri: str, store: str, server: Server, access: Access, environ: Mapping[str, str]
    ) -> None:
        """Prepare; nothing is sent yet. Raises TrackingError for settings that are odd."""
        self.uri = uri
        self.store = store
        self._access = access
        self._client = HttpClient(server, environ)

    def call(self, name: str, values: Mapping[str, Any], *, patient: bool = False) -> Any:
        """Call the server; see `TrackingClient`."""
        verb, path, body = "POST", f"/api/2.0/mlflow/{name}", b""
        if name in _READING:
            ((key, value),) = values.items()
            verb, path = "GET", f"{path}?{key}={quote(value, safe='')}"
        else:
            body = json.dumps(values).encode()
        repeated = _BUSY + _TROUBLED if patient else _BUSY
        for pause in (*_PAUSES, 0.0):
            try:
                answer = self._ask(verb, path, body)
            except http.TROUBLE as error:
                if not patient or not pause:
                    raise self._unreachable(error) from None
            else:
                if answer.status not in repeated or not pause:
                    return self._value(answer)
            time.sleep(pause)
        raise AssertionError(name)

    def close(self) -> None:
        """Hang up; a later call connects again."""
        self._client.close()

    def _ask(self, verb: str, path: str, body: bytes) -> Answer:
        answer = self._client.request(verb, path, self._access.headers(), body)
        if answer.status == 401 and self._access.renew():
            answer = self._client.request(verb, path, self._access.headers(), body)
        return answer

    def _value(self, answer: Answer) -> Any:
        """Return what is in an answer; raises TrackingError."""
        status, words = answer.status, ""
        try:
            value = json.loads(answer.content) if answer.content else {}
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            if status == 200:
                return value
            said, hide = value.get("message"), self._access.hide
            if isinstance(said, str) and hide is not None:
                said = hide(said)
                words = f": {said}"
            # What Databricks says in JSON while it is in trouble is no refusal.
            passing = (429, *range(500, 600)) if words else ()
            if isinstance(said, str) and status not in (401, 403, *passing):
                raise Refused(str(value.get("error_code", "")), said, self.store)
        if status in (401, 403):
            fact = f"the tracking server does not let you in ({status}){words}"
            raise self._error(fact, self._access.login)
        if 300 <= status < 400:
            there = printable(answer.headers.get("Location", ""))
            place = redact(there).partition("/api/2.0/")[0]
            where = f" to `{place}`" if place else " elsewhere"
            fact = f"the tracking server sends us{where} ({status})"
            raise self._error(fact, self._access.address or _LEADS)
        if status >= 500 or words:
            raise self._error(f"the tracking server failed ({status}){words}", WITHOUT)
        kind = printable(answer.kind) or "nothing that can be read"
        fact = f"this is no MLflow server: it answers with {kind} ({status})"
        raise self._error(fact, self._access.address or _ONE)

    def _unreachable(self, error: Exception) -> TrackingError:
        fact = f"the tracking server cannot be reached: {http.reason(error)}"
        return self._error(fact, WITHOUT)

    def _error(self, fact: str, hint: str) -> TrackingError:
        return TrackingError(fact, place=self.store, hint=hint)


def connect(uri: str, environ: Mapping[str, str]) -> RestClient:
    """Return a client of the server at an `http` or `https` URI; raises TrackingError."""
    address = http.address_of(uri)
    if address is None:
        raise TrackingError("MLFLOW_TRACKING_URI is not the address of a server")
    headers = _headers(address.userinfo, environ)
    certificates = _certificates(environ) if address.scheme == "https" else Certificates()
    timeout = timeout_seconds(environ, http.ANSWER)
    server = Server(address, _NAME, TrackingError, certificates, timeout)
    return RestClient(uri, redact(uri), server, Access(lambda: headers), environ)


def connect_databricks(uri: str, environ: Mapping[str, str]) -> RestClient:
    """Return a client of a Databricks workspace; raises TrackingError.

    uri: `databricks`, or `databricks://` and the name of a profile.
    """
    from buildrun.executors.databricks import auth

    try:
        connection = auth.connect(uri.partition("://")[2] or None, environ)
    except ExecutionError as error:
        raise _as_tracking(error) from None

    def headers() -> Mapping[str, str]:
        try:
            return {**auth.AGENT, "Content-Type": "application/json", **connection.headers()}
        except ExecutionError as error:
            raise _as_tracking(error) from None

    access = Access(
        headers,
        f"it goes by {connection.source}: sign in anew, or have the right to the experiment given",
        f"{connection.origin} must be the workspace's own address",
        connection.renew,
        connection.hide,
    )
    timeout = timeout_seconds(environ, http.ANSWER)
    server = connection.server._replace(name=_NAME, error=TrackingError, timeout=timeout)
    return RestClient(uri, connection.host, server, access, environ)


def _as_tracking(error: ExecutionError) -> TrackingError:
    return TrackingError(error.message, place=error.place, hint=f"{error.hint}; {WITHOUT}")


def _headers(userinfo: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that every request has; raises TrackingError."""
    name, _, password = userinfo.partition(":")
    headers = {
        "User-Agent": f"buildrun/{__version__}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Authorization": _authorization(environ, (unquote(name), unquote(password))),
        "X-MLFLOW-WORKSPACE": environ.get("MLFLOW_WORKSPACE", "").strip(),
    }
    if not all(map(http.is_clean, headers.values())):
        raise TrackingError(
            "MLFLOW_TRACKING_TOKEN or MLFLOW_WORKSPACE holds characters that no header can",
            hint="it may hold a line's end; set it anew",
        )
    return {name: value for name, value in headers.items() if value}


def _authorization(environ: Mapping[str, str], userinfo: tuple[str, str]) -> str:
    """Return the header that tells who we are, or ""; userinfo: what the URI holds."""
    name, password = _credentials(environ)
    if not (name and password) and not environ.get("MLFLOW_TRACKING_TOKEN"):
        name, password = userinfo
    if name and password:
        return http.basic(name, password)
    token = environ.get("MLFLOW_TRACKING_TOKEN", "")
    return f"Bearer {token}" if token else ""


def _credentials(environ: Mapping[str, str]) -> tuple[str, str]:
    name = environ.get("MLFLOW_TRACKING_USERNAME", "")
    password = environ.get("MLFLOW_TRACKING_PASSWORD", "")
    if name and password:
        return name, password
    path = os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".mlflow", "credentials")
    if not os.path.isfile(path):
        return name, password
    import configparser

    config = configparser.ConfigParser(interpolation=None)
    try:
        config.read(path, encoding="utf-8")
        for option, value in config.items("mlflow") if config.has_section("mlflow") else ():
            if option == "mlflow_tracking_username":
                name = name or value
            elif option == "mlflow_tracking_password":
                password = password or value
    except (configparser.Error, UnicodeDecodeError, OSError):
        raise TrackingError(
            "the file of MLflow's credentials cannot be read", place=path,
            hint="it is to hold `[mlflow]`, `mlflow_tracking_username = …` and "
            "`mlflow_tracking_password = …`",
        ) from None  # fmt: skip
    return name, password


def _certificates(environ: Mapping[str, str]) -> Certificates:
    """Return how the server proves itself and we to it; raises TrackingError."""
    insecure = is_true(environ, "MLFLOW_TRACKING_INSECURE_TLS")
    authority = environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "")
    if insecure and authority:
        raise TrackingError(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH contradict each "
            "other",
            hint="unset one of them",
        )
    own = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH", "")
    return Certificates(authority, own, insecure)
