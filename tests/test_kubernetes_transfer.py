"""How the client sends files to pods and fetches theirs: with an S3 server, HTTP, and real pods."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from kube_object_store import (
    SIGNATURE,
    Depot,
    Pod,
    answering,
    archive,
    cutting,
    depot,
    foreign,
    sha256,
)
from remote_helpers import SECRET, Bucket, Handler, bucket

from buildrun.errors import ExecutionError
from buildrun.executors.kubernetes import transfer
from buildrun.executors.kubernetes.archive import PartLimit
from buildrun.executors.kubernetes.transfer import (
    ArtifactTransfer,
    Delivery,
    through_cache,
)
from buildrun.workspace import outputs

JOB = "br-project-train-0123456789abcdef"


@pytest.fixture(scope="module")
def amazon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with bucket(tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def s3(amazon: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Give each test an address of its own in the bucket."""
    for name, value in amazon.environ.items():
        monkeypatch.setenv(name, value)
    place = os.urandom(4).hex()
    url = f"{amazon.url}/{place}"
    above = f"team/{place}/v1/carried/"

    def names() -> set[str]:
        return {name[len(above) :] for name in amazon.names() if name.startswith(above)}

    return Bucket(url, amazon.environ, names)


@pytest.fixture
def store() -> Iterator[Depot]:
    with depot() as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    made = tmp_path / "project"
    made.mkdir()
    return made


@pytest.fixture
def pod(store: Depot, tmp_path: Path) -> Pod:
    (tmp_path / "pod").mkdir()
    return Pod(sys.executable, tmp_path / "pod", store)


def run(pod: Pod, task: str) -> tuple[int, str, str]:
    pod.task.write_text(task)
    child = pod.start()
    out, err = child.communicate(timeout=120)
    return child.returncode, out.decode(), err.decode()


def on(store: Depot, **options: Any) -> ArtifactTransfer:
    return through_cache(f"{store.address}/team?{SIGNATURE}", os.environ, **options)


