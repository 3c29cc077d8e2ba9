"""Remote `path` parameters, from a real S3 endpoint and a real HTTP server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Buildrun, Outcome, Project
from remote_helpers import SECRET, Bucket, bucket
from source_helpers import LOCAL, Requests, files

Run = Callable[..., Outcome]


@pytest.fixture
def run(project: Project, buildrun: Buildrun) -> Run:
    """Return a function that runs a command which shows a file at an address."""
    directory = project(
        "entry_points: {main: {parameters: {f: path}, command: 'cat {f} && echo {f} >&2'}}\n"
    )
    return lambda uri, *words, **more: buildrun(
        "-q", directory, LOCAL, "-P", f"f={uri}", *words, **more
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Requests]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a b.csv").write_text("1,2\n")
    with files(tmp_path / "served") as served:
        yield served


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    import boto3

    with bucket(tmp_path_factory.mktemp("s3")) as made:
        environ = made.environ
        client = boto3.client(
            "s3", endpoint_url=environ["AWS_ENDPOINT_URL"], region_name="us-east-1",
            aws_access_key_id="AKIDEXAMPLE", aws_secret_access_key=SECRET,
        )  # fmt: skip
        for key in ("one.csv", "deep/two.csv"):
            name = made.url.removeprefix("s3://").partition("/")[0]
            client.put_object(Bucket=name, Key=f"team/{key}", Body=f"{key}\n".encode())
        yield made


@pytest.mark.parametrize("name", ["a%20b.csv", "a b.csv?version=1", "é.csv?version=1"])
def test_names_that_a_url_cannot_hold_are_escaped(
    run: Run, server: Requests, tmp_path: Path, name: str
) -> None:
    (tmp_path / "served" / "é.csv").write_text("1,2\n")
    assert run(f"{server.url}/{name}").printed() == "1,2\n"


def test_file_of_a_web_server_is_downloaded_again_when_it_is_newer(
    run: Run, server: Requests, tmp_path: Path
) -> None:
    path = tmp_path / "served" / "a b.csv"
    os.utime(path, (1e9, 1e9))
    for text in ("1,2\n", "1,2\n", "3,4\n"):
        if path.read_text() != text:
            path.write_text(text)
        outcome = run(f"{server.url}/a%20b.csv", "--storage-dir", tmp_path / "kept")
        assert outcome.printed() == text
    assert server.answers == [200, 304, 200]


def test_missing_remote_file_is_told(run: Run, server: Requests) -> None:
    run(f"{server.url}/none.csv").refused("there is nothing at this address")


def test_current_copy_is_used_again(run: Run, s3: Bucket, tmp_path: Path) -> None:
    copies = []
    for _ in range(2):
        words = (f"{s3.url}/one.csv", "--storage-dir", tmp_path / "kept")
        outcome = run(*words, environ=s3.environ)
        assert outcome.printed() == "one.csv\n"
        copies.append(Path(outcome.err.split()[-1]).stat().st_mtime_ns)
    assert copies[0] == copies[1]


def test_directory_is_downloaded_whole(project: Project, buildrun: Buildrun, s3: Bucket) -> None:
    directory = project(
        "entry_points: {main: {parameters: {d: path}, command: 'cd {d} && cat one.csv deep/*'}}\n"
    )
    words = ("-q", directory, LOCAL, "-P", f"d={s3.url}")
    assert buildrun(*words, environ=s3.environ).printed() == "one.csv\ndeep/two.csv\n"


def test_secrets_are_in_no_message(run: Run, s3: Bucket) -> None:
    outcome = run(f"{s3.url}/none", environ=s3.environ)
    outcome.refused("there is nothing at this address")
    assert SECRET not in outcome.err
