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
from contextlib import contextmanager
from pathlib import Path

import pytest
from remote_backends import Shelf, Site, body_of, directory_site, place, s3_site, ssh_server
from remote_helpers import SECRET, Handler, reply, s3_environ, s3_server, serving

from buildrun.store import digest as digests
from buildrun.store.remote.client import Remote
from buildrun.store.remote.errors import explain

KEY = digests.key("result", {"step": "train"})
Blob = tuple[str, str, int]
# The address of a server that never answers, and the connections that it has accepted.
Silent = tuple[str, list[socket.socket]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Return the address of an S3 endpoint."""
    with s3_server() as address:
        yield address


class Aws:
    """Makes addresses the S3 endpoint of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self._monkeypatch, self._home = monkeypatch, directory

    def __call__(self, address: str) -> None:
        for name, value in s3_environ(address, self._home).items():
            self._monkeypatch.setenv(name, value)

    @contextmanager
    def serving(self, answer: Callable[[Handler], None]) -> Iterator[None]:
        with serving(answer) as address:
            self(address)
            yield


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Aws:
    return Aws(monkeypatch, tmp_path)


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
        yield s3_site(address)
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


class Machine:
    """One that uses a remote cache: its contents, what has arrived, and what it was warned of."""

    def __init__(self, directory: Path) -> None:
        self.told: list[tuple[str, str]] = []
        self.new = directory / "new"
        self._made = directory / "blobs"
        self._made.mkdir()

    def open(self, url: str, *, write: bool = False, seconds: float = 10.0) -> Remote:
        def warn(text: str, hint: str) -> None:
            self.told.append((text, hint))

        return Remote(url, write=write, warn=warn, seconds=seconds)

    def blob(self, data: bytes) -> Blob:
        """Make a file, and return its digest, path and size."""
        digest = digests.content(data)
        path = self._made / digest[-16:]
        path.write_bytes(data)
        return digest, str(path), len(data)

    def share(
        self,
        url: str,
        *blobs: Blob,
        key: str = KEY,
        manifest: bytes = b"{}",
        seconds: float = 10.0,
    ) -> None:
        remote = self.open(url, write=True, seconds=seconds)
        remote.upload(key, manifest, blobs)
        remote.finish()

    def fetch(self, remote: Remote, digest: str, size: int | None, name: str = "x") -> bool:
        return not remote.fetch_many([(digest, str(self.new / name), size)])

    def arrived(self) -> list[str]:
        return sorted(os.listdir(self.new)) if self.new.exists() else []

    def warned(self, text: str) -> str:
        """Return the hint of the only warning, which holds the text."""
        ((told, hint),) = self.told
        assert text in told
        assert "\n" not in told
        return hint


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# What every place does.


def test_shared_result_reaches_another_machine(site: Site, machine: Machine) -> None:
    contents = [b"model" * 100, b"", bytes(range(256)) * 40_000]
    blobs = [machine.blob(data) for data in contents]
    machine.share(site.url, *blobs, manifest=b'{"a": 1}')
    remote = machine.open(site.url)
    assert remote.manifest(KEY) == b'{"a": 1}'
    new = [machine.new / str(number) for number in range(len(blobs))]
    items = [(digest, str(path), size) for (digest, _, size), path in zip(blobs, new, strict=True)]
    assert remote.fetch_many(items) == set()
    assert [path.read_bytes() for path in new] == contents
    remote.finish()
    assert machine.told == []
    assert machine.arrived() == ["0", "1", "2"]


def test_what_is_absent_is_no_trouble(site: Site, machine: Machine) -> None:
    remote = machine.open(site.url, write=True)
    digest = digests.content(b"never made")
    assert remote.manifest(KEY) is None
    assert machine.fetch(remote, digest, 10) is False
    remote.finish()
    assert machine.told == []
    assert machine.arrived() == []


def test_reader_writes_nothing(site: Site, machine: Machine) -> None:
    site.put("other", b"object")
    remote = machine.open(site.url)
    remote.upload(KEY, b"{}", [machine.blob(b"model")])
    remote.manifest(KEY)
    remote.finish()
    assert site.names() == {"other"}
    assert machine.told == []


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
    site: Site, machine: Machine, held: bytes, announced: int | None, why: str
) -> None:
    digest = digests.content(b"model")
    honest = digests.content(b"honest")
    site.put(place("blobs", digest), held)
    site.put(place("blobs", honest), b"honest")
    remote = machine.open(site.url)
    for _ in range(2):
        assert machine.fetch(remote, digest, announced) is False
    assert machine.fetch(remote, honest, 6, "honest"), "the others are still used"
    remote.finish()
    assert machine.arrived() == ["honest"]
    machine.warned(place("blobs", digest))
    machine.warned(why)


