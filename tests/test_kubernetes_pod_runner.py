"""What runs in a pod: files come, the command runs, outputs go; with real HTTP and processes."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st
from kube_object_store import (
    SIGNATURE,
    Action,
    Depot,
    Pod,
    answering,
    archive,
    breaking,
    cutting,
    depot,
    foreign,
    refusing,
    sha256,
)
from remote_helpers import Handler

from buildrun.executors.kubernetes import pod_runner


def oldest() -> str | None:
    """Return the oldest Python 3.6 or later that pyenv has."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    found = {}
    for place in root.glob("3.*/bin/python3"):
        match = re.match(r"3\.(\d+)\.(\d+)\Z", place.parent.parent.name)
        if match and int(match[1]) >= 6:
            found[int(match[1]), int(match[2])] = str(place)
    return found[min(found)] if found else None


@pytest.fixture
def store() -> Iterator[Depot]:
    with depot() as made:
        yield made


@pytest.fixture(params=["this Python", "the oldest Python"])
def pod(request: pytest.FixtureRequest, store: Depot, tmp_path: Path) -> Pod:
    python = sys.executable if request.param == "this Python" else oldest()
    if python is None:
        pytest.skip("pyenv has no Python")
    return Pod(python, tmp_path, store)


@pytest.fixture
def this(store: Depot, tmp_path: Path) -> Pod:
    return Pod(sys.executable, tmp_path, store)


def test_inputs_are_there_when_the_command_runs(pod: Pod) -> None:
    given = pod.given(
        ("plain.txt", b"plain"),
        ("empty", b""),
        ("data", None),
        ("data/ünï", b"unicode"),
        ("data/\udcff\udc80", b"undecodable"),
        ("data/link", "ünï"),
        ("data/none", None),
        ("a/b/c", b"deep"),
        ("n" * 200 + "/" + "m" * 200, b"long"),
        ("long", "n" * 200 + "/" + "m" * 200),
    )
    code, out, err = pod.run(("cat", "plain.txt", "data/link", "a/b/c", "long"), inputs=[given])
    assert (code, out, err) == (0, "plainunicodedeeplong", "")
    assert (pod.workdir / "empty").read_bytes() == b""
    assert sorted(os.listdir(os.fsencode(pod.workdir / "data"))) == [
        b"link",
        b"none",
        "ünï".encode(),
        b"\xff\x80",
    ]
    assert (pod.workdir / "data" / "none").is_dir()
    assert not os.access(pod.workdir / "plain.txt", os.X_OK) or os.geteuid() == 0
    assert pod.told() is None


