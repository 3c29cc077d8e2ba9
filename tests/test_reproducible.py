"""The same commit gives the same keys, environments, images and outputs, whoever builds it.

Two people clone it: at other paths, on other days, as other users where that may be, with another
umask, locale, time zone and home.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from docker_helpers import BASE, an_engine, docker, remove_images  # noqa: F401
from needs import need_program
from source_helpers import Repository, plain_git  # noqa: F401
from wheels import write_wheel

MLPROJECT = """\
name: shop
python_env: python_env.yaml
entry_points:
  prepare:
    inputs: [raw/, "*.py"]
    outputs: [clean/]
    command: python prepare.py
  main:
    parameters: {data: {type: path, default: raw/extra.csv}}
    depends_on: [prepare]
    outputs: [model.bin]
    command: python train.py {data}
"""
PREPARE = """\
import json, os, subprocess
os.makedirs("clean/deep", exist_ok=True)
names = sorted(os.listdir("raw"))
with open("clean/names.json", "w") as file:
    json.dump(names, file)
with open("clean/deep/run.sh", "w") as file:
    file.write("#!/bin/sh\\n")
os.chmod("clean/deep/run.sh", 0o755)
os.symlink("names.json", "clean/latest")
"""
TRAIN = """\
import alpha, sys
with open("model.bin", "wb") as file:
    for path in ("clean/names.json", sys.argv[1]):
        file.write(open(path, "rb").read())
    file.write(alpha.VERSION.encode())
"""

FORMATS = ("pylock", "requirements", "cyclonedx")

# Of nobody else.
_USER = "54321"
_AS_OTHER = ("setpriv", f"--reuid={_USER}", f"--regid={_USER}", "--clear-groups")


class Person(NamedTuple):
    """Somebody with a clone, and the words that make a command theirs."""

    clone: Path
    words: tuple[str | Path, ...]
    environ: dict[str, str]

    def call(self, *arguments: str | Path) -> str:
        """Return what buildrun writes in the clone."""
        done = subprocess.run(
            (*self.words, sys.executable, "-m", "buildrun", *arguments),
            cwd=self.clone,
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def as_root(self) -> Person:
        """Return them with the rights of whoever runs the tests."""
        return self._replace(words=tuple(word for word in self.words if word not in _AS_OTHER))

    def keys(self) -> dict[str, Any]:
        """Return the keys of steps and of their environments."""
        steps = json.loads(self.call("plan", ".", "--format=json"))["steps"]
        return {step["id"]: (step["cache"]["key"], step["environment"]["key"]) for step in steps}

    def outputs(self) -> dict[str, Any]:
        """Return all files that git does not know, with content, right to run and target."""
        found = {}
        for path in sorted(self.clone.rglob("*")):
            name = str(path.relative_to(self.clone))
            if name.startswith(("clean", "model.bin")) and not path.is_dir():
                target = os.readlink(path) if path.is_symlink() else ""
                found[name] = (path.read_bytes(), os.access(path, os.X_OK), target)
        return found


@pytest.fixture
def common(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that every user can enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix=f"{tmp_path.name}-") as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.fixture
def people(common: Path) -> tuple[Person, Person]:
    """Return two people who share a commit and nothing else."""
    need_program("faketime")
    origin = common / "origin"
    write_wheel(origin / "wheels", "alpha", "1.0")
    (origin / "raw").mkdir()
    for name in ("ä.csv", "B.csv", "a b.csv", "extra.csv"):
        (origin / "raw" / name).write_text(name)
    repository = Repository(origin)
    repository.git("init", "-q")
    repository.commit(
        MLproject=MLPROJECT,
        **{
            "prepare.py": PREPARE,
            "train.py": TRAIN,
            "python_env.yaml": "dependencies: [--find-links ./wheels, alpha]\n",
            ".gitignore": "clean/\nmodel.bin\n",
        },
    )
    one = _person(origin, common / "one", "2027-01-31 23:59:58", umask="022")
    two = _person(origin, common / "another place" / "ü", "2031-07-15 04:00:00", umask="077",
        LC_ALL="C", TZ="Pacific/Kiritimati", LANG="tr_TR.UTF-8", USER="other", LOGNAME="other",
        PYTHONHASHSEED="7", COLUMNS="40",
    )  # fmt: skip
    return one, two


def _person(origin: Path, place: Path, day: str, umask: str, **more: str) -> Person:
    """Clone a repository at a place, and return whose it is."""
    place.mkdir(parents=True)
    home, store, clone = (place / name for name in ("home", "store", "clone"))
    for each in (home, store):
        each.mkdir()
    shell = ("sh", "-c", f'umask {umask}; exec "$@"', "sh")
    subprocess.run((*shell, "git", "clone", "-q", origin, clone), check=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "BUILDRUN_HOME": str(store),
        "PIP_NO_INDEX": "1",
        "LC_ALL": "C.UTF-8",
        # What waits would wait by a clock that jumps.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        **more,
    }
    words: tuple[str, ...] = (*shell, "faketime", "-f", f"@{day}")
    as_other = (*_AS_OTHER, *words)
    if more and _may_be_other(as_other):
        subprocess.run(("chown", "-R", f"{_USER}:{_USER}", place), check=True)
        words = as_other
    return Person(clone, words, environ)


def _may_be_other(words: tuple[str, ...]) -> bool:
    """Return whether we may act as another user, who can read what we run."""
    probe = (*words, sys.executable, "-c", "import buildrun")
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def test_keys_environments_and_outputs_are_the_same(people: tuple[Person, Person]) -> None:
    found = []
    for person in people:
        before = person.keys()
        person.call("-q", ".")
        found.append((before, person.keys(), person.outputs()))
    assert found[0] == found[1]
    before, after, outputs = found[0]
    assert before["prepare"] == after["prepare"]
    assert {"clean/deep/run.sh", "clean/latest", "model.bin"} < outputs.keys()


def test_locks_and_what_is_exported_of_them_are_the_same(people: tuple[Person, Person]) -> None:
    found = []
    for person in people:
        person.call("lock", ".")
        exported = [person.call("lock", ".", f"--export={form}") for form in FORMATS]
        found.append((exported, (person.clone / "python_env.lock").read_bytes(), person.keys()))
    assert found[0] == found[1]
    assert "alpha==1.0" in found[0][0][1]


DOCKER = (
    f"name: shop\ndocker_env: {{image: '{BASE}'}}\nentry_points: {{main: {{command: 'true'}}}}\n"
)


@pytest.mark.parametrize("mlproject", [MLPROJECT, DOCKER], ids=["environment", "code"])
@pytest.mark.usefixtures("engine")
def test_derived_images_are_the_same(people: tuple[Person, Person], mlproject: str) -> None:
    config = json.dumps({"docker_base": BASE})
    words = ("build", ".", "-b=docker", "--build-image", "-c", config, "--format=json")
    found = []
    for person in people:
        (person.clone / "MLproject").write_text(mlproject)
        # Another user may not talk to the engine.
        built = json.loads(person.as_root().call(*words))
        assert not built["reused"]
        found.append((built["key"], built["digest"]))
        remove_images(Path(person.environ["BUILDRUN_HOME"]))
    assert found[0] == found[1]
