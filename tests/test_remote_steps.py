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
from remote_backends import Shelf
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

    def states(self, *arguments: str, **environ: str) -> list[str]:
        """Run, and return how `prepare` and `train` ended."""
        self.run("--report", "../report.json", *arguments, **environ)
        return self.reported()

    def reported(self) -> list[str]:
        report = json.loads((self.directory.parent / "report.json").read_text())
        return [step["state"] for step in report["steps"]]

    def plan(self, *arguments: str) -> list[Any]:
        done = self.call("plan", ".", LOCAL, "-e", "train", "--format=json", *arguments)
        return [step["cache"] for step in done.data["steps"]]

    @property
    def runs(self) -> int:
        """How many commands have run on all machines."""
        return len(self._count.read_text().split()) if self._count.exists() else 0

    def digests(self) -> set[str]:
        """Return the kinds of digests that name what is kept."""
        kept = (*self.store.glob("results/*"), *self.store.glob("blobs/*"))
        return {path.name for path in kept}


@pytest.fixture
def first(tmp_path: Path, buildrun: Buildrun) -> Machine:
    return Machine(tmp_path / "first", buildrun, tmp_path / "count")


@pytest.fixture
def second(tmp_path: Path, buildrun: Buildrun) -> Machine:
    return Machine(tmp_path / "second", buildrun, tmp_path / "count")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a directory to share results in, which is absent."""
    return tmp_path / "shared"


@pytest.fixture
def shared(place: Path) -> tuple[str, str]:
    return "--remote-cache", str(place)


WRITE = "--remote-cache-write"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bucket]:
    with bucket(tmp_path_factory.mktemp("home")) as made:
        yield made


def kept_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


# -- an honest place --------------------------------------------------------------------------


def test_s3_brings_every_step_to_another_machine(
    first: Machine, second: Machine, s3: Bucket
) -> None:
    bucket = ("--remote-cache", s3.url)
    assert first.states(*bucket, WRITE, **s3.environ) == ["ok", "ok"]
    assert len([name for name in s3.names() if "/v1/results/blake3/" in name]) == 2
    before = s3.names()
    done = second.run(*bucket, "--report", "../report.json", **s3.environ)
    assert second.reported() == ["cached", "cached"]
    assert done.out == "prepared\ntrained\n"
    assert "warned\n" in done.err
    assert second.runs == 2
    assert os.readlink(second.directory / "model/latest") == "m.txt"
    assert os.access(second.directory / "model/m.txt", os.X_OK)
    assert second.states(*bucket, **s3.environ) == ["up-to-date", "up-to-date"]
    assert s3.names() == before
    assert first.digests() == second.digests() == {"blake3"}
    assert SECRET not in done.err


def test_directory_serves_as_well(first: Machine, second: Machine, place: Path) -> None:
    first.run(BUILDRUN_REMOTE_CACHE_WRITE="1", BUILDRUN_REMOTE_CACHE=str(place))
    assert second.states(BUILDRUN_REMOTE_CACHE=str(place)) == ["cached", "cached"]


def test_relative_directory_is_one_of_the_caller(first: Machine) -> None:
    first.run("--remote-cache=../shared", WRITE)
    assert kept_in(first.directory.parent / "shared")


def test_environment_is_not_built_for_what_is_shared(
    first: Machine, second: Machine, shared: tuple[str, str]
) -> None:
    states = []
    for one in (first, second):
        text = (one.directory / "MLproject").read_text()
        (one.directory / "MLproject").write_text(f"python_env: python_env.yaml\n{text}")
        (one.directory / "python_env.yaml").write_text("dependencies: []\n")
        done = one.call("run", ".", "-e", "train", "--report", "../report.json", WRITE, *shared)
        assert done.code == 0, done.err
        states.append(one.reported())
        built = list((one.store / "envs").glob("*/bin/python"))
        assert bool(built) == (one is first)
    assert states == [["ok", "ok"], ["cached", "cached"]]


def test_reading_never_writes(first: Machine, place: Path, shared: tuple[str, str]) -> None:
    place.mkdir()
    assert first.states(*shared) == ["ok", "ok"]
    assert list(place.iterdir()) == []


def test_no_cache_leaves_the_remote_alone(
    first: Machine, place: Path, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE, "--no-cache")
    assert not place.exists()


def test_plan_foresees_what_the_remote_has(
    first: Machine, second: Machine, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE)
    planned = second.plan(*shared)
    assert [one["state"] for one in planned] == ["hit", "hit"]
    assert all(one["key"].startswith("blake3:") for one in planned)
    assert not second.store.exists()


def test_damaged_store_is_mended_from_the_remote(first: Machine, shared: tuple[str, str]) -> None:
    first.run(*shared, WRITE)
    shutil.rmtree(first.store / "blobs")
    shutil.rmtree(first.directory / "model")
    assert first.states(*shared) == ["up-to-date", "cached"]
    assert first.runs == 2


# -- places that do not do what they should ---------------------------------------------------


def manifests(directory: Path) -> list[Path]:
    found = [path for path in (directory / "v1/results").rglob("*") if path.is_file()]
    assert found
    return found


def blobs(directory: Path) -> list[Path]:
    found = [path for path in (directory / "v1/blobs").rglob("*") if path.is_file()]
    assert found
    return found


def edit(directory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every manifest."""
    for path in manifests(directory):
        value = json.loads(path.read_bytes())
        change(value)
        path.write_text(json.dumps(value))