def test_locale_of_the_image_does_not_matter(pod: Pod) -> None:
    code, _, err = pod.run(
        ("bash", "-c", 'cat "$1" >"$2"', "name", "ünï", "ö\udcff"),
        inputs=[pod.given(("ünï", b"unicode"))],
        outputs=["ö\udcff"],
        environ={"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    )
    assert (code, err) == (0, "")
    with pod.delivered() as delivered:
        assert delivered.getnames() == ["ö\udcff"]


def test_executable_bit_arrives_and_leaves(pod: Pod) -> None:
    tool = tarfile.TarInfo("tool")
    tool.mode, tool.size = 0o6755, 19
    given = pod.parcel(foreign((tool, b"#!/bin/sh\necho ran\n")))
    code, out, _ = pod.run(
        ("sh", "-c", "./tool; cp tool made; echo >plain"),
        inputs=[given],
        outputs=["made", "plain"],
    )
    assert (code, out) == (0, "ran\n")
    assert stat.S_IMODE((pod.workdir / "tool").stat().st_mode) & 0o7000 == 0
    with pod.delivered() as delivered:
        assert [member.mode for member in delivered] == [0o755, 0o644]


def test_several_parts_are_one_archive(pod: Pod) -> None:
    content = os.urandom(100_000)
    given = pod.parcel(archive(("big", content), ("small", b"x")), parts=7)
    assert len(given["urls"]) == 7
    assert pod.run(inputs=[given])[0] == 0
    assert (pod.workdir / "big").read_bytes() == content


def test_several_inputs_come_one_after_the_other(this: Pod) -> None:
    first = this.given(("one", b"1"), ("both", b"old"))
    second = this.given(("two", b"2"), ("both", b"new"))
    nothing = {"urls": [], "sha256": sha256(b""), "root": "workdir"}
    inputs = [first, nothing, this.parcel(bytes(1024)), second]
    assert this.run(("cat", "one", "two", "both"), inputs=inputs)[:2] == (0, "12new")


def test_directory_replaces_the_whole_one_that_was_there(pod: Pod) -> None:
    old = pod.workdir / "data" / "deep"
    old.mkdir(parents=True)
    (old / "stale").write_text("stale")
    (pod.workdir / "data" / "dangling").symlink_to("/nowhere")
    (pod.workdir / "other").mkdir()
    (pod.workdir / "other" / "kept").write_text("kept")
    (pod.workdir / "file").mkdir()
    given = pod.given(
        ("data", None), ("data/new", b"new"), ("other/added", b"added"), ("file", b"file")
    )
    assert pod.run(inputs=[given])[0] == 0
    assert [path.name for path in (pod.workdir / "data").iterdir()] == ["new"]
    assert {path.name for path in (pod.workdir / "other").iterdir()} == {"kept", "added"}
    assert (pod.workdir / "file").read_bytes() == b"file"


def test_input_may_lie_anywhere_when_its_root_is_that_of_the_system(
    this: Pod, tmp_path: Path
) -> None:
    top = str(tmp_path).lstrip("/")
    (tmp_path / "real").mkdir()
    (tmp_path / "by-link").symlink_to("real")
    given = this.given(
        (f"{top}/far/file", b"far"),
        (f"{top}/far/link", str(tmp_path / "far" / "file")),
        (f"{top}/by-link/file", b"linked"),
        root="/",
    )
    assert this.run(inputs=[given])[0] == 0
    assert (tmp_path / "far" / "link").read_bytes() == b"far"
    assert (tmp_path / "real" / "file").read_bytes() == b"linked"


def odd(kind: bytes) -> bytes:
    """Return an archive with a member of a kind that buildrun does not write."""
    member = tarfile.TarInfo("odd")
    member.type, member.linkname = kind, "/etc/passwd"
    return foreign((member, b""))


HOSTILE = {
    "above": (archive(("../evil", b"x")), "`../evil`, which lies outside"),
    "absolute": (archive(("/tmp/evil", b"x")), "`/tmp/evil`, which lies outside"),
    "dots inside": (archive(("a/../../evil", b"x")), "which lies outside"),
    "the root": (archive((".", None)), "which lies outside"),
    "empty part": (archive(("a//b", b"x")), "which lies outside"),
    "absolute link": (archive(("link", "/etc")), "`link` is a link that leads out"),
    "link above": (archive(("a/link", "../../x")), "`a/link` is a link that leads out"),
    "link by links": (archive(("d", "."), ("l", "d/..")), "`l` is a link that leads out"),
    "through a link": (
        archive(("link", "sub"), ("link/evil", b"x")),
        "holds something in `link`, no directory",
    ),
    "through a file": (archive(("file", b"x"), ("file/evil", b"x")), "in `file`, no directory"),
    "twice": (archive(("file", b"x"), ("file", b"y")), "holds `file` twice"),
    "directory late": (archive(("d/x", b"x"), ("d", None)), "holds `d` twice"),
    "directory to link": (archive(("d/x", b"x"), ("d", "d2")), "holds `d` twice"),
    "terminal": (archive(("../\x1b[31m\n", b"x")), r"`../\x1b[31m\n`, which lies outside"),
    "not an archive": (b"<html>" + bytes(506) + b"x" * 512, "is damaged"),
    "cut header": (archive(("file", b"x"))[:700], "ends too early"),
    "cut content": (archive(("file", b"x" * 5000))[:2048], "ends too early"),
    "cut end": (archive(("file", b"x"))[:1024], "ends too early"),
    "fifo": (odd(tarfile.FIFOTYPE), "holds `odd` of a kind that is not used"),
    "device": (odd(tarfile.CHRTYPE), "holds `odd` of a kind that is not used"),
    "disk": (odd(tarfile.BLKTYPE), "holds `odd` of a kind that is not used"),
    "hard link": (odd(tarfile.LNKTYPE), "holds `odd` of a kind that is not used"),
    "checksum": (archive(("file", b"x")).replace(b"file", b"fool", 1), "is damaged"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_archive_stops_before_the_command(this: Pod, kind: str) -> None:
    data, text = HOSTILE[kind]
    marker = this.home / "ran"
    code, _, err = this.run(("touch", str(marker)), inputs=[this.parcel(data)])
    assert code == 121
    assert err.startswith("buildrun: ")
    assert text in err
    assert err.count("\n") == 1
    assert not marker.exists()
    assert not (this.home / "evil").exists()
    assert not (this.workdir / "odd").exists()
    assert this.told() == {"buildrun": "fetch", "message": err[len("buildrun: ") : -1]}


def test_link_of_the_image_does_not_lead_inputs_out(this: Pod, tmp_path: Path) -> None:
    this.workdir.mkdir()
    (tmp_path / "outside").mkdir()
    (this.workdir / "data").symlink_to(tmp_path / "outside")
    code, _, err = this.run(inputs=[this.given(("data/x", b"x"))])
    assert (code, "`data` is a link that leads out" in err) == (121, True)
    assert not any((tmp_path / "outside").iterdir())
    assert this.run(inputs=[this.given(("data", None), ("data/x", b"x"))])[0] == 0
    assert not any((tmp_path / "outside").iterdir())
    assert (this.workdir / "data" / "x").read_bytes() == b"x"


def test_tampered_input_stops_before_the_command(pod: Pod) -> None:
    given = {**pod.given(("file", b"good")), "sha256": sha256(b"other")}
    marker = pod.home / "ran"
    code, _, err = pod.run(("touch", str(marker)), inputs=[given])
    assert (code, marker.exists()) == (121, False)
    assert err == "buildrun: the inputs: not what was sent, its digest differs\n"


DENIED = f"<Error><Code>AccessDenied</Code><Message>{SIGNATURE}</Message></Error>".encode()


@pytest.mark.parametrize(
    ("fault", "told", "tries"),
    [
        (answering(404, b"<Error><Code>NoSuchKey</Code>"), "404 (NoSuchKey)", 1),
        (answering(403, DENIED), "403 (AccessDenied), as it does when an address has expired", 1),
        (answering(503, b"<Error><Code>SlowDown</Code>"), "503 (SlowDown)", 8),
    ],
)
def test_input_that_does_not_come_is_told_without_its_address(
    pod: Pod, fault: Action, told: str, tries: int
) -> None:
    given = pod.given(("file", b"x"))
    pod.store.fail("GET", path_of(given), *[fault] * 20)
    code, out, err = pod.run(inputs=[given])
    assert (code, out) == (121, "")
    assert err == f"buildrun: object 1 of the inputs: the store answers {told}\n"
    assert pod.store.count("GET", path_of(given)) == tries
    assert SIGNATURE not in str(pod.told())


def test_download_survives_what_passes(pod: Pod) -> None:
    content = os.urandom(3_000_000)
    given = pod.given(("file", content))
    path = path_of(given)
    pod.store.fail("GET", path, answering(500), answering(503), answering(429, Retry_After="0"))
    pod.store.fail("GET", path, breaking, cutting(1000), cutting(1_500_001))
    code, _, err = pod.run(inputs=[given])
    assert (code, err) == (0, "")
    assert (pod.workdir / "file").read_bytes() == content
    assert pod.store.count("GET", path) == 7


def test_object_that_is_replaced_while_it_is_read_is_refused(this: Pod) -> None:
    given = this.given(("file", os.urandom(2_000_000)))
    path = path_of(given)

    def cut(request: Handler, data: bytes | None) -> None:
        assert data is not None
        this.store.objects[path] = os.urandom(len(data))
        request.send_response(200)
        request.send_header("ETag", '"old"')
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data[:1_500_000])

    this.store.fail("GET", path, cut)
    code, _, err = this.run(inputs=[given])
    assert (code, err) == (121, "buildrun: the archive is damaged\n")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("file:///etc/passwd", "the address is not valid"),
        ("http://127.0.0.1:1/secret path?token", "the address is not valid"),
        ("nonsense?token=1234", "the address is not valid"),
        ("http://name.invalid/x?token=1234", ""),
    ],
)
def test_address_that_cannot_be_used_is_not_shown(this: Pod, url: str, text: str) -> None:
    given = {"urls": [url], "sha256": None, "root": "workdir"}
    code, _, err = this.run(inputs=[given])
    assert code == 121
    assert text in err
    assert "token" not in err
    assert "secret" not in err
    assert "Traceback" not in err


def test_server_that_is_not_there_is_told(this: Pod) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x?{SIGNATURE}"
    code, _, err = this.run(inputs=[{"urls": [url], "sha256": None, "root": "workdir"}])
    assert (code, err) == (121, "buildrun: object 1 of the inputs: Connection refused\n")


def test_proxy_of_the_environment_is_used(this: Pod) -> None:
    given = this.given(("file", b"by proxy"))
    proxied = {**given, "urls": [f"http://store.invalid/{path_of(given)}?{SIGNATURE}"]}
    with depot() as proxy:
        for path, data in this.store.objects.items():
            proxy.objects[f"http://store.invalid/{path}"] = data
        environ = {"http_proxy": proxy.address, "no_proxy": "127.0.0.1"}
        code, out, _ = this.run(("cat", "file"), inputs=[proxied], environ=environ)
    assert (code, out) == (0, "by proxy")


def test_modules_of_the_project_do_not_stand_before_the_library(pod: Pod) -> None:
    modules = pod.home / "modules"
    modules.mkdir()
    for name in ("json", "random", "ssl", "tempfile", "typing"):
        (modules / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    places = f"{modules}:/nowhere"
    code, out, err = pod.run(("sh", "-c", "echo $PYTHONPATH"), environ={"PYTHONPATH": places})
    assert (code, out, err) == (0, f"{places}\n", "")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", None])
def test_authorities_are_those_of_the_environment(pod: Pod, variable: str | None) -> None:
    authority = pod.home / "authority.pem"
    with depot(tls=authority) as secured:
        pod.store = secured
        environ = {variable: str(authority)} if variable else {}
        given = pod.given(("file", b"by TLS"))
        code, out, err = pod.run(("cat", "file"), inputs=[given], outputs=["file"], environ=environ)
    if variable:
        assert (code, out, err) == (0, "by TLS", "")
        assert pod.done()["parts"] == 1
    else:
        assert code == 121
        assert "certificate verify failed" in err
        assert not secured.asked


def test_unwritable_place_is_told(this: Pod) -> None:
    this.workdir.mkdir()
    (this.workdir / "file").write_text("a file where a directory is needed")
    code, _, err = this.run(inputs=[this.given(("file/x", b"x"))])
    assert code == 121
    assert "file" in err
    assert "Traceback" not in err


def test_exit_code_of_the_command_is_ours(pod: Pod) -> None:
    assert pod.run(("sh", "-c", "echo out; echo err >&2; exit 7"), outputs=["x"]) == (
        7,
        "out\n",
        "err\n",
    )
    assert pod.done() is None
    assert pod.told() is None


def test_signal_that_ends_the_command_is_in_the_exit_code(pod: Pod) -> None:
    assert pod.run(("sh", "-c", "kill -KILL $$"), outputs=["x"])[0] == 137
    assert pod.done() is None


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (("no-such-program",), 127, "`no-such-program` cannot be run: No such file or directory"),
        (("/tmp",), 126, "`/tmp` cannot be run: Permission denied"),
    ],
)
def test_command_that_cannot_be_started_is_told(
    pod: Pod, argv: tuple[str, ...], code: int, text: str
) -> None:
    assert pod.run(argv, outputs=["x"]) == (code, "", f"buildrun: {text}\n")
    assert pod.told() == {"buildrun": "start", "message": text}
    assert pod.done() is None


