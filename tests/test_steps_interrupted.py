"""Runs that are killed or interrupted, and stores that are damaged, full, read-only or gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import command_line
import pytest
from conftest import Buildrun, Project
from needs import missing
from step_helpers import (  # noqa: F401
    LIMIT,
    LOCAL,
    PAUSE,
    TWO,
    Gate,
    Ran,
    Run,
    Start,
    a_gate,
    a_run,
    a_start,
)

# How many points of a run are tried; a run has some more.
POINTS = 10


@pytest.fixture
def two(project: Project) -> Path:
    """Return a project of two steps."""
    return project(TWO, in__txt="1\n")


def assert_made(directory: Path, text: str) -> None:
    assert (directory / "first.txt").read_text() == text
    assert (directory / "tree/deep/a").read_text() == text
    assert (directory / "main.txt").read_text() == 2 * text
    names = [name for name in os.listdir(directory) if not name.startswith(".buildrun-")]
    assert sorted(names) == ["MLproject", "first.txt", "in.txt", "main.txt", "tree"]


def assert_clean(directory: Path) -> None:
    assert not [name for name in os.listdir(directory) if name.startswith(".buildrun-")]


# -- kill and signals at any point ----------------------------------------------------------------


def fresh(_: Path, __: Run) -> str:
    return "1\n"


def edited(two: Path, run: Run) -> str:
    assert run(two).code == 0
    (two / "in.txt").write_text("2\n")
    return "2\n"


def restorable(two: Path, run: Run) -> str:
    for text in ("1\n", "2\n"):
        (two / "in.txt").write_text(text)
        assert run(two).code == 0
    (two / "in.txt").write_text("1\n")
    return "1\n"


class Points:
    """Runs a prepared project again and again, each time with a signal at another point."""

    def __init__(self, two: Path, store: Path, run: Run, tmp_path: Path) -> None:
        self._places = {two: tmp_path / "project.saved", store: tmp_path / "store.saved"}
        self._run, self._two = run, two
        for place, saved in self._places.items():
            shutil.copytree(place, saved, symlinks=True)

    def __call__(self, number: int) -> Iterator[Ran]:
        count = 0

        def note(_: str, __: Any) -> None:
            os.write(2, b"\0")

        whole = self._run(self._two, at=note)
        assert whole.code == 0
        count = whole.err.count("\0")
        assert count > POINTS
        for point in range(number % 3, count, count // POINTS):
            self._prepare()
            yield self._run(self._two, at=_At(point, number))

    def _prepare(self) -> None:
        for place, saved in self._places.items():
            shutil.rmtree(place)
            shutil.copytree(saved, place, symlinks=True)


class _At:
    def __init__(self, point: int, number: int) -> None:
        self._left, self._number = point, number

    def __call__(self, _: str, __: Any) -> None:
        self._left -= 1
        if self._left == -1:
            os.kill(os.getpid(), self._number)


@pytest.mark.parametrize("scene", [fresh, edited, restorable])
def test_next_run_is_right_whenever_one_was_killed(
    scene: Callable[[Path, Run], str], two: Path, store: Path, run: Run, tmp_path: Path
) -> None:
    text = scene(two, run)
    for killed in Points(two, store, run, tmp_path)(signal.SIGKILL):
        assert killed.code == -signal.SIGKILL
        outcome = run(two)
        assert outcome.code == 0, outcome.err
        assert_made(two, text)
        for other in ("3\n", text):
            (two / "in.txt").write_text(other)
            last = run(two)
            assert_made(two, other)
        assert last.states == {"first": "cached", "main": "cached"}
        assert_clean(two)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("scene", [edited, restorable])
def test_run_that_is_interrupted_at_any_point_ends_in_order(
    scene: Callable[[Path, Run], str], number: int, two: Path, store: Path, run: Run, tmp_path: Path
) -> None:
    text = scene(two, run)
    for interrupted in Points(two, store, run, tmp_path)(number):
        assert interrupted.code in (0, 128 + number), interrupted.err
        assert "Traceback" not in interrupted.err
        assert "defect" not in interrupted.err
        # Where the signal comes after everything else, no report may be written any more.
        for step in interrupted.report.get("steps", ()):
            assert step["state"] in ("ok", "cached", "cancelled"), interrupted.err
            if step["state"] != "cancelled":
                made = (two / f"{step['id']}.txt").read_text()
                assert made == text * (2 if step["id"] == "main" else 1)
        assert run(two).code == 0
        assert_made(two, text)
        assert_clean(two)


# -- signals while a command runs -----------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_finished_before_an_interruption_is_recorded(
    number: int, run: Run, project: Project, gate: Gate, start: Start, buildrun: Buildrun
) -> None:
    directory = project(
        "entry_points:\n"
        "  a: {inputs: [in.txt], outputs: [a], command: 'echo a > a'}\n"
        f"  b: {{depends_on: [a], inputs: [in.txt], outputs: [b], "
        f"command: 'echo new > b; {PAUSE.format('b')}'}}\n"
        "  main: {depends_on: [b], command: 'true'}\n",
        in__txt="",
        b="old",
    )
    live = start(directory)
    gate.wait()
    live.send(number)
    outcome = live.wait()
    assert outcome.code == 128 + number
    assert outcome.states == {"a": "ok", "b": "cancelled", "main": "cancelled"}
    assert outcome.report["status"] == "cancelled"
    assert "3 steps: 1 ran, 2 cancelled" in outcome.err
    shown = buildrun("runs", "show").out
    assert "a: ok" in shown
    assert "b: cancelled" in shown
    gate.open()
    outcome = run(directory, environ=gate.environ)
    assert outcome.states == {"a": "up-to-date", "b": "ok", "main": "ok"}


BACKEND = """\
import os
def build_wheel(*arguments):
    with open(os.environ["UP"], "w") as up:
        up.write("building\\n")
    with open(os.environ["GO"]) as go:
        go.readline()
    raise SystemExit("enough")
