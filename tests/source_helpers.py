"""Repositories and servers for tests of sources: real git, on this machine alone."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

LOCAL = "--env-manager=local"
# Says where it runs and what it found there.
MLPROJECT = "name: p\nentry_points:\n  main:\n    command: 'pwd; cat data.txt'\n"
GIT_ENVIRON = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


@pytest.fixture(autouse=True)
def plain_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of whoever runs the tests out of them."""
    for name, value in GIT_ENVIRON.items():
        monkeypatch.setenv(name, value)


class Repository(NamedTuple):
    """A checkout; url: what it is served at, if anywhere."""

    path: Path
    url: str = ""

    def git(self, *arguments: str | Path) -> str:
        """Call git in it, and return what it says."""
        done = subprocess.run(
            ("git", "-c", "protocol.file.allow=always", *arguments),
            cwd=self.path,
            env={**os.environ, **GIT_ENVIRON},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, **files: str) -> str:
        """Write files, commit everything, and return the commit's number."""
        for name, text in files.items():
            path = self.path / name.replace("__", ".").replace("--", "/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "x")
        return self.git("rev-parse", "HEAD")


def repository(path: Path, **files: str) -> Repository:
    """Make a repository with a project in it."""
    path.mkdir(parents=True)
    made = Repository(path)
    made.git("init", "--quiet", "--initial-branch=main")
    (path / "MLproject").write_text(MLPROJECT)
    made.commit(**{"data__txt": "one\n", **files})
    return made


@contextmanager
def daemon(base: Path) -> Iterator[str]:
    """Serve the repositories below a directory over git's own protocol; yields the URL."""
    port = free_port()
    process = subprocess.Popen(
        ("git", "daemon", "--verbose", "--log-destination=stderr", "--reuseaddr", "--export-all",
         "--listen=127.0.0.1", f"--port={port}", f"--base-path={base}", str(base)),
        env={**os.environ, **GIT_ENVIRON}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if "Ready to rumble" in line:
                break
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield f"git://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Requests(NamedTuple):
    """A server's address, the paths that were asked for with their headers, and the statuses."""

    url: str
    seen: list[tuple[str, dict[str, str]]]
    answers: list[int]


@contextmanager
def http_backend(base: Path, user: str = "", password: str = "") -> Iterator[Requests]:
    """Serve the repositories below a directory with ``git http-backend``."""
    seen: list[tuple[str, dict[str, str]]] = []
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def _answer(self) -> None:
            seen.append((self.path, dict(self.headers)))
            size = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(size)
            if user and self.headers.get("Authorization") != wanted:
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="r"')
                self.end_headers()
                return
            path, _, query = self.path.partition("?")
            done = subprocess.run(
                ("git", "http-backend"),
                input=body,
                env={
                    **os.environ, **GIT_ENVIRON, "GIT_PROJECT_ROOT": str(base),
                    "GIT_HTTP_EXPORT_ALL": "1", "REQUEST_METHOD": self.command,
                    "PATH_INFO": path, "QUERY_STRING": query, "CONTENT_LENGTH": str(size),
                    "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                    "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                    "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                },
                capture_output=True, check=False, timeout=60,
            )  # fmt: skip
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            rows = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
            headers = dict(rows)
            self.send_response(int(headers.pop("Status", "200 OK").split()[0]))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    with _served(Handler) as url:
        yield Requests(url, seen, [])


@contextmanager
def files(directory: Path) -> Iterator[Requests]:
    """Serve the files of a directory."""
    seen: list[tuple[str, dict[str, str]]] = []
    answers: list[int] = []

    class Handler(SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            seen.append((f"{self.command} {self.path}", dict(self.headers)))
            return super().send_head()

        def send_response(self, code: int, message: str | None = None) -> None:
            answers.append(code)
            super().send_response(code, message)

        def log_message(self, *_: Any) -> None:
            pass

    with _served(partial(Handler, directory=str(directory))) as url:
        yield Requests(url, seen, answers)


@contextmanager
def silent() -> Iterator[int]:
    """Listen on a port and never answer; yields the port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield int(listening.getsockname()[1])


@contextmanager
def _served(handler: Any) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def working_directories(store: Path) -> list[str]:
    """Return what lies where temporary working directories are."""
    work = store / "sources" / "work"
    return sorted(os.listdir(work)) if work.exists() else []
