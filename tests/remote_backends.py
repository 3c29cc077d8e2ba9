"""Places to share results at, each a real one, with a way past the cache to what they hold."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from remote_helpers import Handler, new_bucket, reply


class Site(NamedTuple):
    """A place to share results, with a way past the cache to what it holds."""

    url: str
    put: Callable[[str, bytes], None]
    names: Callable[[], set[str]]


def place(kind: str, digest: str) -> str:
    name = digest.removeprefix("blake3:")
    return f"v1/{kind}/blake3/{name[:2]}/{name}"


def body_of(request: Handler) -> bytes:
    if "chunked" not in request.headers.get("Transfer-Encoding", ""):
        return request.rfile.read(int(request.headers.get("Content-Length", 0)))
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


class Shelf:
    """What a plain HTTP server keeps, and what was asked of it."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []

    def __call__(self, request: Handler) -> None:
        path = request.path.partition("?")[0].lstrip("/")
        self.asked.append((request.command, path))
        if request.command == "PUT":
            self.objects[path] = body_of(request)
            reply(request, 201)
        elif path in self.objects:
            reply(request, 200, self.objects[path])
        else:
            reply(request, 404, b"<html>nothing here</html>")


def directory_site(root: Path) -> Site:
    def put(name: str, data: bytes) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)

    return Site(
        str(root),
        put,
        lambda: {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()},
    )


def s3_site(endpoint: str) -> Site:
    bucket, client = new_bucket(endpoint)

    def names() -> set[str]:
        listed = client.list_objects_v2(Bucket=bucket, Prefix="team/").get("Contents", [])
        return {entry["Key"].removeprefix("team/") for entry in listed}

    return Site(
        f"s3://{bucket}/team",
        lambda name, data: client.put_object(Bucket=bucket, Key=f"team/{name}", Body=data),
        names,
    )


@contextmanager
def ssh_server() -> Iterator[str]:
    """Serve the files of this machine over SSH, to a user `robot` with the password `secret`."""
    paramiko = pytest.importorskip("paramiko")

    def attempt(action: Callable[[], object]) -> int:
        try:
            action()
        except OSError as error:
            return int(paramiko.SFTPServer.convert_errno(error.errno))
        return int(paramiko.SFTP_OK)

    class Login(paramiko.ServerInterface):  # type: ignore[misc, name-defined]
        def check_auth_password(self, username: str, password: str) -> int:
            good = (username, password) == ("robot", "secret")
            return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

        def check_channel_request(self, _kind: str, _number: int) -> int:
            return int(paramiko.OPEN_SUCCEEDED)

        def get_allowed_auths(self, _username: str) -> str:
            return "password"

    class Files(paramiko.SFTPServerInterface):  # type: ignore[misc, name-defined]
        def stat(self, path: str) -> object:
            try:
                return paramiko.SFTPAttributes.from_stat(os.stat(path))
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno)

        lstat = stat

        def open(self, path: str, flags: int, _attributes: object) -> object:
            handle = paramiko.SFTPHandle(flags)
            try:
                file = os.fdopen(os.open(path, flags, 0o644), "wb" if flags & 1 else "rb")
            except OSError as error:
                return paramiko.SFTPServer.convert_errno(error.errno)
            handle.readfile = handle.writefile = file
            handle.stat = lambda: paramiko.SFTPAttributes.from_stat(os.fstat(file.fileno()))
            return handle

        def mkdir(self, path: str, _attributes: object) -> int:
            return attempt(lambda: os.mkdir(path))

        def posix_rename(self, oldpath: str, newpath: str) -> int:
            return attempt(lambda: os.replace(oldpath, newpath))

        def remove(self, path: str) -> int:
            return attempt(lambda: os.remove(path))

    host_key = paramiko.RSAKey.generate(2048)
    transports = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    transport = paramiko.Transport(listening.accept()[0])
                except OSError:
                    return
                transports.append(transport)
                transport.add_server_key(host_key)
                transport.set_subsystem_handler("sftp", paramiko.SFTPServer, Files)
                transport.start_server(server=Login())

        threading.Thread(target=accept, daemon=True).start()
        yield f"sftp://robot:secret@127.0.0.1:{listening.getsockname()[1]}"
    for transport in transports:
        transport.close()
