"""Commands that read files in ways that are easily overlooked, or that only look as if they did."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Project
from needs import missing
from step_helpers import PAUSE, Gate, Ran, Run, a_gate, a_run

from buildrun.sandbox import landlock, tracer

__all__ = ["a_gate", "a_run"]

CHECK = "--check-inputs"

MLPROJECT = """\
name: attacks
entry_points:
  main:
    inputs: [prog.py, "data/a.txt"]
    outputs: [out/]
    command: "mkdir -p out; python prog.py > out/log"
"""

# Reads `secret.cfg`, and tells its content.
HIDDEN = {
    "a link in a directory of the system": """
link = os.path.join(scratch, "link")
os.symlink(os.path.abspath("secret.cfg"), link)
print(open(link).read())
""",
    "a link to the project, made where one was looked for": """
work = os.path.join(scratch, "work")
print(os.path.exists(work + "/secret.cfg"))
os.symlink(os.getcwd(), work)
print(open(work + "/secret.cfg").read())
""",
    "a link to a directory, replaced": """
work = os.path.join(scratch, "work")
os.symlink(os.path.abspath("data"), work)
print(os.path.exists(work + "/secret.cfg"))
os.unlink(work)
os.symlink(os.getcwd(), work)
print(open(work + "/secret.cfg").read())
""",
    "a descriptor opened again": """
held = os.open("secret.cfg", os.O_PATH)
print(open(f"/proc/self/fd/{held}").read())
""",
    "a descriptor opened again by another process": """
held = os.open("secret.cfg", os.O_PATH)
subprocess.run(["cat", f"/proc/{os.getpid()}/fd/{held}"], check=True)
""",
    "a descriptor opened again by /dev/fd": """
held = os.open("secret.cfg", os.O_PATH)
print(open(f"/dev/fd/{held}").read())
""",
    "a descriptor given a name": """
held = os.open("secret.cfg", os.O_PATH)
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs("out", exist_ok=True)
assert libc.linkat(-100, b"/proc/self/fd/%d" % held, -100, b"out/x", 0x400) == 0
print(open("out/x").read())
""",
    "the working directory by /proc, after a change of it": """
home = os.getcwd()
os.chdir("data")
print(open("/proc/self/cwd/a.txt").read())
os.chdir(home)
print(open("/proc/self/cwd/secret.cfg").read())
""",
    "the working directory by a path with more signs": """
home = os.getcwd()
os.chdir("sub")
print(open("//proc/./self/cwd/deep.cfg").read())
""",
    "the working directory by a link to /proc": """
os.symlink("/proc/self/cwd", os.path.join(scratch, "here"))
os.chdir("sub")
print(open(os.path.join(scratch, "here", "deep.cfg")).read())
""",
    "the root by /proc": """
print(open("/proc/self/root" + os.path.abspath("secret.cfg")).read())
""",
    "two files exchanged": """
os.makedirs("out", exist_ok=True)
open("out/mine", "w").close()
libc = ctypes.CDLL(None, use_errno=True)
def exchange():
    assert libc.renameat2(-100, b"out/mine", -100, b"secret.cfg", 2) == 0
exchange()
print(open("out/mine").read())
exchange()
""",
    "a directory moved to the outputs and back": """
os.rename("data", "out/data")
print(open("out/data/secret.cfg").read())
os.rename("out/data", "data")
""",
    "a name that could not be given": """
open("mine", "w").close()
try:
    os.link("mine", "secret.cfg")
except FileExistsError:
    print(open("secret.cfg").read())
os.unlink("mine")
""",
    "a directory that could not be replaced": """
os.makedirs("out/new/sub")
try:
    os.rename("out/new", "data")
except OSError:
    print(open("data/secret.cfg").read())
""",
    "a file that could not be moved to another file system": """
made = tempfile.mkstemp(dir="/dev/shm")[1]
try:
    os.rename(made, "secret.cfg")
except OSError:
    print(open("secret.cfg").read())
os.unlink(made)
""",
    "a file that could not be made": """
try:
    os.open("secret.cfg", os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_RDWR)
except FileExistsError:
    print(open("secret.cfg").read())
""",
    "an interpreter": """
import stat
os.makedirs("out", exist_ok=True)
with open("out/script", "w") as file:
    file.write("#!" + os.path.abspath("secret.sh") + "\\n")
os.chmod("out/script", 0o755)
subprocess.run(["out/script"], check=True)
""",
    "a directory that openat2 takes for the root": """
here = os.open(".", os.O_RDONLY)
how = struct.pack("=QQQ", 0, 0, 0x10)
libc = ctypes.CDLL(None, use_errno=True)
got = libc.syscall(437, here, b"/secret.cfg", how, len(how))
assert got >= 0, ctypes.get_errno()
print(os.read(got, 100))
""",
    "a working directory that is gone": """
