"""Commands in a sandbox get what they declare and nothing else, and are told what they lacked."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from conftest import Outcome
from executor_helpers import wait_until
from honest_programs import HONEST, SCIENCE
from planted_programs import PLANTED
from processes import state_of
from step_helpers import PAUSE, Gate, Start, a_gate, a_start
from watch_helpers import Step, Watched, a_watched, need_sandbox, science

__all__ = ["a_gate", "a_start", "a_watched", "science"]

SANDBOX = "--sandbox"
KEPT = "[main] the sandbox has kept the command from "


@pytest.fixture(autouse=True)
def sandbox() -> None:
    need_sandbox()


def declare(directory: Path, key: str) -> None:
    """Add a key to the entry point `main`, which is the last."""
    file = directory / "MLproject"
    file.write_text(f"{file.read_text()}    {key}\n")


def refused(done: Outcome, path: str = "secret.cfg") -> None:
    """Check that a step has failed for want of a file, and tells which."""
    assert done.code != 0, done
    assert f"{KEPT}`{path}`" in done.err, done
    assert "hint: add to `inputs`: " in done.err, done
    assert f"`- {path}`" in done.err, done


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_read_is_refused(name: str, watched: Watched) -> None:
    directory = watched.put(PLANTED[name])
    done = watched.run(directory, SANDBOX)
    assert done.code != 0, done
    assert KEPT in done.err, done
    assert "secret.cfg`" in done.err, done
    assert watched.state(directory) == "miss"
    out = directory / "out.txt"
    assert name == "rename" or not out.exists() or b"secret" not in out.read_bytes()


# A program that a command makes in the project cannot be run there.
@pytest.mark.parametrize("name", [name for name in HONEST if name != "gcc"])
def test_an_honest_step_runs_in_a_sandbox(name: str, watched: Watched) -> None:
    directory = watched.put(HONEST[name])
    done = watched.run(directory, SANDBOX)
    assert (done.code, "warning" in done.err) == (0, False), done
    assert watched.state(directory) == "up-to-date"


@pytest.mark.parametrize("name", SCIENCE)
def test_a_library_runs_in_a_sandbox(name: str, watched: Watched, science: Path) -> None:
    watched.environ["PATH"] = f"{science}/bin:{os.environ['PATH']}"
    done = watched.run(watched.put(Step("python prog.py", {"prog.py": SCIENCE[name]})), SANDBOX)
    assert (done.code, "warning" in done.err) == (0, False), done


def test_the_key_of_an_entry_point_asks_for_it(watched: Watched) -> None:
    directory = watched.put(PLANTED["cat"])
    declare(directory, "sandbox: true")
    done = watched.run(directory, "--quiet")
    refused(done)
    assert "MLproject:6:13: [main] the sandbox" in done.err
    assert "the command needs what it does not declare" not in done.err  # it has failed itself


def test_a_command_that_hides_its_failure_fails(watched: Watched) -> None:
    done = watched.run(watched.put(Step("cat secret.cfg > out.txt 2>&1; true")), SANDBOX)
    refused(done)
    assert "the command needs what it does not declare" in done.err


def test_a_line_that_is_added_as_told_makes_it_run(watched: Watched) -> None:
    directory = watched.put(PLANTED["cat"])
    refused(watched.run(directory, SANDBOX))
    file = directory / "MLproject"
    file.write_text(file.read_text().replace('["a.txt"]', '["a.txt", "secret.cfg"]'))
    assert watched.run(directory, SANDBOX).code == 0
    assert (directory / "out.txt").read_text() == "a\nsecret\n"


UPSTREAM = """\
  first:
    inputs: [a.txt]
    outputs: [first/, one.txt]
    command: mkdir first; cp a.txt first/b; cp a.txt one.txt