def other_parts(directory: Path) -> None:
    edit(directory, lambda value: value["parts"].update(salt="another question"))


def other_question(directory: Path) -> None:
    one, two = manifests(directory)
    texts = one.read_bytes(), two.read_bytes()
    one.write_bytes(texts[1])
    two.write_bytes(texts[0])


def list_outputs(directory: Path, value: dict[str, Any], *rows: tuple[str, str, str, int]) -> None:
    """Let a manifest have a listing of these entries as its outputs."""
    text = "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
    value["outputs"] = put(directory, text.encode())


def outputs_elsewhere(directory: Path) -> None:
    """Let results overwrite a source file, which the steps never declared as an output."""

    def change(value: dict[str, Any]) -> None:
        digest = put(directory, b"echo evil\n")
        list_outputs(directory, value, ("train.sh", "file", digest, 10))
        value["declared"] = ["train.sh"]

    edit(directory, change)


def outputs_outside(directory: Path) -> None:
    edit(directory, lambda value: list_outputs(directory, value, ("../evil", "directory", "", 0)))


def outputs_in_depth(directory: Path) -> None:
    """Let one file of a result lie 3,000 directories down, none of which is listed."""

    def change(value: dict[str, Any]) -> None:
        name = value["outputs"].removeprefix("blake3:")
        text = (directory / "v1/blobs/blake3" / name[:2] / name).read_text()
        rows = [json.loads(line) for line in text.splitlines()]
        output, content, size = rows[0][0], rows[-1][2], rows[-1][3]
        deep = (f"{output}/{3000 * 'd/'}f", "file", content, size)
        list_outputs(directory, value, (output, "directory", "", 0), deep)

    edit(directory, change)


def put(directory: Path, content: bytes) -> str:
    digest = digests.content(content)
    name = digest.removeprefix("blake3:")
    place = directory / "v1/blobs/blake3" / name[:2] / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    return digest


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
def test_lie_is_told_and_the_command_runs(
    name: str, first: Machine, second: Machine, place: Path, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE)
    POISONS[name](place)
    done = second.run(*shared, "--report", "../report.json")
    assert second.reported() == ["ok", "ok"], "nothing of it is used"
    assert "is not to be trusted" in done.err or "not in the remote cache" in done.err
    assert (second.directory / "train.sh").read_text() == "wc -l < data.txt\n"
    assert not (second.directory.parent / "evil").exists()
    assert second.runs == 4
    assert "2 up to date" in second.run(*shared).err


def test_lost_contents_are_a_miss(
    first: Machine, second: Machine, place: Path, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE)
    shutil.rmtree(place / "v1/blobs")
    assert second.states(*shared) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("address", "fact"),
    [
        ("http://127.0.0.1:9/cache", "cannot be reached"),
        ("../absent", "no such directory"),
        ("nosuchscheme://bucket", "no address that fsspec knows"),
    ],
)
def test_remote_that_is_not_there_is_a_warning(first: Machine, address: str, fact: str) -> None:
    done = first.run("--remote-cache", address)
    assert done.err.count("warning:") == 1
    assert fact in done.err
    assert not (first.directory.parent / "absent").exists()


def test_hanging_remote_is_waited_for_once(first: Machine) -> None:
    ended = threading.Event()
    asked: list[str] = []

    def hang(request: Handler) -> None:
        asked.append(request.path)
        ended.wait()

    with serving(hang) as url:
        done = first.run("--remote-cache", url, WRITE)
        assert done.err.count("does not answer") == 1
        assert len(asked) == 1
        # What is up to date needs no answer.
        again = first.run("--remote-cache", url)
        assert "2 up to date" in again.err
        assert "warning" not in again.err
        (first.directory / "raw.txt").write_text("line 0\nline 1\nline 2\nother\n")
        third = first.run("--remote-cache", url)
        assert third.err.count("does not answer") == 1
        assert len(asked) == 2
        ended.set()


