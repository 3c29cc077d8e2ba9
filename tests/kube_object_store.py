"""An HTTP store for presigned addresses, which fails as it is told, and archives made by hand."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import socket
import struct
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import kube_tls
from remote_backends import body_of
from remote_helpers import Handler, reply, serving

from buildrun.executors.kubernetes import pod_runner
from buildrun.workspace.archive import header

SIGNATURE = "X-Amz-Signature=5eedcafe5eedcafe"

Action = Callable[[Handler, bytes | None], None]


class Asked(NamedTuple):
    """A request that came."""

    method: str
    path: str
    headers: Mapping[str, str]


class Depot:
    """What a store holds and was asked; ``faults`` answer in its place, each once, in order.

    A fault's path ``*`` is any.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.faults: list[tuple[str, str, Action]] = []
        self.address = ""
        self._lock = threading.Lock()

    def url(self, path: str) -> str:
        return f"{self.address}/{path}?{SIGNATURE}"

    def put(self, path: str, data: bytes) -> str:
        self.objects[path] = data
        return self.url(path)

    def fail(self, method: str, path: str, *actions: Action) -> None:
        self.faults += [(method, path, action) for action in actions]

    def count(self, method: str, path: str) -> int:
        return sum(asked.method == method and asked.path == path for asked in self.asked)

    def __call__(self, request: Handler) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        with self._lock:
            self.asked.append(Asked(request.command, path, dict(request.headers)))
            found = [
                fault
                for fault in self.faults
                if fault[0] == request.command and fault[1] in (path, "*")
            ]
            if found:
                self.faults.remove(found[0])
        if found:
            found[0][2](request, self.objects.get(path))
        elif request.command == "PUT":
            body = body_of(request)
            if len(body) == int(request.headers.get("Content-Length", len(body))):
                self.objects[path] = body
            reply(request, 200)
        elif request.command == "DELETE":
            reply(request, 204 if self.objects.pop(path, None) is not None else 404)
        elif path not in self.objects:
            reply(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
        else:
            reply(request, 200, self.objects[path])


def answering(status: int, body: bytes = b"", **headers: str) -> Action:
    def answer(request: Handler, _: bytes | None) -> None:
        request.rfile.read(int(request.headers.get("Content-Length", 0)))
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return answer


def refusing(status: int, body: bytes) -> Action:
    """Answer without having read what is sent, and close."""

    def answer(request: Handler, _: bytes | None) -> None:
        reply(request, status, body)
        request.wfile.flush()
        request.connection.shutdown(socket.SHUT_WR)

    return answer


def cutting(count: int) -> Action:
    """Give so many bytes of all, then end the connection as if nothing were wrong."""

    def answer(request: Handler, data: bytes | None) -> None:
        assert data is not None
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:count])

    return answer


def breaking(request: Handler, _: bytes | None) -> None:
    """Reset the connection without an answer."""
    linger = struct.pack("ii", 1, 0)
    request.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    request.connection.close()


@contextmanager
def depot(tls: Path | None = None) -> Iterator[Depot]:
    """Serve a store; tls: a file that gets the authority to trust."""
    made = Depot()
    with serving(made) if tls is None else _secured(made, tls) as address:
        made.address = address
        yield made


@contextmanager
def _secured(answer: Callable[[Handler], None], authority: Path) -> Iterator[str]:
    identity = kube_tls.identity()
    authority.write_bytes(identity.certificate)

    class Secured(http.server.BaseHTTPRequestHandler):
        def setup(self) -> None:
            self.request = identity.context.wrap_socket(self.request, server_side=True)
            super().setup()

        def do_GET(self) -> None:
            answer(self)

        do_PUT = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass  # who does not trust us leaves

    with Server(("127.0.0.1", 0), Secured) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"https://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def archive(*items: tuple[str, Any]) -> bytes:
    """Return an archive: a str is a link's target, None makes a directory, bytes a file."""
    made = []
    for name, content in items:
        encoded = name.encode("utf-8", "surrogateescape")
        if content is None:
            made.append(header(encoded + b"/", b"5", mode=0o755))
        elif isinstance(content, str):
            target = content.encode("utf-8", "surrogateescape")
            made.append(header(encoded, b"2", target=target, mode=0o777))
        else:
            made.append(header(encoded, b"0", len(content), mode=0o644))
            made.append(content + bytes(-len(content) % 512))
    return b"".join(made) + bytes(1024)


def foreign(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive as Python's own module makes it."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as made:
        for member, content in members:
            made.addfile(member, io.BytesIO(content))
    return file.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Pod:
    """The process that a pod runs, in a directory of its own.

    python: its interpreter.
    """

    def __init__(self, python: str, home: Path, store: Depot) -> None:
        self.python = python
        self.home = home
        self.store = store
        self.workdir = home / "work"
        self.log = home / "termination-log"
        self.log.write_text("")
        self.task = home / "task.json"

    def write(
        self,
        argv: Sequence[str],
        *,
        inputs: Sequence[Mapping[str, Any]] = (),
        outputs: Sequence[str] = (),
        deliver: int = 4,
        part: int = 1 << 30,
        **more: Any,
    ) -> None:
        task = {
            "version": 1,
            "argv": list(argv),
            "workdir": str(self.workdir),
            "inputs": list(inputs),
            "outputs": list(outputs),
            "deliver": [self.store.url(f"out/{number}") for number in range(deliver)],
            "done": self.store.url("out/done.json"),
            "part": part,
            "pause": 0.001,
            "log": str(self.log),
        }
        self.task.write_text(json.dumps({**task, **more}))

    def start(self, **environ: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            (self.python, pod_runner.__file__, self.task),
            env={"PATH": "/usr/bin:/bin", **environ},
            cwd=self.home,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, argv: Sequence[str] = ("true",), **options: Any) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        environ = options.pop("environ", {})
        self.write(argv, **options)
        child = self.start(**environ)
        out, err = child.communicate(timeout=120)
        return child.returncode, out.decode(), err.decode("utf-8", "surrogateescape")

    def given(self, *items: tuple[str, Any], root: str = "workdir") -> dict[str, Any]:
        """Return an input that holds this."""
        return self.parcel(archive(*items), root=root)

    def parcel(self, data: bytes, *, root: str = "workdir", parts: int = 1) -> dict[str, Any]:
        step = max(1, -(-len(data) // parts))
        urls = [
            self.store.put(f"in/{sha256(data)}/{start}", data[start : start + step])
            for start in range(0, len(data), step)
        ]
        return {"urls": urls, "sha256": sha256(data), "root": root}

    def told(self) -> Any:
        """Return what the pod's status says of its end, None for nothing."""
        text = self.log.read_text()
        return json.loads(text) if text else None

    def done(self) -> Any:
        record = self.store.objects.get("out/done.json")
        return None if record is None else json.loads(record)

    def delivered(self) -> tarfile.TarFile:
        """Return what was delivered, read by another program than ours."""
        done = self.done()
        data = b"".join(self.store.objects[f"out/{number}"] for number in range(done["parts"]))
        assert (len(data), sha256(data)) == (done["size"], done["sha256"])
        return tarfile.open(fileobj=io.BytesIO(data))
