"""`run --watch`: what makes a project run again, what does not, and how it ends."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from executor_helpers import LIMIT, group_has_ended
from processes import kill_session

LOCAL = "--env-manager=local"
# As the console script does, and other than `-m`: the current directory is not searched.
_BUILDRUN = "import sys; sys.path.remove(''); from buildrun.cli import entry; entry()"
WAITING = "; Ctrl-C ends it"

STEP = """\
name: watched
entry_points:
  main:
    inputs: ["*.txt"]
    outputs: [out/]
    command: "mkdir out; cat *.txt > out/all; echo made $(cat *.txt)"
"""
PLAIN = "name: plain\nentry_points: {main: {command: 'echo ran $(cat a.txt)'}}\n"


class Watching:
    """A watching process; what it writes to both streams is one text."""

    def __init__(self, *arguments: str, cwd: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            (sys.executable, "-c", _BUILDRUN, "run", ".", "--watch", *arguments),
            cwd=cwd,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._shown = b""

    def until(self, marker: str) -> str:
        """Return what was written up to the marker and with it."""
        while marker.encode() not in self._shown:
            assert self._more(), f"it ended: {self._shown!r}"
        head, found, self._shown = self._shown.partition(marker.encode())
        return (head + found).decode()

    def idle(self) -> str:
        """Return what was written until nothing runs and a change is waited for."""
        return self.until(WAITING)

    def end(self, number: int = signal.SIGINT) -> int:
        self._process.send_signal(number)
        while self._more():
            pass
        return self._process.wait(timeout=LIMIT)

    @property
    def rest(self) -> str:
        return self._shown.decode()

    @property
    def session(self) -> int:
        return self._process.pid

    def close(self) -> None:
        kill_session(self.session)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _more(self) -> bool:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], LIMIT)[0]:
            raise AssertionError(f"nothing more after {self._shown!r}")
        data = os.read(self._process.stdout.fileno(), 4096)
        self._shown += data
        return bool(data)


Watch = Callable[..., Watching]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Return a function that watches a directory."""
    begun: list[Watching] = []

    def begin(directory: Path, *arguments: str, **environ: str) -> Watching:
        begun.append(Watching(LOCAL, *arguments, cwd=directory, environ=environ))
        return begun[-1]

    yield begin
    for one in begun:
        one.close()


def edit(path: Path, text: str) -> None:
    """Write a file in one step: whoever looks meanwhile does not find it empty, which counts."""
    new = path.parent.parent / f"{path.name}.new"
    new.write_text(text)
    new.replace(path)


# what starts a run


PYTHON_ENV = f"python_env: python_env.yaml\n{STEP}"


@pytest.mark.parametrize(
    ("mlproject", "name", "text", "facts"),
    [
        (STEP, "a.txt", "two\n", ("`a.txt` changed\n", "made two\n")),
        (STEP, "b.txt", "two\n", ("made one two\n",)),
        (
            STEP,
            "MLproject",
            STEP.replace("made", "built"),
            ("`MLproject` changed\n", "built one\n"),
        ),
        (PYTHON_ENV, "python_env.yaml", "dependencies: [] #\n", ("`python_env.yaml` changed\n",)),
        (PLAIN, "a.txt", "two\n", ("ran two\n",)),
        # a failed command
        (STEP.replace("mkdir", "exit 3; mkdir"), "MLproject", STEP, ("made one\n",)),
    ],
    ids=["input", "new input", "project", "environment", "plain", "failed"],
)
def test_edit_runs_again(
    mlproject: str, name: str, text: str, facts: Sequence[str], project: Project, watch: Watch
) -> None:
    directory = project(mlproject, a__txt="one\n", python_env__yaml="dependencies: []\n")
    watching = watch(directory)
    watching.idle()
    edit(directory / name, text)
    shown = watching.idle()
    for fact in facts:
        assert fact in shown


def test_input_that_is_removed_or_replaced_by_an_editor_runs_again(
    project: Project, watch: Watch
) -> None:
    directory = project(STEP, a__txt="one\n", b__txt="two\n")
    watching = watch(directory)
    watching.idle()
    (directory / "a.txt").unlink()
    assert "made two\n" in watching.idle()
    edit(directory / "b.txt.swp", "three\n")
    os.replace(directory / "b.txt.swp", directory / "b.txt")
    assert "made three\n" in watching.idle()


def test_edit_of_a_path_outside_the_project_runs_again(
    project: Project, watch: Watch, tmp_path: Path
) -> None:
    directory = project(
        "entry_points: {main: {parameters: {f: path}, command: 'echo read $(cat {f})'}}\n"
    )
    (tmp_path / "data").write_text("one\n")
    watching = watch(directory, "-P", f"f={tmp_path / 'data'}")
    assert "read one\n" in watching.idle()
    edit(tmp_path / "data", "two\n")
    assert "read two\n" in watching.idle()


# what does not


def test_outputs_ignored_files_and_git_start_nothing(project: Project, watch: Watch) -> None:
    directory = project(
        "entry_points: {main: {outputs: [out/], command: 'mkdir out; cat a.txt > out/all; "
        "echo made $(cat a.txt)'}}\n",
        a__txt="one\n",
    )
    subprocess.run(["git", "init", "-q", directory], check=True)
    edit(directory / ".gitignore", "*.log\n")
    watching = watch(directory)
    watching.idle()
    (directory / "out/more").write_text("")
    (directory / "x.log").write_text("")
    (directory / ".git/x").write_text("")
    edit(directory / "a.txt", "two\n")
    shown = watching.idle()
    assert shown.count("changed") == 1, "the edit that came last is the only reason"
    assert "`a.txt` changed\n" in shown
    assert "made two\n" in shown