def test_denied_writing_is_a_warning(first: Machine) -> None:
    def deny(request: Handler) -> None:
        reply(request, 404 if request.command in ("GET", "HEAD") else 403)

    with serving(deny) as url:
        done = first.run("--remote-cache", url, WRITE)
    assert done.err.count("warning:") == 1
    assert "results are not shared" in done.err


def test_credentials_are_neither_shown_nor_kept(first: Machine) -> None:
    def answer(request: Handler) -> None:
        reply(request, 404 if request.command in ("GET", "HEAD") else 500)

    with serving(answer) as url:
        address = url.replace("http://", "http://ann:sesame@") + "/cache?sig=opensesame"
        shown = [
            first.run("--remote-cache", address, WRITE, "--report", "../r.json"),
            first.run("--remote-cache", address),
            first.run(BUILDRUN_REMOTE_CACHE=address),
            first.run(BUILDRUN_REMOTE_CACHE=address),
            first.call("plan", ".", LOCAL, "-e", "train", "--remote-cache", address),
            first.call("runs", "show"),
        ]
    assert [done.code for done in shown] == [0] * len(shown)
    assert not [done for done in shown if "sesame" in done.out + done.err]
    kept = [path for path in first.directory.parent.rglob("*") if path.is_file()]
    assert len(kept) > 10
    assert not [path for path in kept if b"sesame" in path.read_bytes()]


# -- uploads ----------------------------------------------------------------------------------


def test_uploads_are_finished_before_the_exit(first: Machine, second: Machine) -> None:
    shelf = Shelf()
    with serving(shelf) as url:
        done = first.run("--remote-cache", url, WRITE)
        assert len([name for name in shelf.objects if "v1/results/" in name]) == 2
        assert "warning" not in done.err
        assert second.states("--remote-cache", url) == ["cached", "cached"]


def test_interrupted_upload_ends_soon_and_leaves_no_half_result(
    first: Machine, tmp_path: Path
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

    with serving(stuck) as url:
        child = subprocess.Popen(
            (sys.executable, "-m", "buildrun", "run", ".", LOCAL, "-e", "train",
             "--remote-cache", url, WRITE, "--report", str(tmp_path / "r")),
            cwd=first.directory,
            env={**os.environ, "BUILDRUN_HOME": str(first.store)},
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


# -- a remote cache is set for the first time -------------------------------------------------


def test_results_made_before_a_remote_was_set_are_shared(
    first: Machine, second: Machine, shared: tuple[str, str]
) -> None:
    first.run()
    assert first.states(*shared, WRITE) == ["up-to-date", "up-to-date"]
    assert first.runs == 2
    assert second.states(*shared) == ["cached", "cached"]
    assert first.digests() == second.digests() == {"blake3"}


def test_lost_outputs_are_restored_from_results_made_before(
    first: Machine, place: Path, shared: tuple[str, str]
) -> None:
    first.run()
    shutil.rmtree(first.directory / "model")
    place.mkdir()
    assert [one["state"] for one in first.plan(*shared)] == ["up-to-date", "hit"]
    assert first.states(*shared) == ["up-to-date", "cached"]
    assert first.runs == 2


def test_change_after_a_remote_was_set_is_told_as_what_it_is(
    first: Machine, place: Path, shared: tuple[str, str]
) -> None:
    first.run()
    (first.directory / "train.sh").write_text("wc -l < data.txt # again\n")
    place.mkdir()
    planned = first.plan(*shared)
    assert [one["state"] for one in planned] == ["up-to-date", "miss"]
    assert planned[1]["reasons"] == [
        {"code": "input-changed", "detail": "input `train.sh` changed"}
    ]
    assert first.states(*shared) == ["up-to-date", "ok"]


def test_nothing_runs_again_when_the_remote_is_gone(
    first: Machine, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE)
    assert first.states() == ["up-to-date", "up-to-date"]
    assert first.runs == 2


def test_first_remote_of_another_checkout_is_asked(
    first: Machine, second: Machine, shared: tuple[str, str]
) -> None:
    first.run(*shared, WRITE)
    second.run()
    assert second.states(*shared) == ["up-to-date", "up-to-date"]
