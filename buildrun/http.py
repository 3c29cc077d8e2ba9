"""HTTP as the tracking server and Databricks are spoken to: proxies, certificates, time limits."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import ssl
import time
from collections.abc import Mapping
from http.client import (
    HTTPConnection,
    HTTPException,
    HTTPMessage,
    HTTPResponse,
    HTTPSConnection,
    IncompleteRead,
)
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple
from urllib.parse import unquote, urlsplit

from buildrun.errors import BuildrunError

if TYPE_CHECKING:
    import socket

# Seconds until a server must have accepted a connection.
_CONNECT = 10.0
# Seconds until it must have answered, unless its settings say otherwise.
ANSWER = 30.0
# After so many seconds without a request a server or a router may have dropped the connection.
_IDLE = 2.0
# Bytes of an answer that is read at once; of a file at a time.
_LARGEST = 64 * 1024 * 1024
_BLOCK = 1 << 18

# What a request may fail with where there is no sound answer; `reason` says why in words.
TROUBLE = (OSError, HTTPException, UnicodeError)

# Scheme, userinfo, host, port and path, without query and fragment.
_URI = re.compile(
    r"(https?)://(?:([^/?#@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::([0-9]{1,5}))?(/[^?#]*)?",
    re.IGNORECASE,
)


class Address(NamedTuple):
    """Where a server is. host: without brackets. path: without a slash at its end."""

    scheme: str
    userinfo: str
    host: str
    port: int
    path: str

    @property
    def netloc(self) -> str:
        """Return host and port as a Host header has them, without the usual port."""
        usual = 443 if self.scheme == "https" else 80
        return self.authority.removesuffix(f":{usual}")

    @property
    def authority(self) -> str:
        """Return host and port as a tunnel's end has them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def address_of(uri: str) -> Address | None:
    """Return the address that an `http` or `https` URI stands for, or None for what is none."""
    found = _URI.fullmatch(uri)
    if found is None or not is_clean(uri) or " " in uri or int(found[4] or 1) > 65535:
        return None
    scheme = found[1].lower()
    port = int(found[4] or (443 if scheme == "https" else 80))
    return Address(scheme, found[2] or "", found[3].strip("[]"), port, (found[5] or "").rstrip("/"))


class Certificates(NamedTuple):
    """How a server proves itself: authority: a path, "" for the usual; insecure: not at all.

    own: the path of our certificate with its key, "" for none.
    """

    authority: str = ""
    own: str = ""
    insecure: bool = False


class Server(NamedTuple):
    """A server and what it is called in messages. error: raised for settings that are unusable.

    timeout: seconds for an answer.
    """

    address: Address
    name: str
    error: type[BuildrunError]
    certificates: Certificates = Certificates()
    timeout: float = ANSWER


class Answer(NamedTuple):
    """What a server has answered, whole."""

    status: int
    headers: HTTPMessage
    content: bytes

    @property
    def kind(self) -> str:
        """Return its content type without parameters, "" where there is none."""
        return str(self.headers.get("Content-Type", "")).partition(";")[0].strip()


