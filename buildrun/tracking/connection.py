"""One connection to a server, kept open between requests."""

import os
import re
import socket
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from buildrun import __version__
from buildrun.errors import TrackingError
from buildrun.tracking import credentials, proxy
from buildrun.tracking.patience import seconds
from buildrun.tracking.wire import Answer, Broken, Wire

if TYPE_CHECKING:
    import ssl

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
        self._timeout = seconds(environ, _ANSWER)
        self._proxy = proxy.choose(environ, found[1].lower(), self._host)
        self._context = _context(credentials.tls(environ)) if self._secure else None
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
        if header := credentials.authorization(environ, (name, password)):
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


def _is_clean(text: str) -> bool:
    return text.isascii() and text.isprintable()