def delivery(store: Depot, data: bytes, *, parts: int = 1) -> None:
    """Lay down what a Job delivers."""
    step = max(1, -(-len(data) // parts))
    cuts = [data[start : start + step] for start in range(0, len(data), step)]
    for number, cut in enumerate(cuts):
        store.put(f"team/v1/carried/jobs/{JOB}/{number}", cut)
    record = {
        "version": 1,
        "parts": len(cuts),
        "size": len(data),
        "sha256": sha256(data),
        "exit_code": 0,
        "seconds": 1.5,
    }
    store.put(f"team/v1/carried/jobs/{JOB}/done.json", json.dumps(record).encode())


def arrived(sent: ArtifactTransfer) -> Delivery:
    done = sent.arrived(JOB)
    assert done is not None
    return done


def fetch(store: Depot, root: Path, outputs: list[str]) -> None:
    sent = on(store)
    sent.fetch(JOB, arrived(sent), str(root), outputs)


def tree(root: Path) -> dict[str, bytes | str | None]:
    """Return all that is in a directory: contents, links' targets, None for directories."""
    found: dict[str, bytes | str | None] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = None if path.is_dir() else path.read_bytes()
    return found


@pytest.mark.parametrize(
    "url",
    ["/mnt/cache", "~/cache", "file:///mnt/cache", "memory://cache", "ssh://robot:secret@host/x",
     "sftp://robot:secret@host/x", "https://robot:secret@host/x"],
)  # fmt: skip
def test_place_that_pods_cannot_use_is_refused(url: str) -> None:
    with pytest.raises(ExecutionError) as caught:
        through_cache(url, {})
    assert "files cannot travel to pods and back through `" in caught.value.message
    assert "secret" not in str(caught.value)
    assert "s3://bucket/path" in str(caught.value.hint)


def test_files_travel_to_a_pod_and_back(s3: Bucket, root: Path, pod: Pod) -> None:
    (root / "data" / "none").mkdir(parents=True)
    (root / "data" / "ünï").write_text("unicode")
    (root / os.fsdecode(b"data/\xff\x80")).write_text("undecodable")
    (root / "data" / "link").symlink_to("ünï")
    (root / "empty").touch()
    (root / "run.sh").write_text("#!/bin/sh\ncp -a data empty run.sh out\n")
    (root / "run.sh").chmod(0o700)
    before = tree(root)
    sent = through_cache(s3.url, os.environ)
    parcel = sent.send(str(root), ["data/", "empty", "run.sh", "absent"])
    order = sent.order(JOB)
    assert sent.arrived(JOB) is None
    argv = ("sh", "-c", "mkdir out && ./run.sh && cat data/link")
    task = transfer.task(argv, str(pod.workdir), [parcel], ["out/", "not-made"], order)
    assert run(pod, task) == (0, "unicode", "")
    done = arrived(sent)
    sent.fetch(JOB, done, str(root), ["out/", "not-made"])
    after = tree(root)
    assert {name[4:]: held for name, held in after.items() if name.startswith("out/")} == before
    assert {name: held for name, held in after.items() if not name.startswith("out")} == before
    assert os.access(root / "out" / "run.sh", os.X_OK)
    assert (root / "out" / "empty").stat().st_mode & 0o111 == 0
    assert done.seconds >= 0


def test_no_credentials_go_to_the_pod(s3: Bucket, root: Path) -> None:
    (root / "file").write_text("x")
    sent = through_cache(s3.url, os.environ)
    task = transfer.task(["true"], "/w", [sent.send(str(root), ["file"])], ["x"], sent.order(JOB))
    assert SECRET not in task + transfer.program()
    compile(transfer.program(), "pod_runner.py", "exec")


def test_archive_depends_on_content_alone(s3: Bucket, root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for place, first in ((root, "a"), (other, "b")):
        (place / "d").mkdir(parents=True)
        for name in (first, "a", "b"):
            (place / "d" / name).write_text("same")
        (place / "d" / first).chmod(0o600)
        os.utime(place / "d" / first, (1, 1))
    sent = through_cache(s3.url, os.environ)
    one = sent.send(str(root), ["d"])
    assert one.sha256 == sent.send(str(other), ["d/", "d/a", "./d"]).sha256
    (other / "d" / "a").chmod(0o755)
    assert one.sha256 != sent.send(str(other), ["d"]).sha256


def test_what_is_there_is_not_sent_again(store: Depot, root: Path) -> None:
    (root / "big").write_bytes(os.urandom(250_000))
    for _ in range(2):  # of two calls of buildrun
        sent = on(store, part=100_000)
        parcel = sent.send(str(root), ["big"])
        sent.send(str(root), ["big"])
    assert len(parcel.urls) == 3
    puts = [asked for asked in store.asked if asked.method == "PUT"]
    assert len(puts) == 3
    # What is cut off in the store is no part, and one that is lost is sent again.
    first, second, _ = (urlsplit(url).path.lstrip("/") for url in parcel.urls)
    store.objects[first] = store.objects[first][:-1]
    del store.objects[second]
    on(store, part=100_000).send(str(root), ["big"])
    puts = [asked for asked in store.asked if asked.method == "PUT"]
    assert len(puts) == 5
    data = b"".join(store.objects[urlsplit(url).path.lstrip("/")] for url in parcel.urls)
    assert (len(data), sha256(data)) == (parcel.size, parcel.sha256)


def test_parts_grow_where_there_would_be_too_many() -> None:
    largest = PartLimit(1000, 10)
    assert [largest.of(size) for size in (0, 1, 10_000, 10_001, 99_999)] == [
        1000, 1000, 1000, 2000, 10_000,
    ]  # fmt: skip


def test_objects_are_named_by_their_digests(s3: Bucket, root: Path) -> None:
    sent = through_cache(s3.url, os.environ)
    parcel = sent.send(str(root), ["absent"])
    assert (parcel.urls, parcel.size, parcel.sha256) == ((), 0, sha256(b""))
    assert not s3.names()
    (root / "file").write_text("x")
    parcel = sent.send(str(root), ["file"])
    assert s3.names() == {f"sha256/{parcel.sha256[:2]}/{parcel.sha256}"}


def test_file_may_appear_under_its_own_path(store: Depot, tmp_path: Path, pod: Pod) -> None:
    (tmp_path / "v3").mkdir()
    (tmp_path / "v3" / "data").write_text("absolute")
    (tmp_path / "v3" / "link").symlink_to("/etc/hostname")
    (tmp_path / "current").symlink_to("v3")  # what it leads to is meant
    sent = on(store)
    parcel = sent.send("/", [str(tmp_path / "current")], as_absolute=True)
    again = sent.send(str(tmp_path), ["current"], as_absolute=True)
    assert (parcel.root, parcel.sha256) == ("/", again.sha256)
    # This pod shares its files with us, so what came shows by what went.
    data = b"".join(store.objects[urlsplit(url).path.lstrip("/")] for url in parcel.urls)
    with tarfile.open(fileobj=io.BytesIO(data)) as made:
        top = str(tmp_path / "current").lstrip("/")
        assert made.getnames() == [top, f"{top}/data", f"{top}/link"]
        assert made.getmember(top).isdir()
    (tmp_path / "current").unlink()
    argv = ("cat", str(tmp_path / "current" / "data"))
    task = transfer.task(argv, str(pod.workdir), [parcel], [], ())
    assert run(pod, task) == (0, "absolute", "")


LEAVES = "is a link that leaves the project"
OUTSIDE = "it cannot be sent: it lies outside of the project"


@pytest.mark.parametrize(
    ("path", "target", "told"),
    [
        ("link", "/etc/hostname", LEAVES), ("link", "../outside", LEAVES),
        ("link", "d/../../outside", LEAVES), ("../outside", "", OUTSIDE),
        ("/etc/hostname", "", OUTSIDE), (".", "", OUTSIDE), ("", "", OUTSIDE),
        ("a/../..", "", OUTSIDE), ("d", "", "`d/pipe` is neither a file nor a directory"),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_refused(
    store: Depot, root: Path, path: str, target: str, told: str
) -> None:
    (root / "d").mkdir()
    os.mkfifo(root / "d" / "pipe")
    if target:
        (root / "link").symlink_to(target)
    with pytest.raises(ExecutionError, match=told) as caught:
        on(store).send(str(root), [path])
    assert bool(caught.value.hint) == (told == LEAVES)
    assert not store.asked


@pytest.mark.parametrize("change", ["content", "longer", "gone", "link"])
def test_file_that_changes_while_it_is_sent_is_told(store: Depot, root: Path, change: str) -> None:
    file = root / "file"
    file.write_text("before")

    def meanwhile(request: Handler, data: bytes | None) -> None:
        if change in ("gone", "link"):
            file.unlink()
        if change == "link":
            file.symlink_to("/etc/hostname")
        if change in ("content", "longer"):
            file.write_text("after!" if change == "content" else "before and after")
        answering(404)(request, data)

    store.fail("HEAD", "*", meanwhile)
    with pytest.raises(ExecutionError, match="changed while it was sent") as caught:
        on(store).send(str(root), ["file"])
    assert str(file) in caught.value.message
    assert caught.value.hint == "run it again"
    assert not store.objects


def test_addresses_are_those_that_pods_see(s3: Bucket, root: Path, pod: Pod) -> None:
    (root / "file").write_text("seen")
    port = urlsplit(s3.environ["AWS_ENDPOINT_URL"]).port
    sent = through_cache(s3.url, os.environ, endpoint=f"http://localhost:{port}")
    parcel, order = sent.send(str(root), ["file"]), sent.order(JOB)
    hosts = {urlsplit(url).netloc for url in (*parcel.urls, *order)}
    assert hosts == {f"localhost:{port}"}
    argv = ("cp", "file", "out")
    assert run(pod, transfer.task(argv, str(pod.workdir), [parcel], ["out"], order))[0] == 0
    # The client goes by its own address.
    unseen = through_cache(s3.url, os.environ, endpoint="http://store.invalid:9000")
    unseen.fetch(JOB, arrived(unseen), str(root), ["out"])
    assert (root / "out").read_text() == "seen"
    assert (
        unseen.delivered_archive(JOB, arrived(unseen))
        .urls[0]
        .startswith("http://store.invalid:9000/")
    )


def test_plain_server_may_have_another_address_for_pods(store: Depot) -> None:
    order = on(store, endpoint="http://store.ns.svc:8080").order(JOB, 1)
    place = f"http://store.ns.svc:8080/team/v1/carried/jobs/{JOB}"
    assert order == (f"{place}/done.json?{SIGNATURE}", f"{place}/0?{SIGNATURE}")


@pytest.mark.parametrize(("hours", "seconds"), [(1, 3600), (0.5, 1800), (1000, 604800), (0, 1)])
def test_addresses_are_good_for_as_long_as_is_allowed(
    s3: Bucket, hours: float, seconds: int
) -> None:
    order = through_cache(s3.url, os.environ, hours=hours).order(JOB, 3)
    assert len(order) == 4
    for url in order:
        query = parse_qs(urlsplit(url).query)
        assert query["X-Amz-Expires"] == [str(seconds)]
        assert query["X-Amz-SignedHeaders"] == ["host"]
    assert len({urlsplit(url).path for url in order}) == 4


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A", "-a", "a" * 300])
def test_name_of_no_job_is_refused(store: Depot, name: str) -> None:
    with pytest.raises(ValueError, match="no Job has the name"):
        on(store).order(name)


def test_delivery_becomes_the_input_of_another_pod(s3: Bucket, root: Path, pod: Pod) -> None:
    sent = through_cache(s3.url, os.environ)
    script = "mkdir data; head -c 250000 /dev/urandom >data/x; sha256sum <data/x"
    task = transfer.task(
        ("bash", "-c", script), str(pod.workdir), [], ["data"], sent.order(JOB), part=100_000
    )
    code, first, _ = run(pod, task)
    assert code == 0
    done = arrived(sent)
    assert done.parts == 3
    there = pod.home / "next"
    task = transfer.task(
        ("bash", "-c", "sha256sum <data/x"),
        str(there),
        [sent.delivered_archive(JOB, done)],
        [],
        (),
    )
    assert run(pod, task) == (0, first, "")
    assert tree(root) == {}


def test_old_output_is_replaced_whole_and_others_stay(store: Depot, root: Path) -> None:
    (root / "data").mkdir()
    (root / "data" / "stale").write_text("stale")
    (root / "absent").write_text("kept")
    (root / "other").write_text("kept")
    (root / "deep").mkdir()
    (root / "deep" / "beside").write_text("kept")
    delivery(store, archive(("data", None), ("data/new", b"new"), ("deep/er/model", b"model")))
    fetch(store, root, ["data/", "absent", "deep/er/model"])
    assert tree(root) == {
        "absent": b"kept", "data": None, "data/new": b"new", "deep": None,
        "deep/beside": b"kept", "deep/er": None, "deep/er/model": b"model", "other": b"kept",
    }  # fmt: skip


def test_delivery_of_nothing_changes_nothing(store: Depot, root: Path) -> None:
    (root / "out").write_text("old")
    delivery(store, b"")
    fetch(store, root, ["out"])
    assert tree(root) == {"out": b"old"}


def test_fetching_survives_dropped_connections(store: Depot, root: Path) -> None:
    content = os.urandom(3_000_000)
    delivery(store, archive(("big", content)), parts=2)
    for number in range(2):
        store.fail("GET", f"team/v1/carried/jobs/{JOB}/{number}", cutting(1_200_000))
    fetch(store, root, ["big"])
    assert (root / "big").read_bytes() == content


GOOD = archive(("out", None), ("out/file", b"content" * 1000), ("second", b"x"))
FOREIGN = tarfile.TarInfo("out")
FOREIGN.type, FOREIGN.linkname = tarfile.LNKTYPE, "/etc/passwd"
BAD: dict[str, tuple[bytes, Callable[[Depot], object], str]] = {
    "tampered": (GOOD, lambda store: tamper(store, b"c0ntent"), "its digest differs"),
    "cut": (GOOD, lambda store: cut(store, 4000), "ends too early"),
    "longer": (GOOD, lambda store: cut(store, None), "bytes instead of"),
    "lost": (GOOD, lambda store: store.objects.pop(place(0)), "the store answers 404"),
    "other output": (archive(("third", b"x")), lambda _: None, "holds `third`, which is no output"),
    "above": (archive(("../out", b"x")), lambda _: None, "holds `../out`, which lies outside"),
    "in a link": (archive(("out", "/tmp"), ("out/x", b"x")), lambda _: None, "no directory"),
    "hard link": (foreign((FOREIGN, b"")), lambda _: None, "holds `out` of a kind"),
    "no archive": (b"<html>" * 100, lambda _: None, "is damaged"),
}


def place(number: int) -> str:
    return f"team/v1/carried/jobs/{JOB}/{number}"


def tamper(store: Depot, content: bytes) -> None:
    data = store.objects[place(0)]
    store.objects[place(0)] = data.replace(b"content", content, 1)


def cut(store: Depot, size: int | None) -> None:
    data = store.objects[place(0)]
    store.objects[place(0)] = data + bytes(512) if size is None else data[:size]


@pytest.mark.parametrize("kind", BAD)
def test_bad_delivery_changes_nothing(store: Depot, root: Path, kind: str) -> None:
    data, spoil, text = BAD[kind]
    (root / "out").mkdir()
    (root / "out" / "old").write_text("old")
    before = tree(root)
    delivery(store, data)
    spoil(store)
    with pytest.raises(ExecutionError) as caught:
        fetch(store, root, ["out", "second"])
    assert text in caught.value.message
    assert caught.value.hint
    assert SIGNATURE not in str(caught.value)
    assert tree(root) == before


def test_link_that_is_an_output_is_kept_and_not_followed(
    store: Depot, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    delivery(store, archive(("out", None), ("out/link", str(tmp_path / "outside"))))
    for _ in range(2):
        fetch(store, root, ["out"])
    assert tree(root) == {"out": None, "out/link": str(tmp_path / "outside")}
    assert not any((tmp_path / "outside").iterdir())


def test_output_is_not_put_behind_a_link_out_of_the_project(
    store: Depot, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (root / "link").symlink_to(tmp_path / "outside")
    delivery(store, archive(("link/out", b"x")))
    with pytest.raises(ExecutionError, match="leads out of the project"):
        fetch(store, root, ["link/out"])
    assert not any((tmp_path / "outside").iterdir())
    assert tree(root) == {"link": str(tmp_path / "outside")}


def test_project_that_cannot_be_written_is_told(store: Depot, root: Path) -> None:
    delivery(store, archive(("dir/out", b"x"), ("first", b"x")))
    (root / "dir").write_text("a file")
    with pytest.raises(ExecutionError) as caught:
        fetch(store, root, ["dir/out"])
    assert tree(root) == {"dir": b"a file"}
    with pytest.raises(ExecutionError, match="project"):
        fetch(store, root / "absent", ["dir/out", "first"])
    assert "Traceback" not in str(caught.value)


def test_what_a_killed_fetch_leaves_is_cleared_away(store: Depot, root: Path) -> None:
    delivery(store, archive(("out", b"x" * 3_000_000)))
    (root / "out").write_text("old")
    reached, release = threading.Event(), threading.Event()

    def hang(request: Handler, data: bytes | None) -> None:
        assert data is not None
        request.send_response(200)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:2_000_000])
        request.wfile.flush()
        reached.set()
        release.wait(60)

    store.fail("GET", place(0), hang)
    sent = on(store)
    done = arrived(sent)
    script = (
        "import sys\n"
        "from buildrun.executors.kubernetes.transfer import Delivery, through_cache\n"
        "url, job, size, digest, root = sys.argv[1:]\n"
        "through_cache(url, {}).fetch(job, Delivery(1, int(size), digest, 1.0), root, ['out'])\n"
    )
    child = subprocess.Popen(
        (sys.executable, "-c", script, store.url("team"), JOB, str(done.size), done.sha256, root)
    )
    assert reached.wait(60)
    child.kill()
    child.wait(60)
    release.set()
    assert len(tree(root)) > 1
    outputs.recover(str(root))
    assert tree(root) == {"out": b"old"}


def test_disk_without_room_is_told_and_nothing_is_left(store: Depot, root: Path) -> None:
    delivery(store, archive(("first", b"new"), ("out", bytes(3_000_000))))
    (root / "out").write_text("old")
    (root / "first").write_text("old")
    script = (
        "import resource, sys\n"
        "from buildrun.errors import ExecutionError\n"
        "from buildrun.executors.kubernetes.transfer import through_cache\n"
        "url, job, root = sys.argv[1:]\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "sent = through_cache(url, {})\n"
        "try:\n"
        "    sent.fetch(job, sent.arrived(job), root, ['first', 'out'])\n"
        "except ExecutionError as error:\n"
        "    print(error.message)\n"
    )
    done = subprocess.run(
        (sys.executable, "-c", script, store.url("team"), JOB, root),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "the outputs cannot be written: File too large\n"
    assert tree(root) == {"first": b"old", "out": b"old"}


@pytest.mark.parametrize(
    "record",
    [b"", b"{", b"[]", b'{"version": 2}', b"[" * 50_000, b"\xff", b"x" * 100_000,
     {"parts": -1}, {"parts": 10**9}, {"parts": "1"}, {"parts": True}, {"size": -5},
     {"size": None}, {"sha256": "../x"}, {"sha256": None}, {"seconds": "1"}, {"parts": 0}],
    ids=lambda record: repr(record)[:24],
)  # fmt: skip
def test_record_that_is_wrong_is_not_trusted(
    store: Depot, record: bytes | dict[str, object]
) -> None:
    delivery(store, GOOD)
    name = f"team/v1/carried/jobs/{JOB}/done.json"
    if isinstance(record, dict):
        record = json.dumps({**json.loads(store.objects[name]), **record}).encode()
    store.put(name, record)
    with pytest.raises(ExecutionError, match="the remote cache `") as caught:
        on(store).arrived(JOB)
    assert SIGNATURE not in str(caught.value)


def test_delivery_is_deleted(s3: Bucket, pod: Pod) -> None:
    sent = through_cache(s3.url, os.environ)
    for name in (JOB, f"{JOB}-2"):
        task = transfer.task(
            ("touch", "out"), str(pod.workdir), [], ["out"], sent.order(name), part=300
        )
        assert run(pod, task)[0] == 0
    assert len([name for name in s3.names() if name.startswith(f"jobs/{JOB}/")]) > 2
    sent.discard(JOB)
    assert sent.arrived(JOB) is None
    assert s3.names()
    assert all(name.startswith(f"jobs/{JOB}-2/") for name in s3.names())
    sent.discard(JOB)
    sent.discard("br-never-there")


def test_delivery_on_a_plain_server_is_deleted_as_far_as_it_can_be(store: Depot) -> None:
    delivery(store, GOOD, parts=2)
    sent = on(store)
    store.fail("DELETE", place(0), answering(405))
    sent.discard(JOB)
    assert set(store.objects) == {place(0)}
    sent.discard(JOB)


def test_store_without_credentials_is_told(s3: Bucket, root: Path, monkeypatch: Any) -> None:
    (root / "file").write_text("x")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    sent = through_cache(s3.url, os.environ)
    for call in (lambda: sent.send(str(root), ["file"]), lambda: sent.order(JOB)):
        with pytest.raises(ExecutionError, match="gets no valid credentials") as caught:
            call()
        assert "AWS_PROFILE" in str(caught.value.hint)


def test_store_that_is_not_there_is_told(root: Path) -> None:
    (root / "file").write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/team?{SIGNATURE}"
    with pytest.raises(ExecutionError, match="cannot be reached") as caught:
        through_cache(url, os.environ).send(str(root), ["file"])
    assert SIGNATURE not in str(caught.value)


def test_store_that_denies_is_told(store: Depot, root: Path) -> None:
    (root / "file").write_text("x")
    store.fail("PUT", "*", answering(403))
    with pytest.raises(ExecutionError, match=r"denies access.*; files cannot be sent") as caught:
        on(store).send(str(root), ["file"])
    assert caught.value.hint
    # S3 denies what is absent to those who may not list.
    store.fail("GET", "*", answering(403))
    assert on(store).arrived(JOB) is None


def test_store_that_does_not_answer_is_given_up(store: Depot, root: Path) -> None:
    (root / "file").write_text("x")
    release = threading.Event()

    def hang(_request: Handler, _data: bytes | None) -> None:
        release.wait(60)

    store.fail("HEAD", "*", hang)
    sent = on(store, patience=0.2)
    with pytest.raises(ExecutionError, match="does not answer"):
        sent.send(str(root), ["file"])
    release.set()
    patient = on(store)
    assert patient.send(str(root), ["file"]).size > 0


def test_sending_survives_what_passes(store: Depot, root: Path) -> None:
    (root / "file").write_text("x")
    store.fail("PUT", "*", answering(503), answering(500))
    parcel = on(store).send(str(root), ["file"])
    assert len(store.objects) == 1
    assert sha256(*store.objects.values()) == parcel.sha256


def test_many_threads_may_use_it_at_once(s3: Bucket, root: Path, pod: Pod) -> None:
    (root / "shared").write_text("x")
    sent = through_cache(s3.url, os.environ)
    failures: list[BaseException] = []
    barrier = threading.Barrier(4)

    def use(number: int) -> None:
        try:
            barrier.wait(60)
            (root / f"own-{number}").write_text(f"{number}")
            parcel = sent.send(str(root), ["shared", f"own-{number}"])
            name = f"{JOB}-{number}"
            own = Pod(sys.executable, pod.home / str(number), pod.store)
            argv = ("cp", f"own-{number}", f"out-{number}")
            task = transfer.task(
                argv, str(own.workdir), [parcel], [f"out-{number}"], sent.order(name, 2)
            )
            assert run(own, task) == (0, "", "")
            done = sent.arrived(name)
            assert done is not None
            sent.fetch(name, done, str(root), [f"out-{number}"])
            sent.discard(name)
        except BaseException as error:
            failures.append(error)

    for number in range(4):
        (pod.home / str(number)).mkdir()
    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [(root / f"out-{number}").read_text() for number in range(4)] == list("0123")
    assert not [name for name in s3.names() if name.startswith("jobs/")]
