"""A cluster to run on: the tests' own, in a process of its own so that none counts its time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from benchmarks.process import Failed
from benchmarks.subjects import REPOSITORY
from benchmarks.workbench import Workbench

_PROBE = os.path.join(REPOSITORY, "benchmarks", "probes", "kube_cluster.py")
_BASE = "buildrun-base:bookworm"


class Asked(NamedTuple):
    """A request that the cluster has got; path: without the query."""

    method: str
    path: str
    query: dict[str, Any]


class Playing:
    """A cluster and a registry that play."""

    def __init__(self, process: subprocess.Popen[str], directory: str) -> None:
        """Take what was started; raises Failed where it does not play."""
        self._process = process
        self._log = os.path.join(directory, "cluster.log")
        told = self._told()
        self.kubeconfig: str = told["kubeconfig"]
        self.registry: str = told["registry"]

    def requests(self) -> list[Asked]:
        """Return what it was asked since the last time."""
        if self._process.stdin is None:
            raise AssertionError("it is a pipe")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return [Asked(*item) for item in self._told()]

    def _told(self) -> Any:
        if self._process.stdout is None:
            raise AssertionError("it is a pipe")
        line = self._process.stdout.readline()
        if not line:
            with open(self._log, encoding="utf-8", errors="replace") as log:
                raise Failed(f"the cluster does not play:\n{log.read()[-2000:]}")
        return json.loads(line)


@contextmanager
def play(bench: Workbench, kind: str) -> Iterator[Playing]:
    """Play a cluster; kind: as its program takes it. Raises Failed."""
    if shutil.which("docker-registry") is None:
        raise Failed("there is no docker-registry")
    with open(bench.path("cluster.log"), "wb") as log:
        process = subprocess.Popen(
            (sys.executable, _PROBE, kind, bench.path("cluster")),
            env=bench.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:  # it ends when its input does
        yield Playing(process, bench.directory)


def project(bench: Workbench, playing: Playing, points: str) -> tuple[str, tuple[str, ...]]:
    """Write a project with these entry points; return it, and what runs it on the cluster."""
    config = {"kube-context": "test", "repository-uri": repository(playing)}
    bench.write("config", {"config.json": json.dumps(config)})
    docker = f"docker_env: {{image: '{_BASE}'}}\n"
    text = f"name: benchmark\n{docker}entry_points:\n{points}"
    directory = bench.write("project", {"MLproject": text})
    config_file = bench.path("config", "config.json")
    return directory, (bench.buildrun, "run", ".", "-b", "kubernetes", "-c", config_file)


def repository(playing: Playing) -> str:
    """Return where images go."""
    return f"{playing.registry}/benchmark"
