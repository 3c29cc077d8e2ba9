"""What every test starts from: a store and a home of its own, and a way to call buildrun."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import command_line
import pytest

REPOSITORY = Path(__file__).parent.parent

Outcome = command_line.Outcome

# A shell has what runs in its background ignore Ctrl-C, `nohup` has it ignore SIGHUP, and every
# process here would inherit that.
for _number, _handler in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)

# The projects of the tests call `python`, which a bare Debian does not have; ours will do there.
if shutil.which("python") is None:
    os.environ["PATH"] = os.pathsep.join((os.path.dirname(sys.executable), os.environ["PATH"]))


@pytest.fixture(autouse=True)
def store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give each test an empty store, so that none can touch the user's."""
    directory = tmp_path_factory.mktemp("store")
    monkeypatch.setenv("BUILDRUN_HOME", str(directory))
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "GITHUB_", "GITLAB_"))]:
        monkeypatch.delenv(name)
    return directory


Buildrun = Callable[..., Outcome]


@pytest.fixture
def buildrun(tmp_path: Path) -> Buildrun:
    """Return a function that calls the command line in a child of this process."""

    def call(
        *arguments: str | os.PathLike[str],
        cwd: Path = tmp_path,
        environ: Mapping[str, str | None] | None = None,
        stdin: str = "",
    ) -> Outcome:
        changed = {**os.environ, **(environ or {})}
        variables = {name: value for name, value in changed.items() if value is not None}
        return command_line.call(arguments, cwd, variables, stdin)

    return call


Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a function that writes a project's files and returns its directory."""

    def write(mlproject: str | None = None, name: str = "project", **files: str) -> Path:
        directory = tmp_path / name
        directory.mkdir(exist_ok=True)
        if mlproject is not None:
            (directory / "MLproject").write_text(mlproject)
        for file, text in files.items():
            (directory / file.replace("__", ".")).write_text(text)
        return directory

    return write
