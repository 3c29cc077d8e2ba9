"""A run that a tracking server on this machine records, against an untracked one and MLflow's."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from benchmarks.case import Claim, Outcome, compare
from benchmarks.process import Failed, tail
from benchmarks.projects import virtualenv_project
from benchmarks.summary import Sample
from benchmarks.workbench import Runner, Workbench

TITLE = "`buildrun .` of `python -c pass`, tracked by an `mlflow server` on this machine"
ROUNDS = 30
NEEDS = ("buildrun", "mlflow")

# Seconds that the server may take to start.
_START = 120.0

_UNTRACKED = "`buildrun . --tracking off`"
_TRACKED = "`buildrun .`"
_MLFLOW = "`mlflow run .`"


def measure(bench: Workbench) -> Outcome:
    """Measure; raises Failed."""
    python = platform.python_version()
    project = bench.write("project", virtualenv_project("tracked", python, ()))
    with _server(bench) as uri:
        environ = {"MLFLOW_TRACKING_URI": uri}
        rows = bench.rounds_of(
            (
                Runner(_UNTRACKED, lambda: _ours(bench, project, environ, "--tracking", "off")),
                Runner(_TRACKED, lambda: _ours(bench, project, environ)),
                Runner(_MLFLOW, lambda: _mlflow(bench, project, environ), every=8),
            )
        )
    tracked, untracked = rows[_TRACKED], rows[_UNTRACKED]
    added = Claim(
        f"{_TRACKED} beyond {_UNTRACKED}",
        (tracked.median - untracked.median) * 1000,
        (tracked.minimum - untracked.minimum) * 1000,
        150,
        "ms",
    )
    return Outcome(rows, (added, compare(rows, _TRACKED, _MLFLOW, 1 / 15)))


def _ours(bench: Workbench, project: str, environ: Mapping[str, str], *words: str) -> Sample:
    return bench.timed(bench.buildrun, ".", *words, cwd=project, environ=environ)


def _mlflow(bench: Workbench, project: str, environ: Mapping[str, str]) -> Sample:
    _, variables = bench.subjects.index_settings()
    own = {
        "MLFLOW_ENV_ROOT": bench.path("mlflow-environments"),
        "PATH": os.path.join(bench.subjects.prefix("mlflow"), "bin")
        + os.pathsep
        + bench.environ.get("PATH", os.defpath),
    }
    argv = (bench.subjects.program("mlflow"), "run", ".", "--env-manager", "uv")
    return bench.timed(*argv, cwd=project, environ={**variables, **environ, **own})


@contextmanager
def _server(bench: Workbench) -> Iterator[str]:
    """Run a server with a database on a free port, and yield its URI; raises Failed."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    log = bench.path("server.log")
    with open(log, "wb") as sink:
        server = subprocess.Popen(
            (
                bench.subjects.program("mlflow"), "server", "--port", str(port),
                "--backend-store-uri", f"sqlite:///{bench.path('mlflow.db')}", "--workers", "1",
            ),
            cwd=bench.directory, env=dict(bench.environ), stdin=subprocess.DEVNULL,
            stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    try:
        _await(port, server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _await(port: int, server: subprocess.Popen[bytes], log: str) -> None:
    end = time.monotonic() + _START
    while server.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise Failed(f"mlflow server does not start\n{tail(log)}")
