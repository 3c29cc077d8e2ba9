"""Remote `path` parameters, from a real S3 endpoint and a real HTTP server."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from conftest import Buildrun, Project

MLPROJECT = "entry_points: {main: {parameters: {f: path}, command: 'cat {f} && echo {f} >&2'}}\n"
LOCAL = "--env-manager=local"


class _Counting(http.server.SimpleHTTPRequestHandler):
    answers: ClassVar[list[int]] = []

    def do_GET(self) -> None:
        self.answers.append(0)
        super().do_GET()

    def send_response(self, code: int, message: str | None = None) -> None:
        self.answers[-1] = code
        super().send_response(code, message)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    root = tmp_path / "served"
    root.mkdir()
    (root / "a b.csv").write_text("1,2\n")
    _Counting.answers.clear()
    handler = lambda *arguments: _Counting(*arguments, directory=str(root))  # noqa: E731
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str | None]]:
    """Return the variables that lead to an S3 endpoint with a bucket named `bucket`."""
    import boto3
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    environ = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    client = boto3.client(
        "s3",
        endpoint_url=environ["AWS_ENDPOINT_URL"],
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="bucket")
    client.put_object(Bucket="bucket", Key="data/one.csv", Body=b"one\n")
    client.put_object(Bucket="bucket", Key="data/deep/two.csv", Body=b"two\n")
    yield dict(environ)
    running.stop()


def test_http_is_downloaded(project: Project, buildrun: Buildrun, server: str) -> None:
    assert (
        buildrun("-q", project(MLPROJECT), LOCAL, "-P", f"f={server}/a%20b.csv").printed()
        == "1,2\n"
    )


@pytest.mark.parametrize("name", ["a b.csv", "é.csv"])
def test_names_that_a_url_cannot_hold_are_escaped(
    project: Project, buildrun: Buildrun, server: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "served" / name).write_text("1,2\n")
    outcome = buildrun("-q", project(MLPROJECT), LOCAL, "-P", f"f={server}/{name}?version=1")
    assert (outcome.code, outcome.out) == (0, "1,2\n"), outcome.err
    assert outcome.err.endswith(f"/{name}\n")


def test_file_of_a_web_server_is_downloaded_again_when_it_is_newer(
    project: Project, buildrun: Buildrun, server: str, tmp_path: Path
) -> None:
    path = tmp_path / "served" / "a b.csv"
    os.utime(path, (1e9, 1e9))
    arguments = ("-q", project(MLPROJECT), LOCAL, "--storage-dir", tmp_path / "kept")
    for text in ("1,2\n", "1,2\n", "3,4\n"):
        if path.read_text() != text:
            path.write_text(text)
        assert buildrun(*arguments, "-P", f"f={server}/a%20b.csv").printed() == text
    assert _Counting.answers == [200, 304, 200]


def test_missing_remote_file_is_told(project: Project, buildrun: Buildrun, server: str) -> None:
    buildrun(project(MLPROJECT), LOCAL, "-P", f"f={server}/none.csv").refused(
        "there is nothing at this address"
    )


def test_current_copy_is_used_again(
    project: Project, buildrun: Buildrun, s3: dict[str, str | None], tmp_path: Path
) -> None:
    arguments = ("-q", project(MLPROJECT), LOCAL, "-P", "f=s3://bucket/data/one.csv")
    copies = []
    for _ in range(2):
        outcome = buildrun(*arguments, "--storage-dir", tmp_path / "kept", environ=s3)
        assert (outcome.code, outcome.out) == (0, "one\n"), outcome.err
        copies.append(Path(outcome.err.split()[-1]).stat().st_mtime_ns)
    assert copies[0] == copies[1]


def test_directory_is_downloaded_whole(
    project: Project, buildrun: Buildrun, s3: dict[str, str | None]
) -> None:
    directory = project(
        "entry_points: {main: {parameters: {d: path}, command: 'cd {d} && cat one.csv deep/*'}}\n"
    )
    assert (
        buildrun("-q", directory, LOCAL, "-P", "d=s3://bucket/data", environ=s3).printed()
        == "one\ntwo\n"
    )


def test_secrets_are_in_no_message(
    project: Project, buildrun: Buildrun, s3: dict[str, str | None]
) -> None:
    outcome = buildrun(project(MLPROJECT), LOCAL, "-P", "f=s3://bucket/none", environ=s3)
    assert outcome.code == 1
    assert "secret" not in outcome.err
    assert os.environ.get("AWS_SECRET_ACCESS_KEY") != "secret"
