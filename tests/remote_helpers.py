"""Real places for a remote cache: an S3 endpoint, and HTTP servers that answer as they are told."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

Handler = http.server.BaseHTTPRequestHandler

SECRET = "wJalrXUtnFEMIbPxRfiCY"


class Bucket(NamedTuple):
    """A bucket of an S3 endpoint, and the variables that lead programs to it."""

    url: str
    environ: dict[str, str]
    names: Callable[[], set[str]]


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3; gives the address."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        host, port = running.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def s3_environ(address: str, home: Path) -> dict[str, str]:
    """Return the variables that lead programs to an address; home: without settings."""
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(home / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "none"),
    }


def new_bucket(address: str) -> tuple[str, Any]:
    """Make a bucket; return its name and a client."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key=SECRET,
    )
    name = f"bucket-{os.urandom(4).hex()}"
    client.create_bucket(Bucket=name)
    return name, client


@contextmanager
def bucket(home: Path) -> Iterator[Bucket]:
    """Serve a bucket; home: a directory without settings of anybody's."""
    with s3_server() as address:
        name, client = new_bucket(address)

        def names() -> set[str]:
            listed = client.list_objects_v2(Bucket=name).get("Contents", [])
            return {str(entry["Key"]) for entry in listed}

        yield Bucket(f"s3://{name}/team", s3_environ(address, home), names)


@contextmanager
def serving(answer: Callable[[Handler], None]) -> Iterator[str]:
    """Answer every request with a function of its handler; gives the address."""

    class Answering(Handler):
        protocol_version = "HTTP/1.1"  # S3's clients want "100 Continue"

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64
        block_on_close = False

    with Server(("127.0.0.1", 0), Answering) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


def reply(request: Handler, status: int, body: bytes = b"") -> None:
    """Answer a request."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
    request.send_header("Connection", "close")
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(body)
