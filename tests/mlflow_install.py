"""MLflow in a virtualenv of its own, made once and kept in the temporary directory."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import uv
from conftest import REPOSITORY
from needs import missing

VERSION = "3.17.2"

# Seconds; only reached where something is broken.
LIMIT = 600.0


def prefix() -> Path:
    """Return a virtualenv with MLflow, made now if need be.

    ``BUILDRUN_TEST_MLFLOW`` names one that is there already.
    """
    if given := os.environ.get("BUILDRUN_TEST_MLFLOW"):
        return Path(given)
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    root = Path(tempfile.gettempdir()) / f"buildrun-tests-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    place = root / f"mlflow-{VERSION}-python-{version}"
    with (root / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            _uv("venv", "--quiet", "--python", sys.executable, place)
            python = place / "bin" / "python"
            _uv("pip", "install", "--quiet", "--python", python, f"mlflow=={VERSION}", "uv")
            (place / "ready").touch()
    return place


@contextmanager
def serving(directory: Path, environ: Mapping[str, str]) -> Iterator[str]:
    """Run a tracking server on a free port, and yield its URI."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    # Workers for jobs that no test has the server run would take a processor all the time.
    environ = {**environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(
            (
                prefix() / "bin" / "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
                "--backend-store-uri", f"sqlite:///{directory}/mlflow.db", "--workers", "1",
            ),
            cwd=directory, env=environ, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        _await(uri, server, directory / "server.log")
        yield uri
    finally:
        os.killpg(server.pid, 15)
        server.wait()


def install(directory: Path) -> Path:
    """Make the virtualenv in a directory, and return its Python.

    MLflow is that of `prefix`, which takes a while to install, seen through a path file.
    """
    (packages,) = prefix().glob("lib/python*/site-packages")
    python = directory / "bin" / "python"
    _uv("venv", "--quiet", "--python", sys.executable, directory)
    _uv("pip", "install", "--quiet", "--python", python, REPOSITORY)
    (own,) = directory.glob("lib/python*/site-packages")
    (own / "mlflow.pth").write_text(f"{packages}\n")
    return python


def environ_of(python: Path, store: Path, tracking_uri: str) -> Mapping[str, str]:
    """Return the variables for a program of the virtualenv."""
    kept = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("PYTHON", "MLFLOW_"))
    }
    path = f"{python.parent}{os.pathsep}{kept.get('PATH', '')}"
    changed = {"PATH": path, "BUILDRUN_HOME": str(store), "MLFLOW_TRACKING_URI": tracking_uri}
    return {**kept, **changed}


def _await(uri: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + LIMIT
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def _uv(*words: str | Path) -> None:
    done = subprocess.run(
        (uv.find_uv_bin(), *words), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode != 0:
        missing(f"MLflow or buildrun cannot be installed: {done.stderr}")
