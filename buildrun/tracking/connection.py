"""One connection to a server, kept open between requests."""

import http.client
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from buildrun.errors import TrackingError
from buildrun.tracking import credentials, proxy

if TYPE_CHECKING:
    import ssl

# Seconds until a server must have accepted a connection.
_CONNECT = 10.0
# Seconds until it must have answered, unless MLflow's variable says otherwise.
_ANSWER = 30.0
# After so many seconds without a request a server or a router may have dropped the connection.
_IDLE = 2.0
# Bytes of an answer.
_LARGEST = 64 * 1024 * 1024


class Answer(NamedTuple):
    """What a server answered; kind: of the body, such as ``application/json``."""

    status: int
    kind: str
    place: str
    body: bytes


class Connection:
    """A connection to the server at an ``http`` or ``https`` URI."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        """Read the settings; nothing is sent yet. Raises TrackingError for those that are odd."""
        from urllib.parse import unquote, urlsplit

        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if not parts.hostname or not _is_clean(uri) or " " in uri:
            raise TrackingError("MLFLOW_TRACKING_URI is not the address of a server")
        self.path = parts.path.rstrip("/")
        self._headers = {"Accept": "application/json", "Connection": "keep-alive"}
        userinfo = unquote(parts.username or ""), unquote(parts.password or "")
        if header := credentials.authorization(environ, userinfo):
            if not _is_clean(header):
                raise TrackingError("MLFLOW_TRACKING_TOKEN holds what no header can")
            self._headers["Authorization"] = header
        if workspace := environ.get("MLFLOW_WORKSPACE", "").strip():
            self._headers["X-MLFLOW-WORKSPACE"] = workspace
        self._timeout = _seconds(environ)
        scheme = parts.scheme.lower()
        between = proxy.choose(environ, scheme, parts.hostname)
        default = 443 if scheme == "https" else 80
        self._http = _open(scheme, parts.hostname, port or default, between, environ)
        self._prefix = ""
        if between is not None and scheme == "http":
            # A proxy is told the whole address of what it is to fetch.
            self._prefix = f"http://{_host(parts.hostname)}:{port or default}"
            self._headers["Host"] = f"{_host(parts.hostname)}:{port or default}"
            if between.authorization:
                self._headers["Proxy-Authorization"] = between.authorization
        self._last = 0.0

    def request(self, verb: str, path: str, body: bytes | None) -> Answer:
        """Send a request and return the answer, whatever it is.

        Raises OSError and http.client.HTTPException.
        """
        fresh = self._connect()
        try:
            return self._exchange(verb, path, body)
        except (http.client.BadStatusLine, ConnectionError):
            # Only what was dropped while nobody used it; a server that has begun to answer has
            # done what it was asked.
            self.close()
            if fresh:
                raise
        self._connect()
        return self._exchange(verb, path, body)

    def close(self) -> None:
        """Hang up; a later request connects again."""
        self._http.close()

    def _connect(self) -> bool:
        """Connect where there is no connection to rely on; returns whether that was so."""
        if self._http.sock is not None and time.monotonic() - self._last < _IDLE:
            return False
        self._http.close()
        self._http.timeout = min(_CONNECT, self._timeout)
        self._http.connect()
        self._http.sock.settimeout(self._timeout)
        return True

    def _exchange(self, verb: str, path: str, body: bytes | None) -> Answer:
        headers = self._headers
        if body is not None:
            headers = {**headers, "Content-Type": "application/json"}
        try:
            self._http.request(verb, self._prefix + self.path + path, body, headers)
            response = self._http.getresponse()
            content = response.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise http.client.HTTPException("the answer does not end")
        except BaseException:
            self._http.close()
            raise
        self._last = time.monotonic()
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        return Answer(response.status, kind, response.headers.get("Location", ""), content)


def _open(
    scheme: str,
    host: str,
    port: int,
    between: proxy.Proxy | None,
    environ: Mapping[str, str],
) -> http.client.HTTPConnection:
    if scheme == "http":
        if between is not None:
            host, port = between.host, between.port
        return http.client.HTTPConnection(host, port)
    context = _context(credentials.tls(environ))
    if between is None:
        return http.client.HTTPSConnection(host, port, context=context)
    tunnel = http.client.HTTPSConnection(between.host, between.port, context=context)
    given = between.authorization
    tunnel.set_tunnel(host, port, {"Proxy-Authorization": given} if given else {})
    return tunnel


def _context(settings: credentials.Tls) -> "ssl.SSLContext":
    import ssl

    name = settings.authority
    try:
        if name:
            folder = os.path.isdir(name)
            context = ssl.create_default_context(
                cafile=None if folder else name, capath=name if folder else None
            )
        else:
            context = ssl.create_default_context()
            _trust_usual(context)
        name = settings.client
        if name:
            context.load_cert_chain(name)
    except (OSError, ValueError):
        raise TrackingError(
            "the certificate for the tracking server cannot be read", place=name
        ) from None
    if not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust_usual(context: "ssl.SSLContext") -> None:
    """Trust what MLflow's client trusts, where the system's Python has no list of its own."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _seconds(environ: Mapping[str, str]) -> float:
    given = environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    return float(given) if given.isascii() and given.isdigit() and int(given) else _ANSWER


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _is_clean(text: str) -> bool:
    return text.isascii() and text.isprintable()