"""


def test_ctrl_c_while_the_environment_is_built_ends_the_run(
    project: Project, gate: Gate, start: Start, buildrun: Buildrun
) -> None:
    directory = project(
        TWO.replace("name: two\n", "name: two\npython_env: python_env.yaml\n"),
        in__txt="",
        python_env__yaml="build_dependencies: []\ndependencies: [./package]\n",
    )
    package = directory / "package"
    package.mkdir()
    (package / "backend.py").write_text(BACKEND)
    (package / "pyproject.toml").write_text(
        '[project]\nname = "p"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    live = start(directory, "--env-manager=virtualenv")
    assert gate.wait() == "building"
    live.send(signal.SIGINT)
    gate.open()
    outcome = live.wait()
    assert outcome.code == 130
    assert outcome.states == {"first": "cancelled", "main": "cancelled"}
    assert "cancelled, exit code 130" in buildrun("runs", "show").out
    assert not (directory / "first.txt").exists()


# -- damage ---------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.chmod(path, 0o644)
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.chmod(path, 0o644)
    os.truncate(path, 0)


def garble(path: Path) -> None:
    os.chmod(path, 0o644)
    path.write_bytes(bytes(255 - byte for byte in path.read_bytes()))


def misname(path: Path) -> None:
    os.chmod(path, 0o644)
    path.write_bytes(b'[1, "first", 1, 2, 3, 4, 5, 6]\n{"version": 1, "value": 7}\n')


def enter(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").touch()


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("area", ["results", "blobs", "index", "runs", "."])
@pytest.mark.parametrize("damage", [truncate, empty, garble, misname, enter, remove])
def test_damage_is_never_a_failure_nor_a_wrong_result(
    damage: Callable[[Path], None], area: str, two: Path, run: Run, store: Path
) -> None:
    assert run(two).code == 0
    (two / "main.txt").unlink()
    (two / "first.txt").write_text("changed by hand\n")
    for path in sorted((store / area).rglob("*")):
        if path.is_file():
            damage(path)
    for _ in range(2):
        outcome = run(two)
        assert outcome.code == 0, outcome.err
        assert_made(two, "1\n")
        assert "defect" not in outcome.err
    (two / "in.txt").write_text("2\n")
    assert run(two).code == 0
    assert_made(two, "2\n")
    assert command_line.call(("runs", "ls"), store.parent, os.environ).code == 0
    assert_clean(two)


def test_store_that_is_removed_during_a_run_costs_the_result_only(
    project: Project, gate: Gate, start: Start, store: Path
) -> None:
    directory = project(
        "entry_points:\n"
        f"  a: {{outputs: [a], command: 'echo a > a; {PAUSE.format('a')}; echo said'}}\n"
        "  main: {depends_on: [a], inputs: [a], outputs: [b], command: cp a b}\n",
        a="old",
    )
    live = start(directory)
    gate.wait()
    shutil.rmtree(store)
    gate.open()
    outcome = live.wait()
    assert (outcome.code, outcome.out) == (0, "said\n")
    assert outcome.states == {"a": "ok", "main": "ok"}
    assert (directory / "b").read_text() == "a\n"
    assert "[a] the result is not cached" in outcome.err


# -- disks ----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a disk of some size; only root can."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        words = ("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
        done = subprocess.run(words, capture_output=True, timeout=LIMIT, check=False)
        if done.returncode != 0:
            missing("nothing can be mounted here")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(("umount", "-l", str(place)), timeout=LIMIT, check=True)


def fill(disk: Path) -> None:
    with open(disk / "filler", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            pass
    for number in range(10_000):
        try:
            (disk / f"filler{number}").touch()
        except OSError:
            return


@pytest.mark.parametrize("mode", ["stream", "grouped", "errors"])
def test_full_disk_of_the_store_costs_the_result_only(
    mode: str, run: Run, project: Project, buildrun: Buildrun, disk: Callable[[str], Path]
) -> None:
    store = disk("2m,nr_inodes=2000")
    directory = project(
        "entry_points:\n"
        "  a: {inputs: [in.txt], outputs: [a], command: 'seq 100000; seq 300000 > a'}\n"
        "  main: {depends_on: [a], inputs: [a], outputs: [b], command: 'wc -l < a > b'}\n",
        in__txt="",
    )
    environ = {"BUILDRUN_HOME": str(store)}
    assert buildrun("plan", directory, LOCAL, environ=environ).code == 0
    fill(store)
    outcome = run(directory, "--output", mode, environ=environ)
    assert outcome.states == {"a": "ok", "main": "ok"}
    assert (directory / "b").read_text() == "300000\n"
    assert outcome.out.splitlines()[-1].endswith("100000")
    assert "[a] the result is not cached" in outcome.err
    (store / "filler").unlink()
    outcome = run(directory, "--output", mode, environ=environ)
    assert outcome.code == 0, outcome.err
    assert (directory / "b").read_text() == "300000\n"


def test_store_that_fills_up_while_a_step_writes_its_log_is_no_failure(
    project: Project, run: Run, disk: Callable[[str], Path]
) -> None:
    store = disk("1m")
    directory = project("entry_points: {main: {outputs: [a], command: 'seq 400000; touch a'}}\n")
    outcome = run(directory, "--output", "grouped", environ={"BUILDRUN_HOME": str(store)})
    assert outcome.states == {"main": "ok"}
    lines = [line.removeprefix("[main] ") for line in outcome.out.splitlines()]
    assert lines == [str(number) for number in range(1, 400001)]
    assert "the result is not cached: its log cannot be written" in outcome.err


def test_full_disk_of_the_project_loses_no_output(disk: Callable[[str], Path], run: Run) -> None:
    directory = disk("2m")
    (directory / "MLproject").write_text(
        "entry_points: {main: {inputs: [in.txt], outputs: [out], command: 'cat in.txt > out'}}\n"
    )
    for text in ("old\n" * 100_000, "new\n" * 100_000):
        (directory / "in.txt").write_text(text)
        assert run(directory).code == 0
    (directory / "in.txt").write_text("old\n" * 100_000)
    fill(directory)
    outcome = run(directory)
    outcome.refused("No space left on device")
    assert outcome.states == {"main": "failed"}
    (directory / "filler").unlink()
    assert run(directory).states == {"main": "cached"}
    assert (directory / "out").read_text() == "old\n" * 100_000


def test_store_that_may_only_be_read_is_used_as_far_as_it_goes(
    two: Path, run: Run, store: Path, disk: Callable[[str], Path]
) -> None:
    assert run(two).code == 0
    place = disk("8m")
    shutil.copytree(store, place, dirs_exist_ok=True)
    words = ("mount", "-o", "remount,ro", str(place))
    subprocess.run(words, check=True, timeout=LIMIT)
    environ = {"BUILDRUN_HOME": str(place)}
    (two / "main.txt").unlink()
    assert run(two, environ=environ).states == {"first": "up-to-date", "main": "cached"}
    (two / "in.txt").write_text("2\n")
    assert run(two, environ=environ).states == {"first": "ok", "main": "ok"}
    assert_made(two, "2\n")
    assert_clean(two)


# -- readers that go away -------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["stream", "prefixed", "grouped"])
def test_reader_that_goes_away_ends_the_run_without_a_traceback(
    mode: str, project: Project, start: Start, gate: Gate
) -> None:
    directory = project(
        "entry_points:\n"
        "  a: {outputs: [a], command: 'echo said; read _ < $GO; seq 100000; touch a'}\n"
        "  main: {depends_on: [a], command: 'true'}\n",
        a="old",
    )
    live = start(directory, "--output", mode)
    assert live.process.stdout is not None
    if mode != "grouped":
        assert live.process.stdout.readline().endswith(b"said\n")
    live.process.stdout.close()
    gate.open()
    outcome = live.wait()
    assert outcome.code != 0
    assert "Traceback" not in outcome.err
    assert "defect" not in outcome.err
    assert outcome.report["steps"][0]["state"] == "failed"
    assert (directory / "a").read_text() == ("" if mode == "grouped" else "old")


SIGNAL_AT_IMPORT = """\
import os, sys

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == os.environ["SIGNAL_AT"]:
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    "module",
    [
        "buildrun.errors",
        "buildrun.runner",
        "buildrun.commands.options",
        "buildrun.commands.run",
        "yaml",
    ],
)
def test_signal_while_modules_are_loaded_ends_without_a_traceback(
    buildrun: Buildrun, two: Path, tmp_path: Path, module: str, number: int
) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNAL_AT_IMPORT)
    environ = {"PYTHONPATH": str(tmp_path), "SIGNAL_AT": module, "SIGNAL": str(int(number))}
    done = buildrun("run", two, LOCAL, environ=environ)
    assert done.code == 128 + number
    assert "Traceback" not in done.err
    assert not (two / "main.txt").exists()