os.mkdir("out/d")
os.chdir("out/d")
os.rmdir("../d")
print(open("../../secret.cfg").read())
""",
    "a program in the project on the path": """
subprocess.run(["tool"], check=True)
""",
    "a path longer than any": """
home = os.getcwd()
for _ in range(30):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.symlink(home, "l")
print(open("l/secret.cfg").read())
os.unlink("l")
""",
}

START = """\
import ctypes, os, struct, subprocess, sys, tempfile
scratch = tempfile.mkdtemp(dir=os.environ["SCRATCH"])
"""


@pytest.fixture
def directory(project: Project) -> Path:
    if why := tracer.unavailable():
        missing(why)
    made = project(MLPROJECT)
    for name in ("secret.cfg", "data/a.txt", "data/secret.cfg", "sub/deep.cfg"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text(f"content of {name}\n")
    for name in ("secret.sh", "bin/tool"):
        (made / name).parent.mkdir(exist_ok=True)
        (made / name).write_text("#!/bin/sh\necho told\n")
        (made / name).chmod(0o755)
    return made


def start(directory: Path, program: str, run: Run, *arguments: str) -> Ran:
    """Run a program; what lies in its XDG_CACHE_HOME is of no interest."""
    (directory / "prog.py").write_text(START + program)
    cache = directory.parent / "cache"
    cache.mkdir(exist_ok=True)
    environ = {"XDG_CACHE_HOME": str(cache), "SCRATCH": str(cache)}
    environ["PATH"] = f"{directory}/bin{os.pathsep}{os.environ['PATH']}"
    return run(directory, *(arguments or (CHECK,)), environ=environ)


@pytest.mark.parametrize("name", HIDDEN)
def test_a_file_that_is_read_in_a_way_that_is_easily_overlooked(
    name: str, directory: Path, run: Run
) -> None:
    ran = start(directory, HIDDEN[name], run)
    [step] = ran.report["steps"]
    assert step["state"] == "ok", ran.err
    assert step["assurance"] in (None, "declared"), (ran.err, step)


def conditions(directory: Path, run: Run, command: str, *arguments: str) -> Ran:
    """Run a step of one command, which has `in.txt` for its input."""
    (directory / "MLproject").write_text(
        "name: lookups\n"
        "entry_points:\n"
        "  main:\n"
        "    inputs: [in.txt]\n"
        "    outputs: [out.txt]\n"
        "    retries: 1\n"
        f"    command: {json.dumps(command)}\n"
    )
    (directory / "in.txt").write_text("in\n")
    return run(directory, *arguments)


def test_a_directory_that_is_entered_if_it_is_there_is_a_condition(
    directory: Path, run: Run
) -> None:
    enter = "import os; os.chdir('sub2')"
    command = f'python3 -c "{enter}" > out.txt 2>&1; true'
    assert conditions(directory, run, command, CHECK).states == {"main": "ok"}
    assert conditions(directory, run, command).states == {"main": "up-to-date"}
    (directory / "sub2").mkdir()
    assert conditions(directory, run, command).states == {"main": "ok"}


def test_a_name_that_others_add_after_a_listing_is_seen(
    directory: Path, run: Run, gate: Gate
) -> None:
    names = directory / "conf.d"
    names.mkdir()
    command = "ls conf.d > out.txt; " + PAUSE.format("listed")

    def watched(*words: str | Path) -> Ran:
        return run(*words, environ=gate.environ)

    def add() -> None:
        gate.wait()
        (names / "late").write_text("late\n")
        gate.open()

    with ThreadPoolExecutor() as others:
        added = others.submit(add)
        assert conditions(directory, watched, command, CHECK).states == {"main": "ok"}
        added.result()
    gate.open()
    assert conditions(directory, watched, command).states == {"main": "ok"}
    assert (directory / "out.txt").read_text() == "late\n"


def test_what_a_first_try_has_read_counts_for_the_second(directory: Path, run: Run) -> None:
    cache = directory.parent / "cache"
    cache.mkdir()
    command = f"test -e {cache}/x && cp {cache}/x out.txt || (cp secret.cfg {cache}/x; exit 1)"
    ran = conditions(
        directory,
        lambda *words: run(*words, environ={"XDG_CACHE_HOME": str(cache)}),
        command,
        CHECK,
    )
    assert ran.states == {"main": "ok"}
    assert "read `secret.cfg`" in ran.err


def test_a_file_that_is_looked_for_and_comes_is_told_of_also_without_being_asked(
    directory: Path, run: Run
) -> None:
    command = "cat in.txt override.cfg > out.txt 2> /dev/null; true"
    assert conditions(directory, run, command, CHECK).states == {"main": "ok"}
    (directory / "override.cfg").write_text("over\n")
    changed = conditions(directory, run, command)
    assert "read `override.cfg`" in changed.err
    (directory / "override.cfg").unlink()
    conditions(directory, run, command)
    assert (directory / "out.txt").read_text() == "in\n"


# Each prints `kept out` where it has been kept from `secret.cfg` in a sandbox.
ESCAPES = {
    "by a name that could not be given": """
