"""Pipes, devices and sockets where files are expected: named or passed over, never waited for."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from conftest import Buildrun

LOCAL = "--env-manager=local"
PYTHON = "name: p\npython_env: python_env.yaml\nentry_points: {main: {command: 'true'}}\n"
REQUIRES = "python: '3.11'\nbuild_dependencies: []\ndependencies: [-r requirements.txt]\n"
STEP = "name: p\nentry_points: {main: {inputs: [in], outputs: [out], command: cat in > out}}\n"
PLAIN = "name: p\nentry_points: {main: {outputs: [out], command: echo made > out}}\n"
PATH = "entry_points: {main: {parameters: {f: path}, outputs: [out], command: 'cp {f} out'}}\n"
GIT = {".git/HEAD": "ref: refs/heads/main\n", ".git/objects/x": "", ".git/refs/x": ""}
IGNORING = {**GIT, ".gitignore": "*.log\n", "a.log": "", "below/a": ""}
NOT_A_FILE = "this is a device, pipe or socket, not a file"

# Files, the place of what is no file, the arguments.
REFUSED: dict[str, tuple[dict[str, str], str, tuple[str, ...]]] = {
    "MLproject": ({}, "MLproject", ("run", ".", LOCAL)),
    "environment file": ({"MLproject": PYTHON}, "python_env.yaml", ("build", ".")),
    "requirements": (
        {"MLproject": PYTHON, "python_env.yaml": REQUIRES},
        "requirements.txt",
        ("build", "."),
    ),
    "constraints": (
        {"MLproject": PYTHON, "python_env.yaml": REQUIRES, "requirements.txt": "-c limits.txt\n"},
        "limits.txt",
        ("build", "."),
    ),
    "lock": (
        {"MLproject": PYTHON, "python_env.yaml": REQUIRES, "requirements.txt": ""},
        "python_env.lock",
        ("build", ".", "--locked"),
    ),
    "uv's settings": (
        {"MLproject": PYTHON, "python_env.yaml": REQUIRES, "requirements.txt": ""},
        "uv.toml",
        ("build", "."),
    ),
    "project of uv": (
        {"MLproject": PYTHON, "python_env.yaml": REQUIRES, "requirements.txt": ""},
        "pyproject.toml",
        ("build", "."),
    ),
    "backend config": (
        {"MLproject": STEP, "in": ""},
        "config.json",
        ("run", ".", LOCAL, "-b", "local", "--backend-config", "config.json"),
    ),
    "tar archive": ({}, "project.tar.gz", ("run", "project.tar.gz", LOCAL)),
    "zip archive": ({}, "project.zip", ("run", "project.zip", LOCAL)),
}
PASSED_OVER: dict[str, tuple[dict[str, str], str]] = {
    "ignore file of git": ({"MLproject": PLAIN, **GIT}, ".gitignore"),
    "exclude file of git": ({"MLproject": PLAIN, **GIT}, ".git/info/exclude"),
    "index of git": ({"MLproject": PLAIN, **IGNORING}, ".git/index"),
    "head of git": ({"MLproject": PLAIN, **IGNORING}, ".git/HEAD"),
    "configuration of git": ({"MLproject": PLAIN, **IGNORING}, ".git/config"),
    "second ignore file of git": ({"MLproject": PLAIN, **IGNORING}, "below/.gitignore"),
    "ignore file of buildrun": ({"MLproject": PLAIN}, ".buildrunignore"),
    "journal": ({"MLproject": PLAIN}, ".buildrun-0123456789ab/journal"),
}


def make(directory: Path, files: dict[str, str], place: str, kind: str) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    path = directory / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(os.path.relpath(path))
    return path


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_file_is_named(
    name: str, kind: str, buildrun: Buildrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files, place, arguments = REFUSED[name]
    make(tmp_path, files, place, kind)
    done = buildrun(*arguments)
    assert done.code in (1, 2), done.err
    assert NOT_A_FILE in done.err
    assert place in done.err


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("name", PASSED_OVER)
def test_what_is_no_file_is_passed_over(
    name: str, kind: str, buildrun: Buildrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files, place = PASSED_OVER[name]
    make(tmp_path, files, place, kind)
    done = buildrun("run", ".", LOCAL)
    assert done.code == 0, done.err
    assert (tmp_path / "out").read_text() == "made\n"


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_validate_names_what_is_no_requirements_file(
    kind: str, buildrun: Buildrun, tmp_path: Path
) -> None:
    make(tmp_path, {"MLproject": PYTHON, "python_env.yaml": REQUIRES}, "requirements.txt", kind)
    done = buildrun("validate", "--format", "json")
    assert done.code == 1
    found = [item for file in done.data["files"] for item in file["diagnostics"]]
    assert [item["code"] for item in found] == ["not-a-file"]
    assert (found[0]["line"], found[0]["column"]) == (3, 16)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_path_parameter_that_is_no_file_is_named(
    kind: str, buildrun: Buildrun, tmp_path: Path
) -> None:
    make(tmp_path, {"MLproject": PATH}, "data", kind)
    done = buildrun("plan", ".", LOCAL, "-P", "f=data", "--format", "json")
    assert done.code == 0, done.err
    reasons = json.dumps(done.data["steps"][0]["cache"])
    assert "neither a file nor a directory" in reasons
