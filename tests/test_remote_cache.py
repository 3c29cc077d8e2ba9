"""The remote cache, over real directories, sockets, HTTP servers and an S3 endpoint."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from remote_backends import (
    Shelf,
    Site,
    body_of,
    directory_site,
    place,
    s3_site,
    ssh_server,
)
from remote_helpers import Handler, reply, serving

from buildrun.store import digest as digests
from buildrun.store.remote.client import Remote
from buildrun.store.remote.errors import explain

KEY = digests.key("result", {"step": "train"})
SECRET = "wJalrXUtnFEMIbPxRfiCY"
Blob = tuple[str, str, int]


class Told(list[tuple[str, str]]):
    """The warnings that a remote cache gave."""

    def __call__(self, text: str, hint: str) -> None:
        self.append((text, hint))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Return the address of an S3 endpoint."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that makes an address the S3 endpoint of this process."""

    def use(address: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))

    return use


@pytest.fixture(params=["directory", "s3", "http", "ssh", "memory"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    if request.param == "directory":
        yield directory_site(tmp_path / "shared")
    elif request.param == "ssh":
        beside = directory_site(tmp_path / "shared")
        with ssh_server() as address:
            yield beside._replace(url=f"{address}{beside.url}")
    elif request.param == "s3":
        address = request.getfixturevalue("endpoint")
        request.getfixturevalue("aws")(address)
        yield s3_site(address, f"bucket-{os.urandom(4).hex()}")
    elif request.param == "http":
        shelf = Shelf()
        with serving(shelf) as url:
            yield Site(url, shelf.objects.__setitem__, lambda: set(shelf.objects))
    else:
        import fsspec

        root = f"/{tmp_path.name}"
        memory = fsspec.filesystem("memory")
        yield Site(
            f"memory:/{root}",
            lambda name, data: memory.pipe_file(f"{root}/{name}", data),
            lambda: {name.removeprefix(f"{root}/") for name in memory.find(root)},
        )
        if memory.exists(root):
            memory.rm(root, recursive=True)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def blob(tmp_path: Path) -> Callable[[bytes], Blob]:
    """Return a function that makes a file, and returns its digest, path and size."""

    def make(data: bytes) -> Blob:
        digest = digests.content(data)
        path = tmp_path / "blobs" / digest[-16:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        return digest, str(path), len(data)

    return make


def share(url: str, manifest: bytes, *blobs: Blob) -> Told:
    told = Told()
    remote = Remote(url, write=True, warn=told)
    remote.upload(KEY, manifest, blobs)
    remote.finish()
    return told


def fetch(remote: Remote, digest: str, path: Path, size: int | None) -> bool:
    return not remote.fetch_many([(digest, str(path), size)])


def left_in(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.exists() else []


# What every place does.


def test_shared_result_reaches_another_machine(
    site: Site, told: Told, blob: Callable[[bytes], Blob], tmp_path: Path
) -> None:
    contents = [b"model" * 100, b"", bytes(range(256)) * 40_000]
    blobs = [blob(data) for data in contents]
    assert share(site.url, b'{"a": 1}', *blobs) == []
    remote = Remote(site.url, write=False, warn=told)
    assert remote.manifest(KEY) == b'{"a": 1}'
    arrived = [str(tmp_path / "new" / str(number)) for number in range(len(blobs))]
    items = [(digest, path, size) for (digest, _, size), path in zip(blobs, arrived, strict=True)]
    assert remote.fetch_many(items) == set()
    assert [Path(path).read_bytes() for path in arrived] == contents
    remote.finish()
    assert told == []
    assert left_in(tmp_path / "new") == ["0", "1", "2"]


def test_layout_is_by_digest(site: Site, blob: Callable[[bytes], Blob]) -> None:
    made = blob(b"model")
    share(site.url, b"{}", made)
    assert site.names() == {place("results", KEY), place("blobs", made[0])}


def test_what_is_absent_is_no_trouble(site: Site, told: Told, tmp_path: Path) -> None:
    remote = Remote(site.url, write=True, warn=told)
    digest = digests.content(b"never made")
    assert remote.manifest(KEY) is None
    assert fetch(remote, digest, tmp_path / "new" / "x", 10) is False
    remote.finish()
    assert told == []
    assert left_in(tmp_path / "new") == []


def test_reader_writes_nothing(site: Site, told: Told, blob: Callable[[bytes], Blob]) -> None:
    site.put("other", b"object")
    remote = Remote(site.url, write=False, warn=told)
    remote.upload(KEY, b"{}", [blob(b"model")])
    remote.manifest(KEY)
    remote.finish()
    assert site.names() == {"other"}
    assert told == []


@pytest.mark.parametrize(
    ("held", "announced", "why"),
    [
        (b"evil!", 5, "another content"),
        (b"mod", 5, "only 3 of 5 bytes"),
        (b"model and more", 5, "larger than 5 bytes"),
        (b"<html>Sign in to the network</html>", None, "another content"),
    ],
)
def test_lie_is_refused_and_told_once(
    site: Site, told: Told, tmp_path: Path, held: bytes, announced: int | None, why: str
) -> None:
    digest = digests.content(b"model")
    honest = digests.content(b"honest")
    site.put(place("blobs", digest), held)
    site.put(place("blobs", honest), b"honest")
    remote = Remote(site.url, write=False, warn=told)
    target = tmp_path / "new" / "model"
    for _ in range(2):
        assert fetch(remote, digest, target, announced) is False
    assert fetch(remote, honest, target.with_name("model2"), 6), "the others are still used"
    remote.finish()
    assert left_in(tmp_path / "new") == ["model2"]
    assert len(told) == 1
    assert place("blobs", digest) in told[0][0]
    assert why in told[0][0]


def test_truncated_object_is_replaced_by_an_upload(
    site: Site, blob: Callable[[bytes], Blob], tmp_path: Path, told: Told
) -> None:
    made = blob(b"model" * 100)
    site.put(place("blobs", made[0]), b"mod")
    assert share(site.url, b"{}", made) == []
    assert fetch(Remote(site.url, write=False, warn=told), made[0], tmp_path / "new", made[2])


@pytest.mark.parametrize("size", [5, 9_000_000], ids=["small", "large"])
def test_changed_file_keeps_its_result_here(
    site: Site, blob: Callable[[bytes], Blob], size: int
) -> None:
    good, bad = blob(b"good"), blob(b"m" * size)
    Path(bad[1]).write_bytes(b"n" * size)
    told = share(site.url, b"{}", good, bad)
    assert [bad[1] in text for text, _ in told] == [True]
    assert place("results", KEY) not in site.names()
    assert place("blobs", bad[0]) not in site.names()


def test_vanished_file_keeps_its_result_here(site: Site, blob: Callable[[bytes], Blob]) -> None:
    made = blob(b"model")
    os.unlink(made[1])
    site.put("other", b"")
    assert len(share(site.url, b"{}", made)) == 1
    assert site.names() == {"other"}


def test_two_may_share_the_same_result_at_once(
    site: Site, blob: Callable[[bytes], Blob], told: Told, tmp_path: Path
) -> None:
    blobs = [blob(bytes([number]) * 3000) for number in range(12)]
    remotes = [Remote(site.url, write=True, warn=told) for _ in range(3)]
    for remote in remotes:
        remote.upload(KEY, b"{}", blobs)
    for remote in remotes:
        remote.finish()
    reader = Remote(site.url, write=False, warn=told)
    assert reader.manifest(KEY) == b"{}"
    items = [(digest, str(tmp_path / "new" / digest), size) for digest, _, size in blobs]
    assert reader.fetch_many(items) == set()
    assert site.names() == {place("results", KEY), *(place("blobs", blob[0]) for blob in blobs)}
    assert told == []


def test_finishing_twice_is_harmless_and_nothing_follows(
    site: Site, blob: Callable[[bytes], Blob], told: Told
) -> None:
    site.put("other", b"")
    remote = Remote(site.url, write=True, warn=told)
    remote.finish()
    remote.finish()
    remote.upload(KEY, b"{}", [blob(b"late")])
    assert remote.manifest(KEY) is None
    remote.finish()
    assert (site.names(), told) == ({"other"}, [])


# Digests.


@pytest.mark.parametrize("weak", ["xxh3:" + "0" * 32, "sha256:" + "0" * 64])
def test_only_blake3_is_shared(tmp_path: Path, told: Told, weak: str) -> None:
    remote = Remote(str(tmp_path), write=True, warn=told)
    with pytest.raises(ValueError, match="not a digest"):
        remote.manifest(weak)
    with pytest.raises(ValueError, match="not a digest"):
        remote.upload(KEY, b"{}", [(weak, "x", 1)])
    assert told == []
    assert remote.fetch_many([(weak, str(tmp_path / "x"), 5)]) == {weak}
    assert ["no BLAKE3 digest" in text for text, _ in told] == [True]


def test_digest_that_is_a_path_leads_nowhere(tmp_path: Path, told: Told) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    remote = Remote(str(tmp_path / "shared"), write=False, warn=told)
    hostile = "blake3:../../../secret\n"
    assert remote.fetch_many([(hostile, str(tmp_path / "out"), 6)]) == {hostile}
    assert not (tmp_path / "out").exists()
    assert "\n" not in told[0][0]


def test_manifest_that_is_refused_is_told(tmp_path: Path, told: Told) -> None:
    remote = Remote(str(tmp_path), write=False, warn=told)
    remote.refuse(KEY, "is not JSON")
    remote.refuse(KEY, "is not JSON")
    assert ["is not JSON" in text for text, _ in told] == [True]


# Directories.


def test_missing_directory_is_told_to_a_reader_and_made_by_a_writer(
    tmp_path: Path, told: Told, blob: Callable[[bytes], Blob]
) -> None:
    root = tmp_path / "mount" / "shared"
    assert Remote(str(root), write=False, warn=told).manifest(KEY) is None
    assert not root.exists()
    assert ["no such directory" in text for text, _ in told] == [True]
    assert share(root.as_uri(), b"{}", blob(b"model")) == []
    assert Remote(str(root), write=False, warn=told).manifest(KEY) == b"{}"


def test_pipe_in_place_of_an_object_is_refused(tmp_path: Path, told: Told) -> None:
    digest = digests.content(b"model")
    path = tmp_path / place("blobs", digest)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    remote = Remote(str(tmp_path), write=False, warn=told)
    assert fetch(remote, digest, tmp_path / "new", 5) is False
    assert ["is not a file" in text for text, _ in told] == [True]


def test_huge_manifest_is_refused(tmp_path: Path, told: Told) -> None:
    path = tmp_path / place("results", KEY)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert Remote(str(tmp_path), write=False, warn=told).manifest(KEY) is None
    assert ["larger than 67108864 bytes" in text for text, _ in told] == [True]


def test_target_that_cannot_be_written_is_told(
    tmp_path: Path, told: Told, blob: Callable[[bytes], Blob]
) -> None:
    made = blob(b"model")
    share(str(tmp_path / "shared"), b"{}", made)
    (tmp_path / "file").write_bytes(b"")
    remote = Remote(str(tmp_path / "shared"), write=False, warn=told)
    assert fetch(remote, made[0], tmp_path / "file" / "below", made[2]) is False
    assert ["cannot be written here" in text for text, _ in told] == [True]


def test_directory_that_is_a_file_stops_nothing(
    tmp_path: Path, told: Told, blob: Callable[[bytes], Blob]
) -> None:
    (tmp_path / "shared").write_bytes(b"")
    remote = Remote(str(tmp_path / "shared"), write=True, warn=told)
    assert remote.manifest(KEY) is None
    remote.upload(KEY, b"{}", [blob(b"model")])
    remote.finish()
    assert len(told) == 1


# Servers that are silent, lie, or break off.


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """Return the address of a server that accepts and never answers, and its connections."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepted: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    accepted.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", accepted
    for connection in accepted:
        connection.close()


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_silent_server_is_left_alone_after_one_wait(
    silent: tuple[str, list[socket.socket]],
    aws: Callable[[str], None],
    told: Told,
    tmp_path: Path,
    blob: Callable[[bytes], Blob],
    scheme: str,
) -> None:
    address, accepted = silent
    aws(address)
    url, seconds = (address, 0.5) if scheme == "http" else ("s3://bucket", 2.0)
    remote = Remote(url, write=True, warn=told, seconds=seconds)
    assert remote.manifest(KEY) is None
    assert [("does not answer; going on without it" in text) for text, _ in told] == [True]
    before = len(accepted)
    assert before > 0
    made = blob(b"model")
    assert fetch(remote, made[0], tmp_path / "new" / "x", made[2]) is False
    remote.upload(KEY, b"{}", [made])
    remote.finish()
    assert len(accepted) == before
    assert len(told) == 1
    assert left_in(tmp_path / "new") == []


def test_uploads_to_a_silent_server_end(
    silent: tuple[str, list[socket.socket]], told: Told, blob: Callable[[bytes], Blob]
) -> None:
    remote = Remote(silent[0], write=True, warn=told, seconds=0.3)
    remote.upload(KEY, b"{}", [blob(b"one"), blob(b"two")])
    remote.finish()
    assert ["does not answer" in text for text, _ in told] == [True]


def test_process_ends_though_the_server_is_silent(
    silent: tuple[str, list[socket.socket]],
) -> None:
    program = (
        "import sys; from buildrun.store.remote.client import Remote\n"
        "remote = Remote(sys.argv[1], write=True, warn=print, seconds=0.3)\n"
        "print(remote.manifest('blake3:' + '0' * 64))\n"
        "remote.finish()\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", program, silent[0]),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("None\n")


def test_server_that_talks_rubbish_is_left_alone(told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def talk() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(100)
                    connection.sendall(b"220 mail.example.com ESMTP\r\n")

        threading.Thread(target=talk, daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        remote = Remote(url, write=False, warn=told)
        assert remote.manifest(KEY) is None
        assert remote.manifest(KEY) is None
        remote.finish()
    assert len(told) == 1
    assert "\n" not in told[0][0]


def test_connection_that_breaks_off_leaves_nothing(told: Told, tmp_path: Path) -> None:
    def answer(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "5000000")
        request.end_headers()
        request.wfile.write(b"x" * 1000)

    with serving(answer) as url:
        remote = Remote(url, write=False, warn=told)
        target = tmp_path / "new" / "x"
        assert fetch(remote, digests.content(b"x" * 5_000_000), target, 5_000_000) is False
        remote.finish()
    assert ["going on without it" in text for text, _ in told] == [True]
    assert left_in(tmp_path / "new") == []


def test_transfer_that_stalls_is_given_up(told: Told, tmp_path: Path) -> None:
    stalled = threading.Event()

    def answer(request: Handler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "5000")
        request.end_headers()
        request.wfile.write(b"x" * 1000)
        stalled.wait(30)

    with serving(answer) as url:
        remote = Remote(url, write=False, warn=told, seconds=0.3)
        target = tmp_path / "new" / "x"
        assert fetch(remote, digests.content(b"x" * 5000), target, 5000) is False
        stalled.set()
        remote.abandon()  # so that what still runs has cleared away
    assert ["does not answer" in text for text, _ in told] == [True]
    assert left_in(tmp_path / "new") == []


def test_endless_answer_is_cut_off(told: Told, tmp_path: Path) -> None:
    sent: list[int] = []

    def answer(request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while len(sent) < 1000:
                request.wfile.write(b"x" * (1 << 20))
                sent.append(1)
        except OSError:
            pass  # the reader has gone, as it should

    with serving(answer) as url:
        remote = Remote(url, write=False, warn=told)
        assert remote.manifest(KEY) is None
        assert fetch(remote, digests.content(b"x"), tmp_path / "new" / "x", 1) is False
        remote.finish()
    assert len(sent) < 1000
    assert ["is larger than 67108864 bytes" in text for text, _ in told] == [True]
    assert left_in(tmp_path / "new") == []


def test_server_that_is_not_there_is_told(told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    remote = Remote(f"http://127.0.0.1:{port}/cache", write=False, warn=told)
    assert remote.manifest(KEY) is None
    assert len(told) == 1
    assert f"`http://127.0.0.1:{port}/cache` cannot be reached" in told[0][0]
    assert told[0][1] == "check the address and the network"


def test_unknown_host_is_told(told: Told) -> None:
    remote = Remote("http://cache.invalid/x", write=False, warn=told, seconds=30)
    assert remote.manifest(KEY) is None
    assert len(told) == 1
    assert "`http://cache.invalid/x`" in told[0][0]


# Rights, buckets, libraries.


def test_missing_bucket_is_told(
    endpoint: str, aws: Callable[[str], None], told: Told, blob: Callable[[bytes], Blob]
) -> None:
    aws(endpoint)
    remote = Remote("s3://nowhere/team", write=True, warn=told)
    assert remote.manifest(KEY) is None
    remote.upload(KEY, b"{}", [blob(b"model")])
    remote.finish()
    assert [text for text, _ in told] == [
        "the remote cache `s3://nowhere/team` does not exist: there is no such bucket; "
        "going on without it"
    ]


def test_upload_to_a_missing_bucket_is_told(
    endpoint: str, aws: Callable[[str], None], blob: Callable[[bytes], Blob]
) -> None:
    aws(endpoint)
    told = share("s3://nowhere/team", b"{}", blob(b"model"))
    assert ["no such bucket" in text for text, _ in told] == [True]


def s3_error(status: int, code: str) -> Callable[[Handler], None]:
    text = f"<Error><Code>{code}</Code><Message>The service says {code}.</Message></Error>"
    return lambda request: reply(request, status, text.encode())


def test_denied_reading_is_told_at_the_end(
    aws: Callable[[str], None], told: Told, tmp_path: Path
) -> None:
    with serving(s3_error(403, "AccessDenied")) as address:
        aws(address)
        remote = Remote("s3://bucket/team", write=False, warn=told)
        assert remote.manifest(KEY) is None
        assert fetch(remote, digests.content(b"x"), tmp_path / "x", 1) is False
        assert told == [], "S3 says the same of what is absent, to those who may not list"
        remote.finish()
    assert ["denies access" in text for text, _ in told] == [True]
    assert "s3:GetObject" in told[0][1]


def test_absent_objects_need_no_right_to_list(
    aws: Callable[[str], None], told: Told, blob: Callable[[bytes], Blob]
) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: Handler) -> None:
        asked.append((request.command, request.path))
        if request.command == "PUT":
            body_of(request)
            reply(request, 200)
        else:
            s3_error(403, "AccessDenied")(request)

    with serving(answer) as address:
        aws(address)
        remote = Remote("s3://bucket/team", write=True, warn=told)
        assert remote.manifest(KEY) is None
        assert [command for command, _ in asked] == ["GET"], "reading never lists"
        made = blob(b"model")
        remote.upload(KEY, b"{}", [made])
        remote.finish()
    assert told == []
    put = [path.partition("?")[0] for command, path in asked if command == "PUT"]
    assert put == [
        f"/bucket/team/{place('blobs', made[0])}",
        f"/bucket/team/{place('results', KEY)}",
    ]


def test_denied_writing_leaves_reading(
    aws: Callable[[str], None], told: Told, blob: Callable[[bytes], Blob]
) -> None:
    def answer(request: Handler) -> None:
        body_of(request)
        if request.command == "PUT":
            s3_error(403, "AccessDenied")(request)
        else:
            reply(request, 200, b"{}")

    with serving(answer) as address:
        aws(address)
        remote = Remote("s3://bucket/team", write=True, warn=told)
        remote.upload(KEY, b"{}", [blob(b"one"), blob(b"three")])
        assert remote.manifest(KEY) == b"{}"
        remote.finish()
    assert ["results are not shared" in text for text, _ in told] == [True]
    assert "s3:PutObject" in told[0][1]


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_bad_credentials_are_told_at_once(
    aws: Callable[[str], None], told: Told, code: str
) -> None:
    with serving(s3_error(403, code)) as address:
        aws(address)
        assert Remote("s3://bucket/team", write=False, warn=told).manifest(KEY) is None
    assert [f"does not accept the credentials: The service says {code}" in t for t, _ in told] == [
        True
    ]
    assert "AWS_PROFILE" in told[0][1]


def test_missing_credentials_are_told(
    aws: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    aws("http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert Remote("s3://bucket/team", write=False, warn=told, seconds=30).manifest(KEY) is None
    assert ["gets no valid credentials" in text for text, _ in told] == [True]
    assert "AWS_PROFILE" in told[0][1]


@pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is not None, reason="the library is installed"
)
def test_missing_library_is_told_with_its_remedy(told: Told) -> None:
    assert Remote("gs://bucket/team", write=False, warn=told).manifest(KEY) is None
    assert ["needs a library" in text for text, _ in told] == [True]
    assert told[0][1] == "pip install 'buildrun[gcs]'"


def test_unknown_scheme_is_told(told: Told) -> None:
    assert Remote("carrier-pigeon://x/y", write=True, warn=told).manifest(KEY) is None
    assert ["`carrier-pigeon://x/y` is at no address" in text for text, _ in told] == [True]


@pytest.mark.parametrize(
    "url",
    [
        f"http://robot:{SECRET}@127.0.0.1:1/cache",
        f"http://{SECRET}@127.0.0.1:1/cache",
        f"http://robot:p@{SECRET}@127.0.0.1:1/cache",
        f"http://127.0.0.1:1/cache?sv=2024&sig={SECRET}",
        f"pigeon://robot:{SECRET}@host/cache",
        f"pigeon://host/cache?token={SECRET}",
    ],
)
def test_credentials_are_in_no_warning(
    url: str, told: Told, tmp_path: Path, blob: Callable[[bytes], Blob]
) -> None:
    remote = Remote(url, write=True, warn=told)
    assert remote.manifest(KEY) is None
    assert fetch(remote, digests.content(b"x"), tmp_path / "x", 1) is False
    remote.upload(KEY, b"{}", [blob(b"model")])
    remote.finish()
    assert len(told) == 1
    assert SECRET not in str(told)


def test_what_a_server_repeats_of_the_secrets_is_hidden(
    aws: Callable[[str], None], told: Told
) -> None:
    def answer(request: Handler) -> None:
        text = f"<Error><Code>InvalidRequest</Code><Message>{SECRET} is odd</Message></Error>"
        reply(request, 400, text.encode())

    with serving(answer) as address:
        aws(address)
        assert Remote("s3://bucket/team", write=False, warn=told).manifest(KEY) is None
    assert [text for text, _ in told] == [
        "the remote cache `s3://bucket/team` failed: … is odd; going on without it"
    ]


@pytest.mark.parametrize("name", ["GITHUB_TOKEN_2", "PGPASSWORD", "FERNET_KEY", "REDISCLI_AUTH"])
def test_values_of_variables_named_as_secrets_are_hidden(name: str) -> None:
    error = OSError(f"denied to {SECRET}")
    told = explain(error, "s3://bucket/team", {name: SECRET, "PLAIN": "denied"})
    assert told[0] == (
        "the remote cache `s3://bucket/team` failed: denied to …; going on without it"
    )


# How it gets on.


def test_downloads_go_side_by_side(told: Told, tmp_path: Path) -> None:
    together = threading.Barrier(16, timeout=30)
    contents = {digests.content(bytes([number])): bytes([number]) for number in range(32)}
    objects = {f"/{place('blobs', digest)}": data for digest, data in contents.items()}

    def answer(request: Handler) -> None:
        together.wait()
        reply(request, 200, objects[request.path])

    with serving(answer) as url:
        remote = Remote(url, write=False, warn=told)
        items = [(digest, str(tmp_path / digest), 1) for digest in contents]
        assert remote.fetch_many(items) == set()
        remote.finish()
    assert told == []


def test_uploads_go_side_by_side_and_the_manifest_last(
    told: Told, blob: Callable[[bytes], Blob]
) -> None:
    together = threading.Barrier(4, timeout=30)
    shelf = Shelf()

    def answer(request: Handler) -> None:
        if request.command == "PUT" and "blobs" in request.path:
            together.wait()
        shelf(request)

    with serving(answer) as url:
        remote = Remote(url, write=True, warn=told)
        remote.upload(KEY, b"{}", [blob(bytes([number])) for number in range(8)])
        remote.finish()
    assert told == []
    assert shelf.asked[-1] == ("PUT", place("results", KEY))


def test_contents_that_are_there_are_not_sent_again(
    told: Told, blob: Callable[[bytes], Blob]
) -> None:
    shelf = Shelf()
    made = blob(b"model")
    other = digests.key("result", {"step": "test"})
    with serving(shelf) as url:
        share(url, b"{}", made)
        shelf.asked.clear()
        remote = Remote(url, write=True, warn=told)
        remote.upload(other, b"{}", [made])
        remote.finish()
    assert [path for command, path in shelf.asked if command == "PUT"] == [place("results", other)]


def test_signature_in_the_query_goes_with_every_request(
    told: Told, blob: Callable[[bytes], Blob]
) -> None:
    asked: list[str] = []
    shelf = Shelf()

    def answer(request: Handler) -> None:
        asked.append(request.path)
        shelf(request)

    with serving(answer) as url:
        share(f"{url}/cache?sig=abc", b"{}", blob(b"model"))
        assert Remote(f"{url}/cache?sig=abc", write=False, warn=told).manifest(KEY) == b"{}"
    assert all(path.startswith("/cache/v1/") and path.endswith("?sig=abc") for path in asked)


def test_abandoned_upload_leaves_no_manifest(told: Told, blob: Callable[[bytes], Blob]) -> None:
    begun, go_on, answered = threading.Event(), threading.Event(), threading.Event()
    shelf = Shelf()

    def answer(request: Handler) -> None:
        if request.command == "PUT":
            begun.set()
            go_on.wait(30)
            try:
                shelf(request)
            finally:
                answered.set()
        else:
            shelf(request)

    with serving(answer) as url:
        remote = Remote(url, write=True, warn=told)
        remote.upload(KEY, b"{}", [blob(b"model")])
        assert begun.wait(30)
        remote.abandon()
        go_on.set()
        assert answered.wait(30)
        remote.finish()
        assert remote.manifest(KEY) is None
    assert place("results", KEY) not in shelf.objects
    assert told == []


class _Interrupted(Exception):
    """What a signal's handler raises here."""


def test_interrupted_download_leaves_nothing(told: Told, tmp_path: Path) -> None:
    go_on = threading.Event()
    data = b"x" * 5000

    def answer(request: Handler) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        go_on.wait(30)
        reply(request, 200, data)

    def interrupt(_number: int, _frame: object) -> None:
        raise _Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with serving(answer) as url:
            remote = Remote(url, write=False, warn=told)
            with pytest.raises(_Interrupted):
                fetch(remote, digests.content(data), tmp_path / "new" / "x", len(data))
            go_on.set()
            remote.abandon()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert left_in(tmp_path / "new") == []
    assert told == []


def test_several_threads_may_ask_at_once(
    told: Told, blob: Callable[[bytes], Blob], tmp_path: Path
) -> None:
    blobs = [blob(bytes([number]) * 2000) for number in range(40)]
    share(str(tmp_path / "shared"), b"{}", *blobs)
    remote = Remote(str(tmp_path / "shared"), write=True, warn=told)
    failed: list[object] = []

    def ask(thread: int) -> None:
        for digest, path, size in blobs:
            if remote.manifest(KEY) != b"{}":
                failed.append(digest)
            if not fetch(remote, digest, tmp_path / "new" / f"{thread}-{digest}", size):
                failed.append(digest)
            remote.upload(digests.key("result", [thread, digest]), b"[]", [(digest, path, size)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    remote.finish()
    assert (failed, told) == ([], [])
    results = [path for path in (tmp_path / "shared/v1/results").rglob("*") if path.is_file()]
    assert len(results) == 1 + 240
    assert len(left_in(tmp_path / "new")) == 240


def test_nothing_is_touched_before_the_first_use(
    silent: tuple[str, list[socket.socket]], told: Told
) -> None:
    remote = Remote(silent[0], write=True, warn=told)
    remote.finish()
    assert (silent[1], told) == ([], [])
