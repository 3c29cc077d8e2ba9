"""A project with outputs, results of it, and processes that are killed at every step."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from buildrun.store import digest
from buildrun.store.action_cache import save
from buildrun.store.home import Home
from buildrun.store.manifest import Manifest
from buildrun.workspace.fingerprints import Fingerprints
from buildrun.workspace.select import FileSet

DECLARED = ("deep/model.pkl", "metrics/")

# What changes the disk.
_STEPS = frozenset(
    {
        "open", "write", "rename", "replace", "mkdir", "rmdir", "unlink", "remove", "symlink",
        "chmod", "fchmod", "utime",
    }
)  # fmt: skip


@pytest.fixture(name="home")
def a_home(store: Path) -> Home:
    return Home(str(store))


@pytest.fixture(name="root")
def a_root(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture(name="manifest")
def a_manifest(home: Home, root: Path) -> Manifest:
    """Store outputs, which are still there."""
    write_outputs(root, "new")
    return store_outputs(home, root)


def write_outputs(root: Path, text: str) -> None:
    """Write one of everything that an output can be."""
    (root / "deep").mkdir(parents=True, exist_ok=True)
    (root / "deep" / "model.pkl").write_text(f"model {text}")
    metrics = root / "metrics"
    (metrics / "by day").mkdir(parents=True, exist_ok=True)
    (metrics / f"empty {text}").mkdir()
    (metrics / "by day" / f"{text}.csv").write_text(text)
    (metrics / "plot").write_text(f"#!/bin/sh\necho {text}\n")
    (metrics / "plot").chmod(0o755)
    (metrics / f"latest-{text}").symlink_to(f"by day/{text}.csv")
    with open(os.fsencode(metrics) + b"/hostile\n\xff\x01", "w") as file:
        file.write(text)


def renew(root: Path, text: str | None) -> None:
    """Make the outputs anew, and nothing but them."""
    for name in ("deep", "metrics"):
        shutil.rmtree(root / name, ignore_errors=True)
    if text is not None:
        write_outputs(root, text)


def look(path: Path) -> Any:
    """Return all that a path is: nothing, a file, a link, or a directory with what is in it."""
    if path.is_symlink():
        return ("link", os.readlink(path))
    if path.is_dir():
        return {name: look(path / name) for name in os.listdir(path)}
    if path.exists():
        return (path.read_bytes(), bool(path.stat().st_mode & 0o100))
    return None


def outputs_of(root: Path) -> dict[str, Any]:
    """Return what the declared outputs are on disk."""
    return {path: look(root / path) for path in DECLARED}


def take(root: Path, declared: tuple[str, ...] = DECLARED) -> FileSet:
    """Return what the outputs are, as a run sees them."""
    return Fingerprints(str(root), None).outputs(declared)


def manifest_of(
    taken: FileSet, declared: tuple[str, ...] = DECLARED, parts: Any = None
) -> Manifest:
    """Return a manifest whose log is not known yet."""
    parts = {"command": "make"} if parts is None else parts
    nothing = digest.content(b"")
    return Manifest(
        key=digest.key("result", parts),
        parts=parts,
        project="project",
        step="train",
        entry_point="train",
        inputs=nothing,
        outputs=taken.digest,
        declared=declared,
        log=nothing,
        streams=((1, 4),),
        seconds=1.5,
        created=1_700_000_000.0,
        producer="1",
        details={},
    )


def store_outputs(
    home: Home, root: Path, declared: tuple[str, ...] = DECLARED, parts: Any = None
) -> Manifest:
    """Store what is on disk as a result."""
    log = root.with_name(f"{root.name}.log")
    log.write_text("log\n")
    taken = take(root, declared)
    manifest = manifest_of(taken, declared, parts)
    return save(home, str(root), manifest, taken, None, str(log))


def leftovers(root: Path) -> list[str]:
    """Return what of ours is left in a project."""
    return [str(path) for path in root.rglob(".buildrun-*")]


def killed_at_each_step(work: Callable[[], object]) -> Iterator[int]:
    """Do the work in a process that is killed at its first step, its second one, and so on.

    Gives the number each time, for the caller to look at what is left and to begin anew; ends
    when the work was done to its end.
    """
    for number in itertools.count():
        child = os.fork()
        if child == 0:
            _work_until(number, work)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the work failed by itself"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield number


def in_child(work: Callable[[], object]) -> int:
    """Do the work in a process of its own and return its exit code."""
    child = in_background(lambda _: work(), None)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_background(work: Callable[[Any], object], subject: Any) -> int:
    """Begin the work in a process of its own and return its id."""
    child = os.fork()
    if child == 0:
        _work_until(-1, lambda: work(subject))
    return child


def _work_until(number: int, work: Callable[[], object]) -> None:
    left = number

    def count(_: FrameType, event: str, called: Any) -> None:
        nonlocal left
        if event != "c_call" or called.__name__ not in _STEPS:
            return
        if getattr(called, "__module__", None) == "posix":
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

    code = 1
    try:
        if number >= 0:
            sys.setprofile(count)
        work()
        sys.setprofile(None)
        code = 0
    except BaseException as error:
        sys.setprofile(None)
        os.write(2, f"{type(error).__name__}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(code)