def test_command_gets_signals_as_if_it_were_alone(pod: Pod) -> None:
    script = (
        "import signal\n"
        "for n in (signal.SIGPIPE, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):\n"
        "    print(signal.getsignal(n) == signal.SIG_DFL or n == signal.SIGPIPE)\n"
        "print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])))\n"
        "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('SigBlk')])\n"
    )
    code, out, _ = pod.run((sys.executable, "-c", script))
    assert (code, out) == (0, "True\nTrue\nTrue\nTrue\n[]\n['0000000000000000']\n")
    # In a shell that ignores it, `yes` would go on for ever.
    assert pod.run(("bash", "-c", "yes | head -n 1"))[:2] == (0, "y\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_go_to_the_command(pod: Pod, number: signal.Signals) -> None:
    script = (
        "import signal\n"
        f"signal.pthread_sigmask(signal.SIG_BLOCK, [{number.value}])\n"
        "print('ready', flush=True)\n"
        f"signal.sigwait([{number.value}])\n"
        "open('seen', 'w').close()\n"
    )
    pod.write((sys.executable, "-c", script), outputs=["seen"])
    child = pod.start()
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (0, b"")
    with pod.delivered() as delivered:
        assert delivered.getnames() == ["seen"]


def test_signal_while_inputs_come_ends_it_before_the_command(pod: Pod) -> None:
    given = pod.given(("file", b"x"))
    reached, release = threading.Event(), threading.Event()

    def hang(_request: Handler, _data: bytes | None) -> None:
        reached.set()
        release.wait(60)

    pod.store.fail("GET", path_of(given), hang)
    marker = pod.home / "ran"
    pod.write(("touch", str(marker)), inputs=[given])
    child = pod.start()
    assert reached.wait(60)
    child.terminate()
    _, err = child.communicate(timeout=60)
    release.set()
    assert (child.returncode, err) == (143, b"buildrun: stopped by SIGTERM\n")
    assert not marker.exists()


def test_as_first_process_it_ends_what_the_command_leaves(pod: Pod) -> None:
    unshare = ("unshare", "--pid", "--fork", "--mount-proc")
    if not shutil.which("unshare") or subprocess.run((*unshare, "true"), check=False).returncode:
        pytest.skip("no namespaces can be made here")
    pod.write(("bash", "-c", "echo $$ >out; setsid sleep 600 & disown; exit 0"), outputs=["out"])
    done = subprocess.run(
        (*unshare, pod.python, pod_runner.__file__, pod.task),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (pod.workdir / "out").read_text() == "2\n"
    assert pod.done()["parts"] == 1


def test_usage_of_all_processes_of_the_command_is_delivered(pod: Pod) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    script = f"{pod.python} -c '{burn}'; {pod.python} -c 'len(b\"x\" * 200_000_000)'; touch made"
    assert pod.run(("bash", "-c", script), outputs=["made"])[0] == 0
    assert pod.done()["cpu_seconds"] >= 0.3
    assert pod.done()["peak_memory"] >= 200_000_000


def test_outputs_are_delivered(pod: Pod) -> None:
    script = (
        "mkdir -p data/empty data/deep; echo one >data/one; : >data/zero; ln -s one data/link;"
        "ln -s /nowhere data/dangling; echo model >model.pkl; echo not >undeclared"
    )
    code, _, err = pod.run(("bash", "-c", script), outputs=["model.pkl", "data/", "absent", "n/o"])
    assert (code, err) == (0, "")
    done = pod.done()
    assert done.keys() == {
        "version", "parts", "size", "sha256", "exit_code", "seconds", "cpu_seconds", "peak_memory",
    }  # fmt: skip
    assert (done["version"], done["exit_code"]) == (1, 0)
    with pod.delivered() as delivered:
        assert delivered.getnames() == [
            "data", "data/dangling", "data/deep", "data/empty", "data/link", "data/one",
            "data/zero", "model.pkl",
        ]  # fmt: skip
        assert delivered.getmember("data/dangling").linkname == "/nowhere"
        assert {(member.uid, member.gid, member.mtime) for member in delivered} == {
            (0, 0, 315619200)
        }


def test_same_outputs_make_the_same_archive(this: Pod) -> None:
    digests = set()
    for script in (
        "mkdir d; echo 1 >d/a; echo 2 >d/b",
        "rm -r d; mkdir d; echo 2 >d/b; echo 1 >d/a",
    ):
        assert this.run(("bash", "-c", script), outputs=["d"])[0] == 0
        digests.add(this.done()["sha256"])
    assert len(digests) == 1


def test_nothing_made_is_a_delivery_of_nothing(pod: Pod) -> None:
    assert pod.run(outputs=["absent"])[0] == 0
    assert pod.done()["parts"] == pod.done()["size"] == 0
    assert pod.done()["sha256"] == sha256(b"")
    asked = len(pod.store.asked)
    assert pod.run(done=None)[0] == 0  # without outputs nothing is delivered
    assert len(pod.store.asked) == asked


def test_large_outputs_leave_in_parts(pod: Pod, tmp_path: Path) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    code, _, err = pod.run(
        ("bash", "-c", "head -c 300000 /dev/urandom >big"),
        outputs=["big"],
        part=100_000,
        environ={"TMPDIR": str(spool)},
    )
    assert (code, err) == (0, "")
    assert pod.done()["parts"] == 4
    sizes = [len(pod.store.objects[f"out/{number}"]) for number in range(4)]
    assert sizes == [100_000, 100_000, 100_000, pod.done()["size"] - 300_000]
    with pod.delivered() as delivered:
        file = delivered.extractfile("big")
        assert file is not None
        assert file.read() == (pod.workdir / "big").read_bytes()
    assert not any(spool.iterdir())


def test_delivery_survives_what_passes(pod: Pod) -> None:
    pod.store.fail("PUT", "out/0", answering(500), breaking, answering(429, Retry_After="0"))
    pod.store.fail("PUT", "out/done.json", answering(503), breaking)
    code, _, err = pod.run(
        ("bash", "-c", "head -c 500000 /dev/urandom >big"), outputs=["big"], part=400_000
    )
    assert (code, err) == (0, "")
    with pod.delivered() as delivered:
        assert delivered.getnames() == ["big"]


def test_delivery_is_sent_again_to_where_the_store_says(this: Pod) -> None:
    moved = answering(307, Location=this.store.url("elsewhere"))
    this.store.fail("PUT", "out/0", moved)
    assert this.run(("touch", "x"), outputs=["x"])[0] == 0
    sent = this.store.objects["elsewhere"]
    assert (len(sent), sha256(sent)) == (this.done()["size"], this.done()["sha256"])
    with tarfile.open(fileobj=io.BytesIO(sent)) as delivered:
        assert [(member.name, member.size) for member in delivered] == [("x", 0)]


def test_delivery_that_is_refused_is_told_even_before_it_was_read(pod: Pod) -> None:
    body = b"<Error><Code>ExpiredToken</Code></Error>"
    pod.store.fail("PUT", "out/0", refusing(400, body))
    code, out, err = pod.run(
        ("bash", "-c", "head -c 20000000 /dev/zero >big"), outputs=["big"], part=1 << 30
    )
    assert (code, pod.done()) == (122, None)
    assert err == (
        "buildrun: part 1 of the outputs: the store answers 400 (ExpiredToken), "
        "as it does when an address has expired\n"
    )
    assert pod.told() == {"buildrun": "deliver", "message": err[len("buildrun: ") : -1]}
    assert SIGNATURE not in out + err


@pytest.mark.parametrize(
    ("command", "told", "tries"),
    [
        ("head -c 30000 /dev/zero >out", "the outputs are larger than 4000 bytes", 0),
        ("mkfifo out", "output `out` is neither a file nor a directory", 0),
        ("touch out", "the end of the outputs: the store answers 500", 8),
    ],
)
def test_delivery_that_fails_is_told(this: Pod, command: str, told: str, tries: int) -> None:
    this.store.fail("PUT", "out/done.json", *[answering(500)] * 20)
    code, _, err = this.run(("sh", "-c", command), outputs=["out"], part=1000)
    assert (code, err, this.done()) == (122, f"buildrun: {told}\n", None)
    assert this.told()["buildrun"] == "deliver"
    assert this.store.count("PUT", "out/done.json") == tries


def test_disk_without_room_is_told(this: Pod) -> None:
    this.write(("true",), inputs=[this.given(("large", bytes(3_000_000)))])
    limited = f"ulimit -f 1000; exec {this.python} {pod_runner.__file__} {this.task}"
    done = subprocess.run(("bash", "-c", limited), capture_output=True, timeout=60, check=False)
    assert done.returncode == 121
    assert done.stderr.startswith(b"buildrun: inputs cannot be written: `")
    assert done.stderr.endswith(b"File too large\n")
    this.write(("bash", "-c", "head -c 900000 /dev/zero >a; cp a b"), outputs=["a", "b"])
    done = subprocess.run(("bash", "-c", limited), capture_output=True, timeout=60, check=False)
    assert (done.returncode, this.done()) == (122, None)
    assert done.stderr.startswith(b"buildrun: outputs cannot be delivered: `")


@pytest.mark.parametrize("text", ["{", '{"version": 2}', "[]", '"text"', "\udcff"], ids=ascii)
def test_task_that_is_none_is_told(this: Pod, text: str) -> None:
    this.task.write_bytes(text.encode("utf-8", "surrogateescape"))
    child = this.start()
    _, err = child.communicate(timeout=60)
    assert child.returncode == 126
    assert err.startswith(b"buildrun: the task ")
    assert err.count(b"\n") == 1


def test_task_lies_beside_it_by_default(pod: Pod) -> None:
    pod.write(("echo", "found"))
    beside = pod.home / "pod_runner.py"
    shutil.copy(pod_runner.__file__, beside)
    done = subprocess.run(
        (pod.python, beside), capture_output=True, timeout=60, check=False, cwd="/"
    )
    assert (done.returncode, done.stdout) == (0, b"found\n")


NAMES = st.binary(min_size=1, max_size=120).map(lambda name: name.translate(None, b"/\0") or b"x")
CONTENTS = st.one_of(
    st.none(),
    st.binary(max_size=1500),
    st.binary(min_size=1, max_size=300).map(
        lambda text: text.replace(b"\0", b"l").decode("latin1")
    ),
)


@given_any(
    st.dictionaries(NAMES, st.one_of(CONTENTS, st.dictionaries(NAMES, CONTENTS, max_size=4)))
)
@settings(max_examples=60, deadline=None)
def test_every_tree_arrives_as_it_left(held: dict[bytes, Any]) -> None:
    with TemporaryDirectory() as home:
        there, here = os.fsencode(home) + b"/there", os.fsencode(home) + b"/here"
        held = {name: what for name, what in held.items() if name not in (b".", b"..")}
        grow(there, held)
        os.mkdir(here)
        stream = io.BytesIO(b"".join(pod_runner.packed(there, list(held))))
        if held:
            pod_runner.Unpacker(here, any_links=True).unpack(stream)
        assert seen(here) == seen(there)


def grow(place: bytes, held: dict[bytes, Any]) -> None:
    os.mkdir(place)
    for name, what in held.items():
        path = place + b"/" + name
        if name in (b".", b".."):
            continue
        if isinstance(what, dict):
            grow(path, what)
        elif what is None:
            os.mkdir(path)
        elif isinstance(what, str):
            os.symlink(what.encode("latin1"), path)
        else:
            with open(path, "wb") as file:
                file.write(what)


def seen(place: bytes) -> dict[bytes, object]:
    found: dict[bytes, object] = {}
    for above, directories, files in os.walk(place):
        for name in (*directories, *files):
            path = above + b"/" + name
            if os.path.islink(path):
                found[path[len(place) :]] = ("link", os.readlink(path))
            elif os.path.isdir(path):
                found[path[len(place) :]] = None
            else:
                with open(path, "rb") as file:
                    found[path[len(place) :]] = file.read()
    return found


SPOILED = archive(
    ("file", b"content"), ("d", None), ("d/link", "../file"), ("d/" + "n" * 150, b"x"), ("e/f", b"")
)


@given_any(
    st.lists(
        st.tuples(st.integers(0, len(SPOILED) - 1), st.binary(min_size=1, max_size=3)), max_size=4
    ),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_spoiled_archive_is_refused_or_stays_inside(
    changes: list[tuple[int, bytes]], mend: bool
) -> None:
    data = bytearray(SPOILED)
    for place, new in changes:
        data[place : place + len(new)] = new
    if mend:  # so that it is not only for its checksums that it is refused
        for start in range(0, len(data) - 511, 512):
            block = data[start : start + 512]
            if block[257:262] == b"ustar":
                block[148:156] = b" " * 8
                data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    with TemporaryDirectory() as home:
        root = os.fsencode(home) + b"/a/b/root"
        os.makedirs(root)
        try:
            pod_runner.Unpacker(root).unpack(io.BytesIO(data))
        except (pod_runner.TransferError, OSError):
            pass
        assert [path for path in seen(os.fsencode(home)) if not path.startswith(b"/a/b/root")] == [
            b"/a", b"/a/b",
        ]  # fmt: skip
        for path, held in seen(root).items():
            if isinstance(held, tuple):
                real = os.path.realpath(root + path)
                assert real.startswith(os.path.realpath(root))


def path_of(given: dict[str, object], number: int = 0) -> str:
    """Return the path of an input's object in the store."""
    urls = given["urls"]
    assert isinstance(urls, list)
    return str(urls[number]).partition("?")[0].split("/", 3)[3]
