"""The MLflow REST API over HTTP."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from buildrun import __version__
from buildrun.console import printable
from buildrun.errors import TrackingError
from buildrun.tracking import auth, config
from buildrun.tracking.config import WITHOUT, Refused, timeout_seconds

if TYPE_CHECKING:
    import ssl

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
        self._shown = config.shown(uri)
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
            place = config.shown(there).partition("/api/2.0/")[0]
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


# Seconds until a server must have accepted a connection.
_CONNECT = 10.0
# Seconds until it must have answered, unless MLflow's variable says otherwise.
_ANSWER = 30.0
# After so many seconds without a request a server or a router may have dropped the connection.
_IDLE = 2.0

# Scheme, userinfo, host, port and path, without query and fragment.
_URI = re.compile(
    r"(https?)://(?:([^/?#@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::([0-9]{1,5}))?(/[^?#]*)?",
    re.IGNORECASE,
)


class Connection:
    """A connection to the server at an ``http`` or ``https`` URI."""

    def __init__(self, uri: str, environ: Mapping[str, str]) -> None:
        """Read the settings; nothing is sent yet. Raises TrackingError for those that are odd."""
        found = _URI.fullmatch(uri)
        if found is None or not _is_clean(uri) or " " in uri or int(found[4] or 1) > 65535:
            raise TrackingError("MLFLOW_TRACKING_URI is not the address of a server")
        self._secure = found[1].lower() == "https"
        self._host = found[3].strip("[]")
        self._port = int(found[4] or (443 if self._secure else 80))
        self._path = (found[5] or "").rstrip("/")
        self._timeout = timeout_seconds(environ, _ANSWER)
        self._proxy = choose(environ, found[1].lower(), self._host)
        self._context = _context(auth.tls(environ)) if self._secure else None
        self._headers = self._fixed(found[2] or "", environ)
        self._wire: Wire | None = None
        self._last = 0.0

    def request(self, verb: str, path: str, body: bytes = b"") -> Answer:
        """Send a request and return the answer, whatever it is; raises OSError and Broken."""
        wire, fresh = self._connect()
        try:
            return self._exchange(wire, verb, path, body)
        except (Broken, ConnectionError) as error:
            # Only what was dropped while nobody used it; a server that has begun to answer has
            # done what it was asked.
            if fresh or (isinstance(error, Broken) and error.begun):
                raise
        return self._exchange(self._connect()[0], verb, path, body)

    def close(self) -> None:
        """Hang up; a later request connects again."""
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()

    def _exchange(self, wire: Wire, verb: str, path: str, body: bytes) -> Answer:
        # A proxy is told the whole address of what it is to fetch.
        there = self._address if self._proxy is not None and not self._secure else ""
        size = f"Content-Length: {len(body)}\r\n" if verb == "POST" else ""
        head = f"{verb} {there}{self._path}{path} HTTP/1.1\r\n{self._headers}{size}\r\n"
        try:
            answer = wire.exchange(head.encode("ascii"), body, self._timeout)
        except BaseException:
            self.close()
            raise
        self._last = time.monotonic()
        if not answer.lasting:
            self.close()
        return answer

    def _connect(self) -> tuple[Wire, bool]:
        """Return the connection, and whether it is a new one."""
        if self._wire is not None and time.monotonic() - self._last < _IDLE:
            return self._wire, False
        self.close()
        host, port = self._host, self._port
        if self._proxy is not None:
            host, port = self._proxy.host, self._proxy.port
        # As bytes it is not looked at by the codec for international names, which loads slowly.
        where = (host.encode("ascii"), port)
        connected = socket.create_connection(where, min(_CONNECT, self._timeout))  # type: ignore[arg-type]
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                if self._proxy is not None:
                    self._tunnel(connected)
                connected = self._context.wrap_socket(connected, server_hostname=self._host)
        except BaseException:
            connected.close()
            raise
        self._wire = Wire(connected)
        return self._wire, True

    def _tunnel(self, connected: socket.socket) -> None:
        """Have the proxy connect us; raises OSError and Broken."""
        there = self._address.partition("://")[2]
        given = self._proxy.authorization if self._proxy is not None else ""
        more = f"Proxy-Authorization: {given}\r\n" if given else ""
        head = f"CONNECT {there} HTTP/1.1\r\nHost: {there}\r\n{more}\r\n"
        answer = Wire(connected).tunnel(head.encode("ascii"), self._timeout)
        if answer != 200:
            raise OSError(f"the proxy refuses it ({answer})")

    @property
    def _address(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._secure else 'http'}://{host}:{self._port}"

    def _fixed(self, userinfo: str, environ: Mapping[str, str]) -> str:
        """Return the headers that every request has; raises TrackingError."""
        usual = 443 if self._secure else 80
        there = self._address.partition("://")[2]
        headers = {
            "Host": there.removesuffix(f":{usual}"),
            "User-Agent": f"buildrun/{__version__}",
            "Accept": "application/json",
            "Content-Type": "application/json",
        }
        name, _, password = userinfo.partition(":")
        if "%" in userinfo:
            from urllib.parse import unquote

            name, password = unquote(name), unquote(password)
        if header := auth.authorization(environ, (name, password)):
            headers["Authorization"] = header
        if workspace := environ.get("MLFLOW_WORKSPACE", "").strip():
            headers["X-MLFLOW-WORKSPACE"] = workspace
        if self._proxy is not None and self._proxy.authorization and not self._secure:
            headers["Proxy-Authorization"] = self._proxy.authorization
        if not all(map(_is_clean, headers.values())):
            raise TrackingError(
                "MLFLOW_TRACKING_TOKEN or MLFLOW_WORKSPACE holds characters that no header can",
                hint="it may hold a line's end; set it anew",
            )
        return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


def _context(settings: auth.Tls) -> ssl.SSLContext:
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


def _trust_usual(context: ssl.SSLContext) -> None:
    """Trust what MLflow's client trusts, where the system's Python has no list of its own."""
    try:
        import certifi
    except ImportError:
        return
    context.load_verify_locations(certifi.where())


def _is_clean(text: str) -> bool:
    return text.isascii() and text.isprintable()


class Proxy(NamedTuple):
    """A proxy for HTTP; authorization: a header's value, or ""."""

    host: str
    port: int
    authorization: str


