"""A commit of a repository elsewhere that ran before, against the same files in a directory."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.case import Claim, Outcome
from benchmarks.process import Failed, tail
from benchmarks.projects import virtualenv_project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = "a second run of a commit from `git://`, 300 files, on this machine"
ROUNDS = 30
NEEDS = ("buildrun",)

_FILES = 300

# Seconds that the daemon may take to start.
_START = 30.0

_DIRECTORY = "`buildrun DIRECTORY`"
_GIT = "`buildrun git://… -v COMMIT`"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    files = {f"data/{number:03}.txt": f"file {number}\n" * 40 for number in range(_FILES)}
    project = bench.write(
        "served/project", {**virtualenv_project("git", platform.python_version(), ()), **files}
    )
    commit = _commit(bench, project)
    with _daemon(bench) as address:
        uri = f"git://{address}/project"
        rows = bench.rounds_of(
            (
                Runner(_DIRECTORY, lambda: _run(bench, project)),
                Runner(_GIT, lambda: _run(bench, uri, "-v", commit)),
            )
        )
    fetched, there = rows[_GIT], rows[_DIRECTORY]
    added = Claim(
        f"{_GIT} beyond {_DIRECTORY}",
        (fetched.median - there.median) * 1000,
        (fetched.minimum - there.minimum) * 1000,
        100,
        "ms",
    )
    return Outcome(rows, (added,))


def _run(bench: Workbench, *words: str) -> Sample:
    return bench.timed(bench.buildrun, *words, cwd=bench.directory)


def _commit(bench: Workbench, project: str) -> str:
    """Make the project a repository, and return its commit."""
    own = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@example.org")
    bench.output("git", "init", "--quiet", cwd=project)
    bench.output("git", "add", ".", cwd=project)
    bench.output("git", *own, "commit", "--quiet", "--message=all", cwd=project)
    return bench.output("git", "rev-parse", "HEAD", cwd=project).strip()


@contextmanager
def _daemon(bench: Workbench) -> Iterator[str]:
    """Serve the repositories, and yield the address; raises Failed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    log = bench.path("git-daemon.log")
    with open(log, "wb") as sink:
        daemon = subprocess.Popen(
            (
                "git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1",
                f"--port={port}", f"--base-path={bench.path('served')}",
            ),
            env=dict(os.environ), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink,
        )  # fmt: skip
    try:
        end = time.monotonic() + _START
        while daemon.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 5).close()
                break
            except OSError:
                time.sleep(0.05)
        else:
            raise Failed(f"git daemon does not start\n{tail(log)}")
        yield f"127.0.0.1:{port}"
    finally:
        daemon.terminate()
        daemon.wait()