def test_truncated_object_is_replaced_by_an_upload(site: Site, machine: Machine) -> None:
    made = machine.blob(b"model" * 100)
    site.put(place("blobs", made[0]), b"mod")
    machine.share(site.url, made)
    assert machine.told == []
    assert machine.fetch(machine.open(site.url), made[0], made[2])


@pytest.mark.parametrize("size", [5, 9_000_000], ids=["small", "large"])
def test_changed_file_keeps_its_result_here(site: Site, machine: Machine, size: int) -> None:
    good, bad = machine.blob(b"good"), machine.blob(b"m" * size)
    Path(bad[1]).write_bytes(b"n" * size)
    machine.share(site.url, good, bad)
    machine.warned(bad[1])
    assert place("results", KEY) not in site.names()
    assert place("blobs", bad[0]) not in site.names()


def test_vanished_file_keeps_its_result_here(site: Site, machine: Machine) -> None:
    made = machine.blob(b"model")
    os.unlink(made[1])
    site.put("other", b"")
    machine.share(site.url, made)
    machine.warned(made[1])
    assert site.names() == {"other"}


def test_two_may_share_the_same_result_at_once(site: Site, machine: Machine) -> None:
    blobs = [machine.blob(bytes([number]) * 3000) for number in range(12)]
    remotes = [machine.open(site.url, write=True) for _ in range(3)]
    for remote in remotes:
        remote.upload(KEY, b"{}", blobs)
    for remote in remotes:
        remote.finish()
    reader = machine.open(site.url)
    assert reader.manifest(KEY) == b"{}"
    items = [(digest, str(machine.new / digest), size) for digest, _, size in blobs]
    assert reader.fetch_many(items) == set()
    assert site.names() == {place("results", KEY), *(place("blobs", blob[0]) for blob in blobs)}
    assert machine.told == []


def test_finishing_twice_is_harmless_and_nothing_follows(site: Site, machine: Machine) -> None:
    site.put("other", b"")
    remote = machine.open(site.url, write=True)
    remote.finish()
    remote.finish()
    remote.upload(KEY, b"{}", [machine.blob(b"late")])
    assert remote.manifest(KEY) is None
    remote.finish()
    assert (site.names(), machine.told) == ({"other"}, [])


# Digests.


@pytest.mark.parametrize("weak", ["xxh3:" + "0" * 32, "sha256:" + "0" * 64])
def test_only_blake3_is_shared(machine: Machine, tmp_path: Path, weak: str) -> None:
    remote = machine.open(str(tmp_path), write=True)
    with pytest.raises(ValueError, match="not a digest"):
        remote.manifest(weak)
    with pytest.raises(ValueError, match="not a digest"):
        remote.upload(KEY, b"{}", [(weak, "x", 1)])
    assert machine.told == []
    assert remote.fetch_many([(weak, str(tmp_path / "x"), 5)]) == {weak}
    machine.warned("no BLAKE3 digest")


