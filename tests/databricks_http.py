"""The HTTP side of a Databricks stand-in: requests, answers, faults, dropped connections."""

from __future__ import annotations

import http.server
import json
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

if TYPE_CHECKING:
    from databricks_workspace import Workspace

LOGIN_PAGE = b"<!DOCTYPE html>\n<html><head><title>Databricks Sign In</title></head></html>\n"


class Request(NamedTuple):
    """What was asked; body: the JSON where it is some, else bytes; at: seconds, monotonic."""

    method: str
    path: str
    query: Mapping[str, str]
    body: Any
    headers: Mapping[str, str]
    at: float

    def asked(self) -> Mapping[str, Any]:
        """Return what is asked for, which a GET has in its query or, as MLflow, in its body."""
        return {**self.query, **(self.body if isinstance(self.body, dict) else {})}


class Answer(NamedTuple):
    """What is sent; body: anything to be said as JSON, or bytes."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = {}

    def data(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return b"" if self.body is None else json.dumps(self.body).encode()


class Refused(Exception):
    """A request that is answered by an error of the API."""

    def __init__(self, status: int, code: str | int, message: str) -> None:
        super().__init__(message)
        self.answer = Answer(status, {"error_code": code, "message": message, "details": []})


class Fault:
    """What some requests get; drop: no answer, before or after the request is carried out."""

    def __init__(
        self, method: str, prefix: str, times: int, answer: Answer | None, drop: str
    ) -> None:
        self.method = method
        self.prefix = prefix
        self.times = times
        self.answer = answer
        self.drop = drop

    def meets(self, request: Request) -> bool:
        """Tell whether this request gets it, and count it."""
        met = (
            self.times > 0
            and self.method in ("", request.method)
            and request.path.startswith(self.prefix)
        )
        self.times -= met
        return met


class Server(http.server.ThreadingHTTPServer):
    """Has a thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, workspace: Workspace) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.workspace = workspace

    def handle_error(self, *_about: object) -> None:
        """Say nothing of clients that go away; what is wrong in here is told by an answer."""


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def handle_one_request(self) -> None:
        with suppress(ConnectionError, TimeoutError):
            super().handle_one_request()
            return
        self.close_connection = True

    def _serve(self) -> None:
        answer = self.server.workspace.handle(self._request())
        if answer is None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        data = answer.data()
        self.send_response(answer.status)
        kind = "application/octet-stream" if isinstance(answer.body, bytes) else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(data)), **answer.headers}
        for name, value in headers.items():
            if answer.status != 204 or not name.startswith("Content-"):
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD" and answer.status != 204:
            self.wfile.write(data)

    def _request(self) -> Request:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        data = self._body()
        body: Any = data
        if not parts.path.startswith(("/api/2.0/fs/", "/dbfs/")):
            with suppress(ValueError):
                body = json.loads(data)
        headers = dict(self.headers)
        return Request(self.command, unquote(parts.path), query, body, headers, time.monotonic())

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def log_message(self, *_: object) -> None:
        pass
