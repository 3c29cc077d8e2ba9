"""The scripts that set a checkout up, with stand-ins for the system's programs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REPOSITORY, Outcome

# Each is a Python of some machine: bash's case for its first two arguments.
GOOD = """\
*-m?venv*) mkdir -p .venv/bin; cp "$0" .venv/bin/python; cp "$0" .venv/bin/uv;
    cp "$0" .venv/bin/buildrun;;
*_base_executable*) echo "$0";;
"""
OLD = "*version_info*) exit 1;;\n*--version*) echo 'Python 3.8.10';;\n"
WITHOUT_VENV = "*ensurepip*) exit 1;;\n"

Call = Callable[..., Outcome]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    directory = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "scripts", directory / "scripts")
    shutil.copy(REPOSITORY / "pyproject.toml", directory)
    return directory


@pytest.fixture
def call(checkout: Path, tmp_path: Path) -> Call:
    """Return a function that calls a script on a machine with some programs of our own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "cat", "cksum", "cp", "dirname", "env", "mkdir", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)

    def run(script: str, *arguments: str, user: int, **programs: str) -> Outcome:
        for name, cases in {"id": f"*) echo {user};;\n", **programs}.items():
            program = f'#!/usr/bin/env bash\necho "{name} $*" >>"$LOG"\ncase "$*" in\n{cases}esac\n'
            (tools / name.replace("_", "-")).write_text(program)
            (tools / name.replace("_", "-")).chmod(0o755)
        done = subprocess.run(
            (checkout / "scripts" / script, *arguments),
            env={"PATH": str(tools), "LOG": str(tmp_path / "log")},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.mark.parametrize(
    ("python", "fact"),
    [
        (None, "there is no Python"),
        (OLD, "Python 3.10 or newer is needed, and python3 is Python 3.8.10"),
        (WITHOUT_VENV, "python3 has no venv module"),
    ],
)
def test_machine_without_a_fit_python_is_told_what_to_install(
    call: Call, python: str | None, fact: str
) -> None:
    programs = {} if python is None else {"python3": python}
    assert call("demo", user=0, **programs) == Outcome(
        1, "", f"setup: {fact}; install it, and call this again\n"
    )
    assert call("demo", user=1000, apt_get="", **programs) == Outcome(
        1, "", f"setup: {fact}; as root: apt-get install python3 python3-venv ca-certificates\n"
    )


def test_root_gets_python_from_debian(call: Call, tmp_path: Path) -> None:
    installing = f"*install*) cp {tmp_path}/tools/later {tmp_path}/tools/python3;;\n"
    outcome = call("setup", user=0, apt_get=installing, later=GOOD)
    assert outcome.code == 0
    assert "setup: there is no Python; installing python3 python3-venv" in outcome.err
    assert " python3 python3-venv ca-certificates\n" in (tmp_path / "log").read_text()
    assert call("setup", user=0) == Outcome(0, "", "")


@pytest.mark.parametrize(("extra", "installed"), [("", "."), ("dev", ".[dev]")])
def test_setup_installs_what_is_asked_for_and_once(
    call: Call, tmp_path: Path, extra: str, installed: str
) -> None:
    arguments = [extra] if extra else []
    log = tmp_path / "log"
    assert call("setup", *arguments, user=1000, python3=GOOD, git="").code == 0
    assert f"--editable {installed}\n" in log.read_text()
    log.unlink()
    assert call("setup", user=1000) == Outcome(0, "", "")
    assert not log.exists()


def test_python_of_an_active_virtualenv_does_not_make_the_new_one(
    call: Call, tmp_path: Path
) -> None:
    active = f"*_base_executable*) echo {tmp_path}/tools/base;;\n"
    assert call("setup", user=1000, python3=active, base=GOOD).code == 0
    assert "\nbase -m venv .venv\n" in (tmp_path / "log").read_text()


def test_demo_needs_no_more_than_what_the_tests_have(call: Call, tmp_path: Path) -> None:
    assert call("demo", "-P", "alpha=1", user=1000, python3=GOOD).code == 0
    log = (tmp_path / "log").read_text()
    assert "[dev]" not in log
    assert log.endswith("examples/diabetes -P alpha=1\n")


def test_tests_need_git(call: Call) -> None:
    outcome = call("test", user=1000, python3=GOOD, apt_get="")
    assert outcome == Outcome(1, "", "setup: the tests need git; as root: apt-get install git\n")
