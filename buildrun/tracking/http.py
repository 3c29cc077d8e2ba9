"""The MLflow REST API over HTTP."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import ssl
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from buildrun import __version__
from buildrun.console import printable, redact
from buildrun.errors import TrackingError
from buildrun.tracking.config import WITHOUT, Refused, is_true, timeout_seconds

if TYPE_CHECKING:
    import socket

_READING = frozenset({"runs/get", "experiments/get", "experiments/get-by-name"})

# Answers after which it is worth asking again, and the pauses in seconds. The first of them say
# that nothing was done; after the others a thing may be done twice.
_BUSY = (429, 503)
_TROUBLED = (500, 502, 504)
_PAUSES = (0.5, 1.0, 2.0)

# Seconds until a server must have accepted a connection.
_CONNECT = 10.0
# Seconds until it must have answered, unless MLflow's variable says otherwise.
_ANSWER = 30.0
# After so many seconds without a request a server or a router may have dropped the connection.
_IDLE = 2.0
# Bytes of an answer.
_LARGEST = 64 * 1024 * 1024

# Scheme, userinfo, host, port and path, without query and fragment.
_URI = re.compile(
    r"(https?)://(?:([^/?#@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::([0-9]{1,5}))?(/[^?#]*)?",
    re.IGNORECASE,
)

_LOGIN = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what "
    "the server knows"
)


class RestClient:
    """A client of the server at an `http` or `https` URI."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        """Read the settings; nothing is sent yet. Raises TrackingError for those that are odd."""
        self.uri = uri
        self._shown = redact(uri)
        found = _URI.fullmatch(uri)
        if found is None or not _is_clean(uri) or " " in uri or int(found[4] or 1) > 65535:
            raise TrackingError("MLFLOW_TRACKING_URI is not the address of a server")
        scheme, host = found[1].lower(), found[3].strip("[]")
        usual = 443 if scheme == "https" else 80
        port = int(found[4] or usual)
        there = f"{found[3]}:{port}"
        self._timeout = timeout_seconds(environ, _ANSWER)
        self._headers = _headers(there.removesuffix(f":{usual}"), found[2] or "", environ)
        self._prefix = (found[5] or "").rstrip("/")
        proxy = _proxy(environ, scheme, host)
        address = (host, port) if proxy is None else proxy[0]
        timeout = min(_CONNECT, self._timeout)
        self._connection = HTTPConnection(*address, timeout=timeout)
        if scheme == "https":
            self._connection = HTTPSConnection(*address, timeout=timeout, context=_tls(environ))
        self._connection.response_class = _Response
        if proxy is not None and scheme == "https":
            self._connection.set_tunnel(host, port, {"Host": there, **proxy[1]})
        elif proxy is not None:
            # A proxy is told the whole address of what it is to fetch.
            self._prefix = f"http://{there}{self._prefix}"
            self._headers.update(proxy[1])
        self._last = 0.0

    def call(self, name: str, values: Mapping[str, Any], *, patient: bool = False) -> Any:
        """Call the server; see `TrackingClient`."""
        verb, path, body = "POST", f"{self._prefix}/api/2.0/mlflow/{name}", b""
        if name in _READING:
            ((key, value),) = values.items()
            verb, path = "GET", f"{path}?{key}={quote(value, safe='')}"
        else:
            body = json.dumps(values).encode()
        repeated = _BUSY + _TROUBLED if patient else _BUSY
        for pause in (*_PAUSES, 0.0):
            try:
                response = self._send(verb, path, body)
                content = self._read(response)
            except (OSError, HTTPException, UnicodeError) as error:
                self.close()
                if not patient or not pause:
                    raise self._unreachable(error) from None
            except BaseException:
                self.close()
                raise
            else:
                if response.status not in repeated or not pause:
                    return self._value(response, content)
            time.sleep(pause)
        raise AssertionError(name)

    def close(self) -> None:
        """Hang up; a later call connects again."""
        self._connection.close()

    def _send(self, verb: str, path: str, body: bytes) -> HTTPResponse:
        """Return the beginning of an answer; a connection dropped while unused is made again."""
        if time.monotonic() - self._last > _IDLE:
            self.close()
        is_fresh = self._connection.sock is None
        try:
            return self._exchange(verb, path, body)
        except ConnectionError:
            # A server that has begun to answer has done what it was asked, and is past this.
            self.close()
            if is_fresh:
                raise
        return self._exchange(verb, path, body)

    def _exchange(self, verb: str, path: str, body: bytes) -> HTTPResponse:
        connection = self._connection
        if connection.sock is None:
            connection.connect()
        connection.sock.settimeout(self._timeout)
        connection.request(verb, path, body or None, self._headers)
        return connection.getresponse()

    def _read(self, response: HTTPResponse) -> bytes:
        """Return the body of an answer; raises HTTPException for one without an honest size."""
        size = response.headers.get("Content-Length", "0")
        content = b""
        if not (size.isascii() and size.isdigit()) or int(size) > _LARGEST:
            raise HTTPException
        while chunk := response.read(65536):
            content += chunk
            if len(content) > _LARGEST:
                raise HTTPException
        if response.length:
            raise IncompleteRead(content)
        self._last = time.monotonic()
        return content

    def _value(self, response: HTTPResponse, content: bytes) -> Any:
        """Return what is in an answer; raises TrackingError."""
        status = response.status
        try:
            value = json.loads(content) if content else {}
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            if status == 200:
                return value
            if isinstance(value.get("message"), str) and status not in (401, 403):
                raise Refused(str(value.get("error_code", "")), value["message"], self._shown)
        if status in (401, 403):
            raise self._error(f"the tracking server does not let you in ({status})", _LOGIN)
        if 300 <= status < 400:
            there = printable(response.headers.get("Location", ""))
            place = redact(there).partition("/api/2.0/")[0]
            where = f" to `{place}`" if place else " elsewhere"
            hint = "set MLFLOW_TRACKING_URI to the address that it leads to"
            raise self._error(f"the tracking server sends us{where} ({status})", hint)
        if status >= 500:
            raise self._error(f"the tracking server failed ({status})", WITHOUT)
        kind = printable(response.headers.get("Content-Type", "").partition(";")[0])
        kind = kind or "nothing that can be read"
        fact = f"this is no MLflow server: it answers with {kind} ({status})"
        raise self._error(fact, "set MLFLOW_TRACKING_URI to the address of one")

    def _unreachable(self, error: Exception) -> TrackingError:
        _, tunnel, answer = str(error).partition("Tunnel connection failed: ")
        if isinstance(error, TimeoutError):
            reason = "it does not answer in time"
        elif tunnel:
            reason = f"the proxy refuses it ({answer[:3]})"
        elif isinstance(error, UnicodeError):
            reason = "there is no host of that name"
        elif isinstance(error, OSError) and not isinstance(error, HTTPException):
            reason = (getattr(error, "reason", "") or error.strerror or str(error)).lower()
        else:
            reason = "it hangs up, or does not speak HTTP"
        return self._error(f"the tracking server cannot be reached: {reason}", WITHOUT)

    def _error(self, fact: str, hint: str) -> TrackingError:
        return TrackingError(fact, place=self._shown, hint=hint)


class _Response(HTTPResponse):
    """A response that has to come in whole within the timeout of its socket."""

    def __init__(self, sock: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(sock, *given, **named)
        self.fp.close()
        self.fp = io.BufferedReader(_Reader(sock))


class _Reader(io.RawIOBase):
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._file = sock.makefile("rb", buffering=0)
        self._end = time.monotonic() + (sock.gettimeout() or _ANSWER)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        return self._file.readinto(buffer)

    def close(self) -> None:
        self._file.close()
        super().close()


def _headers(host: str, userinfo: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that every request has; raises TrackingError."""
    name, _, password = userinfo.partition(":")
    headers = {
        "Host": host,
        "User-Agent": f"buildrun/{__version__}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Authorization": _authorization(environ, (unquote(name), unquote(password))),
        "X-MLFLOW-WORKSPACE": environ.get("MLFLOW_WORKSPACE", "").strip(),
    }
    if not all(map(_is_clean, headers.values())):
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
        return _basic(name, password)
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


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _is_clean(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return how the server proves itself and we to it; raises TrackingError."""
    insecure = is_true(environ, "MLFLOW_TRACKING_INSECURE_TLS")
    authority = environ.get("MLFLOW_TRACKING_SERVER_CERT_PATH", "")
    if insecure and authority:
        raise TrackingError(
            "MLFLOW_TRACKING_INSECURE_TLS and MLFLOW_TRACKING_SERVER_CERT_PATH contradict each "
            "other",
            hint="unset one of them",
        )
    name = authority or environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or ""
    try:
        if os.path.isdir(name):
            context = ssl.create_default_context(capath=name)
        else:
            context = ssl.create_default_context(cafile=name or None)
            if not name:
                _trust_usual(context)
        name = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH", "")
        if name:
            context.load_cert_chain(name)
    except (OSError, ValueError):
        raise TrackingError(
            "the certificate for the tracking server cannot be read", place=name
        ) from None
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trust_usual(context: ssl.SSLContext) -> None:
    """Trust what MLflow's client trusts, where the system's Python has no list of its own."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _proxy(
    environ: Mapping[str, str], scheme: str, host: str
) -> tuple[tuple[str, int], dict[str, str]] | None:
    """Return the address of the proxy for a host and its headers; raises TrackingError."""
    given = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not given or _is_exempt(_variable(environ, "no_proxy"), host):
        return None
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise TrackingError(
            f"the proxy that `{scheme}_proxy` names cannot be used",
            hint="give it as `http://HOST:PORT`, or exempt the tracking server with `no_proxy`",
        )
    headers = {}
    if parts.username:
        who = _basic(unquote(parts.username), unquote(parts.password or ""))
        headers["Proxy-Authorization"] = who
    return (parts.hostname, port), headers


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_exempt(given: str, host: str) -> bool:
    host = host.lower()
    for item in given.lower().replace(" ", "").split(","):
        if item == "*" or (item and (host == item or host.endswith(f".{item.lstrip('.')}"))):
            return True
        if "/" in item and _is_within(item, host):
            return True
    return False


def _is_within(network: str, host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
