"""The HTTP side of a Kubernetes stand-in: paths, verbs, answers, streams, broken connections."""

from __future__ import annotations

import contextlib
import http.server
import io
import json
import re
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from kube_faults import Fault, Request
from kube_status import Refused, no_such_path

if TYPE_CHECKING:
    from kube_cluster import Cluster


class Answer(NamedTuple):
    """What is sent: an object, or text, or a stream of bytes that is empty while nothing comes."""

    code: int = 200
    object: Any = None
    text: bytes | None = None
    stream: Iterator[bytes] | None = None
    warnings: tuple[str, ...] = ()
    kind: str = "application/json"
    retry_after: int | None = None


class _Broken(Exception):
    """The connection is to be given up; reset: rudely."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


class Server(http.server.ThreadingHTTPServer):
    """Has a thread for each connection, and waits for them when it is closed."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, cluster: Cluster) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.cluster = cluster
        self.open: dict[socket.socket, str] = {}

    def get_request(self) -> tuple[socket.socket, Any]:
        """Take a connection; with TLS, leave the talk about it to the connection's thread."""
        connection, address = super().get_request()
        if self.cluster.identity is not None:
            connection = self.cluster.identity.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def sever(self, pattern: str) -> None:
        """Close the connections whose last request matches."""
        for connection, target in list(self.open.items()):
            if re.search(pattern, target):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_about: object) -> None:
        """Say nothing of clients that go away; the rest is a trouble of the cluster."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError) and isinstance(error, Exception):
            self.cluster.troubles.append(error)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def setup(self) -> None:
        super().setup()
        self.server.open[self.connection] = ""

    def finish(self) -> None:
        self.server.open.pop(self.connection, None)
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        cluster = self.server.cluster
        split = urlsplit(self.path)
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, unquote(split.path), query)
        target = unquote(self.path)
        self.server.open[self.connection] = target
        fault = cluster.met(request, target)
        try:
            self._answer(cluster, request, body, fault)
        except _Broken as broken:
            self._break(reset=broken.reset)
        except OSError:
            self.close_connection = True
        if cluster.closing.is_set():
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_GET

    def _answer(self, cluster: Cluster, request: Request, body: bytes, fault: Fault | None) -> None:
        if fault is not None and fault.kind == "hang" and not fault.lines and fault.size is None:
            fault.released.wait()
            fault = None
        if fault is not None and fault.kind == "close" and not fault.applied:
            raise _Broken(reset=False)
        if fault is not None and fault.kind == "status" and not fault.applied:
            answer = failure(fault)
        else:
            answer = self._result(cluster, request, body)
        if fault is not None and fault.kind == "close":
            raise _Broken(reset=False)
        if fault is not None and fault.kind == "status":
            answer = failure(fault)
            fault = None
        if answer.stream is None:
            self._send(answer, fault)
        else:
            self._stream(answer, answer.stream, fault)

    def _result(self, cluster: Cluster, request: Request, body: bytes) -> Answer:
        try:
            data = json.loads(body) if body else None
            cluster.authenticate(self.headers.get("Authorization", ""))
            return cluster.answer(request, data)
        except Refused as refused:
            return refusal(refused)

    def _head(self, answer: Answer) -> None:
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Audit-Id", f"{len(self.server.cluster.requests):08x}")
        for warning in answer.warnings:
            quoted = warning.replace("\\", "\\\\").replace('"', '\\"')
            self.send_header("Warning", f'299 - "{quoted}"')
        if answer.retry_after is not None:
            self.send_header("Retry-After", str(answer.retry_after))

    def _send(self, answer: Answer, fault: Fault | None) -> None:
        data = json.dumps(answer.object).encode() + b"\n" if answer.text is None else answer.text
        self._head(answer)
        self.send_header("Content-Length", str(len(data)))
        if self.server.cluster.closing.is_set():
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "HEAD":
            data = b""
        if fault is None:
            self.wfile.write(data)
            self.wfile.flush()
            return
        self.wfile.write(data[: len(data) // 2 if fault.size is None else fault.size])
        self.wfile.flush()
        self._meet(fault)
        self.wfile.write(data[len(data) // 2 if fault.size is None else fault.size :])
        self.wfile.flush()

    def _meet(self, fault: Fault) -> None:
        if fault.kind == "hang":
            fault.released.wait()
        else:
            raise _Broken(reset=fault.kind == "reset")

    def _stream(self, answer: Answer, stream: Iterator[bytes], fault: Fault | None) -> None:
        self._head(answer)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        with contextlib.closing(stream):  # type: ignore[type-var]
            lines, size = 0, 0
            if fault is not None and not fault.lines and not fault.size:
                self._meet(fault)
                fault = None
            for data in stream:
                if self.server.cluster.closing.is_set() or (not data and self._gone()):
                    raise _Broken(reset=False)
                for part in _parts(data, fault):
                    cut = len(part)
                    if fault is not None and fault.size is not None:
                        cut = min(cut, fault.size - size)
                    self._chunk(part[:cut])
                    lines, size = lines + part.count(b"\n"), size + cut
                    if fault is not None and (
                        lines == fault.lines if fault.size is None else size == fault.size
                    ):
                        self._meet(fault)
                        fault = None
                        self._chunk(part[cut:])
        self.wfile.write(b"0\r\n\r\n")
        self.wfile.flush()

    def _chunk(self, data: bytes) -> None:
        if data:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()

    def _gone(self) -> bool:
        flags = socket.MSG_PEEK | socket.MSG_DONTWAIT
        try:  # below TLS, whose own farewell is all that a client sends now
            data = socket.socket.recv(self.connection, 1, flags)
        except BlockingIOError:
            return False
        return not data or self.server.cluster.identity is not None

    def _break(self, *, reset: bool) -> None:
        self.close_connection = True
        if reset:  # closed with data that is thrown away, which the other side is told
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.server.open.pop(self.connection, None)
        for each in (self.wfile, self.rfile, self.connection):
            with contextlib.suppress(OSError, ValueError):
                each.close()
        self.wfile = self.rfile = io.BytesIO()  # the caller goes on for a moment


def _parts(data: bytes, fault: Fault | None) -> Iterable[bytes]:
    return [data] if fault is None else data.splitlines(keepends=True)


def refusal(refused: Refused) -> Answer:
    return Answer(refused.code, refused.status)


def failure(fault: Fault) -> Answer:
    text = fault.text()
    kind = "application/json" if text is None else "text/plain; charset=utf-8"
    status = fault.refused().status
    return Answer(fault.code, status, text, kind=kind, retry_after=fault.retry_after)


def nothing_here() -> Answer:
    return refusal(no_such_path())
