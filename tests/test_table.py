"""Tables fit what shows them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from conftest import Buildrun, Project

from buildrun.commands.table import fitted

ROW = ("80b9660786e3", "2026-11-28 23:48:25", "ok       ", "    1.5 s", "hello", "main")


def test_row_stays_whole_where_it_fits() -> None:
    whole = "80b9660786e3  2026-11-28 23:48:25  ok             1.5 s  hello  main"
    assert fitted(ROW, None) == fitted(ROW, 80) == whole


def test_narrow_row_keeps_cells_whole() -> None:
    assert fitted(ROW, 40) == "80b9660786e3  2026-11-28 23:48:25  ok\n  1.5 s  hello  main"
    assert fitted(("x" * 15, "b"), 10) == "x" * 10 + "\n  " + "x" * 5 + "  b"


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


def test_terminal_tells_its_width(buildrun: Buildrun, project: Project) -> None:
    directory = project("entry_points: {main: {command: 'true'}}\n")
    assert buildrun("run", directory, "--env-manager", "local").code == 0
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 40, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = (sys.executable, "-m", "buildrun", "runs", "ls")
    subprocess.run(command, stdout=writer, env=environ, check=True)
    os.close(writer)
    shown = os.read(reader, 4096).decode().split("\r\n")
    os.close(reader)
    assert len(shown) == 3
    assert max(map(len, shown)) <= 40