def choose(environ: Mapping[str, str], scheme: str, host: str) -> Proxy | None:
    """Return the proxy for a host, or None; raises TrackingError for one that makes no sense."""
    given = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not given or _is_exempt(_variable(environ, "no_proxy"), host):
        return None
    from urllib.parse import unquote, urlsplit

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
    authorization = ""
    if parts.username:
        from buildrun.tracking.auth import basic

        authorization = basic(unquote(parts.username), unquote(parts.password or ""))
    return Proxy(parts.hostname, port, authorization)


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


# Bytes of a line, of all headers, and of a body.
_LONGEST_LINE = 65536
_HEADERS = 200
_LARGEST = 64 * 1024 * 1024


class Broken(Exception):
    """The server has hung up, or says what is no HTTP; begun: whether it had begun to answer."""

    def __init__(self, *, begun: bool) -> None:
        """Keep the fact."""
        super().__init__("broken")
        self.begun = begun


class Answer(NamedTuple):
    """What a server answered; headers: by their names in lower case. lasting: it stays open."""

    status: int
    headers: dict[str, str]
    body: bytes
    lasting: bool


class Wire:
    """A connected socket, and what was read of it ahead."""

    def __init__(self, connected: socket.socket) -> None:
        """Take over the socket."""
        self.socket = connected
        self._ahead = b""
        self._end = 0.0

    def exchange(self, head: bytes, body: bytes, seconds: float) -> Answer:
        """Send a request and return its answer.

        seconds: for all of it. Raises OSError, which includes TimeoutError, and Broken.
        """
        self._end = time.monotonic() + seconds
        self.socket.settimeout(seconds)
        self.socket.sendall(head + body)
        return self._answer()

    def tunnel(self, head: bytes, seconds: float) -> int:
        """Send a request to be connected through, and return the answer's status."""
        self._end = time.monotonic() + seconds
        self.socket.sendall(head)
        status, _ = self._status()
        self._headers()
        if self._ahead:
            raise Broken(begun=True)  # whoever is there speaks before it is asked
        return status

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _answer(self) -> Answer:
        status, keeps = self._status()
        headers = self._headers()
        if 100 <= status < 200:
            return self._answer()  # it only says that it has begun
        connection = headers.get("connection", "").lower()
        lasting = keeps and "close" not in connection
        coding = headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            return Answer(status, headers, self._chunks(), lasting)
        if "content-length" in headers:
            size = headers["content-length"]
            if not (size.isascii() and size.isdigit() and len(size) < 12):
                raise Broken(begun=True)
            return Answer(status, headers, self._exactly(int(size)), lasting)
        if status in (204, 304):
            return Answer(status, headers, b"", lasting)
        return Answer(status, headers, self._rest(), lasting=False)

    def _status(self) -> tuple[int, bool]:
        """Return the status, and whether the version keeps connections open."""
        try:
            words = self._line().split(None, 2)
        except Broken:
            raise Broken(begun=bool(self._ahead)) from None
        if len(words) < 2 or words[0] not in (b"HTTP/1.1", b"HTTP/1.0") or not _is_status(words[1]):
            raise Broken(begun=True)
        return int(words[1]), words[0] == b"HTTP/1.1"

    def _headers(self) -> dict[str, str]:
        headers: dict[str, str] = {}
        for _ in range(_HEADERS):
            line = self._line()
            if not line:
                return headers
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        raise Broken(begun=True)

    def _chunks(self) -> bytes:
        parts: list[bytes] = []
        total = 0
        while True:
            try:
                size = int(self._line().partition(b";")[0], 16)
            except ValueError:
                raise Broken(begun=True) from None
            total += size
            if size < 0 or total > _LARGEST:
                raise Broken(begun=True)
            if size == 0:
                self._headers()
                return b"".join(parts)
            parts.append(self._exactly(size))
            self._line()

    def _line(self) -> bytes:
        while b"\n" not in self._ahead:
            if len(self._ahead) > _LONGEST_LINE or not self._read():
                raise Broken(begun=True)
        line, _, self._ahead = self._ahead.partition(b"\n")
        return line.rstrip(b"\r")

    def _exactly(self, size: int) -> bytes:
        if size > _LARGEST:
            raise Broken(begun=True)
        while len(self._ahead) < size:
            if not self._read():
                raise Broken(begun=True)
        found, self._ahead = self._ahead[:size], self._ahead[size:]
        return found

    def _rest(self) -> bytes:
        while self._read():
            if len(self._ahead) > _LARGEST:
                raise Broken(begun=True)
        return self._ahead

    def _read(self) -> bool:
        """Read more; returns False at the end."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
        chunk = self.socket.recv(65536)
        self._ahead += chunk
        return bool(chunk)


def _is_status(word: bytes) -> bool:
    return len(word) == 3 and word.isdigit()