"""


def test_outputs_of_steps_before_it_can_be_read(watched: Watched) -> None:
    step = Step("ls first; cat first/b one.txt > out.txt", inputs=["a.txt"], more=UPSTREAM)
    directory = watched.put(step)
    declare(directory, "depends_on: [first]")
    done = watched.run(directory, SANDBOX)
    assert (done.code, "warning" in done.err) == (0, False), done
    assert (directory / "out.txt").read_text() == "a\na\n"


def test_outputs_of_other_steps_cannot_be_read(watched: Watched) -> None:
    files = {"one.txt": "1"}
    done = watched.run(
        watched.put(Step("cat one.txt > out.txt", files, ["a.txt"], more=UPSTREAM)), SANDBOX
    )
    assert done.code != 0
    assert f"{KEPT}`one.txt`, which `first` makes" in done.err, done
    assert "add `- first` to `depends_on`" in done.err


@pytest.mark.parametrize(
    "code",
    [
        "f = open('out.txt', 'w+b'); f.write(b'x'); f.seek(0); assert f.read() == b'x'",
        "f = open('out.txt', 'x+'); f.write('x'); f.seek(0); f.read(); open('out.txt').read()",
        "open('b', 'w').write('x'); os.rename('b', 'out.txt'); open('out.txt').read()",
        "os.makedirs('d/e'); open('d/e/f', 'w').close(); os.rename('d', 'g')\n"
        "import shutil; open('g/e/f').read(); shutil.rmtree('g'); open('out.txt', 'w')",
        "open('out.txt', 'w').write('x'); os.chmod('out.txt', 0o400); open('out.txt').read()",
        "at = os.open('out.txt', os.O_RDWR | os.O_CREAT, 0o600); os.write(at, b'x')\n"
        "assert os.pread(at, 1, 0) == b'x'; assert os.stat('out.txt').st_mode & 0o777 == 0o600",
        "open('b', 'w').write('x'); os.link('b', 'out.txt'); os.remove('b'); open('out.txt')",
        "import tempfile; f = tempfile.TemporaryFile('w+', dir='.'); f.write('x'); f.seek(0)\n"
        "assert f.read() == 'x'; open('out.txt', 'w')",
        "open('out.txt', 'w').write('x'); os.symlink('out.txt', 'l'); open('l').read()\n"
        "os.remove('l')",
        "at = os.open('.', os.O_RDONLY); open('out.txt', 'w').write('x')\n"
        "os.read(os.open('out.txt', os.O_RDONLY, dir_fd=at), 1)",
        "open('out.txt', 'w').close(); import subprocess\n"
        "assert subprocess.check_output(['cat', 'out.txt']) == b''",
    ],
)
def test_what_the_command_makes_it_can_read(code: str, watched: Watched) -> None:
    directory = watched.put(Step("python prog.py", {"prog.py": f"import os\n{code}\n"}))
    done = watched.run(directory, SANDBOX)
    assert (done.code, "warning" in done.err) == (0, False), done


def test_a_declared_file_can_be_read_by_other_names(watched: Watched) -> None:
    step = Step("cp -al data work; cat work/b > out.txt; rm -r work", {"data/b": "b\n"}, ["data"])
    done = watched.run(watched.put(step), SANDBOX)
    assert (done.code, "kept" in done.err) == (0, False), done


@pytest.mark.parametrize(
    "trick",
    [
        "ln secret.cfg out.txt; cat out.txt",
        "ln secret.cfg $TMPDIR/a; cat $TMPDIR/a",
        "mv secret.cfg $TMPDIR/a; cat $TMPDIR/a",
        "mv secret.cfg a.txt; cat a.txt",
        "mv secret.cfg out.txt; cat out.txt",
        "mv sub out.txt; cat out.txt/secret.cfg",
        "ln -s $PWD/secret.cfg $TMPDIR/a; cat $TMPDIR/a",
        "ln -s ../secret.cfg sub/a; cat sub/a",
        "cat /proc/self/cwd/secret.cfg",
        "exec 9<> secret.cfg; cat <&9",
        "cp --reflink=auto secret.cfg out.txt",
        "sh < secret.cfg",
        "tar c . | tar xO",
    ],
)
def test_tricks_with_names_do_not_help(trick: str, watched: Watched) -> None:
    step = Step(f"touch b; {trick} > printed; cat printed", {"sub/secret.cfg": "secret\n"})
    directory = watched.put(step._replace(outputs=("out.txt", "printed")))
    done = watched.run(directory, SANDBOX)
    assert done.code != 0
    assert "`sub`" in done.err if "mv sub" in trick else "secret.cfg`" in done.err, done
    assert "secret" not in done.out
    assert watched.state(directory) == "miss"


def test_a_declared_script_can_be_run_and_another_cannot(watched: Watched) -> None:
    tool = {"tool.sh": "#!/bin/sh\ncp a.txt out.txt\n", "secret-tool": "#!/bin/sh\n"}
    directory = watched.put(Step("./tool.sh", tool))
    assert watched.run(directory, SANDBOX).code == 0
    declare(directory, "env: {A: b}")
    text = (directory / "MLproject").read_text()
    (directory / "MLproject").write_text(text.replace('"./tool.sh"', '"./tool.sh; ./secret-tool"'))
    refused(watched.run(directory, SANDBOX), "secret-tool")


@pytest.mark.parametrize("place", ["$TMPDIR", "."])
def test_a_program_that_is_made_can_be_run_where_it_is_temporary(
    place: str, watched: Watched
) -> None:
    make = f"echo cp a.txt out.txt > {place}/tool; chmod +x {place}/tool; {place}/tool"
    done = watched.run(
        watched.put(Step(make, outputs=("tool", "out.txt")[place != "." :])), SANDBOX
    )
    if place == ".":
        assert done.code == 126
        assert "kept the command from running a program that it has made itself" in done.err, done
        assert "make it below `$TMPDIR`, or in a step of its own" in done.err
    else:
        assert (done.code, "warning" in done.err) == (0, False), done


def test_directories_can_be_listed(watched: Watched) -> None:
    directory = watched.put(Step("ls -R . > $TMPDIR/all; cp a.txt out.txt"))
    done = watched.run(directory, SANDBOX)
    assert done.code == 0, done
    assert "listed the directory `.`, in which `secret.cfg` is no input" in done.err


def test_nothing_of_the_home_can_be_read_but_what_is_allowed(watched: Watched) -> None:
    home = Path(watched.environ["HOME"])
    (home / ".netrc").write_text("machine a\n")
    directory = watched.put(Step("cat $HOME/.netrc > out.txt"))
    done = watched.run(directory, SANDBOX)
    assert done.code != 0
    assert f"{KEPT}`{home}/.netrc`, out of the project" in done.err, done
    assert "list it under `allow` of `sandbox`" in done.err
    declare(directory, "sandbox: {allow: [~/.netrc]}")
    allowed = watched.run(directory, "--quiet")
    assert (allowed.code, "kept" in allowed.err) == (0, False), allowed
    assert (directory / "out.txt").read_text() == "machine a\n"


def test_a_program_that_can_do_without_its_user_s_files_goes_on(watched: Watched) -> None:
    (Path(watched.environ["HOME"]) / ".toolrc").write_text("x\n")
    done = watched.run(watched.put(Step("cat $HOME/.toolrc; cp a.txt out.txt")), SANDBOX)
    assert done.code == 0, done
    assert ".toolrc`, out of the project" in done.err


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_DGRAM"])
def test_the_network_is_refused_where_a_step_does_without(kind: str, watched: Watched) -> None:
    code = (
        "import socket, sys\n"
        f"with socket.socket(socket.AF_INET, socket.{kind}) as one:\n"
        "    one.connect(('127.0.0.1', int(sys.argv[1]))); one.send(b'x')\n"
        "open('out.txt', 'w')\n"
    )
    with socket.socket(socket.AF_INET, getattr(socket, kind)) as server:
        server.bind(("127.0.0.1", 0))
        if kind == "SOCK_STREAM":
            server.listen()
        port = server.getsockname()[1]
        directory = watched.put(Step(f"python prog.py {port}", {"prog.py": code}))
        assert watched.run(directory, SANDBOX).code == 0
        declare(directory, "sandbox: {network: false}\n    env: {A: b}")
        done = watched.run(directory, "--quiet")
    assert done.code != 0, done
    assert "tried to use the network, which its sandbox does not have" in done.err
    assert "leave `network: false` out of `sandbox`" in done.err


def test_local_sockets_remain_without_a_network(watched: Watched) -> None:
    code = "import socket; socket.socketpair(); socket.socket(socket.AF_UNIX)\nopen('out.txt', 'w')"
    directory = watched.put(Step("python prog.py", {"prog.py": code}))
    declare(directory, "sandbox: {network: false}")
    done = watched.run(directory, "--quiet")
    assert (done.code, done.err) == (0, "")


def test_keys_do_not_change_by_it(watched: Watched) -> None:
    directory = watched.put(Step("cp a.txt out.txt"))
    keys = [watched.plan(directory)["cache"]["key"]]
    for line in ("check_inputs: true", "sandbox: true"):
        declare(directory, line)
        keys.append(watched.plan(directory)["cache"]["key"])
    assert len(set(keys)) == 1
    assert keys[0]


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("--check-inputs", "only Python programs were watched: buildrun is watched itself"),
        (SANDBOX, "there is none: buildrun is watched itself"),
    ],
)
def test_a_watched_step_cannot_watch_others_and_says_so(
    option: str, told: str, watched: Watched
) -> None:
    inner = watched.put(Step("cp a.txt out.txt"), "inner")
    words = f"{sys.executable} -m buildrun run {inner} --env-manager local {option}"
    command = f"{words}; cp a.txt out.txt"
    done = watched.run(watched.put(Step(command)))
    assert done.code == 0
    assert told in done.err, done


@pytest.mark.parametrize("option", ["--check-inputs", SANDBOX])
def test_many_short_processes_are_watched(option: str, watched: Watched) -> None:
    each = "for i in $(seq 100); do cat a.txt >> out.txt; done"
    directory = watched.put(Step(each))
    done = watched.run(directory, option)
    assert (done.code, "warning" in done.err) == (0, False), done
    assert (directory / "out.txt").read_text() == 100 * "a\n"


def held(watched: Watched, key: str, gate: Gate) -> Path:
    """Return a project whose command tells its number and waits at the gate."""
    directory = watched.put(Step(f"{PAUSE.format('$$')} && cp a.txt out.txt"))
    pipes = Path(gate.environ["GO"]).parent
    declare(directory, f"{key}: {'true' if key != 'sandbox' else f'{{allow: [{pipes}]}}'}")
    return directory


@pytest.mark.parametrize("option", ["check_inputs", "sandbox"])
def test_a_killed_run_leaves_nothing_that_hangs(
    option: str, watched: Watched, start: Start, gate: Gate
) -> None:
    live = start(held(watched, option, gate), "--quiet")
    pid = int(gate.wait())
    live.kill()
    gate.open()
    wait_until(lambda: state_of(pid) in ("", "Z"))
    assert state_of(pid) in ("", "Z")


@pytest.mark.parametrize("option", ["check_inputs", "sandbox"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_watched_command(
    number: int, option: str, watched: Watched, start: Start, gate: Gate
) -> None:
    live = start(held(watched, option, gate), "--quiet")
    pid = int(gate.wait())
    live.send(number)
    ran = live.wait()
    assert ran.states == {"main": "cancelled"}
    assert state_of(pid) == ""
