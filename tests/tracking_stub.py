"""A tracking server that plays: each call is answered as a test has it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

RUN_ID = "0" * 31 + "1"


class Call(NamedTuple):
    """What the server was asked; name: behind `/api/2.0/mlflow/`, without the query."""

    name: str
    values: Any
    headers: dict[str, str]


class Answer(NamedTuple):
    """What it says.

    hang: says nothing at all. drop: hangs up. raw: is sent as it is, and then it hangs up.
    trickle: goes on for ever.
    """

    status: int = 200
    body: bytes = b"{}"
    kind: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    hang: bool = False
    drop: bool = False
    raw: bytes = b""
    trickle: bool = False


class Play:
    """A server on this machine; ``answers`` says what a call by its name gets."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Call], Answer]] = {}
        self.calls: list[Call] = []
        self.status = "RUNNING"
        self.connections = 0
        self.uri = ""
        self.over = threading.Event()

    def answer(self, call: Call) -> Answer:
        self.calls.append(call)
        if call.name in self.answers:
            return self.answers[call.name](call)
        if call.name in ("runs/create", "runs/update"):
            self.status = call.values.get("status", "RUNNING")
        return said(run_of(self.status)) if call.name in ("runs/create", "runs/get") else said({})

    def names(self) -> list[str]:
        return [call.name for call in self.calls]


def run_of(status: str, **info: Any) -> Any:
    known = {"run_id": RUN_ID, "experiment_id": "0", "status": status, "artifact_uri": "s3://a"}
    return {"run": {"info": {**known, "lifecycle_stage": "active", **info}, "data": {}}}


def said(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value).encode())


def refused(code: str, message: str, status: int = 400) -> Answer:
    return said({"error_code": code, "message": message}, status)


@contextmanager
def playing(context: ssl.SSLContext | None = None) -> Iterator[Play]:
    """Play on a free port; context: for HTTPS."""
    play = Play()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            play.connections += 1
            super().setup()

        def do_GET(self) -> None:
            self._serve({})

        def do_POST(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            self._serve(json.loads(self.rfile.read(size) or b"{}"))

        def _serve(self, values: Any) -> None:
            name = self.path.partition("/api/2.0/mlflow/")[2].partition("?")[0]
            answer = play.answer(Call(name, values, dict(self.headers)))
            if answer.hang:
                play.over.wait()
            while answer.trickle and not play.over.wait(0.05):
                self.wfile.write(b"x")
            if answer.raw or answer.hang or answer.drop or answer.trickle:
                self.wfile.write(answer.raw)
                self.close_connection = True
                return
            self.send_response(answer.status)
            for header, value in answer.headers:
                self.send_header(header, value)
            self.send_header("Content-Type", answer.kind)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    play.uri = f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield play
    finally:
        play.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
