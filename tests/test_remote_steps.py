"""Results that go from one machine to another: whole runs, over real places, honest and not."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Buildrun, Outcome
from remote_helpers import SECRET, Bucket, Handler, bucket, reply, serving

from buildrun.store import digest as digests

LOCAL = "--env-manager=local"
PROJECT = """\
name: shared
entry_points:
  prepare:
    inputs: [raw.txt]
    outputs: [data.txt]
    command: "head -n 3 raw.txt > data.txt; echo prepared; echo x >> '{count}'"
  train:
    depends_on: [prepare]
    inputs: [train.sh]
    outputs: [model/]
    command: "mkdir model; bash train.sh > model/m.txt; ln -s m.txt model/latest; \
chmod +x model/m.txt; echo trained; echo warned >&2; echo x >> '{count}'"
"""


class Machine:
    """A checkout and a store of its own; the commands that run anywhere are counted."""

    def __init__(self, directory: Path, buildrun: Buildrun, count: Path) -> None:
        self.directory = directory / "checkout"
        self.store = directory / "store"
        self.directory.mkdir(parents=True)
        (self.directory / "MLproject").write_text(PROJECT.format(count=count))
        (self.directory / "raw.txt").write_text("".join(f"line {n}\n" for n in range(9)))
        (self.directory / "train.sh").write_text("wc -l < data.txt\n")
        self.environ: dict[str, str | None] = {"BUILDRUN_HOME": str(self.store)}
        self._buildrun = buildrun
        self._count = count

    def call(self, *arguments: str, **environ: str) -> Outcome:
        return self._buildrun(*arguments, cwd=self.directory, environ={**self.environ, **environ})

    def run(self, *arguments: str, **environ: str) -> Outcome:
        done = self.call("run", ".", LOCAL, "-e", "train", *arguments, **environ)
        assert done.code == 0, done.err
        assert (self.directory / "model/latest").read_text().strip() == "3"
        assert (self.directory / "data.txt").read_text() == "line 0\nline 1\nline 2\n"
        return done

    def states(self, *arguments: str, **environ: str) -> dict[str, str]:
        report = self.directory.parent / "report.json"
        self.run("--report", str(report), *arguments, **environ)
        return {item["id"]: item["state"] for item in json.loads(report.read_text())["steps"]}

    @property
    def runs(self) -> int:
        """How many commands have run on all machines."""
        return len(self._count.read_text().split()) if self._count.exists() else 0

    def digests(self) -> set[str]:
        """Return the kinds of digests that name what is kept."""
        kept = (*self.store.glob("results/*"), *self.store.glob("blobs/*"))
        return {path.name for path in kept}


Machines = Callable[[str], Machine]


@pytest.fixture
def machine(tmp_path: Path, buildrun: Buildrun) -> Machines:
    """Return a function that sets a machine up."""
    return lambda name: Machine(tmp_path / name, buildrun, tmp_path / "count")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with bucket(tmp_path_factory.mktemp("home")) as made:
        yield made


def kept_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


# -- an honest place --------------------------------------------------------------------------


def test_s3_brings_every_step_to_another_machine(machine: Machines, s3: Bucket) -> None:
    first, second = machine("first"), machine("second")
    shared = ("--remote-cache", s3.url)
    assert first.states(*shared, "--remote-cache-write", **s3.environ) == {
        "prepare": "ok",
        "train": "ok",
    }
    assert len([name for name in s3.names() if "/v1/results/blake3/" in name]) == 2
    before = s3.names()
    report = second.directory.parent / "report.json"
    done = second.run(*shared, "--report", str(report), **s3.environ)
    states = [step["state"] for step in json.loads(report.read_text())["steps"]]
    assert states == ["cached", "cached"]
    assert done.out == "prepared\ntrained\n"
    assert "warned\n" in done.err
    assert second.runs == 2
    assert os.readlink(second.directory / "model/latest") == "m.txt"
    assert os.access(second.directory / "model/m.txt", os.X_OK)
    assert second.states(*shared, **s3.environ) == {"prepare": "up-to-date", "train": "up-to-date"}
    assert s3.names() == before
    assert first.digests() == second.digests() == {"blake3"}
    assert SECRET not in done.err


def test_directory_serves_as_well(machine: Machines, tmp_path: Path) -> None:
    first, second = machine("first"), machine("second")
    shared = {"BUILDRUN_REMOTE_CACHE": str(tmp_path / "shared")}
    first.run(BUILDRUN_REMOTE_CACHE_WRITE="1", **shared)
    assert second.states(**shared) == {"prepare": "cached", "train": "cached"}


def test_relative_directory_is_one_of_the_caller(machine: Machines) -> None:
    first = machine("first")
    first.run("--remote-cache=../shared", "--remote-cache-write")
    assert kept_in(first.directory.parent / "shared")


def test_environment_is_not_built_for_what_is_shared(machine: Machines, tmp_path: Path) -> None:
    shared = {"BUILDRUN_REMOTE_CACHE": str(tmp_path / "shared")}
    states = []
    for name in ("first", "second"):
        one = machine(name)
        text = (one.directory / "MLproject").read_text()
        (one.directory / "MLproject").write_text(f"python_env: python_env.yaml\n{text}")
        (one.directory / "python_env.yaml").write_text("dependencies: []\n")
        report = tmp_path / "report.json"
        done = one.call(
            "run", ".", "-e", "train", "--report", str(report), "--remote-cache-write", **shared
        )
        assert done.code == 0, done.err
        states.append([step["state"] for step in json.loads(report.read_text())["steps"]])
        built = list((one.store / "envs").glob("*/bin/python"))
        assert bool(built) == (name == "first")
    assert states == [["ok", "ok"], ["cached", "cached"]]


def test_reading_never_writes(machine: Machines, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    first = machine("first")
    assert first.states("--remote-cache", str(tmp_path / "shared")) == {
        "prepare": "ok",
        "train": "ok",
    }
    assert list((tmp_path / "shared").iterdir()) == []


def test_no_cache_leaves_the_remote_alone(machine: Machines, tmp_path: Path) -> None:
    first = machine("first")
    shared = tmp_path / "shared"
    first.run("--remote-cache", str(shared), "--remote-cache-write", "--no-cache")
    assert not shared.exists()


def test_plan_foresees_what_the_remote_has(machine: Machines, tmp_path: Path) -> None:
    first, second = machine("first"), machine("second")
    shared = ("--remote-cache", str(tmp_path / "shared"))
    first.run(*shared, "--remote-cache-write")
    done = second.call("plan", ".", LOCAL, "-e", "train", "--format=json", *shared)
    cache = [step["cache"] for step in done.data["steps"]]
    assert [one["state"] for one in cache] == ["hit", "hit"]
    assert all(one["key"].startswith("blake3:") for one in cache)
    assert not second.store.exists()


def test_damaged_store_is_mended_from_the_remote(machine: Machines, tmp_path: Path) -> None:
    first = machine("first")
    shared = ("--remote-cache", str(tmp_path / "shared"))
    first.run(*shared, "--remote-cache-write")
    shutil.rmtree(first.store / "blobs")
    shutil.rmtree(first.directory / "model")
    assert first.states(*shared) == {"prepare": "up-to-date", "train": "cached"}
    assert first.runs == 2


# -- places that do not do what they should ---------------------------------------------------


def share(one: Machine, directory: Path) -> None:
    one.run("--remote-cache", str(directory), "--remote-cache-write")


def manifests(directory: Path) -> list[Path]:
    found = [path for path in (directory / "v1/results").rglob("*") if path.is_file()]
    assert found
    return found


def blobs(directory: Path) -> list[Path]:
    found = [path for path in (directory / "v1/blobs").rglob("*") if path.is_file()]
    assert found
    return found


def other_parts(directory: Path) -> None:
    for path in manifests(directory):
        value = json.loads(path.read_bytes())
        value["parts"]["salt"] = "another question"
        path.write_text(json.dumps(value))


def other_question(directory: Path) -> None:
    one, two = manifests(directory)
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1])
    two.write_bytes(texts[0])


def outputs_elsewhere(directory: Path) -> None:
    """Let results overwrite a source file, which the steps never declared as an output."""
    for path in manifests(directory):
        value = json.loads(path.read_bytes())
        content = b"echo evil\n"
        digest = digests.content(content)
        put(directory, digest, content)
        listing = json.dumps(["train.sh", "file", digest, len(content)], separators=(",", ":"))
        text = f"{listing}\n".encode()
        value["outputs"] = digests.content(text)
        value["declared"] = ["train.sh"]
        put(directory, value["outputs"], text)
        path.write_text(json.dumps(value))


def outputs_outside(directory: Path) -> None:
    for path in manifests(directory):
        value = json.loads(path.read_bytes())
        listing = json.dumps(["../evil", "directory", "", 0], separators=(",", ":"))
        text = f"{listing}\n".encode()
        value["outputs"] = digests.content(text)
        put(directory, value["outputs"], text)
        path.write_text(json.dumps(value))


def outputs_in_depth(directory: Path) -> None:
    """Let one file of a result lie 3,000 directories down, none of which is listed."""
    for path in manifests(directory):
        value = json.loads(path.read_bytes())
        name = value["outputs"].removeprefix("blake3:")
        text = (directory / "v1/blobs/blake3" / name[:2] / name).read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        output, content, size = rows[0][0], rows[-1][2], rows[-1][3]
        rows = [[output, "directory", "", 0], [f"{output}/{3000 * 'd/'}f", "file", content, size]]
        text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
        value["outputs"] = digests.content(text.encode())
        put(directory, value["outputs"], text.encode())
        path.write_text(json.dumps(value))


def put(directory: Path, digest: str, content: bytes) -> None:
    name = digest.removeprefix("blake3:")
    place = directory / "v1/blobs/blake3" / name[:2] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def rewrite(change: Callable[[bytes], bytes], *kinds: str) -> Callable[[Path], None]:
    def poison(directory: Path) -> None:
        found = {"manifests": manifests, "blobs": blobs}
        for kind in kinds:
            for path in found[kind](directory):
                path.write_bytes(change(path.read_bytes()))

    return poison


def html(_: bytes) -> bytes:
    return b"<html>Sign in</html>"


POISONS: dict[str, Callable[[Path], None]] = {
    "manifest of other parts": other_parts,
    "manifest of another key": other_question,
    "outputs that are sources": outputs_elsewhere,
    "outputs outside of the project": outputs_outside,
    "outputs in endless directories": outputs_in_depth,
    "manifest cut off": rewrite(lambda data: data[: len(data) // 2], "manifests"),
    "manifest as HTML": rewrite(html, "manifests"),
    "manifest of nothing": rewrite(lambda _: b"", "manifests"),
    "manifest nested deeply": rewrite(lambda _: b"[" * 100_000, "manifests"),
    "changed contents": rewrite(lambda data: data[:-1] + b"!", "blobs"),
    "contents cut off": rewrite(lambda data: data[: len(data) // 2], "blobs"),
    "contents that go on": rewrite(lambda data: data + b"more", "blobs"),
    "contents as HTML": rewrite(html, "blobs"),
}


@pytest.mark.parametrize("name", POISONS)
def test_lie_is_told_and_the_command_runs(name: str, machine: Machines, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first, second = machine("first"), machine("second")
    share(first, shared)
    POISONS[name](shared)
    report = tmp_path / "report.json"
    done = second.run("--remote-cache", str(shared), "--report", str(report))
    states = {step["state"] for step in json.loads(report.read_text())["steps"]}
    assert states == {"ok"}, "nothing of it is used"
    assert "is not to be trusted" in done.err or "not in the remote cache" in done.err
    assert (second.directory / "train.sh").read_text() == "wc -l < data.txt\n"
    assert not (second.directory.parent / "evil").exists()
    assert second.runs == 4
    again = second.run("--remote-cache", str(shared))
    assert "2 up to date" in again.err


def test_lost_contents_are_a_miss(machine: Machines, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first, second = machine("first"), machine("second")
    share(first, shared)
    shutil.rmtree(shared / "v1/blobs")
    assert second.states("--remote-cache", str(shared)) == {"prepare": "ok", "train": "ok"}


def test_unreachable_remote_is_a_warning(machine: Machines) -> None:
    done = machine("first").run("--remote-cache", "http://127.0.0.1:9/cache")
    assert done.err.count("warning:") == 1
    assert "cannot be reached" in done.err


def test_directory_that_is_not_there_is_a_warning(machine: Machines, tmp_path: Path) -> None:
    done = machine("first").run("--remote-cache", str(tmp_path / "absent"))
    assert done.err.count("warning:") == 1
    assert not (tmp_path / "absent").exists()


def test_unknown_address_is_a_warning(machine: Machines) -> None:
    done = machine("first").run("--remote-cache", "nosuchscheme://bucket")
    assert done.err.count("warning:") == 1


def test_hanging_remote_is_waited_for_once(machine: Machines) -> None:
    ended = threading.Event()
    asked: list[str] = []

    def hang(request: Handler) -> None:
        asked.append(request.path)
        ended.wait()

    one = machine("first")
    with serving(hang) as url:
        done = one.run("--remote-cache", url, "--remote-cache-write")
        assert done.err.count("does not answer") == 1
        assert len(asked) == 1
        # What is up to date needs no answer.
        again = one.run("--remote-cache", url)
        assert "2 up to date" in again.err
        assert "warning" not in again.err
        (one.directory / "raw.txt").write_text("line 0\nline 1\nline 2\nother\n")
        third = one.run("--remote-cache", url)
        assert third.err.count("does not answer") == 1
        assert len(asked) == 2
        ended.set()


def test_denied_writing_is_a_warning(machine: Machines) -> None:
    def deny(request: Handler) -> None:
        reply(request, 404 if request.command in ("GET", "HEAD") else 403)

    with serving(deny) as url:
        done = machine("first").run("--remote-cache", url, "--remote-cache-write")
    assert done.err.count("warning:") == 1
    assert "results are not shared" in done.err


def test_credentials_are_neither_shown_nor_kept(machine: Machines) -> None:
    def answer(request: Handler) -> None:
        reply(request, 404 if request.command in ("GET", "HEAD") else 500)

    one = machine("first")
    with serving(answer) as url:
        address = url.replace("http://", "http://ann:sesame@") + "/cache?sig=opensesame"
        shown = [
            one.run("--remote-cache", address, "--remote-cache-write", "--report", "../r.json"),
            one.run("--remote-cache", address),
            one.run(BUILDRUN_REMOTE_CACHE=address),
            one.run(BUILDRUN_REMOTE_CACHE=address),
            one.call("plan", ".", LOCAL, "-e", "train", "--remote-cache", address),
            one.call("runs", "show"),
        ]
    assert [done.code for done in shown] == [0] * len(shown)
    assert not [done for done in shown if "sesame" in done.out + done.err]
    kept = [path for path in one.directory.parent.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if b"sesame" in path.read_bytes()]


# -- uploads ----------------------------------------------------------------------------------


def test_uploads_are_finished_before_the_exit(machine: Machines) -> None:
    objects: dict[str, bytes] = {}

    def answer(request: Handler) -> None:
        if request.command == "PUT":
            size = int(request.headers.get("Content-Length", 0))
            body = request.rfile.read(size) if size else chunked(request)
            objects[request.path] = body
            reply(request, 201)
        elif request.path in objects:
            reply(request, 200, objects[request.path])
        else:
            reply(request, 404)

    with serving(answer) as url:
        done = machine("first").run("--remote-cache", url, "--remote-cache-write")
        names = set(objects)
        assert len([name for name in names if "/v1/results/" in name]) == 2
        assert "warning" not in done.err
        states = machine("second").states("--remote-cache", url)
    assert states == {"prepare": "cached", "train": "cached"}


def test_interrupted_upload_ends_soon_and_leaves_no_half_result(
    machine: Machines, tmp_path: Path
) -> None:
    ended, arrived = threading.Event(), threading.Event()
    objects: list[str] = []

    def stuck(request: Handler) -> None:
        if request.command == "PUT":
            objects.append(request.path)
            arrived.set()
            ended.wait()
        else:
            reply(request, 404)

    one = machine("first")
    with serving(stuck) as url:
        child = subprocess.Popen(
            (sys.executable, "-m", "buildrun", "run", ".", LOCAL, "-e", "train",
             "--remote-cache", url, "--remote-cache-write", "--report", str(tmp_path / "r")),
            cwd=one.directory,
            env={**os.environ, "BUILDRUN_HOME": str(one.store)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        try:
            assert arrived.wait(60)
            lines = [child.stdout.readline(), child.stdout.readline()]
            assert lines == [b"prepared\n", b"trained\n"]
            child.send_signal(signal.SIGINT)
            _, shown = child.communicate(timeout=60)
        finally:
            child.kill()
            ended.set()
    assert child.returncode == 130, shown
    assert b"Traceback" not in shown
    assert not [name for name in objects if "/results/" in name]
    value: Any = json.loads((tmp_path / "r").read_text())
    assert value["status"] == "cancelled"
    assert value["steps"][0]["state"] == "ok"


def chunked(request: Handler) -> bytes:
    body = b""
    while size := int(request.rfile.readline(), 16):
        body += request.rfile.read(size)
        request.rfile.readline()
    request.rfile.readline()
    return body


# -- a remote cache is set for the first time -------------------------------------------------


def test_results_made_before_a_remote_was_set_are_shared(machine: Machines, tmp_path: Path) -> None:
    one, other = machine("first"), machine("second")
    one.run()
    shared = ("--remote-cache", str(tmp_path / "shared"))
    assert one.states(*shared, "--remote-cache-write") == {
        "prepare": "up-to-date",
        "train": "up-to-date",
    }
    assert one.runs == 2
    assert other.states(*shared) == {"prepare": "cached", "train": "cached"}
    assert one.digests() == other.digests() == {"blake3"}


def test_lost_outputs_are_restored_from_results_made_before(
    machine: Machines, tmp_path: Path
) -> None:
    one = machine("first")
    one.run()
    shutil.rmtree(one.directory / "model")
    (tmp_path / "shared").mkdir()
    shared = ("--remote-cache", str(tmp_path / "shared"))
    planned = one.call("plan", ".", LOCAL, "-e", "train", "--format=json", *shared).data["steps"]
    assert [step["cache"]["state"] for step in planned] == ["up-to-date", "hit"]
    assert one.states(*shared) == {"prepare": "up-to-date", "train": "cached"}
    assert one.runs == 2


def test_change_after_a_remote_was_set_is_told_as_what_it_is(
    machine: Machines, tmp_path: Path
) -> None:
    one = machine("first")
    one.run()
    (one.directory / "train.sh").write_text("wc -l < data.txt # again\n")
    (tmp_path / "shared").mkdir()
    shared = ("--remote-cache", str(tmp_path / "shared"))
    planned = one.call("plan", ".", LOCAL, "-e", "train", "--format=json", *shared).data["steps"]
    assert [step["cache"]["state"] for step in planned] == ["up-to-date", "miss"]
    assert planned[1]["cache"]["reasons"] == [
        {"code": "input-changed", "detail": "input `train.sh` changed"}
    ]
    assert one.states(*shared) == {"prepare": "up-to-date", "train": "ok"}


def test_nothing_runs_again_when_the_remote_is_gone(machine: Machines, tmp_path: Path) -> None:
    one = machine("first")
    one.run("--remote-cache", str(tmp_path / "shared"), "--remote-cache-write")
    assert one.states() == {"prepare": "up-to-date", "train": "up-to-date"}
    assert one.runs == 2


def test_first_remote_of_another_checkout_is_asked(machine: Machines, tmp_path: Path) -> None:
    first, second = machine("first"), machine("second")
    share(first, tmp_path / "shared")
    second.run()
    assert second.states("--remote-cache", str(tmp_path / "shared")) == {
        "prepare": "up-to-date",
        "train": "up-to-date",
    }