open("out/mine", "w").close()
try:
    os.link("out/mine", "secret.cfg")
except FileExistsError:
    pass
""",
    "by an exchange that could not be done": """
open("out/mine", "w").close()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.renameat2(-100, b"out/mine", -100, b"secret.cfg", 1) != 0
""",
    "by a file that could not be made": """
try:
    os.open("secret.cfg", os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_RDWR)
except FileExistsError:
    pass
""",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_a_sandbox_is_not_left_by_what_fails(name: str, directory: Path, run: Run) -> None:
    need_landlock()
    ran = start(directory, ESCAPES[name] + 'print(open("secret.cfg").read())', run, "--sandbox")
    assert ran.states == {"main": "failed"}
    assert "PermissionError" in ran.err


def test_a_pipe_made_in_a_sandbox_can_be_opened_at_both_ends(directory: Path, run: Run) -> None:
    need_landlock()
    program = """
os.mkfifo("out/pipe")
reader = subprocess.Popen(["cat", "out/pipe"], stdout=subprocess.PIPE)
open("out/pipe", "w").write("through")
assert reader.communicate()[0] == b"through"
os.unlink("out/pipe")
"""
    assert start(directory, program, run, "--sandbox").states == {"main": "ok"}


def test_a_program_without_free_descriptors_is_told_so_in_a_sandbox(
    directory: Path, run: Run
) -> None:
    need_landlock()
    program = """
import errno, resource
open("out/mine", "w").close()
held = []
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    while True:
        held.append(open("out/mine"))
except OSError as error:
    assert error.errno == errno.EMFILE, error
del held
print(open("out/mine").read(), os.listdir("out"))
"""
    assert start(directory, program, run, "--sandbox").states == {"main": "ok"}


@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_PACKET", "AF_VSOCK"])
def test_no_socket_leads_out_of_a_sandbox_without_network(
    family: str, directory: Path, run: Run
) -> None:
    need_landlock()
    file = directory / "MLproject"
    file.write_text(MLPROJECT + "    sandbox: {network: false}\n")
    program = f"""
import socket
try:
    socket.socket(socket.{family}, socket.SOCK_DGRAM)
except PermissionError as error:
    assert error.errno == 13, error
    print("kept out")
else:
    sys.exit("a socket was made")
socket.socketpair()
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
"""
    assert start(directory, program, run).states == {"main": "ok"}
    assert "kept out" in (directory / "out/log").read_text()


def need_landlock() -> None:
    if why := landlock.unavailable():
        missing(why)


@pytest.mark.parametrize("option", [CHECK, "--sandbox"])
def test_outputs_behind_a_link_are_outputs(option: str, directory: Path, run: Run) -> None:
    (directory / "real").mkdir()
    (directory / "o").symlink_to("real")
    (directory / "MLproject").write_text(
        "name: link\nentry_points:\n  main:\n    inputs: [data/a.txt]\n    outputs: [o/d/]\n"
        "    command: 'mkdir o/d; cp data/a.txt o/d/x; cat o/d/x; ls o/d'\n"
    )
    ran = run(directory, option)
    assert ran.states == {"main": "ok"}
    assert "warning" not in ran.err


def test_outputs_of_others_that_come_after_a_listing_are_no_condition(
    directory: Path, run: Run, gate: Gate
) -> None:
    (directory / "MLproject").write_text(
        "name: listed\nentry_points:\n"
        "  lists:\n    inputs: ['*.txt']\n    outputs: [names]\n"
        "    command: 'ls > names; echo > $UP; read _ < $GO'\n"
        "  other:\n    inputs: [in.txt]\n    outputs: [late/other]\n"
        "    command: 'read _ < $UP; mkdir late; touch late/other; echo > $GO'\n"
        "  main:\n    depends_on: [lists, other]\n    inputs: [in.txt]\n    outputs: [main.out]\n"
        "    command: 'touch main.out'\n"
    )
    (directory / "in.txt").write_text("in\n")
    first = run(directory, CHECK, "-j", "2", environ=gate.environ)
    assert set(first.states.values()) == {"ok"}, first.err
    assert set(run(directory, CHECK).states.values()) == {"up-to-date"}


@pytest.mark.parametrize("option", [CHECK, "--sandbox"])
def test_a_file_that_the_caller_has_opened_is_read(option: str, directory: Path, run: Run) -> None:
    held = os.open(directory / "secret.cfg", os.O_RDONLY)
    os.set_inheritable(held, True)
    try:
        ran = start(directory, f"print(os.read({held}, 100))", run, option)
    finally:
        os.close(held)
    assert "`secret.cfg`, which `inputs` does not name" in ran.err
