"""What a terminal shows fits it, and looks the same everywhere; programs read it plain."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Buildrun, Project
from step_helpers import LIMIT

from buildrun.commands.table import fitted
from buildrun.console import Console, wrapped

ROW = ("80b9660786e3", "2026-11-28 23:48:25", "ok       ", "    1.5 s", "hello", "main")

STEPS = """\
name: a-rather-long-name-of-a-project
entry_points:
  prepare: {inputs: [MLproject], outputs: [data], command: echo x > data}
  check-the-data: {depends_on: [prepare], command: exit 3}
  main: {depends_on: [check-the-data], command: echo done}
"""


def test_row_stays_whole_where_it_fits() -> None:
    whole = "80b9660786e3  2026-11-28 23:48:25  ok             1.5 s  hello  main"
    assert fitted(ROW, None) == fitted(ROW, 80) == whole


def test_narrow_row_keeps_cells_whole_and_in_their_columns() -> None:
    narrow = "80b9660786e3  2026-11-28 23:48:25  ok\n      1.5 s  hello  main"
    assert fitted(ROW, 40) == narrow
    assert fitted(("x" * 15, "b"), 10) == "x" * 15 + "\n  b"


def test_text_breaks_between_words_and_goes_on_further_in() -> None:
    path = "/a/path/that/is/longer/than/the/terminal"
    text = f"error: two words and then {path}\n    hint: well-known words"
    assert wrapped(text, None) == text
    assert wrapped(text, 22) == (
        f"error: two words and\n  then\n  {path}\n    hint: well-known\n      words"
    )


@pytest.mark.parametrize("words", [("runs", "ls"), ("cache", "ls"), ("--help",)])
def test_listings_fit_forty_columns(
    words: tuple[str, ...], buildrun: Buildrun, project: Project
) -> None:
    directory = project(
        "name: a-rather-long-name-of-a-project\nentry_points:\n"
        "  main: {outputs: [out], command: echo x > out}\n"
    )
    assert buildrun("run", directory, "--env-manager", "local").code == 0
    outcome = buildrun(*words, environ={"COLUMNS": "40"})
    assert outcome.code == 0
    assert 1 < max(map(len, outcome.out.splitlines())) <= 40
    assert "a-rather-long-name-of-a-project" in outcome.out or words == ("--help",)


def on_terminal(
    columns: int, *arguments: str, cwd: Path, environ: Mapping[str, str] | None = None
) -> list[str]:
    """Return the lines that buildrun writes to a terminal."""
    left_out = ("COLUMNS", "CI", "NO_COLOR")
    variables = {name: value for name, value in os.environ.items() if name not in left_out}
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    child = subprocess.Popen(
        (sys.executable, "-m", "buildrun", *arguments),
        stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, cwd=cwd,
        env={**variables, "TERM": "xterm", "BUILDRUN_ENV_MANAGER": "local", **(environ or {})},
    )  # fmt: skip
    os.close(writer)
    parts: list[bytes] = []
    thread = threading.Thread(target=_read, args=(reader, parts))
    thread.start()
    child.wait(LIMIT)
    thread.join()
    os.close(reader)
    return b"".join(parts).decode().replace("\r\n", "\n").splitlines()


def _read(descriptor: int, parts: list[bytes]) -> None:
    try:
        while part := os.read(descriptor, 4096):
            parts.append(part)
    except OSError:
        pass  # the terminal's other end is closed


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]


@pytest.fixture
def steps(project: Project, buildrun: Buildrun) -> Path:
    directory = project(STEPS)
    assert buildrun(directory, "--env-manager", "local").code == 3
    return directory


def test_terminal_tells_its_width(steps: Path) -> None:
    shown = plain(on_terminal(40, "runs", "ls", cwd=steps))
    assert len(shown) == 3
    assert max(map(len, shown)) <= 40


@pytest.mark.parametrize("words", [("plan", "."), ("runs", "show"), ("validate",), ("-e", "mian")])
def test_only_paths_are_longer_than_a_narrow_terminal(words: tuple[str, ...], steps: Path) -> None:
    (steps / "MLproject").write_text(STEPS.replace("echo done", "'echo {one-that-is-unknown}'"))
    if words == ("plan", "."):
        (steps / "MLproject").write_text(STEPS)
    shown = plain(on_terminal(40, *words, cwd=steps))
    assert len(shown) > 1
    assert all(len(line) <= 40 or len(line.split()) == 1 for line in shown)


def test_states_stand_below_each_other_and_have_their_colours(steps: Path) -> None:
    green, red, yellow = ("\x1b[32m", "\x1b[31m", "\x1b[33m")
    shown = on_terminal(100, "runs", "show", cwd=steps)
    steps_shown = [line.replace("\x1b[0m", "") for line in shown if "\x1b[1m" in line]
    assert [line.partition(",")[0] for line in steps_shown] == [
        f"  \x1b[1mprepare:        {green}ok",
        f"  \x1b[1mcheck-the-data: {red}failed",
        f"  \x1b[1mmain:           {yellow}skipped",
    ]
    assert f"{red}failed\x1b[0m   " in on_terminal(100, "runs", "ls", cwd=steps)[0]
    planned = "\n".join(on_terminal(100, "plan", ".", cwd=steps))
    assert f"\x1b[1mprepare\x1b[0m:        {green}up-to-date\x1b[0m" in planned
    summary = on_terminal(100, ".", cwd=steps)[-1]
    assert f"{green}1 up to date\x1b[0m, {red}1 failed\x1b[0m, {yellow}1 skipped\x1b[0m" in summary


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_words_say_what_colours_say(steps: Path, environ: dict[str, str]) -> None:
    words = ("runs", "show")
    shown = on_terminal(100, *words, cwd=steps, environ=environ)
    assert shown == plain(on_terminal(100, *words, cwd=steps))
    assert not any("\x1b" in line for line in shown)


def test_live_line_stays_on_one_line() -> None:
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 20, 0, 0))
    with open(writer, "w") as stream:
        Console({"TERM": "xterm"}, stream=stream).progress("[1/5] a-step-with-a-long-name 12 s")
        assert os.read(reader, 4096) == b"\r\x1b[2K[1/5] a-step-with-a"
    os.close(reader)


def test_programs_read_whole_lines(steps: Path, buildrun: Buildrun) -> None:
    shown = buildrun("runs", "show", cwd=steps, environ={"COLUMNS": "40"}).out
    assert "\n  prepare: ok, " in shown
    assert "\x1b" not in shown