def test_digest_that_is_a_path_leads_nowhere(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    remote = machine.open(str(tmp_path / "shared"))
    hostile = "blake3:../../../secret\n"
    assert remote.fetch_many([(hostile, str(tmp_path / "out"), 6)]) == {hostile}
    assert not (tmp_path / "out").exists()
    machine.warned("no BLAKE3 digest")


# Directories.


def test_missing_directory_is_told_to_a_reader_and_made_by_a_writer(
    machine: Machine, tmp_path: Path
) -> None:
    root = tmp_path / "mount" / "shared"
    assert machine.open(str(root)).manifest(KEY) is None
    assert not root.exists()
    machine.warned("no such directory")
    machine.share(root.as_uri(), machine.blob(b"model"))
    assert machine.open(str(root)).manifest(KEY) == b"{}"
    assert len(machine.told) == 1


def test_pipe_in_place_of_an_object_is_refused(machine: Machine, tmp_path: Path) -> None:
    digest = digests.content(b"model")
    path = tmp_path / place("blobs", digest)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    remote = machine.open(str(tmp_path))
    assert machine.fetch(remote, digest, 5) is False
    machine.warned("is not a file")


def test_target_that_cannot_be_written_is_told(machine: Machine, tmp_path: Path) -> None:
    made = machine.blob(b"model")
    machine.share(str(tmp_path / "shared"), made)
    machine.new.write_bytes(b"")
    remote = machine.open(str(tmp_path / "shared"))
    assert machine.fetch(remote, made[0], made[2]) is False
    machine.warned("cannot be written here")


def test_directory_that_is_a_file_stops_nothing(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "shared").write_bytes(b"")
    remote = machine.open(str(tmp_path / "shared"), write=True)
    assert remote.manifest(KEY) is None
    remote.upload(KEY, b"{}", [machine.blob(b"model")])
    remote.finish()
    assert len(machine.told) == 1


# Servers that are silent, lie, or break off.


@contextmanager
def accepting(take: Callable[[socket.socket], object]) -> Iterator[str]:
    """Hand every connection to a function; gives the address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    take(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[Silent]:
    accepted: list[socket.socket] = []
    with accepting(accepted.append) as address:
        yield address, accepted
    for connection in accepted:
        connection.close()


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_silent_server_is_left_alone_after_one_wait(
    machine: Machine, silent: Silent, aws: Aws, scheme: str
) -> None:
    address, accepted = silent
    aws(address)
    url, seconds = (address, 0.5) if scheme == "http" else ("s3://bucket", 2.0)
    remote = machine.open(url, write=True, seconds=seconds)
    assert remote.manifest(KEY) is None
    machine.warned("does not answer; going on without it")
    before = len(accepted)
    assert before > 0
    made = machine.blob(b"model")
    assert machine.fetch(remote, made[0], made[2]) is False
    remote.upload(KEY, b"{}", [made])
    remote.finish()
    assert len(accepted) == before
    assert len(machine.told) == 1
    assert machine.arrived() == []


def test_uploads_to_a_silent_server_end(machine: Machine, silent: Silent) -> None:
    machine.share(silent[0], machine.blob(b"one"), machine.blob(b"two"), seconds=0.3)
    machine.warned("does not answer")


def test_process_ends_though_the_server_is_silent(silent: Silent) -> None:
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


def test_server_that_talks_rubbish_is_left_alone(machine: Machine) -> None:
    def talk(connection: socket.socket) -> None:
        with connection:
            connection.recv(100)
            connection.sendall(b"220 mail.example.com ESMTP\r\n")

    with accepting(talk) as url:
        remote = machine.open(url)
        assert remote.manifest(KEY) is None
        assert remote.manifest(KEY) is None
        remote.finish()
    machine.warned(url)


def begin_answer(request: Handler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "5000")
    request.end_headers()
    request.wfile.write(b"x" * 1000)


def test_connection_that_breaks_off_leaves_nothing(machine: Machine) -> None:
    with serving(begin_answer) as url:
        remote = machine.open(url)
        assert machine.fetch(remote, digests.content(b"x" * 5000), 5000) is False
        remote.finish()
    machine.warned("going on without it")
    assert machine.arrived() == []


def test_transfer_that_stalls_is_given_up(machine: Machine) -> None:
    stalled = threading.Event()

    def answer(request: Handler) -> None:
        begin_answer(request)
        stalled.wait(30)

    with serving(answer) as url:
        remote = machine.open(url, seconds=0.3)
        assert machine.fetch(remote, digests.content(b"x" * 5000), 5000) is False
        stalled.set()
        remote.abandon()  # so that what still runs has cleared away
    machine.warned("does not answer")
    assert machine.arrived() == []


def test_endless_answer_is_cut_off(machine: Machine) -> None:
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
        remote = machine.open(url)
        assert remote.manifest(KEY) is None
        assert machine.fetch(remote, digests.content(b"x"), 1) is False
        remote.finish()
    assert len(sent) < 1000
    machine.warned("is larger than 67108864 bytes")
    assert machine.arrived() == []


def test_unknown_host_is_told(machine: Machine) -> None:
    remote = machine.open("http://cache.invalid/x", seconds=30)
    assert remote.manifest(KEY) is None
    machine.warned("`http://cache.invalid/x`")


# Rights, buckets, libraries.


def test_missing_bucket_is_told(machine: Machine, endpoint: str, aws: Aws) -> None:
    aws(endpoint)
    machine.share("s3://nowhere/team", machine.blob(b"model"))
    machine.warned("no such bucket")
    machine.told.clear()
    assert machine.open("s3://nowhere/team").manifest(KEY) is None
    machine.warned(
        "the remote cache `s3://nowhere/team` does not exist: there is no such bucket; "
        "going on without it"
    )


def s3_error(status: int, code: str) -> Callable[[Handler], None]:
    text = f"<Error><Code>{code}</Code><Message>The service says {code}.</Message></Error>"
    return lambda request: reply(request, status, text.encode())


def test_denied_reading_is_told_at_the_end(machine: Machine, aws: Aws) -> None:
    with aws.serving(s3_error(403, "AccessDenied")):
        remote = machine.open("s3://bucket/team")
        assert remote.manifest(KEY) is None
        assert machine.fetch(remote, digests.content(b"x"), 1) is False
        assert machine.told == [], "S3 says the same of what is absent, to those who may not list"
        remote.finish()
    assert "s3:GetObject" in machine.warned("denies access")


def test_absent_objects_need_no_right_to_list(machine: Machine, aws: Aws) -> None:
    asked: list[tuple[str, str]] = []

    def answer(request: Handler) -> None:
        asked.append((request.command, request.path))
        if request.command == "PUT":
            body_of(request)
            reply(request, 200)
        else:
            s3_error(403, "AccessDenied")(request)

    with aws.serving(answer):
        remote = machine.open("s3://bucket/team", write=True)
        assert remote.manifest(KEY) is None
        assert [command for command, _ in asked] == ["GET"], "reading never lists"
        made = machine.blob(b"model")
        remote.upload(KEY, b"{}", [made])
        remote.finish()
    assert machine.told == []
    put = [path.partition("?")[0] for command, path in asked if command == "PUT"]
    assert put == [
        f"/bucket/team/{place('blobs', made[0])}",
        f"/bucket/team/{place('results', KEY)}",
    ]


def test_denied_writing_leaves_reading(machine: Machine, aws: Aws) -> None:
    def answer(request: Handler) -> None:
        body_of(request)
        if request.command == "PUT":
            s3_error(403, "AccessDenied")(request)
        else:
            reply(request, 200, b"{}")

    with aws.serving(answer):
        remote = machine.open("s3://bucket/team", write=True)
        remote.upload(KEY, b"{}", [machine.blob(b"one"), machine.blob(b"three")])
        assert remote.manifest(KEY) == b"{}"
        remote.finish()
    assert "s3:PutObject" in machine.warned("results are not shared")


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_bad_credentials_are_told_at_once(machine: Machine, aws: Aws, code: str) -> None:
    with aws.serving(s3_error(403, code)):
        assert machine.open("s3://bucket/team").manifest(KEY) is None
    fact = f"does not accept the credentials: The service says {code}"
    assert "AWS_PROFILE" in machine.warned(fact)


def test_missing_credentials_are_told(
    machine: Machine, aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws("http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert machine.open("s3://bucket/team", seconds=30).manifest(KEY) is None
    assert "AWS_PROFILE" in machine.warned("gets no valid credentials")


@pytest.mark.skipif(
    importlib.util.find_spec("gcsfs") is not None, reason="the library is installed"
)
def test_missing_library_is_told_with_its_remedy(machine: Machine) -> None:
    assert machine.open("gs://bucket/team").manifest(KEY) is None
    assert machine.warned("needs a library") == "pip install 'buildrun[gcs]'"


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
def test_credentials_are_in_no_warning(machine: Machine, url: str) -> None:
    remote = machine.open(url, write=True)
    assert remote.manifest(KEY) is None
    assert machine.fetch(remote, digests.content(b"x"), 1) is False
    remote.upload(KEY, b"{}", [machine.blob(b"model")])
    remote.finish()
    assert len(machine.told) == 1
    assert SECRET not in str(machine.told)


def test_what_a_server_repeats_of_the_secrets_is_hidden(machine: Machine, aws: Aws) -> None:
    def answer(request: Handler) -> None:
        text = f"<Error><Code>InvalidRequest</Code><Message>{SECRET} is odd</Message></Error>"
        reply(request, 400, text.encode())

    with aws.serving(answer):
        assert machine.open("s3://bucket/team").manifest(KEY) is None
    assert [text for text, _ in machine.told] == [
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


def test_downloads_go_side_by_side(machine: Machine, tmp_path: Path) -> None:
    together = threading.Barrier(16, timeout=30)
    contents = {digests.content(bytes([number])): bytes([number]) for number in range(32)}
    objects = {f"/{place('blobs', digest)}": data for digest, data in contents.items()}

    def answer(request: Handler) -> None:
        together.wait()
        reply(request, 200, objects[request.path])

    with serving(answer) as url:
        remote = machine.open(url)
        items = [(digest, str(tmp_path / digest), 1) for digest in contents]
        assert remote.fetch_many(items) == set()
        remote.finish()
    assert machine.told == []


def test_uploads_go_side_by_side_and_the_manifest_last(machine: Machine) -> None:
    together = threading.Barrier(4, timeout=30)
    shelf = Shelf()

    def answer(request: Handler) -> None:
        if request.command == "PUT" and "blobs" in request.path:
            together.wait()
        shelf(request)

    with serving(answer) as url:
        machine.share(url, *(machine.blob(bytes([number])) for number in range(8)))
    assert machine.told == []
    assert shelf.asked[-1] == ("PUT", place("results", KEY))


def test_contents_that_are_there_are_not_sent_again(machine: Machine) -> None:
    shelf = Shelf()
    made = machine.blob(b"model")
    other = digests.key("result", {"step": "test"})
    with serving(shelf) as url:
        machine.share(url, made)
        shelf.asked.clear()
        machine.share(url, made, key=other)
    assert [path for command, path in shelf.asked if command == "PUT"] == [place("results", other)]


def test_signature_in_the_query_goes_with_every_request(machine: Machine) -> None:
    asked: list[str] = []
    shelf = Shelf()

    def answer(request: Handler) -> None:
        asked.append(request.path)
        shelf(request)

    with serving(answer) as url:
        machine.share(f"{url}/cache?sig=abc", machine.blob(b"model"))
        assert machine.open(f"{url}/cache?sig=abc").manifest(KEY) == b"{}"
    assert all(path.startswith("/cache/v1/") and path.endswith("?sig=abc") for path in asked)


def test_abandoned_upload_leaves_no_manifest(machine: Machine) -> None:
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
        remote = machine.open(url, write=True)
        remote.upload(KEY, b"{}", [machine.blob(b"model")])
        assert begun.wait(30)
        remote.abandon()
        go_on.set()
        assert answered.wait(30)
        remote.finish()
        assert remote.manifest(KEY) is None
    assert place("results", KEY) not in shelf.objects
    assert machine.told == []


class _Interrupted(Exception):
    """What a signal's handler raises here."""


def test_interrupted_download_leaves_nothing(machine: Machine) -> None:
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
            remote = machine.open(url)
            with pytest.raises(_Interrupted):
                machine.fetch(remote, digests.content(data), len(data))
            go_on.set()
            remote.abandon()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert machine.arrived() == []
    assert machine.told == []


def test_several_threads_may_ask_at_once(machine: Machine, tmp_path: Path) -> None:
    blobs = [machine.blob(bytes([number]) * 2000) for number in range(40)]
    machine.share(str(tmp_path / "shared"), *blobs)
    remote = machine.open(str(tmp_path / "shared"), write=True)
    failed: list[object] = []

    def ask(thread: int) -> None:
        for digest, path, size in blobs:
            if remote.manifest(KEY) != b"{}":
                failed.append(digest)
            if not machine.fetch(remote, digest, size, f"{thread}-{digest}"):
                failed.append(digest)
            remote.upload(digests.key("result", [thread, digest]), b"[]", [(digest, path, size)])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    remote.finish()
    assert (failed, machine.told) == ([], [])
    results = [path for path in (tmp_path / "shared/v1/results").rglob("*") if path.is_file()]
    assert len(results) == 1 + 240
    assert len(machine.arrived()) == 240


def test_nothing_is_touched_before_the_first_use(machine: Machine, silent: Silent) -> None:
    remote = machine.open(silent[0], write=True)
    remote.finish()
    assert (silent[1], machine.told) == ([], [])