class HttpClient:
    """One connection to a server, kept between requests; used by one thread at a time."""

    def __init__(self, server: Server, environ: Mapping[str, str]) -> None:
        """Prepare; nothing is sent yet. Raises the server's error for unusable settings."""
        self._server = server
        address = server.address
        scheme, host, port = address.scheme, address.host, address.port
        self._headers = {"Host": address.netloc}
        self._prefix = address.path
        proxy = _proxy(server, environ)
        end = (host, port) if proxy is None else proxy[0]
        timeout = min(_CONNECT, server.timeout)
        self._connection = HTTPConnection(*end, timeout=timeout, blocksize=_BLOCK)
        if scheme == "https":
            context = _tls(server, environ)
            self._connection = HTTPSConnection(
                *end, timeout=timeout, blocksize=_BLOCK, context=context
            )
        if proxy is not None and scheme == "https":
            self._connection.set_tunnel(host, port, {"Host": address.authority, **proxy[1]})
        elif proxy is not None:
            # A proxy is told the whole address of what it is to fetch.
            self._prefix = f"http://{address.authority}{self._prefix}"
            self._headers.update(proxy[1])
        self._last = 0.0
        # Whether the last request may have reached the server.
        self.sent = False

    def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        """Return a whole answer; a connection dropped while unused is made again.

        path: below the address's own, with its query. Raises what is in TROUBLE.
        """
        try:
            return self.whole(self._send(method, path, headers, body))
        except BaseException:
            self.close()
            raise

    def send(
        self, method: str, path: str, headers: Mapping[str, str], file: BinaryIO, size: int
    ) -> Answer:
        """Send so many bytes of a file, and return the answer; raises as `request` does."""
        self.close()  # a file cannot be sent twice, should this connection be dropped by now
        try:
            given = {**headers, "Content-Length": str(size)}
            return self.whole(self._exchange(method, path, given, file))
        except BaseException:
            self.close()
            raise

    def open(self, method: str, path: str, headers: Mapping[str, str]) -> HTTPResponse:
        """Return the beginning of an answer, which closes the connection when it is closed.

        The timeout is for each part of the body. Raises what is in TROUBLE.
        """
        self.close()
        try:
            response = self._exchange(method, path, headers, None, whole=False)
        except BaseException:
            self.close()
            raise
        if self._connection.sock is not None:
            self._connection.sock.close()  # the answer keeps it open
        return response

    def close(self) -> None:
        """Hang up; a later request connects again."""
        self._connection.close()

    def whole(self, response: HTTPResponse) -> Answer:
        """Return all of an answer that `open` has begun; raises what is in TROUBLE."""
        return Answer(response.status, response.headers, self._read(response))

    def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None
    ) -> HTTPResponse:
        if time.monotonic() - self._last > _IDLE:
            self.close()
        is_fresh = self._connection.sock is None
        try:
            return self._exchange(method, path, headers, body)
        except ConnectionError:
            # A server that has begun to answer has done what it was asked, and is past this.
            self.close()
            if is_fresh:
                raise
        return self._exchange(method, path, headers, body)

    def _exchange(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | BinaryIO | None,
        *,
        whole: bool = True,
    ) -> HTTPResponse:
        connection = self._connection
        connection.response_class = _Response if whole else HTTPResponse
        self.sent = False
        if connection.sock is None:
            connection.connect()
        self.sent = True
        connection.sock.settimeout(self._server.timeout)
        try:
            given = {**self._headers, **headers}
            connection.request(method, self._prefix + path, body or None, given)
        except ConnectionError:
            # Whoever refuses a file may say so, and hang up, before all of it has come.
            if body is None or isinstance(body, bytes):
                raise
        return connection.getresponse()

    def _read(self, response: HTTPResponse) -> bytes:
        """Return the body of an answer; raises HTTPException for one without an honest size."""
        size = response.headers.get("Content-Length", "0")
        content = b""
        if not (size.isascii() and size.isdigit()):
            raise HTTPException
        if response.length and response.length > _LARGEST:
            raise HTTPException
        while chunk := response.read(65536):
            content += chunk
            if len(content) > _LARGEST:
                raise HTTPException
        if response.length:
            raise IncompleteRead(content)
        self._last = time.monotonic()
        return content


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
        self._end = time.monotonic() + (sock.gettimeout() or ANSWER)

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


def reason(error: Exception) -> str:
    """Return in words why there is no sound answer; error: one of TROUBLE."""
    _, tunnel, answer = str(error).partition("Tunnel connection failed: ")
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if tunnel:
        return f"the proxy refuses it ({answer[:3]})"
    if isinstance(error, UnicodeError):
        return "there is no host of that name"
    if isinstance(error, OSError) and not isinstance(error, HTTPException):
        return str(getattr(error, "reason", "") or error.strerror or str(error)).lower()
    return "it hangs up, or does not speak HTTP"


def is_clean(text: str) -> bool:
    """Return whether a text can be sent in a header."""
    return text.isascii() and text.isprintable()


def basic(name: str, password: str) -> str:
    """Return the value of an Authorization header."""
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _tls(server: Server, environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return how the server proves itself and we to it; raises the server's error."""
    given = server.certificates
    usual = environ.get("REQUESTS_CA_BUNDLE") or environ.get("CURL_CA_BUNDLE") or ""
    try:
        return _context(given.authority or usual, given.own, given.insecure)
    except FileNotFoundError as error:
        raise server.error(
            f"the certificate for {server.name} cannot be read", place=str(error)
        ) from None


@functools.cache
def _context(authority: str, own: str, insecure: bool) -> ssl.SSLContext:
    """Return a context, made once a process; raises FileNotFoundError with a path alone."""
    name = authority
    try:
        if os.path.isdir(authority):
            context = ssl.create_default_context(capath=authority)
        else:
            context = ssl.create_default_context(cafile=authority or None)
            if not authority:
                _trust_usual(context)
        name = own
        if own:
            context.load_cert_chain(own)
    except (OSError, ValueError):
        raise FileNotFoundError(name) from None
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
    server: Server, environ: Mapping[str, str]
) -> tuple[tuple[str, int], dict[str, str]] | None:
    """Return the address of the proxy for a server and its headers; raises the server's error."""
    scheme = server.address.scheme
    given = _variable(environ, f"{scheme}_proxy") or _variable(environ, "all_proxy")
    if not given or _is_exempt(_variable(environ, "no_proxy"), server.address.host):
        return None
    try:
        parts = urlsplit(given if "://" in given else f"http://{given}")
        port = parts.port or 80
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme != "http" or not parts.hostname:
        raise server.error(
            f"the proxy that `{scheme}_proxy` names cannot be used",
            hint=f"give it as `http://HOST:PORT`, or exempt {server.name} with `no_proxy`",
        )
    headers = {}
    if parts.username:
        who = basic(unquote(parts.username), unquote(parts.password or ""))
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
