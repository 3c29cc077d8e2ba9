"""Projects of one step whose command is watched, and what the machine must have for that."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import Buildrun, Outcome
from needs import missing, need_program

from buildrun.sandbox import landlock, tracer

LOCAL = ("--env-manager", "local")
PACKAGES = ("pandas", "scikit-learn", "matplotlib", "pip")

# Programs of steps that a machine may not have.
_PROGRAMS = frozenset({"gcc", "make", "node", "perl"})


@pytest.fixture(scope="session")
def science(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an environment with the packages that programs of data work use."""
    uv, target = Path(sys.executable).parent / "uv", tmp_path_factory.mktemp("science") / "venv"
    for words in (
        ("venv", "--quiet", "--python", sys.executable, target),
        ("pip", "install", "--quiet", "--python", target, *PACKAGES),
    ):
        done = subprocess.run((uv, *words), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            missing(f"{' '.join(PACKAGES)} cannot be installed: {done.stderr}")
    return target


def need_tracer() -> None:
    """Need a kernel that tells of system calls."""
    if why := tracer.unavailable():
        missing(why)


def need_sandbox() -> None:
    """Need a kernel that keeps programs from files, as well."""
    need_tracer()
    if why := landlock.unavailable():
        missing(why)


class Step(NamedTuple):
    """A step to be watched.

    files: that its project holds, by path; a text that begins with ``-> `` makes a link. inputs: as
    declared, None for no such key; "" for all files that are not called ``secret.cfg``.
    """

    command: str
    files: Mapping[str, str] = {}
    inputs: Sequence[str] | str | None = ""
    outputs: Sequence[str] = ("out.txt",)
    more: str = ""

    def write(self, directory: Path) -> Path:
        """Write the project, and return its directory."""
        files = {"a.txt": "a\n", "secret.cfg": "secret\n", **self.files}
        for path, text in files.items():
            place = directory / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                place.symlink_to(text[3:])
            else:
                place.write_text(text)
                place.chmod(0o755)
        inputs = self.inputs
        if inputs == "":
            inputs = [path for path in files if "secret" not in path and path != ".gitignore"]
        keys = {"outputs": list(self.outputs), "command": self.command}
        if inputs is not None:
            keys["inputs"] = list(inputs)
        lines = "".join(f"    {key}: {json.dumps(value)}\n" for key, value in keys.items())
        (directory / "MLproject").write_text(
            f"name: watched\nentry_points:\n{self.more}  main:\n{lines}"
        )
        return directory


class Watched:
    """Runs steps with their inputs checked, or in a sandbox."""

    def __init__(self, buildrun: Buildrun, place: Path) -> None:
        self._buildrun = buildrun
        self.place = place
        self.environ = {"TMPDIR": str(place / "temporary"), "HOME": str(place / "home")}
        for directory in self.environ.values():
            Path(directory).mkdir()

    def put(self, step: Step, name: str = "project") -> Path:
        program = step.command.split()[0]
        if program in _PROGRAMS:
            need_program(program)
        directory = self.place / name
        directory.mkdir()
        return step.write(directory)

    def run(self, directory: Path, *options: str, **environ: str | None) -> Outcome:
        words = ("run", directory, *LOCAL, *(options or ("--check-inputs",)))
        done = self._buildrun(*words, environ={**self.environ, **environ})
        return done._replace(err=" ".join(done.err.split()))

    def plan(self, directory: Path) -> Any:
        """Return what would be done with the step `main`."""
        words = ("plan", directory, *LOCAL, "--format", "json")
        done = self._buildrun(*words, environ=self.environ)
        assert done.code == 0, done
        return next(each for each in done.data["steps"] if each["id"] == "main")

    def state(self, directory: Path) -> str:
        """Return whether there is a result for the step `main`, and where."""
        return str(self.plan(directory)["cache"]["state"])


@pytest.fixture(name="watched")
def a_watched(buildrun: Buildrun, tmp_path: Path) -> Watched:
    """Return what runs steps."""
    need_tracer()
    return Watched(buildrun, tmp_path)