def test_files_that_the_command_writes_do_not_start_it_for_ever(
    project: Project, watch: Watch, tmp_path: Path
) -> None:
    command = "echo x >> '{count}'; echo x >> old.log; echo x >> new.log; echo ran"
    count = tmp_path / "count"
    text = f'entry_points: {{main: {{command: "{command.replace("{count}", str(count))}"}}}}\n'
    directory = project(text, old__log="x\n", a__txt="one\n")
    watching = watch(directory)
    shown = watching.idle()
    assert shown.count("[main]") == 2, "nobody knows before that it is not the user's edit"
    assert "`old.log` changes in each run" in shown
    assert "`new.log`" not in shown, "what a run makes is its own from the beginning"
    edit(directory / "a.txt", "two\n")
    assert watching.idle().count("[main]") == 1
    # Nothing runs now, so this is the user.
    (directory / "old.log").write_text("")
    assert "`old.log` changed\n" in watching.idle()
    watching.end()
    assert count.read_text().count("x") == 4


def test_declared_input_that_the_command_writes_ends_too(project: Project, watch: Watch) -> None:
    directory = project(STEP.replace("mkdir out", "date +%N >> a.txt; mkdir out"), a__txt="one\n")
    watching = watch(directory)
    assert "`a.txt` changes in each run" in watching.idle()
    assert watching.end() == 130


# during a run

SLOW = """\
entry_points:
  main:
    inputs: ["*.txt"]
    outputs: [out]
    command: "sh -c 'echo process=$$; (echo child; exec sleep 1000)' & cat a.txt > out; \
cat a.txt > '{begun}'; cat '{go}'"
"""


@pytest.fixture
def slow(project: Project) -> Path:
    """Return a project whose command writes to the fifo `../begun`, and waits for `../go`."""
    directory = project(a__txt="one\n")
    begun, go = directory.parent / "begun", directory.parent / "go"
    for path in (begun, go):
        os.mkfifo(path)
    (directory / "MLproject").write_text(SLOW.format(begun=begun, go=go))
    return directory


def test_edit_during_a_run_ends_it_with_all_its_processes(slow: Path, watch: Watch) -> None:
    watching = watch(slow)
    begun = slow.parent / "begun"
    group = group_of(watching.until("\nchild\n"))
    assert begun.read_text() == "one\n"
    edit(slow / "a.txt", "two\n")
    shown = watching.until("\nchild\n")
    assert "`a.txt` changed; starting again\n" in shown
    assert group_has_ended(group)
    assert begun.read_text() == "two\n"
    assert watching.end() == 130
    assert "cancelled" in watching.rest


def group_of(shown: str) -> int:
    """Return the process group of the command, while it runs."""
    return os.getpgid(int(shown.rpartition("process=")[2].split()[0]))


def test_edit_after_edit_during_runs_is_never_lost(slow: Path, watch: Watch) -> None:
    directory, begun, go = slow, slow.parent / "begun", slow.parent / "go"
    (directory / "a.txt").write_text("1\n")
    watching = watch(directory)
    for number in (1, 2):
        assert begun.read_text() == f"{number}\n"
        edit(directory / "a.txt", f"{number + 1}\n")
        watching.until("starting again\n")
    assert begun.read_text() == "3\n"
    edit(directory / "a.txt", "4\n")
    assert "save it again when the run has ended" in watching.until("ended\n")
    go.write_text("")
    watching.idle()
    edit(directory / "a.txt", "5\n")
    assert begun.read_text() == "5\n"


def test_syntax_error_is_told_and_mended_by_an_edit(project: Project, watch: Watch) -> None:
    directory = project(STEP, a__txt="one\n")
    watching = watch(directory)
    watching.idle()
    (directory / "MLproject").write_text("entry_points: [\n")
    shown = watching.idle()
    assert "MLproject:" in shown
    assert "error:" in shown
    edit(directory / "MLproject", STEP.replace("echo made", "echo mended"))
    assert "mended one\n" in watching.idle()


# its end


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_while_it_waits(project: Project, watch: Watch, number: int) -> None:
    watching = watch(project(STEP, a__txt="one\n"))
    watching.idle()
    assert watching.end(number) == 128 + number
    assert "Traceback" not in watching.rest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_it_with_the_command(slow: Path, watch: Watch, number: int) -> None:
    watching = watch(slow)
    group = group_of(watching.until("\nchild\n"))
    (slow.parent / "begun").read_text()
    assert watching.end(number) == 128 + number
    assert group_has_ended(group)
    assert "Traceback" not in watching.rest


def test_missing_library_is_named(project: Project, buildrun: Buildrun, tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/watchfiles.py").write_text("raise ImportError\n")
    environ = {"PYTHONPATH": str(tmp_path / "lib")}
    outcome = buildrun("run", project(STEP), LOCAL, "--watch", environ=environ)
    outcome.refused("pip install 'buildrun[watch]'", code=2)


def test_modules_of_the_project_are_not_ours(project: Project, watch: Watch) -> None:
    directory = project(STEP, a__txt="one\n", json__py="1 / 0\n", queue__py="1 / 0\n")
    assert "made one\n" in watch(directory).idle()


def test_directory_that_goes_away_ends_it(project: Project, watch: Watch) -> None:
    directory = project(STEP, a__txt="one\n")
    watching = watch(directory)
    watching.idle()
    directory.rename(directory.parent / "gone")
    assert watching.end() == 130
