"""Plays a Kubernetes cluster and a registry, in the directory that is named second, until its end.

Its pods are real containers where the first word is ``docker``; else it is how many of them are to
run at once before the first one ends. Prints where both are, then for each line that it reads the
requests that came since the last one.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests"))

from docker_helpers import registry
from kube_cluster import Cluster
from kube_kubelet import DockerKubelet, Kubelet, Pod, Scripted

# What each played pod writes before it waits for the others.
_LINES = 100


def main() -> None:
    """Play, until there is nothing more to read."""
    kind, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir()
    with ExitStack() as parts:
        there = parts.enter_context(contextmanager(registry)(directory / "registry"))
        kubelet = DockerKubelet() if kind == "docker" else _at_once(int(kind))
        cluster = parts.enter_context(Cluster(kubelet))
        config = cluster.kubeconfig(directory / "kubeconfig")
        _tell({"kubeconfig": str(config), "registry": there.address})
        told = 0
        for _ in sys.stdin:
            found = cluster.requests[told:]
            told += len(found)
            _tell([[request.method, request.path, dict(request.query)] for request in found])


def _at_once(count: int) -> Kubelet:
    """Return what plays all pods at the same time, but for the last one."""
    together = threading.Barrier(count)

    def play(pod: Pod) -> None:
        pod.running()
        pod.log(b"".join(b"line %d of %s\n" % (at, pod.name.encode()) for at in range(_LINES)))
        if "-main-" not in pod.name:
            together.wait(300)
        pod.ended(0)

    return Scripted(play)


def _tell(value: object) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
